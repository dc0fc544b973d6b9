//! An agent with a kind of targets of one's own: the connector, and about 20 lines beside it. The server checks the kind's
//! configuration with the schema that the agent announces.
//!
//! ```sh
//! CERTCTL_ENROLL_TOKEN=$(certctl agents enroll-token --name broker-1) \
//!   cargo run -p certctl-agent --example custom_agent -- https://localhost:8443 d/ca.pem state
//! certctl targets create broker --kind mosquitto --agent broker-1 --config mosquitto.json
//! ```

use std::{env, error::Error, sync::Arc};

use certctl_agent::Agent;
use certctl_core::{
    CommandLine, FileTarget, Result, Secret, Target, Violation,
    connectors::{Site, TargetConfig},
    host::HostPath,
    target::{FileLayout, FileRole, TargetFile},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut argument = |name| arguments.next().ok_or(name);
    let (server, ca, state) =
        (argument("give the server's URL")?, argument("give the CA's file")?, argument("give a directory")?);
    let mut agent = Agent::builder(server, ca, state).target_kind::<Mosquitto>();
    #[allow(clippy::disallowed_methods)] // A program reads its environment; the library does not.
    if let Ok(token) = env::var("CERTCTL_ENROLL_TOKEN") {
        // An agent that has enrolled before does not look at it.
        agent = agent.token(Secret::new(token));
    }
    agent
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}

/// An MQTT broker, with the names of its own configuration.
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
