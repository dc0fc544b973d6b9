//! The probe sees what a server shows, whatever that is; the resolver shows what is installed.

use std::{sync::Arc, time::Duration};

use certctl_core::{
    Bundle, CertificateAuthority, Chain, Error, ErrorKind, ExtendedKeyUsage, KeyAlgorithm, LeafRequest,
    Lifetime, PrivateKey, Result, SubjectAltName, Timestamp,
    host::Io,
    tls::{KeyType, Presented, TlsResolver, TlsVersion, handshake, server_names},
};
use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NOW: Timestamp = Timestamp::from_secs(1_800_014_400);
const DAY: Duration = Duration::from_secs(86_400);
const DEADLINE: Duration = Duration::from_secs(30);

// ---- what is served is seen -------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_the_certificate() {
    let ca = ca().await;
    let resolver = Arc::new(TlsResolver::new());
    for (slot, names) in [
        ("first", &["first.test"][..]),
        ("web", &["web.test", "www.web.test"]),
        ("wild", &["*.wild.test"]),
        ("exact", &["exact.wild.test"]),
    ] {
        resolver.install(slot, &ca.bundle(KeyAlgorithm::EcdsaP256, names).await).unwrap();
    }
    for version in [&TLS12, &TLS13] {
        let config = only(&resolver, version);
        for (asked, slot) in [
            (Some("web.test"), "web"),
            (Some("www.web.test"), "web"),
            (Some("WWW.Web.Test"), "web"),
            (Some("certctl-probe.wild.test"), "wild"),
            (Some("exact.wild.test"), "exact"),
            (Some("a.b.wild.test"), "first"),
            (Some("wild.test"), "first"),
            (Some("unknown.test"), "first"),
            (Some("192.0.2.1"), "first"),
            (None, "first"),
        ] {
            let seen = probe(&config, asked, None).await.unwrap();
            assert_eq!(Some(seen.leaf.fingerprint()), resolver.current(slot), "{asked:?}");
            assert_eq!(
                seen.version,
                if version.version == TLS12.version { TlsVersion::V1_2 } else { TlsVersion::V1_3 }
            );
            assert_eq!(seen.chain().unwrap(), resolver.bundle(slot).unwrap().chain);
        }
    }
    resolver.set_default("web");
    let config = Arc::new(resolver.server_config());
    let seen = probe(&config, None, None).await.unwrap();
    assert_eq!(Some(seen.leaf.fingerprint()), resolver.current("web"));
}

#[tokio::test]
async fn each_key_type_of_a_server_with_several_is_seen() {
    let ca = ca().await;
    let resolver = Arc::new(TlsResolver::new());
    let kinds = [
        (KeyAlgorithm::Rsa2048, KeyType::Rsa),
        (KeyAlgorithm::EcdsaP256, KeyType::Ecdsa),
        (KeyAlgorithm::Ed25519, KeyType::Ed25519),
    ];
    for (algorithm, _) in kinds {
        resolver.install(&algorithm.to_string(), &ca.bundle(algorithm, &["dual.test"]).await).unwrap();
    }
    for version in [&TLS12, &TLS13] {
        let config = only(&resolver, version);
        for (algorithm, key_type) in kinds {
            let seen = probe(&config, Some("dual.test"), Some(key_type)).await.unwrap();
            assert_eq!(
                Some(seen.leaf.fingerprint()),
                resolver.current(&algorithm.to_string()),
                "{key_type:?}"
            );
            assert_eq!(KeyType::of(seen.leaf.public_key().unwrap().kind()), key_type);
        }
    }
    resolver.remove("Ed25519");
    resolver.remove("ECDSA-P256");
    for version in [&TLS12, &TLS13] {
        let refused = probe(&only(&resolver, version), Some("dual.test"), Some(KeyType::Ecdsa)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.message().starts_with("handshake refused"), "{refused}");
    }
}

#[tokio::test]
async fn every_algorithm_is_verified() {
    let ca = ca().await;
    for algorithm in KeyAlgorithm::ALL {
        if matches!(algorithm, KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096) {
            // Nothing that 2,048 bits don't show, and seconds to make.
            continue;
        }
        let bundle = ca.bundle(algorithm, &["web.test"]).await;
        for version in [&TLS12, &TLS13] {
            let config = serving(certified(&bundle.chain, &bundle.key), version);
            let seen =
                probe(&config, Some("web.test"), None).await.unwrap_or_else(|e| panic!("{algorithm}: {e}"));
            assert_eq!(seen.leaf, *bundle.chain.leaf());
        }
    }
}

