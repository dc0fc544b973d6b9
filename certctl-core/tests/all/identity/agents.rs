use certctl_core::{
    Lifetime, TargetSpec,
    records::{AgentPresence, EnrollToken, Place, TargetRecord},
    store::Record,
};

use super::*;

#[tokio::test]
async fn an_agent_enrols_once() {
    let world = World::new().await;
    let (agent, token, expires) = world.engine.create_enroll_token(&admin(), "web-1", None).await.unwrap();
    assert_eq!((agent.state(), expires), ("awaited", world.clock.now() + HOUR));
    assert!(token.expose_str().unwrap().starts_with("enroll_"));
    // Targets may name it before it is there.
    assert_eq!(world.agent("web-1").await.id, agent.id);
    assert_eq!(world.agent(agent.id.as_str()).await.version(), agent.version());

    let machine = Machine::new("web-1");
    let enrolled = world.enroll(&machine, &token).await.unwrap();
    assert_eq!((enrolled.state(), enrolled.enrolled), ("enrolled", Some(world.clock.now())));
    assert_eq!(enrolled.signing_key.as_ref(), Some(machine.signing.public_key()));
    assert_eq!(enrolled.sealing_key.as_ref(), Some(machine.sealing.recipient()));
    assert_eq!(world.agent("web-1").await.version(), enrolled.version());

    // The answer was lost: the same agent asks again, and is answered again.
    world.pass(MINUTE);
    let again = world.enroll(&machine, &token).await.unwrap();
    assert_eq!((again.version(), again.enrolled), (enrolled.version(), enrolled.enrolled));
    // Somebody else with the same token is not.
    assert_kind(world.enroll(&Machine::new("web-1"), &token).await, ErrorKind::Unauthenticated);
    let half = Machine { sealing: RecipientKey::generate().unwrap(), ..machine.clone() };
    assert_kind(world.enroll(&half, &token).await, ErrorKind::Unauthenticated);
    let actions = world.actions(agent.id.as_str()).await;
    // Both at the same moment, so that they are listed in any order.
    let mut said: Vec<(&str, &str)> = actions.iter().map(|event| (&*event.action, &*event.actor)).collect();
    said.sort_unstable();
    assert_eq!(said, [("agent.enrolled", agent.id.as_str()), ("agent.token_created", "process")]);
    // Once it is over, not even the same agent.
    world.pass(HOUR);
    assert_kind(world.enroll(&machine, &token).await, ErrorKind::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_the_same_time_one_enrols() {
    for _ in 0..20 {
        let world = Arc::new(World::new().await);
        let token = world.token("web-1").await;
        let barrier = Arc::new(tokio::sync::Barrier::new(4));
        let tries: Vec<_> = (0..4)
            .map(|_| {
                let (world, token, barrier) = (world.clone(), token.clone(), barrier.clone());
                tokio::spawn(async move {
                    let machine = Machine::new("web-1");
                    let keys = machine.keys(&token).await;
                    barrier.wait().await;
                    let admitted = world.engine.enroll(&token, &keys).await;
                    (machine, admitted)
                })
            })
            .collect();
        let mut admitted = Vec::new();
        for one in tries {
            match one.await.unwrap() {
                (machine, Ok(_)) => admitted.push(machine),
                (_, refused) => drop(assert_kind(refused, ErrorKind::Unauthenticated)),
            }
        }
        assert_eq!(admitted.len(), 1);
        world.open(&admitted[0]).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_is_expired_guessed_or_replaced_admits_nobody() {
    let world = World::new().await;
    let machine = Machine::new("web-1");
    let (_, short, _) =
        world.engine.create_enroll_token(&admin(), "web-1", Some(Lifetime::secs(60))).await.unwrap();
    world.pass(MINUTE - Duration::from_millis(1));
    // Still good, but a new one takes its place.
    let fresh = world.token("web-1").await;
    let mut said = vec![assert_kind(world.enroll(&machine, &short).await, ErrorKind::Unauthenticated)];
    world.pass(HOUR);
    said.push(assert_kind(world.enroll(&machine, &fresh).await, ErrorKind::Unauthenticated));

    let good = world.token("web-1").await;
    let text = good.expose_str().unwrap();
    let (front, _) = text.rsplit_once('_').unwrap();
    let guessed = format!("{}_{}", &text[..text.len() - 44], "A".repeat(43));
    for guess in ["", "enroll_", text.trim_start_matches("enroll_"), front, &guessed, "certctl_x_y"] {
        let guess = Secret::new(guess);
        said.push(assert_kind(world.enroll(&machine, &guess).await, ErrorKind::Unauthenticated));
    }
    assert!(said.iter().all(|error| error.to_string() == said[0].to_string()), "{said:?}");
    assert_eq!(world.agent("web-1").await.state(), "awaited");
    world.enroll(&machine, &good).await.unwrap();
}

#[tokio::test]
async fn keys_are_proved_to_be_there() {
    let world = World::new().await;
    let token = world.token("web-1").await;
    let machine = Machine::new("web-1");
    let right = machine.keys(&token).await;
    let enroll = async |keys: AgentKeys| world.engine.enroll(&token, &keys).await;

    // Somebody else's key, which the signature was not made with; and one of another kind.
    let other = Machine::new("web-1");
    let stolen = AgentKeys { signing_key: other.signing.public_key().clone(), ..right.clone() };
    assert_invalid(enroll(stolen).await, &["/signature"]);
    let swapped = AgentKeys { sealing_key: other.sealing.recipient().clone(), ..right.clone() };
    assert_invalid(enroll(swapped).await, &["/signature"]);
    let other_token =
        AgentKeys { signature: machine.keys(&Secret::new("enroll_x_y")).await.signature, ..right.clone() };
    assert_invalid(enroll(other_token).await, &["/signature"]);
    assert_invalid(
        enroll(AgentKeys { signature: "no base64!".into(), ..right.clone() }).await,
        &["/signature"],
    );
    let p384 = PrivateKey::generate(KeyAlgorithm::EcdsaP384).unwrap();
    let wrong = AgentKeys { signing_key: p384.public_key().clone(), ..right.clone() };
    assert_invalid(enroll(wrong).await, &["/signing_key"]);
    // A point that gives everybody the same secret.
    let zero = certctl_core::Recipient::parse(&format!("{}=", "A".repeat(43))).unwrap();
    assert_invalid(enroll(AgentKeys { sealing_key: zero, ..right.clone() }).await, &["/sealing_key"]);
    assert_eq!(world.agent("web-1").await.state(), "awaited");
    enroll(right).await.unwrap();
}

#[tokio::test]
async fn a_token_is_asked_for_with_sense() {
    let world = World::new().await;
    let ask = async |name: &str, valid| world.engine.create_enroll_token(&admin(), name, valid).await;
    assert_invalid(ask("", Some(Lifetime::hours(2))).await, &["/valid", "/name"]);
    assert_invalid(ask("x", Some(Lifetime::from(Duration::from_millis(5)))).await, &["/valid"]);
    // An id is somebody's, or nobody's.
    assert_kind(ask("ag-nobody", None).await, ErrorKind::NotFound);
    let (agent, ..) = ask("web-1", None).await.unwrap();
    let (again, ..) = ask(agent.id.as_str(), None).await.unwrap();
    assert_eq!(agent.id, again.id);
    let tokens: Vec<Stored<EnrollToken>> =
        world.home.store.list_by("agent", (&agent.id).into()).await.unwrap();
    assert_eq!(tokens.len(), 1);

    world.enrolled("web-2").await;
    let error = assert_kind(ask("web-2", None).await, ErrorKind::Conflict);
    assert!(error.to_string().contains("revoke it first"), "{error}");
}

#[tokio::test]
async fn a_revoked_agent_is_told_and_may_enrol_anew() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let session = world.open(&machine).await.unwrap();
    let revoked = world.engine.revoke_agent(&admin(), "web-1").await.unwrap();
    assert_eq!(revoked.state(), "revoked");
    let again = world.engine.revoke_agent(&admin(), revoked.id.as_str()).await.unwrap();
    assert_eq!(again.version(), revoked.version());
    for error in [
        assert_kind(world.session(&session.token).await, ErrorKind::Denied),
        assert_kind(world.engine.authenticate(&session.token).await, ErrorKind::Denied),
        assert_kind(world.open(&machine).await, ErrorKind::Denied),
    ] {
        assert!(error.to_string().contains("was revoked"), "{error}");
    }
    // Somebody who has not its key learns nothing of that.
    let stranger =
        Machine { signing: PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap(), ..machine.clone() };
    assert_kind(world.open(&stranger).await, ErrorKind::Unauthenticated);

    let token = world.token("web-1").await;
    let fresh = Machine::new("web-1");
    world.pass(SECOND);
    assert_eq!(world.enroll(&fresh, &token).await.unwrap().state(), "enrolled");
    // The session of before is nobody's, and its key opens none.
    assert_kind(world.session(&session.token).await, ErrorKind::Unauthenticated);
    assert_kind(world.open(&machine).await, ErrorKind::Unauthenticated);
    let session = world.open(&fresh).await.unwrap();
    assert_eq!(world.session(&session.token).await.unwrap().agent, revoked.id);
}

#[tokio::test]
async fn a_token_that_was_not_used_is_gone_with_the_revocation() {
    let world = World::new().await;
    let token = world.token("web-1").await;
    world.engine.revoke_agent(&admin(), "web-1").await.unwrap();
    assert_kind(world.enroll(&Machine::new("web-1"), &token).await, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn an_agent_is_forgotten_with_everything_about_it_unless_something_needs_it() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    world.open(&machine).await.unwrap();
    let agent = world.agent("web-1").await;
    let target = TargetRecord {
        id: certctl_core::Id::parse("tgt-web").unwrap(),
        name: "web".into(),
        place: Place { agent: Some(agent.id.clone()), host: None },
        ..target(&world).await
    };
    let event = AuditEvent::new(world.clock.now(), &admin(), "target.created", "tgt-web");
    let change = certctl_core::store::Change::new(event).insert(&target).unwrap();
    world.home.store.commit(change).await.unwrap();
    let error = assert_kind(world.engine.delete_agent(&admin(), "web-1").await, ErrorKind::Precondition);
    assert!(error.to_string().contains("the target web"), "{error}");

    world.engine.delete_target(&admin(), "web").await.unwrap();
    world.engine.delete_agent(&admin(), "web-1").await.unwrap();
    assert_kind(world.engine.read::<Agent>(&admin(), "web-1").await, ErrorKind::NotFound);
    for kind in [AgentPresence::KIND, EnrollToken::KIND, certctl_core::records::AgentConnectors::KIND] {
        let query = Query { kind, ..Query::of::<Agent>() };
        assert!(world.home.store.query(&query).await.unwrap().rows.is_empty(), "{}", kind.table);
    }
    assert_kind(world.open(&machine).await, ErrorKind::Unauthenticated);
}

/// Any target's record, to change its fields.
async fn target(world: &World) -> TargetRecord {
    let mut home = world.home.clone();
    home.hosts = Arc::new(certctl_core::testkit::host::OneHost(Arc::new(
        certctl_core::testkit::host::MemoryHost::default(),
    )));
    home.store = Arc::new(certctl_core::store::MemoryStore::default());
    home.connectors.register_target(certctl_core::connectors::TargetKind::of::<Nothing>());
    let engine = Engine::builder(home).build().await.unwrap();
    let spec = TargetSpec::new("any", "nothing", serde_json::json!({}));
    engine.put_target(&admin(), spec).await.unwrap().into_inner()
}

/// A target that is never deployed to.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Nothing {}

impl certctl_core::connectors::TargetConfig for Nothing {
    const KIND: &'static str = "nothing";

    fn connect(self, _: certctl_core::connectors::Site) -> Result<Arc<dyn certctl_core::Target>> {
        Err(Error::unsupported("this is never deployed to"))
    }
}

#[test]
fn a_record_of_before_has_to_enrol() {
    let before = serde_json::json!({ "id": "ag-1", "name": "web-1", "public_key": "AAAA", "created": "2026-01-01T00:00:00Z" });
    let upgraded = (Agent::KIND.upgrade)(1, before).unwrap();
    let agent: Agent = serde_json::from_value(upgraded).unwrap();
    assert_eq!((agent.state(), agent.signing_key), ("awaited", None));
    assert!((Agent::KIND.upgrade)(7, serde_json::json!({})).is_err());
}
