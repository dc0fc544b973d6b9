//! Knot: a second name server for BIND's zones, which lags behind.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::process::Command;

use super::{
    KNOTD,
    bind::{Bind, Zone},
    dns::{answers_for, dig, succeeded},
    process::{PortTaken, Process},
};

/// A name server that has what its primary had when it started, and nothing newer until told to catch up.
#[derive(Debug)]
pub struct Secondary {
    process: Process,
    _dir: TempDir,
    config: PathBuf,
    addr: SocketAddr,
    zones: Vec<Zone>,
}

impl Secondary {
    /// BIND listens on nothing but the interfaces' own addresses, Knot on every one of the loopback network.
    pub(super) async fn try_start(primary: SocketAddr, zones: &[Zone]) -> Result<Self, PortTaken> {
        let dir = tempfile::tempdir().unwrap();
        let addr = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), primary.port()));
        let config = dir.path().join("knot.conf");
        std::fs::write(&config, configuration(dir.path(), addr, primary, zones)).unwrap();
        let mut process = Process::start(&KNOTD.path(), &dir.path().join("log"), |command| {
            command.arg("-c").arg(&config);
        });
        process.until(async || answers_for(addr, zones).await).await?;
        Ok(Self { process, _dir: dir, config, addr, zones: zones.to_vec() })
    }

    /// Where it answers, over UDP and TCP: the primary's port, another address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What `dig` finds here: the records of this kind, as in a zone file, sorted.
    pub async fn records(&self, name: &str, kind: &str) -> Vec<String> {
        dig(self.addr, name, kind).await
    }

    /// Gets what its primary has now.
    pub async fn catch_up(&self, primary: &Bind) {
        let mut knotc = Command::new(KNOTD.path().with_file_name("knotc"));
        knotc.arg("-c").arg(&self.config).args(["--blocking", "zone-retransfer"]);
        knotc.args(self.zones.iter().map(|zone| zone.name)).kill_on_drop(true);
        succeeded(&knotc.output().await.unwrap()).unwrap();
        for zone in &self.zones {
            let [here, there] =
                [self.records(zone.name, "SOA").await, primary.records(zone.name, "SOA").await];
            assert_eq!(here, there, "{}", self.printed());
        }
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }
}

fn configuration(dir: &Path, addr: SocketAddr, primary: SocketAddr, zones: &[Zone]) -> String {
    let at = |addr: SocketAddr| format!("{}@{}", addr.ip(), addr.port());
    let (dir, own, primary) = (dir.display(), at(addr), at(primary));
    let mut text = format!(
        "server:\n  rundir: {dir}\n  listen: {own}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {dir}\nlog:\n  - target: stderr\n    any: info\n\
         remote:\n  - id: primary\n    address: {primary}\nzone:\n"
    );
    for zone in zones {
        writeln!(text, "  - domain: {}\n    storage: {dir}\n    master: primary", zone.name).unwrap();
    }
    text
}
