//! Challenges in the DNS by dynamic update (RFC 2136), signed with TSIG (RFC 8945).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use certctl_core::{
    Challenge, Context, DnsProvider, DnsSolver, Effect, Env, Error, ErrorKind, Result, Retry, Secret,
    SecretRef, Solver, Timestamp, TxtRecord, Violation, connectors::SolverConfig, host::Endpoint,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType, TSigner,
        rdata::{
            TXT,
            tsig::{TSIG, TsigAlgorithm, TsigError},
        },
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::dns::{self, plain, wire};

/// How long finding the server and the zone may take, and how long the update.
const LIMIT: Duration = Duration::from_secs(10);
/// How long one try waits for an answer by UDP.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// How many addresses of the server are tried.
const MAX_ADDRESSES: usize = 4;
/// How far the clocks may be apart, in seconds (RFC 8945 section 10 recommends this).
const FUDGE: u16 = 300;
/// The longest value of a TXT record that is written, in bytes.
const MAX_VALUE: usize = 4_096;
/// The longest time to live, in seconds.
const MAX_TTL: u32 = 86_400;

/// Shows dns-01 and dns-persist-01 challenges by dynamic update of the zone: BIND, Knot, PowerDNS and others take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rfc2136 {
    /// The zone's primary name server: a name or an address, and its port if that is not 53, such as `ns1.example.com` or
    /// `127.0.0.1:5353`.
    pub server: String,
    /// The zone; by default what that server says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The name of the key that updates are signed with, as the server knows it.
    pub tsig_key_name: String,
    /// The key's algorithm.
    pub tsig_algorithm: TsigHash,
    /// The key, in base64.
    pub tsig_secret: SecretRef,
    /// The record's time to live, in seconds.
    pub ttl: u32,
}

/// What updates are signed with (RFC 8945 section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TsigHash {
    /// HMAC with SHA-256.
    #[default]
    HmacSha256,
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
}

impl TsigHash {
    fn algorithm(self) -> TsigAlgorithm {
        match self {
            Self::HmacSha256 => TsigAlgorithm::HmacSha256,
            Self::HmacSha384 => TsigAlgorithm::HmacSha384,
            Self::HmacSha512 => TsigAlgorithm::HmacSha512,
        }
    }
}

impl Default for Rfc2136 {
    fn default() -> Self {
        Self {
            server: String::new(),
            zone: None,
            tsig_key_name: String::new(),
            tsig_algorithm: TsigHash::default(),
            tsig_secret: SecretRef::env(""),
            ttl: 60,
        }
    }
}

#[async_trait]
impl SolverConfig for Rfc2136 {
    const KIND: &'static str = "rfc2136";

    fn check(&self) -> Vec<Violation> {
        let mut wrong = Vec::new();
        let mut say = |pointer: &str, message: String, remedy: &str| {
            wrong.push(Violation::new(pointer, message, remedy));
        };
        if endpoint(&self.server).is_err() {
            say(
                "/server",
                format!("{:?} is no server", self.server),
                "give the zone's primary, such as ns1.example.com, 192.0.2.53 or 127.0.0.1:5353",
            );
        }
        if let Some(zone) = &self.zone
            && dns::parse(zone).is_err()
        {
            say("/zone", format!("{zone:?} is no zone"), "write it like example.com, or leave it out");
        }
        if dns::parse(&self.tsig_key_name).is_err() {
            say(
                "/tsig_key_name",
                format!("{:?} is no name of a key", self.tsig_key_name),
                "give the name that the server has for it, such as certctl-key",
            );
        }
        match &self.tsig_secret {
            SecretRef::Env(name) | SecretRef::File(name) if name.is_empty() => say(
                "/tsig_secret",
                "the key is missing".to_owned(),
                "give the secret of the server's key statement, such as {\"env\": \"TSIG_SECRET\"}",
            ),
            SecretRef::Value(secret) if key_bytes(secret).is_none() => {
                say(
                    "/tsig_secret",
                    "this is not base64".to_owned(),
                    "give it as the server's key statement has it",
                );
            }
            _ => {}
        }
        if self.ttl > MAX_TTL {
            say(
                "/ttl",
                format!("{} seconds are more than a day", self.ttl),
                "give at most 86400; 60 is usual, as the record is there for minutes",
            );
        }
        wrong
    }

