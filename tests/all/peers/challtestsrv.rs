//! `pebble-challtestsrv`: a name server that answers what it is told to.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    CHALLTESTSRV,
    dns::{A, ask},
    free_port, http,
    process::{PortTaken, Process, on_free_ports},
};

/// The name server. Unless told otherwise it answers every question for an IPv4 address with `127.0.0.1`, and those for IPv6
/// addresses with nothing.
#[derive(Debug)]
pub struct Challtestsrv {
    process: Process,
    _dir: TempDir,
    dns: u16,
    management: u16,
}

impl Challtestsrv {
    pub async fn start() -> Self {
        on_free_ports("pebble-challtestsrv", Self::try_start).await
    }

    async fn try_start() -> Result<Self, PortTaken> {
        let dir = tempfile::tempdir().unwrap();
        let (dns, management) = (free_port(), free_port());
        let mut process = Process::start(&CHALLTESTSRV.path(), &dir.path().join("log"), |command| {
            command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", ""]);
            command.arg("-dnsserver").arg(format!("127.0.0.1:{dns}"));
            command.arg("-management").arg(format!("127.0.0.1:{management}"));
        });
        let ready = async || {
            ask(SocketAddr::from((Ipv4Addr::LOCALHOST, dns)), "ready.test", A).await.is_some()
                && http::request(management, None, "GET", "/", "").await.is_ok()
        };
        process.until(ready).await?;
        Ok(Self { process, _dir: dir, dns, management })
    }

    /// Where it answers questions, over UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.dns))
    }

    /// Where it is told what to answer, in clear.
    pub fn management(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.management))
    }

    /// What names without an address of their own have; none if empty.
    pub async fn set_default_ipv4(&self, ip: &str) {
        self.post("/set-default-ipv4", &json!({ "ip": ip })).await;
    }

    /// What names without an address of their own have; none if empty, as it is at the start.
    pub async fn set_default_ipv6(&self, ip: &str) {
        self.post("/set-default-ipv6", &json!({ "ip": ip })).await;
    }

    pub async fn add_a(&self, name: &str, ip: &str) {
        self.post("/add-a", &json!({ "host": name, "addresses": [ip] })).await;
    }

    pub async fn clear_a(&self, name: &str) {
        self.post("/clear-a", &json!({ "host": name })).await;
    }

    pub async fn add_aaaa(&self, name: &str, ip: &str) {
        self.post("/add-aaaa", &json!({ "host": name, "addresses": [ip] })).await;
    }

    pub async fn set_cname(&self, name: &str, target: &str) {
        self.post("/set-cname", &json!({ "host": name, "target": target })).await;
    }

    pub async fn clear_cname(&self, name: &str) {
        self.post("/clear-cname", &json!({ "host": name })).await;
    }

    /// One more TXT record of this name, `_acme-challenge.web.test` for instance.
    pub async fn add_txt(&self, name: &str, value: &str) {
        self.post("/set-txt", &json!({ "host": absolute(name), "value": value })).await;
    }

    /// No TXT record of this name is left.
    pub async fn clear_txt(&self, name: &str) {
        self.post("/clear-txt", &json!({ "host": absolute(name) })).await;
    }

    /// Each of `issuers` becomes a CAA `issue` record of this name (RFC 8659 section 4.2).
    pub async fn add_caa(&self, name: &str, issuers: &[&str]) {
        let policies: Vec<_> =
            issuers.iter().map(|value| json!({ "tag": "issue", "value": value })).collect();
        self.post("/add-caa", &json!({ "host": name, "policies": policies })).await;
    }

    /// All questions about this name fail with SERVFAIL, until cleared.
    pub async fn set_servfail(&self, name: &str) {
        self.post("/set-servfail", &json!({ "host": name })).await;
    }

    pub async fn clear_servfail(&self, name: &str) {
        self.post("/clear-servfail", &json!({ "host": name })).await;
    }

    /// The questions about this name so far, oldest first, as `{"Question": {"Name", "Qtype", "Qclass"}, "UserAgent"}`.
    pub async fn dns_requests(&self, name: &str) -> Vec<Value> {
        let answer = self.post("/dns-request-history", &json!({ "host": name })).await;
        serde_json::from_str(&answer).unwrap()
    }

    /// Forgets the questions about this name.
    pub async fn clear_requests(&self, name: &str) {
        self.post("/clear-request-history", &json!({ "host": name, "type": "dns" })).await;
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    async fn post(&self, path: &str, body: &Value) -> String {
        http::request(self.management, None, "POST", path, &body.to_string()).await.unwrap().ok()
    }
}

/// TXT records are looked up by the name as it stands in the question, with its last dot.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}
