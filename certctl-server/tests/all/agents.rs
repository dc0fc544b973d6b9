//! Agents over REST: admitted, known again, kept to their own work.

use certctl_client::types::{EnrollRequest, EnrollTokenRequest, ResolveRequest, WorkRequest};
use certctl_core::{
    CertificateSpec, ErrorKind, KeyAlgorithm, PrivateKey, RecipientKey, Signer, TargetSpec,
    engine::{AgentKeys, SessionRequest},
    worker::{Outcome, Reported, WorkReport, WorkResult},
};
use serde_json::json;

use crate::running::Running;

struct Keys {
    signing: PrivateKey,
    sealing: RecipientKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            signing: PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap(),
            sealing: RecipientKey::generate().unwrap(),
        }
    }

    /// Enrols as an agent of this name, and gives its id.
    async fn enroll(&self, server: &Running, name: &str) -> String {
        let request = EnrollTokenRequest { name: name.to_owned(), valid: None };
        let token = server.client().create_enroll_token(&request).await.unwrap();
        let secret = token.token.clone().into_secret();
        let keys = AgentKeys::sign(&secret, self.signer(), self.sealing.recipient()).await.unwrap();
        let enrolled = server.client().enroll(&EnrollRequest { token: token.token, keys }).await.unwrap();
        assert_eq!(enrolled.name, name);
        enrolled.id.to_string()
    }

    fn signer(&self) -> &dyn Signer {
        &self.signing
    }

    async fn session(
        &self,
        server: &Running,
        agent: &str,
        instance: &str,
    ) -> certctl_core::Result<certctl_client::Client> {
        let client = server.client();
        let challenge = client.session_challenge().await?;
        let request = SessionRequest::new(agent, instance).sign(&challenge, self.signer()).await?;
        let session = client.open_session(&request).await?;
        Ok(client.with_token(session.token.into_secret()))
    }
}

#[tokio::test]
async fn an_agent_does_its_own_work_and_no_other() {
    let server = Running::start().await;
    let (one, two) = (Keys::new(), Keys::new());
    let id = one.enroll(&server, "web-1").await;
    let other = two.enroll(&server, "web-2").await;
    let agent = one.session(&server, &id, "instance-1").await.unwrap();
    agent.heartbeat(&id).await.unwrap();
    let seen = server.client().agent("web-1").await.unwrap();
    assert_eq!((seen.state.as_str(), seen.instance.as_deref()), ("enrolled", Some("instance-1")));
    assert!(seen.last_seen.is_some() && seen.address.is_some(), "{seen:?}");

    // Nothing to do is no error, and is said at once where nobody waits.
    let now = WorkRequest { limit: 10, wait_seconds: 0 };
    assert!(agent.lease_work("web-1", now).await.unwrap().is_empty());
    let mut target =
        TargetSpec::new("t", "files", json!({ "cert_path": "/x/c.pem", "key_path": "/x/k.pem" }));
    target.place.agent = Some("web-1".into());
    server.client().create_target(&target).await.unwrap();
    let spec = CertificateSpec::new("web").dns("web.test").target("t");
    server.client().create_certificate(&spec).await.unwrap();
    let wait = WorkRequest { limit: 10, wait_seconds: 20 };
    let work = agent.lease_work(&id, wait).await.unwrap();
    assert!(!work.is_empty());

    // Another agent's path, and another agent's work.
    let stranger = two.session(&server, "web-2", "instance-2").await.unwrap();
    for error in [
        stranger.lease_work(&id, now).await.unwrap_err(),
        stranger.heartbeat("web-1").await.unwrap_err(),
        agent.lease_work(&other, now).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    let tokens: Vec<_> = work[0].jobs.iter().map(certctl_core::worker::AssignedJob::token).collect();
    let stolen = WorkResult { jobs: tokens.clone(), outcome: Outcome::Report(WorkReport::Done) };
    assert_eq!(stranger.report_work(&other, &stolen).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(stranger.extend_work(&other, &tokens).await.unwrap().is_empty());
    assert_eq!(agent.extend_work(&id, &tokens).await.unwrap().len(), tokens.len());

    // What was reported twice is recorded once.
    let error = certctl_core::Error::new(ErrorKind::Denied, "the owner of this agent does not allow it");
    let failed = WorkResult { jobs: tokens, outcome: Outcome::Failed(error.report()) };
    assert_eq!(agent.report_work(&id, &failed).await.unwrap(), Reported::Recorded);
    assert_eq!(agent.report_work(&id, &failed).await.unwrap(), Reported::Already);

    // An agent is no operator.
    assert_eq!(agent.certificate("web").await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(agent.jobs(&Default::default()).all().await.unwrap_err().kind(), ErrorKind::Denied);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_revoked_is_told_so() {
    let server = Running::start().await;
    let keys = Keys::new();
    let id = keys.enroll(&server, "web-1").await;
    let agent = keys.session(&server, &id, "instance-1").await.unwrap();
    let revoked = server.client().revoke_agent("web-1").await.unwrap();
    assert_eq!(revoked.state, "revoked");
    let error = agent.heartbeat(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("revoked"), "{error}");
    let error = keys.session(&server, &id, "instance-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let error =
        server.client().resolve_agent("web-1", &ResolveRequest { keep: "x".into() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    server.client().delete_agent("web-1", None).await.unwrap();
    assert_eq!(server.client().agent("web-1").await.unwrap_err().kind(), ErrorKind::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_token_enrols_once_and_a_guess_never() {
    let server = Running::start().await;
    let (keys, others) = (Keys::new(), Keys::new());
    let request = EnrollTokenRequest { name: "web-1".into(), valid: None };
    let token = server.client().create_enroll_token(&request).await.unwrap();
    let enroll = async |keys: &Keys, token: &certctl_client::types::Token| {
        let secret = token.clone().into_secret();
        let keys = AgentKeys::sign(&secret, keys.signer(), keys.sealing.recipient()).await.unwrap();
        server.client().enroll(&EnrollRequest { token: token.clone(), keys }).await
    };
    let guess = certctl_core::Secret::new("enroll_1_guess").into();
    assert_eq!(enroll(&keys, &guess).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let first = enroll(&keys, &token.token).await.unwrap();
    assert_eq!(enroll(&keys, &token.token).await.unwrap(), first, "whose answer was lost gets it again");
    assert_eq!(enroll(&others, &token.token).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let error = server.client().create_enroll_token(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    server.stop().await;
}
