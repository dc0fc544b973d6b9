//! tls-alpn-01 (RFC 8737): the CA sees the challenge's certificate, everybody else the server's, and never the other way
//! round.

use std::sync::Arc;

use certctl_core::{
    Bundle, CertificateAuthority, Challenge, ChallengeKind, Clock as _, Context, ExtendedKeyUsage,
    KeyAlgorithm, LeafRequest, Lifetime, PrivateKey, Solver, SubjectAltName, SystemClock, TlsResolver,
    testkit::tls::Witness,
};
use rustls::{
    ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

const ACME: &[&str] = &["acme-tls/1"];
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[tokio::test]
async fn the_ca_sees_the_challenge_and_clients_see_the_server() {
    let resolver = serving("web.test").await;
    let name = SubjectAltName::dns("web.test").unwrap();
    resolver.show_challenge(&name, "token.thumbprint").unwrap();
    let config = Arc::new(resolver.server_config_for(["h2", "http/1.1"]));
    let own = resolver.bundle("web").unwrap().chain.leaf().der().to_vec();
    for version in BOTH {
        let seen = handshake(&config, version, "web.test", ACME).unwrap();
        assert_eq!(seen.protocol.as_deref(), Some(&b"acme-tls/1"[..]));
        assert_challenge(&seen.certificates, &[GeneralName::DNSName("web.test")], "token.thumbprint");
        for protocols in [&["h2"][..], &["http/1.1"], &["http/1.1", "h2"], &[]] {
            let seen = handshake(&config, version, "web.test", protocols).unwrap();
            assert_eq!(seen.certificates[0], own, "{protocols:?}");
        }
        // Neither of them, in whatever order.
        for protocols in [&["acme-tls/1", "h2"][..], &["h2", "acme-tls/1"], &["acme-tls/1", "other"]] {
            assert!(handshake(&config, version, "web.test", protocols).is_err(), "{protocols:?}");
        }
        for name in ["other.test", "sub.web.test", "192.0.2.1"] {
            assert!(handshake(&config, version, name, ACME).is_err(), "{name}");
        }
        let refused = handshake(&config, version, "web.test", &["spdy/3"]).unwrap_err();
        assert_eq!(refused, rustls::Error::NoApplicationProtocol);
    }
}

#[tokio::test]
async fn without_a_challenge_the_ca_sees_nothing() {
    let resolver = serving("web.test").await;
    for config in [resolver.server_config(), resolver.server_config_for(["h2"]), resolver.challenge_config()]
    {
        for version in BOTH {
            assert!(handshake(&Arc::new(config.clone()), version, "web.test", ACME).is_err());
        }
    }
}

#[tokio::test]
async fn a_listener_for_challenges_serves_nothing_else() {
    let resolver = serving("web.test").await;
    let config = Arc::new(resolver.challenge_config());
    resolver.show_challenge(&SubjectAltName::dns("web.test").unwrap(), "a.b").unwrap();
    for version in BOTH {
        assert!(handshake(&config, version, "web.test", ACME).is_ok());
        for protocols in [&[][..], &["h2"], &["http/1.1"]] {
            assert!(handshake(&config, version, "web.test", protocols).is_err(), "{protocols:?}");
        }
    }
}

#[test]
fn an_address_is_asked_for_by_its_reverse_name() {
    let resolver = Arc::new(TlsResolver::new());
    let config = Arc::new(resolver.challenge_config());
    for (address, octets, asked) in [
        ("192.0.2.7", &[192, 0, 2, 7][..], "7.2.0.192.in-addr.arpa"),
        (
            "4321:0:1:2:3:4:567:89ab",
            &[0x43, 0x21, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0x05, 0x67, 0x89, 0xab],
            // RFC 3596 section 2.5.
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa",
        ),
    ] {
        resolver.show_challenge(&address.parse().unwrap(), "a.b").unwrap();
        let seen = handshake(&config, &TLS13, asked, ACME).unwrap();
        assert_challenge(&seen.certificates, &[GeneralName::IPAddress(octets)], "a.b");
    }
}

#[tokio::test]
async fn each_challenge_is_taken_away_alone() {
    let resolver = Arc::new(TlsResolver::new());
    let cx = Context::new(Arc::new(SystemClock));
    let config = Arc::new(resolver.challenge_config());
    let shown =
        |name| handshake(&config, &TLS13, name, ACME).ok().map(|seen| digest_in(&seen.certificates[0]));
    let (first, second, other) =
        (challenge("web.test", "1"), challenge("web.test", "2"), challenge("other.test", "3"));
    for one in [&first, &second, &second, &other] {
        assert!(resolver.solves(one));
        resolver.present(&cx, one).await.unwrap();
    }
    assert_eq!(shown("web.test"), Some(digest(&second)), "the last wins");
    assert_eq!(shown("OTHER.test"), Some(digest(&other)));
    resolver.retract(&cx, &second).await.unwrap();
    assert_eq!(shown("web.test"), Some(digest(&first)), "what is left is shown");
    resolver.retract(&cx, &second).await.unwrap();
    resolver.retract(&cx, &first).await.unwrap();
    assert_eq!(shown("web.test"), None);
    assert_eq!(shown("other.test"), Some(digest(&other)));
    assert!(resolver.shows_challenges());
    resolver.retract(&cx, &other).await.unwrap();
    assert!(!resolver.shows_challenges());
}

#[test]
fn other_challenges_are_not_its_concern() {
    let resolver = TlsResolver::new();
    assert!(!resolver.solves(&Challenge { kind: ChallengeKind::Http01, ..challenge("web.test", "1") }));
    for name in ["*.web.test", "a@web.test"] {
        let name: SubjectAltName = name.parse().unwrap();
        assert!(!resolver.solves(&Challenge { name: name.clone(), ..challenge("web.test", "1") }));
        let refused = resolver.show_challenge(&name, "a.b").unwrap_err();
        assert_eq!(refused.kind(), certctl_core::ErrorKind::Unsupported);
    }
}

#[test]
fn many_at_the_same_time_are_each_shown() {
    let resolver = Arc::new(TlsResolver::new());
    let config = Arc::new(resolver.challenge_config());
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (resolver, config) = (resolver.clone(), config.clone());
            scope.spawn(move || {
                let name = format!("n{number}.test");
                let san = SubjectAltName::dns(&name).unwrap();
                for round in 0..4 {
                    let answer = format!("{round}.{number}");
                    resolver.show_challenge(&san, &answer).unwrap();
                    let seen = handshake(&config, &TLS13, &name, ACME).unwrap();
                    assert_challenge(&seen.certificates, &[GeneralName::DNSName(&name)], &answer);
                    resolver.hide_challenge(&san, &answer);
                }
            });
        }
    });
    assert!(!resolver.shows_challenges());
}