#[tokio::test]
async fn trust_names_dates_and_unknown_extensions_are_not_looked_at() {
    let ca = ca().await;
    let key = key(KeyAlgorithm::EcdsaP256);
    let expired = ca.leaf(&key, &["web.test"], NOW - DAY * 3_000, NOW - DAY * 2_900).await;
    let future = ca.leaf(&key, &["web.test"], NOW + DAY * 1_000, NOW + DAY * 1_001).await;
    let other = ca.leaf(&key, &["other.test"], NOW, NOW + DAY).await;
    let pair = rcgen::KeyPair::try_from(key.to_pkcs8_der().expose()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    unknown.set_criticality(true);
    params.custom_extensions.push(unknown);
    let critical = Chain::from_ders([params.self_signed(&pair).unwrap().der()]).unwrap();
    for chain in [expired, future, other, critical] {
        for version in [&TLS12, &TLS13] {
            let config = serving(certified(&chain, &key), version);
            let seen = probe(&config, Some("web.test"), None).await.unwrap();
            assert_eq!(seen.leaf, *chain.leaf());
        }
    }
}

#[tokio::test]
async fn what_follows_the_leaf_may_be_anything() {
    let ca = ca().await;
    let bundle = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    let mut key = certified(&bundle.chain, &bundle.key);
    key.cert.truncate(1);
    key.cert.push(CertificateDer::from(b"no certificate".to_vec()));
    for version in [&TLS12, &TLS13] {
        let seen = probe(&serving(key.clone(), version), None, None).await.unwrap();
        assert_eq!(seen.leaf, *bundle.chain.leaf());
        assert_eq!(seen.issuers, [b"no certificate".to_vec()]);
        assert_eq!(seen.chain().unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_has_shown_its_own() {
    let ca = ca().await;
    let bundle = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.0.certificate().der())).unwrap();
    let provider = Arc::new(default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    for version in [&TLS12, &TLS13] {
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(Arc::new(Fixed(Arc::new(certified(&bundle.chain, &bundle.key)))));
        let seen = probe(&Arc::new(config), Some("web.test"), None).await.unwrap();
        assert_eq!(seen.leaf, *bundle.chain.leaf());
    }
}

// ---- what is no proof is refused ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_certificate_whose_key_the_server_does_not_have_is_refused() {
    let ca = ca().await;
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519] {
        let bundle = ca.bundle(algorithm, &["web.test"]).await;
        for version in [&TLS12, &TLS13] {
            let config = serving(certified(&bundle.chain, &key(algorithm)), version);
            let refused = probe(&config, Some("web.test"), None).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unavailable);
            assert!(refused.message().contains("not signed with the key"), "{algorithm}: {refused}");
        }
    }
    // A key of another type than the certificate's.
    let bundle = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    let config = serving(certified(&bundle.chain, &key(KeyAlgorithm::Ed25519)), &TLS13);
    let refused = probe(&config, Some("web.test"), None).await.unwrap_err();
    assert!(refused.message().contains("not signed with the key"), "{refused}");
}

/// In TLS 1.2 the server's first flight is not encrypted: whoever has seen one can send it again.
#[tokio::test]
async fn a_recorded_answer_is_refused() {
    let ca = ca().await;
    let bundle = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    let config = serving(certified(&bundle.chain, &bundle.key), &TLS12);
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client =
        ClientConnection::new(Arc::new(client), ServerName::try_from("web.test").unwrap()).unwrap();
    let mut server = ServerConnection::new(config).unwrap();
    let (mut hello, mut recorded) = (Vec::new(), Vec::new());
    client.write_tls(&mut hello).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    server.write_tls(&mut recorded).unwrap();
    assert!(recorded.windows(8).any(|window| window == &bundle.chain.leaf().der()[..8]));

    let refused = handshake(answering(recorded), Some("web.test"), None, DEADLINE).await.unwrap_err();
    assert!(refused.message().contains("not signed with the key"), "{refused}");
}

#[tokio::test]
async fn a_leaf_that_does_not_parse_is_refused() {
    let ca = ca().await;
    let bundle = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    let mut key = certified(&bundle.chain, &bundle.key);
    key.cert[0] = CertificateDer::from(b"no certificate".to_vec());
    for version in [&TLS12, &TLS13] {
        let refused = probe(&serving(key.clone(), version), None, None).await.unwrap_err();
        assert!(refused.message().contains("does not parse"), "{refused}");
    }
}

#[tokio::test]
async fn servers_that_speak_something_else_are_refused_in_words() {
    for (answer, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "speaks no TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks no TLS"),
        (b"220 mail.test ESMTP\r\n", "speaks no TLS"),
        (b"", "closed the connection"),
        (b"\x16\x03\x03", "closed the connection"),
        // The alert unrecognized_name, fatal.
        (b"\x15\x03\x03\x00\x02\x02\x70", "handshake refused: the server sent the alert UnrecognisedName"),
    ] {
        let refused = handshake(answering(answer), Some("web.test"), None, DEADLINE).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{answer:?}");
        assert!(refused.message().contains(words), "{words}: {refused}");
        assert_eq!(refused.context_value("step"), Some("probe"));
    }
}

