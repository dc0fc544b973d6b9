//! BIND: a name server that takes updates (RFC 2136) from who has the key.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{
    NAMED,
    dns::{answers_for, dig, succeeded},
    free_port,
    knot::Secondary,
    process::{PortTaken, Process, on_free_ports},
};

/// A key that updates are signed with (RFC 8945).
#[derive(Clone, Debug)]
pub struct TsigKey {
    pub name: &'static str,
    pub algorithm: &'static str,
    /// In base64.
    pub secret: &'static str,
}

pub const KEY: TsigKey = TsigKey {
    name: "update-key",
    algorithm: "hmac-sha256",
    secret: "y2xpZmUgaXMgYSBsb25nIHN1bW1lciBldmVuaW5nIQo=",
};

/// A key that no server knows under its name.
pub const WRONG_KEY: TsigKey = TsigKey { secret: "bm90IHRoZSBrZXkgdGhhdCB0aGUgc2VydmVyIGtub3dz", ..KEY };

/// A zone: its name, and records beside its SOA, NS and the name servers' addresses, in the syntax of zone files. Its name
/// servers are `ns1` at `127.0.0.1`, and where there is a second one, `ns2` at `127.0.0.2`.
#[derive(Clone, Copy, Debug)]
pub struct Zone {
    pub name: &'static str,
    pub records: &'static str,
}

impl Zone {
    pub const fn new(name: &'static str) -> Self {
        Self { name, records: "" }
    }
}

/// A running name server, which answers for its zones and nothing else.
#[derive(Debug)]
pub struct Bind {
    process: Process,
    _dir: TempDir,
    addr: SocketAddr,
}

impl Bind {
    /// A name server whose zones who has the key may change.
    pub async fn start(zones: &[Zone], key: &TsigKey) -> Self {
        on_free_ports("named", async || Self::try_start(free_port(), zones, key, 1, false).await).await
    }

    /// Such a name server, which also follows aliases from one of its zones into another for who asks, as a resolver does.
    pub async fn start_resolver(zones: &[Zone], key: &TsigKey) -> Self {
        on_free_ports("named", async || Self::try_start(free_port(), zones, key, 1, true).await).await
    }

    /// Such a name server, and a second one on the same port of another address, which lags behind it.
    pub async fn start_pair(zones: &[Zone], key: &TsigKey) -> (Self, Secondary) {
        on_free_ports("the name servers", async || {
            let port = free_port();
            let first = Self::try_start(port, zones, key, 2, false).await?;
            let second = Secondary::try_start(first.addr, zones).await?;
            Ok((first, second))
        })
        .await
    }

    async fn try_start(
        port: u16,
        zones: &[Zone],
        key: &TsigKey,
        name_servers: u8,
        resolves: bool,
    ) -> Result<Self, PortTaken> {
        let dir = tempfile::tempdir().unwrap();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for zone in zones {
            std::fs::write(dir.path().join(zone.name), zone_file(zone, name_servers)).unwrap();
        }
        let config = dir.path().join("named.conf");
        std::fs::write(&config, configuration(dir.path(), port, zones, key, resolves)).unwrap();
        let mut process = Process::start(&NAMED.path(), &dir.path().join("log"), |command| {
            command.args(["-g", "-4", "-n", "1", "-c"]).arg(&config);
        });
        process.until(async || answers_for(addr, zones).await).await?;
        Ok(Self { process, _dir: dir, addr })
    }

    /// Where it answers, over UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What `nsupdate` answers to these commands (`add`, `delete`, one a line), signed with the key if there is one.
    pub async fn update(&self, key: Option<&TsigKey>, commands: &str) -> Result<(), String> {
        let mut nsupdate = Command::new("nsupdate");
        if let Some(TsigKey { name, algorithm, secret }) = key {
            nsupdate.arg("-y").arg(format!("{algorithm}:{name}:{secret}"));
        }
        nsupdate.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = nsupdate.spawn().unwrap();
        let (ip, port) = (self.addr.ip(), self.addr.port());
        let script = format!("server {ip} {port}\n{commands}\nsend\n");
        child.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
        succeeded(&child.wait_with_output().await.unwrap()).map(drop)
    }

    /// What `dig` finds here: the records of this kind, as in a zone file, sorted.
    pub async fn records(&self, name: &str, kind: &str) -> Vec<String> {
        dig(self.addr, name, kind).await
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }
}

/// With a refresh so rare that a secondary never asks by itself in the life of a test.
fn zone_file(zone: &Zone, name_servers: u8) -> String {
    let mut file = "$TTL 1\n@ SOA ns1 admin 1 604800 604800 2419200 1\n".to_owned();
    for number in 1..=name_servers {
        writeln!(file, "@ NS ns{number}\nns{number} A 127.0.0.{number}").unwrap();
    }
    format!("{file}{}\n", zone.records)
}

fn configuration(dir: &Path, port: u16, zones: &[Zone], key: &TsigKey, resolves: bool) -> String {
    let recursion = if resolves { "yes" } else { "no" };
    let TsigKey { name, algorithm, secret } = key;
    let mut text = format!(
        "options {{\n  directory \"{}\";\n  listen-on port {port} {{ 127.0.0.1; }};\n  listen-on-v6 {{ none; }};\n  \
         pid-file none;\n  session-keyfile none;\n  recursion {recursion};\n  empty-zones-enable no;\n  notify no;\n  \
         dnssec-validation no;\n  allow-transfer {{ any; }};\n}};\ncontrols {{ }};\n\
         key \"{name}\" {{ algorithm {algorithm}; secret \"{secret}\"; }};\n",
        dir.display(),
    );
    for zone in zones {
        let file = zone.name;
        let how = format!("type primary; file \"{file}\"; allow-update {{ key {name}; }};");
        writeln!(text, "zone \"{file}\" {{ {how} }};").unwrap();
    }
    text
}