fn challenge(name: &str, token: &str) -> Challenge {
    Challenge {
        kind: ChallengeKind::TlsAlpn01,
        name: name.parse().unwrap(),
        token: token.to_owned(),
        key_authorization: format!("{token}.thumbprint"),
        txt: None,
        solver: None,
    }
}

fn digest(challenge: &Challenge) -> Vec<u8> {
    sha256(&challenge.key_authorization)
}

fn sha256(text: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

/// What RFC 8737 section 3 asks of the certificate.
#[track_caller]
fn assert_challenge(certificates: &[Vec<u8>], names: &[GeneralName<'_>], key_authorization: &str) {
    assert_eq!(certificates.len(), 1);
    let (rest, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificates[0]).unwrap();
    assert!(rest.is_empty());
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names, names);
    assert_eq!(parsed.issuer(), parsed.subject(), "self-signed");
    assert_eq!(digest_in(&certificates[0]), sha256(key_authorization));
}

/// The octets in the critical `acmeIdentifier` extension.
#[track_caller]
fn digest_in(certificate: &[u8]) -> Vec<u8> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
    let of =
        |one: &&x509_parser::extensions::X509Extension<'_>| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31";
    let extensions: Vec<_> = parsed.extensions().iter().filter(of).collect();
    assert_eq!(extensions.len(), 1);
    assert!(extensions[0].critical);
    assert_eq!(extensions[0].value[..2], [0x04, 32], "an OCTET STRING of 32 octets");
    extensions[0].value[2..].to_vec()
}

/// A resolver with a certificate for this name in the slot `web`.
async fn serving(name: &str) -> Arc<TlsResolver> {
    let now = SystemClock.now();
    let root = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let ca = CertificateAuthority::create_root(Arc::new(root), "Test CA", now, Lifetime::days(10), [7; 20])
        .await
        .unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let request = LeafRequest {
        public_key: key.public_key().clone(),
        names: vec![name.parse().unwrap()],
        common_name: None,
        not_before: now,
        not_after: now + Lifetime::days(1).as_duration(),
        serial_seed: [7; 20],
        usages: vec![ExtendedKeyUsage::ServerAuth],
    };
    let chain = ca.sign(&request).await.unwrap();
    let resolver = Arc::new(TlsResolver::new());
    resolver.install("web", &Bundle { chain, key }).unwrap();
    resolver
}

#[derive(Debug)]
struct Seen {
    certificates: Vec<Vec<u8>>,
    protocol: Option<Vec<u8>>,
}

/// A whole handshake without a network; the server's error if it fails.
fn handshake(
    server: &Arc<ServerConfig>,
    version: &'static SupportedProtocolVersion,
    name: &str,
    protocols: &[&str],
) -> Result<Seen, rustls::Error> {
    let witness = Arc::new(Witness::default());
    let config = witness.config(&[version], protocols);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(Seen { certificates: witness.certificates(), protocol: client.alpn_protocol().map(<[u8]>::to_vec) })
}
