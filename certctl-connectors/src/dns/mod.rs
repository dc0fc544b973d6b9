//! Lookups for challenges in the DNS: where an alias leads to, which zone a name lies in, and whether each of the zone's
//! name servers shows a record. Nothing is cached, and every call is one bounded step.

mod name;
mod propagation;
mod resolvers;
pub(crate) mod wire;

use std::{net::SocketAddr, time::Duration};

use certctl_core::{Error, ErrorKind, Result, TxtRecord, Violation};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::time::timeout;

pub use propagation::{NameServer, Propagation, Seen};

pub(crate) use name::{parse, plain};

use wire::Failure;

/// How long [`Lookup::follow`] and [`Lookup::zone`] may take in all.
const CALL: Duration = Duration::from_secs(8);
/// How long one name server may take that is asked for a record.
const SERVER: Duration = Duration::from_secs(5);
/// How long one try waits for an answer by UDP.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// How often each server is asked.
const ATTEMPTS: usize = 2;
/// How many aliases are followed.
const MAX_ALIASES: usize = 8;
/// What a hostile answer may make this ask.
const MAX_NAME_SERVERS: usize = 32;
const MAX_ADDRESSES: usize = 8;
/// How many name servers are asked for what each of them should know.
const MAX_ASKED: usize = 4;
const MAX_GIVEN: usize = 64;

/// Asks the DNS: resolvers for where things are, name servers for what they show.
///
/// No resolver is asked for a challenge's own name while a name server can be: a resolver that was told that nothing is there
/// goes on saying so (RFC 2308), for hours with some zones, and a private CA may well ask the same one.
///
/// ```
/// use certctl_connectors::dns::Lookup;
/// // The system's resolvers, and the zone's name servers.
/// let lookup = Lookup::new(&[], &[])?;
/// // A hidden primary, which no NS record names.
/// let hidden = Lookup::new(&[], &[([192, 0, 2, 53], 53).into()])?;
/// # Ok::<(), certctl_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lookup {
    resolvers: Vec<SocketAddr>,
    name_servers: Vec<SocketAddr>,
    port: u16,
}

/// A zone and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name, in lower case and without a dot at its end.
    pub apex: String,
    /// The name servers that its NS records name, and their addresses, at port 53. A server without an address is here too.
    pub name_servers: Vec<(String, Vec<SocketAddr>)>,
}

impl Lookup {
    /// Asks these resolvers, or those of the system (`/etc/resolv.conf`, read now) if there are none; and these name servers
    /// for records, or those that the zone's NS records name if there are none.
    ///
    /// # Errors
    /// `Invalid` for more than 64 of either, or one with port 0.
    pub fn new(resolvers: &[SocketAddr], name_servers: &[SocketAddr]) -> Result<Self> {
        let mut wrong = Vec::new();
        for (pointer, given) in [("/dns_resolvers", resolvers), ("/dns_name_servers", name_servers)] {
            if given.len() > MAX_GIVEN {
                let message = format!("{} addresses are given", given.len());
                wrong.push(Violation::new(pointer, message, format!("give at most {MAX_GIVEN}")));
            }
            for (index, _) in given.iter().enumerate().filter(|(_, address)| address.port() == 0) {
                let remedy = "give the port that is asked, usually 53";
                wrong.push(Violation::new(format!("{pointer}/{index}"), "the port is 0", remedy));
            }
        }
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let resolvers = if resolvers.is_empty() { resolvers::of_the_system() } else { resolvers.to_vec() };
        Ok(Self { resolvers, name_servers: name_servers.to_vec(), port: 53 })
    }

    /// For a DNS of one's own whose name servers, as the zones name them, are on another port than 53.
    #[must_use]
    pub fn on_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The name that this one stands for in the end: the end of its chain of CNAME records (RFC 1034 section 3.6.2), in lower
    /// case; the name itself if it is no alias. Neither has to exist. Name servers are asked, and the resolvers where none
    /// answers.
    ///
    /// # Errors
    /// `Invalid` for what is no name, `Precondition` for aliases that go in a circle or through more than 8 names,
    /// `Unavailable` if no resolver answers.
    pub async fn follow(&self, name: &str) -> Result<String> {
        let mut at = parse(name)?;
        let mut chain = vec![plain(&at)?];
        within(CALL, async {
            let mut reachable = true;
            while let Some(next) = self.alias(&at, &mut reachable).await? {
                let text = plain(&next)?;
                let again = chain.contains(&text);
                chain.push(text);
                if again || chain.len() > MAX_ALIASES + 1 {
                    let what = if again {
                        "go in a circle".to_owned()
                    } else {
                        format!("are more than {MAX_ALIASES}")
                    };
                    let message = format!(
                        "the aliases of {name} {what}: {}; correct the CNAME records",
                        chain.join(" -> ")
                    );
                    return Err(Error::new(ErrorKind::Precondition, message).with("name", name));
                }
                at = next;
            }
            plain(&at)
        })
        .await
    }

