//! The resolvers of the system.

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

const FILE: &str = "/etc/resolv.conf";
/// What is read of it, in bytes.
const MAX_LEN: u64 = 64 << 10;
/// The C library asks no more either.
const MAX_RESOLVERS: usize = 3;

/// Those that the system's configuration names; the one on this machine if it names none, as resolv.conf(5) says.
pub(super) fn of_the_system() -> Vec<SocketAddr> {
    let mut text = String::new();
    // A file that is not there, or is not text, names none.
    let _ = File::open(FILE).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text));
    let mut resolvers = named_in(&text);
    if resolvers.is_empty() {
        resolvers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    resolvers
}

fn named_in(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // One with a scope (fe80::1%eth0) is only good on one interface, and is left out.
    let addresses = lines.filter_map(|word| word.parse::<IpAddr>().ok());
    addresses.take(MAX_RESOLVERS).map(|ip| SocketAddr::new(ip, 53)).collect()
}