    async fn connect(self, env: Env) -> Result<Arc<dyn Solver>> {
        let server = endpoint(&self.server)?;
        Ok(Arc::new(DnsSolver(Updates { config: self, server, env })))
    }
}

fn endpoint(text: &str) -> Result<Endpoint> {
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok(Endpoint { host: ip.to_string().into(), port: 53 });
    }
    let brackets = text.starts_with('[') && text.ends_with(']');
    if text.contains(':') && !brackets { text.parse() } else { format!("{text}:53").parse() }
}

fn key_bytes(secret: &Secret) -> Option<Vec<u8>> {
    let text = secret.expose_str().ok()?.trim();
    BASE64.decode(text).ok().filter(|key| !key.is_empty())
}

#[derive(Debug)]
struct Updates {
    config: Rfc2136,
    server: Endpoint,
    env: Env,
}

#[async_trait]
impl DnsProvider for Updates {
    async fn add(&self, cx: &Context, record: &TxtRecord, _: &Challenge) -> Result<()> {
        cx.check_cancelled()?;
        // RFC 2136 section 2.5.1: a value that is there already is ignored.
        let (name, data) = txt(record)?;
        self.update(cx, Record::from_rdata(name, self.config.ttl, data), "present").await
    }

    async fn remove(&self, cx: &Context, record: &TxtRecord, _: &Challenge) -> Result<()> {
        // RFC 2136 section 2.5.4: this value and no other, and none is fine.
        let (name, data) = txt(record)?;
        let mut value = Record::from_rdata(name, 0, data);
        value.dns_class = DNSClass::NONE;
        self.update(cx, value, "retract").await
    }
}

fn txt(record: &TxtRecord) -> Result<(Name, RData)> {
    let value = record.value.as_bytes();
    if value.is_empty() || value.len() > MAX_VALUE || record.value.chars().any(char::is_control) {
        let message = "the value of the record is empty, too long, or has control characters";
        return Err(Error::new(ErrorKind::BadResponse, message).with("name", &record.name));
    }
    // A longer value is several strings (RFC 1035 section 3.3.14).
    let strings = value.chunks(255).collect();
    Ok((dns::parse(&record.name)?, RData::TXT(TXT::from_bytes(strings))))
}

impl Updates {
    async fn update(&self, cx: &Context, record: Record, step: &str) -> Result<()> {
        let name = plain(&record.name)?;
        let done = async {
            let signer = self.signer().await?;
            let addresses = self.addresses().await?;
            let zone = self.zone(&record.name, &addresses).await?;
            self.send(cx, &zone, record, &addresses, &signer).await
        };
        done.await.map_err(|error| {
            error
                .during(format!("updating {name} at {}", self.server))
                .with("step", step)
                .with("name", name)
                .with("server", &self.server)
        })
    }

    async fn signer(&self) -> Result<TSigner> {
        let secret = self.env.secret("tsig_secret", &self.config.tsig_secret).await?;
        let key = key_bytes(&secret).ok_or_else(|| {
            let message = "the TSIG key is not base64; give it as the server's key statement has it";
            Error::new(ErrorKind::Precondition, message)
        })?;
        let name = dns::parse(&self.config.tsig_key_name)?;
        TSigner::new(key, self.config.tsig_algorithm.algorithm(), name, FUDGE)
            .map_err(|e| Error::internal(format!("the TSIG key can't be used: {e}")))
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let Endpoint { host, port } = &self.server;
        let found = match timeout(LIMIT, tokio::net::lookup_host((&**host, *port))).await {
            Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect(),
            Ok(Err(error)) => {
                return Err(Error::unavailable(format!("the server's name has no address: {error}")));
            }
            Err(_) => Vec::new(),
        };
        if found.is_empty() {
            return Err(Error::unavailable("nobody says which address the server has"));
        }
        Ok(found)
    }