    /// The zone that the name lies in (the closest name above it, or itself, that has an SOA record), and who serves it.
    ///
    /// # Errors
    /// `Invalid` for what is no name, `Precondition` if there is no such zone, or it names no name server or more than 32,
    /// `Unavailable` if no resolver answers.
    pub async fn zone(&self, name: &str) -> Result<Zone> {
        let name = parse(name)?;
        within(CALL, self.zone_of(&name)).await
    }

    /// Asks every name server of the record's zone, or each of those that were given, whether it shows the value. An IPv6
    /// address that this machine has no route to is left out where the server has another one.
    ///
    /// # Errors
    /// As for [`Lookup::zone`]; a name server that does not answer is no error, but part of the result.
    pub async fn visible(&self, record: &TxtRecord) -> Result<Propagation> {
        let name = parse(&record.name)?;
        let (apex, servers) = if self.name_servers.is_empty() {
            let zone = within(CALL, self.zone_of_record(&name)).await?;
            (Some(zone.apex), zone.name_servers.into_iter().map(|(name, at)| (Some(name), at)).collect())
        } else {
            let given: Vec<_> = self.name_servers.iter().map(|address| (None, vec![*address])).collect();
            (None, given)
        };
        let looks = servers.into_iter().map(|(server, at)| look(server, at, &name, record.value.as_bytes()));
        let servers = join_all(looks).await.into_iter().flatten().collect();
        Ok(Propagation { apex, servers })
    }

    /// `reachable` says whether name servers are worth asking, and hears whether they were.
    async fn alias(&self, name: &Name, reachable: &mut bool) -> Result<Option<Name>> {
        let servers = match &*self.name_servers {
            _ if !*reachable => Vec::new(),
            [] => self.zone_above(name).await?.map(|zone| zone.some_addresses()).unwrap_or_default(),
            given => given.to_vec(),
        };
        let answer = match ask_any(&servers, name, RecordType::CNAME).await {
            Some(answer) => answer,
            None => {
                *reachable = servers.is_empty() && *reachable;
                self.resolve(name, RecordType::CNAME).await?
            }
        };
        Ok(answer.answers.into_iter().filter(|record| record.name == *name).find_map(|record| {
            match record.data {
                RData::CNAME(target) => Some(target.0),
                _ => None,
            }
        }))
    }

    async fn zone_of(&self, name: &Name) -> Result<Zone> {
        let apex = self.apex(name).await?;
        let servers = self.name_servers_of(&apex).await?;
        let addresses = join_all(servers.iter().map(|server| self.addresses(server))).await;
        let name_servers =
            servers.iter().zip(addresses).map(|(server, addresses)| (plain_or_escaped(server), addresses));
        Ok(Zone { apex: plain(&apex)?, name_servers: name_servers.collect() })
    }

    /// The zone of what the name lies below; none for names right below a top-level domain, and if there is no such zone.
    async fn zone_above(&self, name: &Name) -> Result<Option<Zone>> {
        let above = name.base_name();
        if above.num_labels() < 2 {
            return Ok(None);
        }
        match self.zone_of(&above).await {
            Err(e) if e.kind() == ErrorKind::Precondition => Ok(None),
            zone => zone.map(Some),
        }
    }

    /// The zone of a record that may not be everywhere yet.
    async fn zone_of_record(&self, name: &Name) -> Result<Zone> {
        if let Some(above) = self.zone_above(name).await?
            && let Some(answer) = ask_any(&above.some_addresses(), name, RecordType::SOA).await
            // Without, it is delegated, and there whatever else is not.
            && let Some(apex) = apex_in(&answer, name)
        {
            return if plain(&apex)? == above.apex { Ok(above) } else { self.zone_of(&apex).await };
        }
        self.zone_of(name).await
    }

    async fn apex(&self, name: &Name) -> Result<Name> {
        let mut at = name.clone();
        while !at.is_root() {
            let answer = self.resolve(&at, RecordType::SOA).await?;
            if let Some(apex) = apex_in(&answer, name) {
                return Ok(apex);
            }
            at = at.base_name();
        }
        let message = format!(
            "the DNS has no zone that {} lies in; ask resolvers that know it (dns_resolvers), or create the zone",
            plain_or_escaped(name)
        );
        Err(Error::new(ErrorKind::Precondition, message))
    }

    async fn name_servers_of(&self, apex: &Name) -> Result<Vec<Name>> {
        let answer = self.resolve(apex, RecordType::NS).await?;
        let mut servers: Vec<Name> = Vec::new();
        for record in answer.answers {
            if let RData::NS(server) = record.data
                && record.name == *apex
                && !servers.contains(&server.0)
            {
                servers.push(server.0);
            }
        }
        if servers.is_empty() || servers.len() > MAX_NAME_SERVERS {
            let message = format!(
                "the zone {} has {} name servers; name those that count (dns_name_servers)",
                plain_or_escaped(apex),
                servers.len()
            );
            return Err(Error::new(ErrorKind::Precondition, message));
        }
        servers.sort();
        Ok(servers)
    }

