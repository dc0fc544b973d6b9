//! The solvers in an issuer's configuration: checked and sealed where a program declares it, and asked before the process's own
//! where somebody chose them.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use certctl::{
    Challenge, Context, Engine, Env, Handle, Home, Issuer, IssuerCapabilities, Order, Progress, Recovery,
    Result, SecretRef, Solver, SolverSpec, Violation,
    connectors::{IssuerConfig, SolverConfig, SolverKind},
    records::{Attempt, CertificateStatus, Job},
    store::{Query, Record},
    testkit::issuer::{Script, ScriptedIssuer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rig::{Rig, actor, spec};

/// Every secret that a solver was built with.
static USED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An issuer whose challenges are shown by a solver of its configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nested {
    dns_provider: SolverSpec,
    #[serde(skip)]
    #[schemars(skip)]
    ca: Option<Arc<ScriptedIssuer>>,
}

#[async_trait]
impl IssuerConfig for Nested {
    const KIND: &'static str = "nested";

    fn solvers(&mut self) -> Vec<(&'static str, &mut SolverSpec)> {
        vec![("/dns_provider", &mut self.dns_provider)]
    }

    async fn connect(self, _: Env) -> Result<Arc<dyn Issuer>> {
        Ok(Arc::new(Wants { ca: self.ca.unwrap(), solver: self.dns_provider }))
    }
}

#[derive(Debug)]
struct Wants {
    ca: Arc<ScriptedIssuer>,
    solver: SolverSpec,
}

impl Wants {
    fn with_solver(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Challenges { mut handle, mut present } => {
                for challenge in &mut present {
                    challenge.solver = Some(self.solver.clone());
                }
                // What ACME's handle has in it as well.
                handle.state["shown"] = serde_json::to_value(&present).unwrap();
                // The engine shows them before it polls.
                self.ca.set_presented(true);
                Progress::Challenges { handle, present }
            }
            other => other,
        }
    }
}

#[async_trait]
impl Issuer for Wants {
    fn kind(&self) -> &str {
        "nested"
    }

    fn capabilities(&self) -> IssuerCapabilities {
        self.ca.capabilities()
    }

    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        Ok(self.with_solver(self.ca.submit(cx, order).await?))
    }

    async fn poll(&self, cx: &Context, order: &Order, handle: Handle) -> Result<Progress> {
        Ok(self.with_solver(self.ca.poll(cx, order, handle).await?))
    }

    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        Ok(self.ca.recover(cx, order).await?.map(|progress| self.with_solver(progress)))
    }
}

/// A solver that needs a secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Zone {
    server: String,
    tsig_secret: SecretRef,
}

#[async_trait]
impl SolverConfig for Zone {
    const KIND: &'static str = "zone";

    fn check(&self) -> Vec<Violation> {
        if self.server.is_empty() {
            return vec![Violation::new("/server", "the server is missing", "name it")];
        }
        Vec::new()
    }

    async fn connect(self, env: Env) -> Result<Arc<dyn Solver>> {
        let secret = env.secret("tsig_secret", &self.tsig_secret).await?;
        USED.lock().unwrap().push(String::from_utf8(secret.expose().to_vec()).unwrap());
        Ok(Arc::new(Shows::default()))
    }
}

#[derive(Debug, Default)]
struct Shows(Mutex<usize>);

#[async_trait]
impl Solver for Shows {
    fn solves(&self, _: &Challenge) -> bool {
        true
    }

    async fn present(&self, _: &Context, _: &Challenge) -> Result<()> {
        *self.0.lock().unwrap() += 1;
        Ok(())
    }

    async fn retract(&self, _: &Context, _: &Challenge) -> Result<()> {
        Ok(())
    }
}

fn home(rig: &Rig) -> Home {
    let mut home = rig.home();
    home.connectors.register_solver(SolverKind::of::<Zone>());
    home
}

fn nested(rig: &Rig, kind: &str, config: serde_json::Value, explicit: bool) -> Nested {
    rig.ca.script(Script::Challenge);
    let dns_provider = SolverSpec { kind: kind.into(), config, owner: None, explicit };
    Nested { dns_provider, ca: Some(rig.ca.clone()) }
}

#[tokio::test]
async fn its_secret_is_nowhere_in_the_store() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let config = json!({ "server": "ns.test", "tsig_secret": "canary-in-clear" });
    let engine = Engine::builder(home(&rig))
        .clock(Arc::new(rig.clock.clone()))
        .issuer("ca", nested(&rig, "zone", config, true))
        .target("web", rig.target())
        .build()
        .await
        .unwrap();
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    assert!(USED.lock().unwrap().iter().any(|secret| secret == "canary-in-clear"), "it was used");
    let mut sealed = 0;
    for kind in certctl::records::KINDS {
        let query = Query { kind, limit: 10_000, ..Query::of::<Job>() };
        for row in engine.store().query(&query).await.unwrap().rows {
            assert!(!row.body.contains("canary-in-clear"), "{} {}: {}", kind.table, row.id, row.body);
            sealed += usize::from(row.body.contains("ns.test") && row.body.contains("sealed"));
        }
    }
    assert!(sealed > 0, "the solver is part of {} and {}", Job::KIND.table, Attempt::KIND.table);
}

#[tokio::test]
async fn what_is_wrong_with_it_is_said_when_the_engine_is_built() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    for (kind, config, pointer) in [
        ("zone", json!({ "server": "", "tsig_secret": "x" }), "/issuers/ca/dns_provider/config/server"),
        (
            "zone",
            json!({ "server": "ns.test", "tsig_secrt": "x" }),
            "/issuers/ca/dns_provider/config/tsig_secrt",
        ),
        ("zoen", json!({}), "/issuers/ca/dns_provider/kind"),
    ] {
        let issuer = nested(&rig, kind, config, true);
        let refused = Engine::builder(home(&rig)).issuer("ca", issuer).build().await.unwrap_err();
        let pointers: Vec<_> = refused.violations().iter().map(|wrong| wrong.pointer.as_str()).collect();
        assert!(pointers.contains(&pointer), "{pointers:?}");
    }
}

#[tokio::test]
async fn it_goes_before_the_programs_own_if_somebody_chose_it() {
    for (explicit, by_own) in [(true, 0), (false, 1)] {
        let rig = Rig::new(Recovery::Idempotent, false).await;
        let own = Arc::new(Shows::default());
        let config = json!({ "server": "ns.test", "tsig_secret": format!("chosen-{explicit}") });
        let engine = Engine::builder(home(&rig))
            .clock(Arc::new(rig.clock.clone()))
            .issuer("ca", nested(&rig, "zone", config, explicit))
            .target("web", rig.target())
            .solver(own.clone())
            .build()
            .await
            .unwrap();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
        assert_eq!(*own.0.lock().unwrap(), by_own);
        let used = USED.lock().unwrap().contains(&format!("chosen-{explicit}"));
        assert_eq!(used, explicit);
    }
}
