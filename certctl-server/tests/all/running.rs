//! A server that a test started.

use std::path::{Path, PathBuf};

use certctl_client::{Client, types::Started};
use certctl_core::{CertificateSpec, Engine, Role, Secret, TargetSpec, engine::ApiKeySpec};
use certctl_server::{Config, Handle, Server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

/// A server in a directory of its own; stops when it is told, or with the test.
pub(crate) struct Running {
    pub(crate) directory: TempDir,
    pub(crate) url: String,
    pub(crate) engine: Engine,
    pub(crate) handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<certctl_core::Result<()>>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(directory: TempDir) -> Self {
        Self::start_with(directory, |config| config).await
    }

    pub(crate) async fn start_with(directory: TempDir, change: impl FnOnce(Config) -> Config) -> Self {
        let config = change(config(directory.path()));
        let server = Server::builder(config).start().await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let url = format!("https://localhost:{}", server.address().port());
        let (engine, handle) = (server.engine().clone(), server.handle());
        let serving = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { directory, url, engine, handle, stop: Some(stop), serving }
    }

    /// Stops it as a signal does, and gives the directory for the next one.
    pub(crate) async fn stop(mut self) -> TempDir {
        let _ = self.stop.take().unwrap().send(());
        self.serving.await.unwrap().unwrap();
        self.directory
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    pub(crate) fn client_as(&self, key: Secret) -> Client {
        Client::builder(&self.url).ca_file(self.file("ca.pem")).api_key(key).tries(1).build().unwrap()
    }

    /// The administrator.
    pub(crate) fn client(&self) -> Client {
        self.client_as(Secret::new(self.read("admin.key").trim()))
    }

    /// A key of this role.
    pub(crate) async fn key(&self, role: Role) -> Secret {
        let spec = ApiKeySpec::new(format!("{role}-{}", self.engine_count().await), role);
        self.client().create_api_key(&spec).await.unwrap().key.into_secret()
    }

    async fn engine_count(&self) -> usize {
        self.client().api_keys(&Default::default()).all().await.unwrap().len()
    }

    /// A target of two files in the server's directory.
    pub(crate) async fn files_target(&self, name: &str) -> certctl_client::types::Target {
        let directory = self.file(name);
        std::fs::create_dir_all(&directory).unwrap();
        let config =
            json!({ "cert_path": directory.join("cert.pem"), "key_path": directory.join("key.pem") });
        self.client().create_target(&TargetSpec::new(name, "files", config)).await.unwrap()
    }

    /// A certificate on a target of its own, issued and deployed.
    pub(crate) async fn certificate(&self, name: &str) -> Started {
        self.files_target(name).await;
        let spec = CertificateSpec::new(name).dns(format!("{name}.test")).target(name);
        let started = self.client().create_certificate(&spec).await.unwrap();
        self.settle(&started).await;
        started
    }

    /// Waits until the jobs have ended.
    pub(crate) async fn settle(&self, started: &Started) {
        for job in &started.jobs {
            let mut after = 0;
            loop {
                let request = certctl_client::types::JobWatchRequest { after, wait: Some(20) };
                let job = self.client().watch_job(job.as_str(), request).await.unwrap();
                if job.state.is_finished() {
                    break;
                }
                assert!(job.last_error.is_none(), "{:?}", job.last_error);
                after = job.progress;
            }
        }
    }

    /// A request as somebody writes it by hand, with the administrator's key.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let key = self.read("admin.key");
        self.ask_with(method, path, &[("authorization", &format!("Bearer {}", key.trim()))], body).await
    }

    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let body = body.map(|body| body.to_string().into_bytes());
        let mut all = headers.to_vec();
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            all.push(("content-type", "application/json"));
        }
        self.send(method, path, &all, body.unwrap_or_default()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let roots = reqwest::Certificate::from_pem_bundle(self.read("ca.pem").as_bytes()).unwrap();
        let client =
            reqwest::Client::builder().tls_backend_rustls().tls_certs_only(roots).no_proxy().build().unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = answer.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, headers, body }
    }
}

impl Answer {
    /// That it is a problem with this status, and with a violation at this pointer.
    pub(crate) fn assert_problem(&self, status: u16, pointer: Option<&str>) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], status, "{self:?}");
        assert!(self.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{self:?}");
        if let Some(pointer) = pointer {
            let violations = self.body["violations"].as_array().cloned().unwrap_or_default();
            let found = violations.iter().find(|violation| violation["pointer"] == pointer);
            let found = found.unwrap_or_else(|| panic!("nothing at {pointer}: {self:?}"));
            for part in ["message", "remedy"] {
                assert!(found[part].as_str().is_some_and(|text| !text.is_empty()), "{found:?}");
            }
        }
    }
}

pub(crate) fn config(directory: &Path) -> Config {
    Config { data_dir: directory.to_path_buf(), listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() }
}
