//! Lookups against servers that answer what no good name server would; the good ones are in the facade's tests.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use certctl_connectors::{
    dns::{Lookup, Seen},
    solvers::Rfc2136,
};
use certctl_core::{
    Challenge, ChallengeKind, Context, Env, ErrorKind, Retry, Secret, SubjectAltName, SystemClock,
};
use certctl_core::{SecretRef, TxtRecord, connectors::SolverConfig};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, SOA, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};

// ---- Aliases ---------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn aliases_in_a_circle_are_named() {
    let server = Server::start(|question, answer, _| {
        let next = match asked(question).as_str() {
            "a.test." => "B.test.",
            "b.test." => "c.test.",
            _ => "a.TEST.",
        };
        answer.add_answer(alias(&asked(question).to_uppercase(), next));
    })
    .await;
    let error = server.lookup().follow("A.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("a.test -> b.test -> c.test -> a.test"), "{error}");
}

#[tokio::test]
async fn eight_aliases_are_followed_and_no_more() {
    // n.test is an alias of (n-1).test, down to 0.test, which is not there.
    let server = Server::start(|question, answer, _| {
        let number: u32 = asked(question).split_once('.').unwrap().0.parse().unwrap();
        match number.checked_sub(1) {
            Some(next) => {
                answer.add_answer(alias(&asked(question), &format!("{next}.test.")));
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
    })
    .await;
    assert_eq!(server.lookup().follow("8.test").await.unwrap(), "0.test");
    let error = server.lookup().follow("9.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("more than 8: 9.test -> 8.test -> "), "{error}");
}

#[tokio::test]
async fn an_alias_of_another_name_in_the_answer_does_not_count() {
    let server = Server::start(|_, answer, _| {
        answer.add_answer(alias("other.test.", "evil.test."));
    })
    .await;
    assert_eq!(server.lookup().follow("web.test").await.unwrap(), "web.test");
}

#[tokio::test]
async fn an_alias_that_no_record_of_a_challenge_can_have_is_refused() {
    let odd =
        [&[b"a;b".as_slice(), b"test"][..], &[b"*", b"test"], &[b"a\nb", b"test"], &[b"a.b", b"test"], &[]];
    for labels in odd {
        let target = Name::from_labels(labels.to_vec()).unwrap();
        let server = Server::start(move |question, answer, _| {
            let alias = RData::CNAME(CNAME(target.clone()));
            answer.add_answer(Record::from_rdata(question.queries[0].name.clone(), 1, alias));
        })
        .await;
        let error = server.lookup().follow("web.test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    }
}

#[tokio::test]
async fn what_is_no_name_is_refused_before_anything_is_asked() {
    let lookup = Lookup::new(&[closed_port().await], &[]).unwrap();
    let long = format!("{}.test", "a".repeat(64));
    let longer = "a.".repeat(127) + "test";
    for name in
        ["", ".", "a..b", "a b", "a\nb.test", "*.test", "ü.test", "a\\.b", long.as_str(), longer.as_str()]
    {
        let error = lookup.follow(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}: {error:?}");
        let record = TxtRecord { name: name.into(), value: "x".into() };
        assert_eq!(lookup.visible(&record).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

// ---- What is not there yet -------------------------------------------------------------------------------------------------

/// A resolver would go on saying that nothing is there, to a CA that asks it as well.
#[tokio::test]
async fn resolvers_do_not_hear_of_names_that_are_not_there_yet() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let resolver = Server::start(move |question, answer, _| {
        hears.lock().unwrap().push(asked(question));
        match question.queries[0].query_type {
            RecordType::A => {
                let name = question.queries[0].name.clone();
                answer.add_answer(Record::from_rdata(name, 1, RData::A(A::new(127, 0, 0, 1))));
            }
            RecordType::AAAA => {}
            _ => zone(question, answer, 1),
        }
    })
    .await;
    let serving = Server::start(|question, answer, _| {
        answer.metadata.authoritative = true;
        match asked(question).as_str() {
            "_acme-challenge.alias.web.test." => {
                answer.add_answer(alias(&asked(question), "there.www.web.test."));
            }
            "_acme-challenge.own.web.test." => {
                answer.metadata.authoritative = false;
                let server = RData::NS(NS(Name::from_ascii("ns.own.test.").unwrap()));
                answer.add_authority(Record::from_rdata(question.queries[0].name.clone(), 1, server));
            }
            _ => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa("web.test."));
            }
        }
    })
    .await;
    let (found, given) = (
        Lookup::new(&[resolver.at], &[]).unwrap().on_port(serving.at.port()),
        Lookup::new(&[resolver.at], &[serving.at]).unwrap(),
    );
    for lookup in [&found, &given] {
        for (name, end) in [
            ("_acme-challenge.www.web.test", "_acme-challenge.www.web.test"),
            ("_acme-challenge.alias.web.test", "there.www.web.test"),
            ("_acme-challenge.own.web.test", "_acme-challenge.own.web.test"),
        ] {
            assert_eq!(lookup.follow(name).await.unwrap(), end);
        }
        let record = TxtRecord { name: "_acme-challenge.www.web.test".into(), value: "x".into() };
        let seen = lookup.visible(&record).await.unwrap();
        assert_eq!(seen.servers[0].seen, Seen::Missing, "{seen}");
    }
    let heard = |of: &str| heard.lock().unwrap().iter().any(|name| name.starts_with(of));
    assert!(heard("www.web.test") && heard("ns0.web.test"), "the zone is the resolvers' to find");
    assert!(!heard("_acme-challenge") && !heard("there."));

    // One that is delegated is there, with a zone of its own.
    let record = TxtRecord { name: "_acme-challenge.own.web.test".into(), value: "x".into() };
    found.visible(&record).await.unwrap();
    assert!(heard("_acme-challenge.own"));
    // Where no name server answers for it, nobody else is left.
    let stranger = Server::start(|_, _, _| {}).await;
    let lookup = Lookup::new(&[resolver.at], &[stranger.at]).unwrap();
    lookup.follow("_acme-challenge.www.web.test").await.unwrap();
    assert!(heard("_acme-challenge.www"));
}

// ---- Servers that fail, and strangers --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_resolver_that_fails_is_passed_over_and_if_all_do_each_is_named() {
    let bad = Server::start(|_, answer, _| answer.metadata.response_code = ResponseCode::ServFail).await;
    let good = Server::start(|question, answer, _| {
        answer.add_answer(alias(&asked(question), "there.test."));
    })
    .await;
    let absent = closed_port().await;
    if let Ok(lookup) = Lookup::new(&[absent, bad.at, good.at], &[]) {
        let found = lookup.follow("web.test").await;
        // The alias of the alias, and so on.
        assert!(found.unwrap_err().message().contains("web.test -> there.test -> there.test"));
    }
    let error = Lookup::new(&[absent, bad.at], &[]).unwrap().follow("web.test").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Backoff), "{error:?}");
    assert!(error.message().contains(&format!("{absent} is not there")), "{error}");
    assert!(error.message().contains(&format!("{} answers SERVFAIL", bad.at)), "{error}");
}

#[tokio::test]
async fn packets_that_are_no_answer_are_passed_over() {
    let server = Server::start_raw(|question, answer, _| {
        let mut other_id = answer.clone();
        other_id.metadata.id = answer.id.wrapping_add(1);
        other_id.add_answer(txt(&asked(question), &["forged"]));
        let mut other_question = answer.clone();
        other_question.queries[0].name = Name::from_ascii("other.test.").unwrap();
        other_question.add_answer(txt(&asked(question), &["forged"]));
        let mut no_answer = answer.clone();
        no_answer.metadata = question.metadata;
        no_answer.add_answer(txt(&asked(question), &["forged"]));
        answer.add_answer(txt(&asked(question), &["true"]));
        let mut packets = vec![b"garbage".to_vec(), Vec::new(), vec![0xff; 2_000]];
        packets.extend([&other_id, &other_question, &no_answer, &*answer].map(|m| m.to_vec().unwrap()));
        packets
    })
    .await;
    let lookup = Lookup::new(&[], &[server.at]).unwrap();
    assert!(lookup.visible(&record("true")).await.unwrap().complete());
    assert!(!lookup.visible(&record("forged")).await.unwrap().complete());
}

#[tokio::test]
async fn a_long_answer_is_read_by_tcp() {
    let server = Server::start(|question, answer, tcp| {
        answer.metadata.truncation = !tcp;
        if tcp {
            for number in 0..200 {
                answer.add_answer(txt(&asked(question), &["value ", &number.to_string()]));
            }
        }
    })
    .await;
    let lookup = Lookup::new(&[], &[server.at]).unwrap();
    assert!(lookup.visible(&record("value 199")).await.unwrap().complete());
    let missing = lookup.visible(&record("value 200")).await.unwrap();
    assert_eq!(missing.servers[0].seen, Seen::Missing);
}

// The clock of the runtime stands still while packets are under way, and jumps when nothing else is to do.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_or_refuses_does_not_show_the_record() {
    let silent = Server::start_raw(|_, _, _| Vec::new()).await;
    let refuses = Server::start(|_, answer, _| answer.metadata.response_code = ResponseCode::Refused).await;
    let lookup = Lookup::new(&[], &[silent.at, refuses.at]).unwrap();
    let seen = lookup.visible(&record("x")).await.unwrap();
    assert!(!seen.complete());
    let sentence =
        format!("0 of 2 name servers show it; {} does not answer; {} answers REFUSED", silent.at, refuses.at);
    assert_eq!(seen.to_string(), sentence);
    let error = Lookup::new(&[silent.at], &[]).unwrap().follow("web.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("does not answer"), "{error}");
}

// ---- Zones -----------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_address_without_a_way_to_it_is_left_out_where_there_is_another() {
    let server = Server::start(|question, answer, _| zone(question, answer, 1)).await;
    let found = server.lookup().zone("_acme-challenge.www.web.test").await.unwrap();
    assert_eq!(found.apex, "web.test");
    let addresses = ["127.0.0.9:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()];
    assert_eq!(found.name_servers, [("ns0.web.test".to_owned(), addresses.to_vec())]);

    let record = TxtRecord { name: "_acme-challenge.www.web.test".into(), value: "x".into() };
    let seen = server.lookup().visible(&record).await.unwrap();
    assert_eq!(seen.apex.as_deref(), Some("web.test"));
    let asked: Vec<_> = seen.servers.iter().map(|server| server.address.unwrap()).collect();
    assert_eq!(asked, addresses[..1], "{seen}");
    assert!(!seen.complete());
    assert!(seen.to_string().contains("; ns0.web.test (127.0.0.9) "), "{seen}");

    // Where it is the only one, it counts.
    let only = Lookup::new(&[], &[addresses[1]]).unwrap().visible(&record).await.unwrap();
    assert!(!only.complete());
    assert_eq!(only.to_string(), "0 of 1 name server show it; fe80::1 can't be reached from here");
}

#[tokio::test]
async fn a_zone_with_no_name_servers_or_too_many_is_refused() {
    for count in [0, 33] {
        let server = Server::start(move |question, answer, _| zone(question, answer, count)).await;
        let error = server.lookup().zone("www.web.test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
        assert!(error.message().contains(&format!("web.test has {count} name servers")), "{error}");
    }
}

#[tokio::test]
async fn a_zone_that_the_name_is_not_in_is_none() {
    let server = Server::start(|_, answer, _| {
        answer.add_authority(soa("elsewhere.test."));
    })
    .await;
    let error = server.lookup().zone("www.web.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("no zone that www.web.test lies in"), "{error}");
    let root = Server::start(|_, answer, _| {
        answer.add_authority(soa("."));
    })
    .await;
    let error = root.lookup().zone("www.web.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
}

#[test]
fn addresses_are_checked() {
    let zero = "127.0.0.1:0".parse().unwrap();
    let fine = "127.0.0.1:53".parse().unwrap();
    let error = Lookup::new(&[fine, zero], &[zero]).unwrap_err();
    let pointers: Vec<_> = error.violations().iter().map(|v| v.pointer.as_str()).collect();
    assert_eq!(pointers, ["/dns_resolvers/1", "/dns_name_servers/0"]);
    assert_eq!(Lookup::new(&[fine; 65], &[]).unwrap_err().violations()[0].pointer, "/dns_resolvers");
    Lookup::new(&[], &[]).unwrap();
}

// ---- RFC 2136: what a server in between could say --------------------------------------------------------------------------

#[tokio::test]
async fn an_answer_that_is_not_signed_is_no_success() {
    let server = Server::start(|_, _, _| {}).await;
    let config = Rfc2136 { zone: Some("web.test".into()), ..update(server.at) };
    let error = present(config.clone()).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::BadResponse, Retry::Backoff), "{error:?}");
    assert!(error.message().contains("not signed"), "{error}");

    // Nor is it somebody's last word.
    let server = Server::start(|_, answer, _| answer.metadata.response_code = ResponseCode::Refused).await;
    let error = present(Rfc2136 { server: server.at.to_string(), ..config.clone() }).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Backoff), "{error:?}");

    let server = Server::start_raw(|_, _, _| vec![vec![7; 40]]).await;
    let error = present(Rfc2136 { server: server.at.to_string(), ..config }).await;
    assert_eq!(error.kind(), ErrorKind::BadResponse, "{error:?}");
}

#[test]
fn an_update_configuration_says_all_that_is_wrong() {
    let wrong = Rfc2136 {
        server: "ns1 example".into(),
        zone: Some("a..b".into()),
        tsig_key_name: String::new(),
        tsig_secret: Secret::new(*b"not base64!").into(),
        ttl: 86_401,
        ..Rfc2136::default()
    };
    let found = wrong.check();
    let pointers: Vec<_> = found.iter().map(|v| v.pointer.as_str()).collect();
    assert_eq!(pointers, ["/server", "/zone", "/tsig_key_name", "/tsig_secret", "/ttl"]);
    assert!(found.iter().all(|v| !v.remedy.is_empty() && !v.message.contains("not base64!")));
    let pointers: Vec<_> = Rfc2136::default().check().into_iter().map(|v| v.pointer).collect();
    assert_eq!(pointers, ["/server", "/tsig_key_name", "/tsig_secret"]);
    for server in
        ["ns1.example.com", "ns1.example.com:5353", "192.0.2.1", "192.0.2.1:53", "::1", "[::1]", "[::1]:53"]
    {
        let config = Rfc2136 { server: server.into(), tsig_secret: SecretRef::env("KEY"), ..update(any()) };
        assert_eq!(config.check(), [], "{server}");
    }
    for server in ["", ":53", "ns1:0", "ns1:99999", "a/b", "[::1"] {
        let config = Rfc2136 { server: server.into(), ..update(any()) };
        assert_eq!(config.check()[0].pointer, "/server", "{server}");
    }
}

#[test]
fn an_update_configuration_is_read_from_json() {
    let connectors = certctl_connectors::connectors();
    let json = serde_json::json!({
        "server": "127.0.0.1:5353", "tsig_key_name": "k", "tsig_algorithm": "hmac-sha512", "tsig_secret": {"env": "K"},
    });
    connectors.solver("rfc2136").unwrap().check(&json).unwrap();
    let json = serde_json::json!({ "server": "127.0.0.1", "tsig_key": "k", "tsig_algorithm": "hmac-md5" });
    let error = connectors.solver("rfc2136").unwrap().check(&json).unwrap_err();
    let pointers: Vec<_> = error.violations().iter().map(|v| v.pointer.as_str()).collect();
    assert!(pointers.contains(&"/tsig_key") && pointers.contains(&"/tsig_algorithm"), "{error}");
}

// ---- A server that answers as it is told -----------------------------------------------------------------------------------

/// On a free port, by UDP and TCP; ends when dropped.
struct Server {
    at: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// `answer` completes an answer that has the question's id and the question.
    async fn start(answer: impl Fn(&Message, &mut Message, bool) + Send + Sync + 'static) -> Self {
        Self::start_raw(move |question, message, tcp| {
            answer(question, message, tcp);
            vec![message.to_vec().unwrap()]
        })
        .await
    }

    /// `answer` says all that is sent.
    async fn start_raw(
        answer: impl Fn(&Message, &mut Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = bind().await;
        let at = tcp.local_addr().unwrap();
        let answer = Arc::new(move |bytes: &[u8], tcp: bool| {
            let question = Message::from_vec(bytes).unwrap();
            let mut message = Message::response(question.id, question.op_code);
            message.add_queries(question.queries.clone());
            answer(&question, &mut message, tcp)
        });
        let by_udp = answer.clone();
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 4_096];
            loop {
                let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                for packet in by_udp(&buffer[..len], false) {
                    udp.send_to(&packet, from).await.unwrap();
                }
            }
        });
        let tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let len = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(len)];
                stream.read_exact(&mut question).await.unwrap();
                for packet in answer(&question, true) {
                    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
                    stream.write_all(&packet).await.unwrap();
                }
            }
        });
        Self { at, tasks: [udp, tcp] }
    }

    fn lookup(&self) -> Lookup {
        Lookup::new(&[self.at], &[]).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free");
}