    /// Empty if the name has none, or nobody says which.
    async fn addresses(&self, server: &Name) -> Vec<SocketAddr> {
        let (v4, v6) =
            tokio::join!(self.resolve(server, RecordType::A), self.resolve(server, RecordType::AAAA));
        // The answer to a name server that is an alias has the end of its chain: forbidden (RFC 2181 section 10.3), and in use.
        let found = [v4, v6].into_iter().flatten().flat_map(|answer| answer.answers);
        let addresses = found.filter_map(|record| record.data.ip_addr());
        addresses.take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, self.port)).collect()
    }

    /// The first answer that a resolver gives, be it that there is no such name.
    async fn resolve(&self, name: &Name, kind: RecordType) -> Result<Message> {
        let mut failures: Vec<String> = Vec::new();
        for attempt in 0..ATTEMPTS {
            for resolver in &self.resolvers {
                let why = match wire::ask(*resolver, name, kind, true, ATTEMPT).await {
                    Ok(answer) if is_answer(&answer) => return Ok(answer),
                    Ok(answer) => format!("{resolver} answers {}", wire::words(answer.response_code)),
                    Err(Failure { why, .. }) => format!("{resolver} {why}"),
                };
                if attempt == 0 {
                    failures.push(why);
                }
            }
        }
        Err(Error::unavailable(format!(
            "no resolver tells the {kind} records of {}: {}",
            plain_or_escaped(name),
            failures.join(", ")
        )))
    }
}

impl Zone {
    /// As many as are asked for what each of them should know.
    fn some_addresses(&self) -> Vec<SocketAddr> {
        let of_each = |nth: usize| self.name_servers.iter().filter_map(move |(_, at)| at.get(nth));
        of_each(0).chain(of_each(1)).take(MAX_ASKED).copied().collect()
    }
}

/// The first answer of somebody who serves the name, or who says to whom it is delegated.
async fn ask_any(servers: &[SocketAddr], name: &Name, kind: RecordType) -> Option<Message> {
    let servers = servers.iter().take(MAX_ASKED);
    let mut asked: FuturesUnordered<_> =
        servers.map(|server| wire::ask(*server, name, kind, false, ATTEMPT)).collect();
    while let Some(answer) = asked.next().await {
        let Ok(answer) = answer else { continue };
        let delegated = |record: &Record| record.record_type() == RecordType::NS && record.name == *name;
        if is_answer(&answer) && (answer.authoritative || answer.authorities.iter().any(delegated)) {
            return Some(answer);
        }
    }
    None
}

/// What one name server shows, at each of its addresses.
async fn look(name: Option<String>, at: Vec<SocketAddr>, record: &Name, value: &[u8]) -> Vec<NameServer> {
    if at.is_empty() {
        let seen = Seen::Silent("has no address".to_owned());
        return vec![NameServer { name, address: None, seen }];
    }
    let looks = join_all(at.iter().map(|address| shown(*address, record, value))).await;
    let can_leave_out = at.iter().zip(&looks).any(|(_, look)| !matches!(look, Err(f) if f.no_route));
    let looks = at.into_iter().zip(looks).filter(|(address, look)| {
        !(can_leave_out && address.is_ipv6() && matches!(look, Err(failure) if failure.no_route))
    });
    looks
        .map(|(address, look)| NameServer {
            name: name.clone(),
            address: Some(address),
            seen: look.unwrap_or_else(|failure| Seen::Silent(failure.why)),
        })
        .collect()
}

async fn shown(server: SocketAddr, name: &Name, value: &[u8]) -> std::result::Result<Seen, Failure> {
    let asked = async {
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match wire::ask(server, name, RecordType::TXT, false, ATTEMPT).await {
                Ok(answer) => return Ok(answer),
                Err(e) if e.no_route => return Err(e),
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(Failure::silent))
    };
    let answer = timeout(SERVER, asked).await.unwrap_or_else(|_| Err(Failure::silent()))?;
    if !is_answer(&answer) {
        return Ok(Seen::Silent(format!("answers {}", wire::words(answer.response_code))));
    }
    // A long value is several strings on the wire (RFC 1035 section 3.3.14).
    let is_shown = answer.answers.iter().any(|record| match &record.data {
        RData::TXT(txt) => record.name == *name && txt.txt_data.concat() == value,
        _ => false,
    });
    Ok(if is_shown { Seen::Shown } else { Seen::Missing })
}

/// The zone that an answer to a question for an SOA record names, if the name lies in it.
pub(crate) fn apex_in(answer: &Message, name: &Name) -> Option<Name> {
    // Where there is no SOA, the authority section names the zone's (RFC 2308 section 3). An alias brings one of somewhere
    // else.
    let records = answer.answers.iter().chain(&answer.authorities);
    let mut apexes =
        records.filter(|record| record.record_type() == RecordType::SOA).map(|record| &record.name);
    apexes.find(|apex| apex.zone_of(name) && !apex.is_root()).cloned()
}

fn is_answer(message: &Message) -> bool {
    matches!(message.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("the resolvers took more than {} s", limit.as_secs());
        Err(Error::unavailable(message))
    })
}

fn plain_or_escaped(name: &Name) -> String {
    plain(name).unwrap_or_else(|_| name.to_ascii())
}