    /// The configured zone, or the closest one above the name that the server has.
    async fn zone(&self, name: &Name, addresses: &[SocketAddr]) -> Result<Name> {
        if let Some(zone) = &self.config.zone {
            let apex = dns::parse(zone)?;
            if !apex.zone_of(name) {
                let message =
                    format!("the name is not in the zone {zone}; correct the zone, or leave it out");
                return Err(Error::new(ErrorKind::Precondition, message));
            }
            return Ok(apex);
        }
        let found = timeout(LIMIT, async {
            let mut at = name.clone();
            let mut last = String::new();
            while !at.is_root() {
                let answer = ask_any(addresses, &at).await?;
                if let Some(apex) = dns::apex_in(&answer, name).filter(|_| answer.authoritative) {
                    return Ok(apex);
                }
                let delegated = answer.authorities.iter().find(|record| {
                    record.record_type() == RecordType::NS
                        && record.name.zone_of(name)
                        && !record.name.is_root()
                });
                if let Some(cut) = delegated.filter(|_| answer.response_code == ResponseCode::NoError) {
                    let message = format!(
                        "the server delegates {} to others; name the server that holds it",
                        plain(&cut.name)?
                    );
                    return Err(Error::new(ErrorKind::Precondition, message));
                }
                last = wire::words(answer.response_code);
                at = at.base_name();
            }
            let message = format!(
                "the server holds no zone that the name is in (it answers {last}); name the zone's primary, or give the zone"
            );
            Err(Error::new(ErrorKind::Precondition, message))
        });
        found
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("the server took too long to say which zone it is")))
    }

    async fn send(
        &self,
        cx: &Context,
        zone: &Name,
        record: Record,
        addresses: &[SocketAddr],
        signer: &TSigner,
    ) -> Result<()> {
        let mut update = Message::query();
        update.metadata.op_code = OpCode::Update;
        update.metadata.recursion_desired = false;
        update.add_query(Query::query(zone.clone(), RecordType::SOA));
        update.add_authority(record);
        let now = cx.clock.now();
        let broken = |e| Error::internal(format!("the update can't be written: {e}"));
        let (signature, _) = signer.sign_message(&update, seconds(now)).map_err(broken)?;
        let request_mac = signature.data.mac.clone();
        update.set_signature(signature);
        let bytes = update.to_vec().map_err(broken)?;

        let mut failures = Vec::new();
        for address in addresses {
            match timeout(LIMIT, wire::by_tcp(*address, &bytes)).await {
                Ok(Ok(answer)) => {
                    return Answer { zone, signer, request_mac: &request_mac, now }.read(&answer, &update);
                }
                Ok(Err(failure)) => failures.push(format!("{address} {}", failure.why)),
                Err(_) => failures.push(format!("{address} does not answer")),
            }
        }
        Err(Error::unavailable(failures.join(", ")).with_effect(Effect::Unknown))
    }
}

/// The first of the server's addresses that answers.
async fn ask_any(addresses: &[SocketAddr], name: &Name) -> Result<Message> {
    let mut failures = Vec::new();
    // Packets get lost: each is asked twice.
    for address in addresses.iter().chain(addresses) {
        match wire::ask(*address, name, RecordType::SOA, false, ATTEMPT).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failures.push(format!("{address} {}", failure.why)),
        }
    }
    failures.truncate(addresses.len());
    Err(Error::unavailable(failures.join(", ")))
}

/// What belongs to the answer to an update.
struct Answer<'a> {
    zone: &'a Name,
    signer: &'a TSigner,
    request_mac: &'a [u8],
    now: Timestamp,
}