/// A port that nobody listens on.
async fn closed_port() -> SocketAddr {
    bind().await.1.local_addr().unwrap()
}

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 53).into()
}

fn asked(question: &Message) -> String {
    question.queries[0].name.to_ascii().to_ascii_lowercase()
}

fn record(value: &str) -> TxtRecord {
    TxtRecord { name: "_acme-challenge.web.test".into(), value: value.into() }
}

fn alias(name: &str, target: &str) -> Record {
    Record::from_rdata(
        Name::from_ascii(name).unwrap(),
        1,
        RData::CNAME(CNAME(Name::from_ascii(target).unwrap())),
    )
}

fn txt(name: &str, strings: &[&str]) -> Record {
    let strings = strings.iter().map(|s| (*s).to_owned()).collect();
    Record::from_rdata(Name::from_ascii(name).unwrap(), 1, RData::TXT(TXT::new(strings)))
}

fn soa(name: &str) -> Record {
    let name = Name::from_ascii(name).unwrap();
    Record::from_rdata(name.clone(), 1, RData::SOA(SOA::new(name.clone(), name, 1, 1, 1, 1, 1)))
}

/// The zone web.test with this many name servers, all at the same two addresses.
fn zone(question: &Message, answer: &mut Message, name_servers: u32) {
    let name = question.queries[0].name.clone();
    match question.queries[0].query_type {
        RecordType::NS => {
            for number in 0..name_servers {
                let server = Name::from_ascii(format!("ns{number}.web.test.")).unwrap();
                answer.add_answer(Record::from_rdata(name.clone(), 1, RData::NS(NS(server))));
            }
        }
        RecordType::A => {
            answer.add_answer(Record::from_rdata(name, 1, RData::A(A::new(127, 0, 0, 9))));
        }
        RecordType::AAAA => {
            let address = AAAA::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
            answer.add_answer(Record::from_rdata(name, 1, RData::AAAA(address)));
        }
        _ => {
            answer.add_authority(soa("web.test."));
        }
    }
}

fn update(server: SocketAddr) -> Rfc2136 {
    Rfc2136 {
        server: server.to_string(),
        tsig_key_name: "key".into(),
        tsig_secret: Secret::new(*b"c2VjcmV0").into(),
        ..Rfc2136::default()
    }
}

async fn present(config: Rfc2136) -> certctl_core::Error {
    assert_eq!(config.check(), []);
    let solver = config.connect(Env::in_memory()).await.unwrap();
    let challenge = Challenge {
        kind: ChallengeKind::Dns01,
        name: SubjectAltName::Dns("web.test".into()),
        token: "token".into(),
        key_authorization: "token.thumbprint".into(),
        txt: Some(record("value")),
        solver: None,
    };
    solver.present(&Context::new(Arc::new(SystemClock)), &challenge).await.unwrap_err()
}