/// The clock of the runtime jumps ahead while everybody waits: no time passes.
#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods)]
async fn a_server_that_says_nothing_is_left_at_the_deadline() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let began = tokio::time::Instant::now();
    let refused =
        handshake(Box::new(ours), Some("web.test"), None, Duration::from_secs(7)).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.message().contains("within 7s"), "{refused}");
    drop(theirs);
}

#[tokio::test]
async fn a_server_that_never_ends_its_message_is_left() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 14);
    let flood = tokio::spawn(async move {
        // A certificate message of 16 MiB, as its header says.
        let mut record = vec![0x16, 3, 3, 0x40, 0, 0x0b, 0xff, 0xff, 0xff];
        record.resize(5 + (1 << 14), 0);
        let mut sent = 0;
        while theirs.write_all(&record).await.is_ok() {
            sent += record.len();
        }
        sent
    });
    let refused = handshake(Box::new(ours), Some("web.test"), None, DEADLINE).await.unwrap_err();
    assert!(refused.message().contains("speaks no TLS"), "{refused}");
    assert!(flood.await.unwrap() < 1 << 17, "it was cut off soon");
}

#[tokio::test]
async fn a_server_name_that_is_none_is_invalid() {
    for name in ["", "*.web.test", "a b", "web.test/path"] {
        let refused = handshake(answering(&b""[..]), Some(name), None, DEADLINE).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_are_an_error(
        kind in 20_u8..24,
        body in proptest::collection::vec(any::<u8>(), 0..600),
        framed in any::<bool>(),
    ) {
        let mut answer = Vec::new();
        if framed {
            answer.extend([kind, 3, 3]);
            answer.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        }
        answer.extend(body);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let seen = runtime.block_on(handshake(answering(answer), Some("web.test"), None, DEADLINE));
        prop_assert_eq!(seen.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[test]
fn what_to_ask_for() {
    let names = |list: &[&str]| {
        let names: Vec<SubjectAltName> = list.iter().map(|name| name.parse().unwrap()).collect();
        server_names(&names).into_iter().map(|name| name.unwrap_or_else(|| "-".into())).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), [""; 0]);
    assert_eq!(names(&["b.test", "a.test", "b.test"]), ["b.test", "a.test"]);
    assert_eq!(names(&["*.web.test", "web.test"]), ["certctl-probe.web.test", "web.test"]);
    assert_eq!(names(&["192.0.2.1", "web.test", "2001:db8::1"]), ["web.test", "-"]);
    assert_eq!(names(&["admin@web.test", "web.test"]), ["web.test"]);
    assert_eq!(names(&["spiffe://web.test/x"]), ["-"]);
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(58));
    let probed = &names(&[&format!("*.{long}")])[0];
    assert!(probed.len() <= 253 && SubjectAltName::dns(&format!("*.{long}")).unwrap().matches(probed));
}

// ---- the resolver ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_stand_in_is_served_while_nothing_is_installed() {
    let ca = ca().await;
    let resolver = Arc::new(TlsResolver::new());
    let config = Arc::new(resolver.server_config());
    let first = probe(&config, Some("web.test"), None).await.unwrap();
    assert_eq!(first.leaf.subject_common_name(), Some("certctl stand-in"));
    assert!(first.leaf.is_self_issued() && !first.leaf.is_ca());
    assert_eq!(probe(&config, None, None).await.unwrap().leaf, first.leaf, "made once");
    assert!(resolver.current("web").is_none());

    let bundle = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    resolver.install("web", &bundle).unwrap();
    assert_eq!(probe(&config, Some("web.test"), None).await.unwrap().leaf, *bundle.chain.leaf());
    resolver.remove("web");
    resolver.remove("web");
    assert_eq!(probe(&config, Some("web.test"), None).await.unwrap().leaf, first.leaf);
    let other = Arc::new(Arc::new(TlsResolver::new()).server_config());
    assert_ne!(probe(&other, None, None).await.unwrap().leaf.serial(), first.leaf.serial());
}

#[tokio::test]
async fn a_bundle_that_does_not_match_is_not_installed() {
    let ca = ca().await;
    let resolver = Arc::new(TlsResolver::new());
    let good = ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await;
    resolver.install("web", &good).unwrap();
    let torn = Bundle { chain: good.chain.clone(), key: key(KeyAlgorithm::EcdsaP256) };
    let refused = resolver.install("web", &torn).unwrap_err();
    assert_eq!(refused.violations()[0].pointer, "/key");
    assert_eq!(resolver.bundle("web").unwrap().key.public_key(), good.key.public_key());
    assert!(!format!("{resolver:?}").contains("PRIVATE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_is_seen_by_the_next_handshake_and_by_no_connection() {
    let ca = ca().await;
    let resolver = Arc::new(TlsResolver::new());
    let config = Arc::new(resolver.server_config());
    let mut bundles = Vec::new();
    for _ in 0..8 {
        bundles.push(ca.bundle(KeyAlgorithm::EcdsaP256, &["web.test"]).await);
    }
    resolver.install("web", &bundles[0]).unwrap();
    let mut connection = ca.connect(&config, "web.test").await;

    let known: Vec<_> = bundles.iter().map(|bundle| bundle.chain.leaf().fingerprint()).collect();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (config, known) = (config.clone(), known.clone());
            tokio::spawn(async move {
                // What one client sees never goes back.
                let mut last = 0;
                for _ in 0..25 {
                    let seen = probe(&config, Some("web.test"), None).await.unwrap();
                    let at = known.iter().position(|known| *known == seen.leaf.fingerprint()).unwrap();
                    assert!(at >= last, "{at} after {last}");
                    last = at;
                }
            })
        })
        .collect();
    for (bundle, fingerprint) in bundles.iter().zip(&known) {
        resolver.install("web", bundle).unwrap();
        let seen = probe(&config, Some("web.test"), None).await.unwrap();
        assert_eq!(seen.leaf.fingerprint(), *fingerprint, "the next handshake sees it");
    }
    for client in clients {
        client.await.unwrap();
    }
    connection.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    connection.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
    let first = connection.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    assert_eq!(first, bundles[0].chain.leaf().der());
}

// ---- helpers --------------------------------------------------------------------------------------------------------------

struct Ca(CertificateAuthority);

async fn ca() -> Ca {
    let key = Arc::new(key(KeyAlgorithm::EcdsaP256));
    let begin = NOW - DAY * 3_650;
    Ca(CertificateAuthority::create_root(key, "Test CA", begin, Lifetime::days(20_000), [7; 20])
        .await
        .unwrap())
}

impl Ca {
    async fn bundle(&self, algorithm: KeyAlgorithm, names: &[&str]) -> Bundle {
        let key = key(algorithm);
        Bundle { chain: self.leaf(&key, names, NOW - DAY * 2_000, NOW + DAY * 2_000).await, key }
    }

    async fn leaf(
        &self,
        key: &PrivateKey,
        names: &[&str],
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Chain {
        let request = LeafRequest {
            public_key: key.public_key().clone(),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            common_name: None,
            not_before,
            not_after,
            serial_seed: *key.public_key().fingerprint().as_bytes().first_chunk().unwrap(),
            usages: vec![ExtendedKeyUsage::ServerAuth],
        };
        self.0.sign(&request).await.unwrap()
    }

    /// A client that trusts this CA, with a server that echoes.
    async fn connect(
        &self,
        server: &Arc<ServerConfig>,
        name: &'static str,
    ) -> tokio_rustls::client::TlsStream<DuplexStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.certificate().der())).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from(name).unwrap(), accepting(server)).await.unwrap()
    }
}

