//! Real servers that an ACME client meets: certificate authorities and name servers, each on free ports of its own.

// Not every test file needs every switch of every server.
#![allow(dead_code)]

pub mod bind;
pub mod challtestsrv;
pub mod knot;
pub mod pebble;
pub mod proxy;
pub mod step_ca;
pub mod tls;

mod dns;
mod http;
pub mod process;

// A bench has the servers as well, and no tests.
#[allow(unused_imports)]
mod smoke;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::Mutex,
};

pub use bind::{Bind, Zone};
pub use challtestsrv::Challtestsrv;
pub use pebble::{Binary, Pebble, PebbleOptions};
pub use step_ca::{StepCa, StepCaOptions};

/// A server that `scripts/install-peers` installs: the name of its program, and the version that it builds, if it does.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    program: &'static str,
    /// Without one it is the system's.
    version: Option<&'static str>,
}

pub const CHALLTESTSRV: Peer = Peer { program: "pebble-challtestsrv", version: Some("v2.10.1") };
pub const PEBBLE: Peer = Peer { program: "pebble", version: Some("v2.10.1") };
/// Debian's Pebble, 2.4: it knows neither profiles nor renewal information.
pub const OLD_PEBBLE: Peer = Peer { program: "pebble", version: None };
pub const STEP_CA: Peer = Peer { program: "step-ca", version: Some("v0.30.2") };
/// BIND; `dig` and `nsupdate` come along.
pub const NAMED: Peer = Peer { program: "named", version: None };
/// The second name server; `knotc` comes along.
pub const KNOTD: Peer = Peer { program: "knotd", version: None };
/// Changes names independently of the client under test.
pub const NSUPDATE: Peer = Peer { program: "nsupdate", version: None };

/// Whether all of these are here; says what is missing, and fails where peers are required.
pub fn has(peers: &[Peer]) -> bool {
    let missing: Vec<_> = peers.iter().filter(|peer| peer.find().is_none()).collect();
    let Some(peer) = missing.first() else { return true };
    let what = format!("{} {}", peer.program, peer.version.unwrap_or("of the system"));
    assert!(
        std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_none(),
        "{what} is not installed: run scripts/install-peers"
    );
    eprintln!("skipped: {what} is not installed");
    false
}

impl Peer {
    /// Where the program is.
    #[track_caller]
    pub fn path(&self) -> PathBuf {
        self.find().unwrap_or_else(|| panic!("{self:?} is not installed: run scripts/install-peers"))
    }

    fn find(&self) -> Option<PathBuf> {
        let path = match self.version {
            Some(version) => cache()?.join(format!("{}-{version}", self.program)).join(self.program),
            None => ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"]
                .map(|dir| PathBuf::from(dir).join(self.program))
                .into_iter()
                .find(|path| path.exists())?,
        };
        path.exists().then_some(path)
    }
}

/// Where `scripts/install-peers` puts what it builds.
fn cache() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    dir("CERTCTL_PEERS_DIR").or_else(|| {
        let cache = dir("XDG_CACHE_HOME").or_else(|| Some(dir("HOME")?.join(".cache")));
        Some(cache?.join("certctl-peers"))
    })
}

/// A loopback port that is free now, for TCP and UDP, and that no other test of this process was given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1_000 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
    panic!("no port is free");
}
