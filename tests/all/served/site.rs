//! A server with its data, agents with their state, and an operator's shell.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use certctl::{Chain, SerialNumber};
use serde_json::Value;

use crate::{
    peers::{
        free_port,
        process::{PortTaken, Process},
    },
    server::Nginx,
    world::World,
};

/// How long anything may take here: an agent whose answer was lost with its server is given the work again when the lease is
/// over, which is a minute.
const LIMIT: Duration = Duration::from_secs(180);

/// Where this repository's programs are built.
pub fn programs() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// One of them.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(path.exists(), "{name} is not built: cargo build --workspace");
    path
}

/// A server and its agents, each a process that is killed when dropped.
#[derive(Debug)]
pub struct Site {
    pub world: World,
    pub port: u16,
    server: Option<Process>,
    agents: Vec<(String, Process)>,
    /// How many processes were started, so that each has a log of its own.
    started: usize,
}

impl Site {
    /// With a server that answers.
    pub async fn new() -> Self {
        let mut site =
            Self { world: World::new(), port: free_port(), server: None, agents: Vec::new(), started: 0 };
        while site.start_server().await.is_err() {
            site.port = free_port();
        }
        site
    }

    pub fn dir(&self) -> &Path {
        self.world.dir.path()
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    pub async fn start_server(&mut self) -> Result<(), PortTaken> {
        let log = self.log("server");
        let listen = format!("127.0.0.1:{}", self.port);
        let dir = self.world.path("d");
        let mut server = Process::start(&program("certctl-server"), &log, |command| {
            clean(command).arg("--data-dir").arg(dir).args(["--listen", &listen]);
        });
        server.until(async || self.certctl(&["status"]).status.success()).await?;
        self.server = Some(server);
        Ok(())
    }

    /// As `kill -9` does it.
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    /// A new agent, or the one of this name again.
    pub async fn start_agent(&mut self, name: &str) {
        let state = self.world.path(name);
        let token = match state.exists() {
            true => None,
            false => Some(self.ok(&["agents", "enroll-token", "--name", name])),
        };
        self.spawn_agent(name, token.as_deref().map(str::trim));
        self.until(&format!("{name} is there"), |site| {
            let agents = site.json(&["agents", "list"]);
            let listed = agents["data"].as_array().unwrap();
            listed.iter().any(|agent| agent["name"] == name && !agent["last_seen"].is_null())
        })
        .await;
    }

    pub fn spawn_agent(&mut self, name: &str, token: Option<&str>) {
        let log = self.log(name);
        let (url, dir) = (self.url(), self.dir().to_owned());
        let agent = Process::start(&program("certctl-agent"), &log, |command| {
            clean(command).args(["--server", &url, "--ca"]).arg(dir.join("d/ca.pem")).arg("--state-dir");
            command.arg(dir.join(name));
            if let Some(token) = token {
                command.env("CERTCTL_ENROLL_TOKEN", token);
            }
        });
        self.agents.push((name.to_owned(), agent));
    }

    pub fn kill_agent(&mut self, name: &str) {
        self.agents.retain(|(other, _)| other != name);
    }

    /// What the operator's command line does with these arguments.
    pub fn certctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("certctl"));
        let key = std::fs::read_to_string(self.world.path("d/admin.key")).unwrap_or_default();
        clean(&mut command)
            .args(arguments)
            .current_dir(self.dir())
            .env("CERTCTL_SERVER_URL", self.url())
            .env("CERTCTL_CA_FILE", self.world.path("d/ca.pem"))
            .env("CERTCTL_API_KEY", key.trim());
        command.output().unwrap()
    }

    /// What it prints where it succeeds.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let out = self.certctl(arguments);
        let printed = String::from_utf8_lossy(&out.stdout).into_owned();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "certctl {arguments:?}: {printed}{said}\n{}", self.logs());
        printed
    }

    /// The same as a value.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"))
    }

    /// A target for one name on this nginx, deployed to by an agent.
    pub fn nginx_target(&self, nginx: &Nginx, name: &str, agent: &str) -> String {
        let target = format!("nginx-{name}");
        let file = self.world.path(&format!("{target}.json"));
        std::fs::write(&file, nginx_json(nginx, name).to_string()).unwrap();
        let file = file.to_str().unwrap();
        self.ok(&["targets", "create", &target, "--kind", "nginx", "--agent", agent, "--config", file]);
        target
    }

    /// The serial number of the certificate's newest version.
    pub fn serial(&self, certificate: &str) -> SerialNumber {
        let shown = self.json(&["certs", "get", certificate]);
        shown["versions"][0]["serial_number"].as_str().unwrap().parse().unwrap()
    }

    /// How many versions the certificate has.
    pub fn versions(&self, certificate: &str) -> usize {
        self.json(&["certs", "get", certificate])["versions"].as_array().unwrap().len()
    }

    /// Looks again and again until it is so.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !so(self) {
                tokio::task::yield_now().await;
            }
        };
        let timely = tokio::time::timeout(LIMIT, waiting).await;
        assert!(timely.is_ok(), "{what} did not come about\n{}", self.logs());
    }

    /// Everything that the programs have printed.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.dir()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read(entry.path()).unwrap_or_default();
                all.push_str(&format!("== {}\n{}", entry.path().display(), String::from_utf8_lossy(&text)));
            }
        }
        all
    }

    fn log(&mut self, name: &str) -> PathBuf {
        self.started += 1;
        self.world.path(&format!("{name}-{}.log", self.started))
    }
}

/// The programs see nothing of the settings of whoever runs the tests.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CERTCTL_") {
            command.env_remove(name);
        }
    }
    command
}

/// The target's configuration as an operator writes it.
pub fn nginx_json(nginx: &Nginx, name: &str) -> Value {
    serde_json::json!({
        "cert_path": nginx.cert(name),
        "key_path": nginx.key(name),
        "validate_command": nginx.command("-t"),
        "reload_command": nginx.command("-s reload"),
        "probe": [nginx.endpoint()],
    })
}

/// Of what this nginx serves for the name.
pub async fn served_serial(nginx: &Nginx, name: &str) -> SerialNumber {
    leaf(nginx.served(name).await.as_ref()).unwrap()
}

fn leaf(chain: Option<&Chain>) -> Option<SerialNumber> {
    Some(chain?.leaf().serial().clone())
}
