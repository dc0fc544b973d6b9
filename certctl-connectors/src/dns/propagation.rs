//! How far a record has come.

use std::{fmt, net::SocketAddr};

/// Which name servers of a zone show a record. Written out, it is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// The zone; none if the name servers were given.
    pub apex: Option<String>,
    /// Each address of each name server that was asked.
    pub servers: Vec<NameServer>,
}

/// One name server, at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its name, as the zone has it; none if it was given by its address.
    pub name: Option<String>,
    /// Where it was asked; none if its name has no address.
    pub address: Option<SocketAddr>,
    /// What it showed.
    pub seen: Seen,
}

/// What a name server shows of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The value.
    Shown,
    /// It answers, and not with the value.
    Missing,
    /// It does not answer, or with an error: what it does instead, such as `does not answer`.
    Silent(String),
}

impl Propagation {
    /// Whether every name server shows the value. One that can't be asked does not.
    pub fn complete(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|server| server.seen == Seen::Shown)
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.servers.len();
        let shown = self.servers.iter().filter(|server| server.seen == Seen::Shown).count();
        let noun = if all == 1 { "name server" } else { "name servers" };
        let verb = if shown == 1 { "shows" } else { "show" };
        write!(f, "{shown} of {all} {noun}")?;
        if let Some(apex) = &self.apex {
            write!(f, " of {apex}")?;
        }
        write!(f, " {verb} it")?;
        for server in &self.servers {
            match &server.seen {
                Seen::Shown => {}
                Seen::Missing => write!(f, "; {server} does not yet")?,
                Seen::Silent(why) => write!(f, "; {server} {why}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address =
            self.address.map(|at| if at.port() == 53 { at.ip().to_string() } else { at.to_string() });
        match (&self.name, address) {
            (Some(name), Some(address)) => write!(f, "{name} ({address})"),
            (Some(name), None) => f.write_str(name),
            (None, Some(address)) => f.write_str(&address),
            (None, None) => f.write_str("a name server"),
        }
    }
}