fn key(algorithm: KeyAlgorithm) -> PrivateKey {
    PrivateKey::generate(algorithm).unwrap()
}

/// The chain with this key, whether they belong together or not.
fn certified(chain: &Chain, key: &PrivateKey) -> CertifiedKey {
    let pkcs8 = key.to_pkcs8_der();
    let signing = any_supported_type(&PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.expose()))).unwrap();
    CertifiedKey::new(chain.ders().map(|der| CertificateDer::from(der.to_vec())).collect(), signing)
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn serving(key: CertifiedKey, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    server(Arc::new(Fixed(Arc::new(key))), version)
}

fn only(resolver: &Arc<TlsResolver>, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    server(resolver.clone(), version)
}

fn server(
    resolver: Arc<dyn ResolvesServerCert>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_no_client_auth().with_cert_resolver(resolver))
}

async fn probe(
    server: &Arc<ServerConfig>,
    name: Option<&str>,
    key_type: Option<KeyType>,
) -> Result<Presented, Error> {
    handshake(Box::new(accepting(server)), name, key_type, DEADLINE).await
}

/// A connection to a TLS server that echoes.
fn accepting(config: &Arc<ServerConfig>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(config.clone());
    tokio::spawn(async move {
        if let Ok(stream) = acceptor.accept(theirs).await {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    ours
}

/// A connection to a server that answers with this, whatever it is told, and closes.
fn answering(answer: impl Into<Vec<u8>>) -> Box<dyn Io> {
    Box::new(tokio::io::join(std::io::Cursor::new(answer.into()), tokio::io::sink()))
}
