//! A server of one's own as a target: it says which files there are and which commands make the server use them, and the file
//! engine does the rest: staging, owner and mode, rollback, dry run. Registered at run time, declared and stored, and checked
//! by the suite that every target has to pass. A server behind an API implements `certctl::Target` instead.
//!
//! `cargo run --example custom_target`

use std::{error::Error, path::Path, sync::Arc};

use certctl::{
    Actor, CertificateSpec, CommandLine, Engine, Env, FileTarget, Home, Result, Target, TargetSpec,
    Violation,
    connectors::{Site, TargetConfig, TargetKind},
    host::HostPath,
    hosts::{LocalHost, LocalHosts},
    issuers::LocalCa,
    target::{FileLayout, FileRole, TargetFile},
    testkit::target::{bundles, conformance},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// An MQTT broker, with the names of its own configuration. What a program writes as a struct, and an operator as JSON.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mosquitto {
    /// Gets the whole chain, leaf first.
    certfile: HostPath,
    /// Gets the private key.
    keyfile: HostPath,
    /// Makes the broker read the files.
    #[serde(default = "reload")]
    reload_command: CommandLine,
}

fn reload() -> CommandLine {
    "systemctl reload mosquitto".into()
}

impl TargetConfig for Mosquitto {
    const KIND: &'static str = "mosquitto";

    fn check(&self) -> Vec<Violation> {
        self.reload_command.check("/reload_command")
    }

    fn connect(self, site: Site) -> Result<Arc<dyn Target>> {
        let reload = self.reload_command.command()?;
        let file = |path, role, mode| TargetFile { path, role, mode };
        Ok(site.files(Broker(FileLayout {
            files: vec![
                file(self.certfile, FileRole::FullChain, 0o644),
                file(self.keyfile, FileRole::Key, 0o600),
            ],
            validate: None,
            reload: Some(reload),
            start: None,
        })))
    }
}

#[derive(Debug)]
struct Broker(FileLayout);

impl FileTarget for Broker {
    fn kind(&self) -> &str {
        Mosquitto::KIND
    }

    fn layout(&self) -> FileLayout {
        self.0.clone()
    }
}

#[tokio::main]
#[allow(clippy::print_stdout)] // A program talks to its operator.
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let broker = |name: &str| -> Result<Mosquitto> {
        let path = |end: &str| HostPath::parse(&dir.path().join(format!("{name}.{end}")).to_string_lossy());
        // There is no broker here to reload.
        Ok(Mosquitto { certfile: path("crt")?, keyfile: path("key")?, reload_command: "true".into() })
    };

    // What every target has to do: plan, apply, restore, each of them twice.
    let site = Site { env: Env::in_memory(), host: Arc::new(LocalHost), write: Default::default() };
    conformance(&*broker("suite")?.connect(site)?, &bundles(&["mqtt.test".parse()?]).await).await;
    println!("the suite for targets passes");

    let mut home = Home { hosts: Arc::new(LocalHosts), ..Home::in_memory() };
    home.connectors.register_target(TargetKind::of::<Mosquitto>());
    let engine = Engine::builder(home)
        .issuer("local", LocalCa::default())
        .target("declared", broker("declared")?)
        .build()
        .await?;
    let me = Actor::process();

    // Stored by an operator: what is wrong is refused with its place.
    let wrong = TargetSpec::new(
        "stored",
        "mosquitto",
        json!({ "certfile": "mqtt.crt", "reload_command": "kill; ls" }),
    );
    if let Err(refused) = engine.put_target(&me, wrong).await {
        println!("refused: {refused}");
    }
    engine
        .put_target(&me, TargetSpec::new("stored", "mosquitto", serde_json::to_value(broker("stored")?)?))
        .await?;

    let spec = CertificateSpec::new("mqtt").dns("mqtt.test").target("declared").target("stored");
    let certificate = engine.ensure(&me, spec).await?;
    println!("{} is {}", certificate.name, certificate.status.as_str());
    for deployment in engine.deployments(&certificate.id).await? {
        let (state, address) = (deployment.state.as_str(), deployment.address.as_deref().unwrap_or_default());
        println!("{}: {state} at {address}; {}", deployment.target, deployment.warnings.join("; "));
    }
    // A dry run finds nothing left to do; somebody removes a file, and it finds that.
    std::fs::remove_file(dir.path().join("stored.key"))?;
    for planned in engine.plan(&me, "mqtt").await? {
        let changes: Vec<_> =
            planned.plan.changes.iter().map(|change| (&change.action, name(&change.what))).collect();
        println!("{}: would change {changes:?}, would run {:?}", planned.target, planned.plan.commands);
    }
    Ok(())
}

fn name(path: &str) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