impl Answer<'_> {
    fn read(&self, bytes: &[u8], update: &Message) -> Result<()> {
        let nonsense = |why: &str| {
            Error::new(ErrorKind::BadResponse, format!("the server's answer {why}"))
                .with_retry(Retry::Backoff)
                .with_effect(Effect::Unknown)
        };
        let answer = Message::from_vec(bytes).map_err(|_| nonsense("can't be read"))?;
        let is_ours = answer.id == update.id
            && answer.message_type == MessageType::Response
            && answer.op_code == OpCode::Update;
        if !is_ours {
            return Err(nonsense("belongs to something else"));
        }
        let Some(tsig) = answer.signature() else {
            // A server that can't read the request can't sign either, but nor can who is in between.
            return match answer.response_code {
                ResponseCode::NoError => Err(nonsense("is not signed, so that nobody knows whose it is")),
                code => Err(self.refused(code).with("signed", false).with_retry(Retry::Backoff)),
            };
        };
        let tsig = &tsig.data;
        match tsig.error {
            // Neither can be signed: the two sides have no key in common (RFC 8945 section 5.2).
            Some(TsigError::BadKey) => Err(self.unknown_key()),
            Some(TsigError::BadSig) => Err(self.wrong_key()),
            error => {
                if tsig.time < u64::from(tsig.fudge)
                    || self.signer.verify_message_byte(bytes, Some(self.request_mac), true).is_err()
                {
                    return Err(nonsense("is not signed with the key"));
                }
                match (error, answer.response_code) {
                    (Some(TsigError::BadTime), _) => Err(self.clocks_differ(tsig)),
                    _ if seconds(self.now).abs_diff(tsig.time) > u64::from(tsig.fudge) => {
                        Err(nonsense("is of another time"))
                    }
                    (_, ResponseCode::NoError) => Ok(()),
                    (_, code) => Err(self.refused(code)),
                }
            }
        }
    }

    fn unknown_key(&self) -> Error {
        let message = format!(
            "the server knows no key {} of {} (BADKEY); correct tsig_key_name and tsig_algorithm",
            plain(self.signer.signer_name()).unwrap_or_default(),
            self.signer.algorithm(),
        );
        Error::new(ErrorKind::Unauthenticated, message).with("reason", "badkey")
    }

    fn wrong_key(&self) -> Error {
        let message = format!(
            "the server has another secret for the key {} (BADSIG); correct tsig_secret",
            plain(self.signer.signer_name()).unwrap_or_default()
        );
        Error::new(ErrorKind::Unauthenticated, message).with("reason", "badsig")
    }

    /// RFC 8945 section 5.2.3: the server's clock is in the answer, as 48 bits.
    fn clocks_differ(&self, tsig: &TSIG) -> Error {
        let theirs = match tsig.other.as_slice() {
            [a, b, c, d, e, f] => {
                let secs = u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]);
                Timestamp::from_secs(i64::try_from(secs).unwrap_or(i64::MAX)).to_string()
            }
            _ => "another time".to_owned(),
        };
        let message = format!(
            "the clocks are more than {FUDGE} s apart (BADTIME): here it is {}, there it is {theirs}; correct the one \
             that is wrong",
            self.now.floor_secs()
        );
        Error::new(ErrorKind::Precondition, message).with("reason", "badtime").with_retry(Retry::Backoff)
    }

    fn refused(&self, code: ResponseCode) -> Error {
        let zone = plain(self.zone).unwrap_or_default();
        let (kind, message) = match code {
            ResponseCode::Refused => (
                ErrorKind::Denied,
                format!("the server does not let the key change the zone {zone}; allow it (REFUSED)"),
            ),
            ResponseCode::NotAuth => (
                ErrorKind::Precondition,
                format!(
                    "the server does not hold the zone {zone}, or not for this key; name its primary (NOTAUTH)"
                ),
            ),
            ResponseCode::NotZone => (
                ErrorKind::Precondition,
                format!(
                    "the server says that the name is not in the zone {zone}; correct the zone (NOTZONE)"
                ),
            ),
            ResponseCode::NotImp => {
                (ErrorKind::Unsupported, "the server takes no dynamic updates (NOTIMP)".to_owned())
            }
            ResponseCode::ServFail => (
                ErrorKind::Unavailable,
                format!("the server failed to change the zone {zone}; its log says why (SERVFAIL)"),
            ),
            code => {
                let message = format!("the server answers {} to the update of {zone}", wire::words(code));
                (ErrorKind::BadResponse, message)
            }
        };
        Error::new(kind, message).with("rcode", wire::words(code))
    }
}

fn seconds(now: Timestamp) -> u64 {
    u64::try_from(now.as_secs()).unwrap_or(0)
}
