//! A real nginx, on a free port, in a directory of its own.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use certctl::{
    Chain, Context, SystemClock,
    host::{Endpoint, Host},
    hosts::LocalHost,
    targets::Nginx as Config,
};

/// Whether nginx is here; says so where it is not, and fails where peers are required.
pub fn has_nginx() -> bool {
    let there = nginx_program().is_some();
    if !there {
        assert!(std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_none(), "nginx is not installed");
        eprintln!("skipped: nginx is not installed");
    }
    there
}

fn nginx_program() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
        .map(PathBuf::from)
        .into_iter()
        .find(|p| p.exists())
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One nginx; stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    pub dir: PathBuf,
    pub port: u16,
}

impl Nginx {
    /// Writes the configuration for one server per certificate name; does not start it.
    pub fn new(dir: &Path, names: &[&str]) -> Self {
        let port = free_port();
        std::fs::create_dir_all(dir.join("tls")).unwrap();
        std::fs::create_dir_all(dir.join("logs")).unwrap();
        let nginx = Self { dir: dir.to_owned(), port };
        nginx.configure(names, "");
        nginx
    }

    pub fn configure(&self, names: &[&str], extra: &str) {
        let dir = self.dir.display();
        let port = self.port;
        let mut servers = String::new();
        for name in names {
            servers.push_str(&format!(
                "server {{ listen 127.0.0.1:{port} ssl; server_name {name}.test; ssl_certificate {dir}/tls/{name}.crt; \
                 ssl_certificate_key {dir}/tls/{name}.key; location / {{ return 200 \"hello from {name}\\n\"; }} }}\n"
            ));
        }
        let root = if is_root() { "user root;\n" } else { "" };
        let conf = format!(
            "{root}worker_processes 2;\npid {dir}/nginx.pid;\nerror_log {dir}/logs/error.log;\nevents {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; \
             uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n{servers}\n{extra} }}\n"
        );
        std::fs::write(self.dir.join("nginx.conf"), conf).unwrap();
    }

    pub fn command(&self, rest: &str) -> String {
        let dir = self.dir.display();
        format!("nginx -p {dir} -c {dir}/nginx.conf -e {dir}/logs/start.log {rest}").trim().to_owned()
    }

    /// The target's configuration for one name.
    pub fn config(&self, name: &str) -> Config {
        Config {
            cert_path: self.cert(name).to_str().unwrap().to_owned(),
            key_path: self.key(name).to_str().unwrap().to_owned(),
            validate_command: self.command("-t").as_str().into(),
            reload_command: self.command("-s reload").as_str().into(),
            ..Default::default()
        }
    }

    pub fn cert(&self, name: &str) -> PathBuf {
        self.dir.join(format!("tls/{name}.crt"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("tls/{name}.key"))
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A pair of somebody else's, so that nginx can start.
    pub async fn put_old_pair(&self, name: &str) -> Chain {
        let bundle = other_bundle(name).await;
        std::fs::write(self.cert(name), bundle.chain.to_pem()).unwrap();
        std::fs::write(self.key(name), bundle.key.to_pem().expose()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.key(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        bundle.chain
    }

    pub fn start(&self) {
        let out = self.run("");
        assert!(out.status.success(), "nginx does not start: {}", String::from_utf8_lossy(&out.stderr));
        let mut tries = 0;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            tries += 1;
            assert!(tries < 2_000, "nginx does not listen");
            std::thread::yield_now();
        }
    }

    /// Reloads, and waits until this leaf is served: workers are exchanged one after the other.
    pub async fn reload_until(&self, name: &str, leaf: &certctl::X509Certificate) {
        assert!(self.run("-s reload").status.success());
        let mut streak = 0;
        for _ in 0..10_000 {
            let shown = self.served(name).await.is_some_and(|served| served.leaf() == leaf);
            streak = if shown { streak + 1 } else { 0 };
            if streak == 5 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("nginx does not serve what it was reloaded with");
    }

    fn run(&self, rest: &str) -> std::process::Output {
        let line = self.command(rest);
        let mut words = line.split(' ').skip(1);
        Command::new(nginx_program().unwrap()).args(&mut words).stdin(Stdio::null()).output().unwrap()
    }

    /// A script beside the configuration, for what a command line alone can't do.
    pub fn script(&self, name: &str, body: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Where certificates and keys are.
    pub fn tls(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// The names of what lies beside the pairs, dot-files and all.
    pub fn listing(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.tls()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The process id of the master, if there is one.
    pub fn pid(&self) -> Option<String> {
        Some(std::fs::read_to_string(self.dir.join("nginx.pid")).ok()?.trim().to_owned())
    }

    pub fn stop(&self) {
        if let Ok(pid) = std::fs::read_to_string(self.dir.join("nginx.pid")) {
            let _ = Command::new("kill").args(["-TERM", pid.trim()]).output();
            let mut tries = 0;
            while TcpStream::connect(("127.0.0.1", self.port)).is_ok() && tries < 100_000 {
                tries += 1;
                std::thread::yield_now();
            }
        }
    }

    /// What is served for this name, in a fresh handshake, once no worker of an earlier configuration is left.
    pub async fn served(&self, name: &str) -> Option<Chain> {
        settled(&self.dir).await;
        served(&self.endpoint(), &format!("{name}.test")).await
    }
}

/// Waits until the nginx in this directory, if it runs, has its two workers and no old ones beside them: those accept for a
/// moment more, however the reload went.
pub async fn settled(dir: &Path) {
    let mut calm = 0;
    for _ in 0..1_000_000 {
        let Ok(pid) = std::fs::read_to_string(dir.join("nginx.pid")) else { return };
        let pid = pid.trim();
        let Ok(children) = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else {
            return;
        };
        // The kernel's list may miss one that comes or goes at that moment.
        calm = if children.split_whitespace().count() <= 2 { calm + 1 } else { 0 };
        if calm == 20 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("old workers of nginx do not end");
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

pub async fn served(endpoint: &str, server_name: &str) -> Option<Chain> {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    let limit = std::time::Duration::from_secs(10);
    let io = LocalHost.connect(&endpoint, limit).await.ok()?;
    let presented = certctl::tls::handshake(io, Some(server_name), None, limit).await.ok()?;
    Chain::new(vec![presented.leaf]).ok()
}

/// A bundle of a CA that nobody knows.
pub async fn other_bundle(name: &str) -> certctl::Bundle {
    use certctl::{
        Csr, Env, KeyAlgorithm, PrivateKey, SubjectAltName, connectors::IssuerConfig, issuers::LocalCa,
    };
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let names = [SubjectAltName::dns(&format!("{name}.test")).unwrap()];
    let csr = Csr::create(&key, None, &names).await.unwrap();
    let issuer = LocalCa::default().connect(Env::in_memory()).await.unwrap();
    let cx = Context::new(Arc::new(SystemClock));
    let chain = certctl::issue(&*issuer, &cx, csr, Default::default()).await.unwrap();
    certctl::Bundle { chain, key }
}

/// The pair at rest is whole: the key is the leaf's.
#[track_caller]
pub fn assert_whole(cert: &Path, key: &Path) -> Chain {
    let chain = Chain::from_pem(&std::fs::read(cert).unwrap()).unwrap();
    let key = certctl::PrivateKey::from_pem(&certctl::Secret::new(std::fs::read(key).unwrap())).unwrap();
    assert_eq!(chain.leaf().public_key().unwrap(), key.public_key(), "the pair is torn");
    chain
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|facts| std::os::unix::fs::MetadataExt::uid(&facts) == 0)
}
