//! The CA's own signing, looked at by our reader and by openssl.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use certctl_core::{
    Bundle, CertificateAuthority, Chain, Csr, Error, ErrorKind, ExtendedKeyUsage, KeyAlgorithm, LeafRequest,
    Lifetime, PrivateKey, PublicKey, Result, Signer, SubjectAltName, Timestamp, X509Certificate,
};

use crate::openssl::OpenSsl;

const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);
const DAY: u64 = 86_400;

struct Authorities {
    root: CertificateAuthority,
    issuing: CertificateAuthority,
}

async fn authorities(algorithm: KeyAlgorithm) -> Authorities {
    let root =
        CertificateAuthority::create_root(key(algorithm), "Test Root", NOW, Lifetime::days(3650), [1; 20])
            .await
            .unwrap();
    let signer = key(algorithm);
    let issuing = CertificateAuthority::create_issuing(
        &root,
        signer,
        "Test Issuing",
        NOW,
        Lifetime::days(1000),
        [2; 20],
    )
    .await
    .unwrap();
    Authorities { root, issuing }
}

fn key(algorithm: KeyAlgorithm) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(algorithm).unwrap())
}

fn request(key: &PrivateKey) -> LeafRequest {
    LeafRequest {
        public_key: key.public_key().clone(),
        names: names(&[
            "web.test",
            "*.web.test",
            "192.0.2.1",
            "2001:db8::1",
            "admin@web.test",
            "spiffe://web.test/a",
        ]),
        common_name: None,
        not_before: NOW,
        not_after: after(90),
        serial_seed: [0xff; 20],
        usages: vec![ExtendedKeyUsage::ServerAuth, ExtendedKeyUsage::ClientAuth],
    }
}

fn names(texts: &[&str]) -> Vec<SubjectAltName> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn after(days: u64) -> Timestamp {
    NOW + std::time::Duration::from_secs(days * DAY)
}

#[tokio::test]
async fn a_signed_leaf_is_what_was_asked_for() {
    let Authorities { root, issuing } = authorities(KeyAlgorithm::EcdsaP256).await;
    let leaf_key = key(KeyAlgorithm::EcdsaP256);
    let request = request(&leaf_key);
    let chain = issuing.sign(&request).await.unwrap();
    let leaf = chain.leaf();

    assert_eq!(chain.certificates().len(), 2, "the leaf and the issuing CA, no root");
    assert_eq!(chain.certificates()[1], *issuing.certificate());
    assert_eq!(leaf.names(), request.names);
    assert_eq!((leaf.not_before(), leaf.not_after()), (request.not_before, request.not_after));
    assert_eq!(leaf.serial().octets().len(), 20);
    assert_eq!(leaf.serial().octets()[0], 0x7f, "positive");
    assert_eq!(leaf.public_key().unwrap(), leaf_key.public_key());
    assert_eq!(leaf.authority_key_id(), issuing.certificate().subject_key_id());
    assert!(leaf.subject_key_id().is_some() && !leaf.is_ca());
    assert_eq!(leaf.subject_common_name(), None);
    leaf.verify_signed_by(issuing.certificate()).unwrap();
    issuing.certificate().verify_signed_by(root.certificate()).unwrap();
    root.certificate().verify_signed_by(root.certificate()).unwrap();

    let wrong = leaf.verify_signed_by(root.certificate()).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_same_request_gives_the_same_bytes() {
    let Authorities { issuing, .. } = authorities(KeyAlgorithm::EcdsaP256).await;
    let request = request(&key(KeyAlgorithm::EcdsaP256));
    let stored: LeafRequest = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
    assert_eq!(stored, request);

    let first = issuing.to_be_signed(&request).unwrap();
    let again = CertificateAuthority::new(
        serde_json::from_str(&serde_json::to_string(issuing.chain()).unwrap()).unwrap(),
        issuing.signer().clone(),
    )
    .unwrap();
    assert_eq!(again.to_be_signed(&stored).unwrap(), first);
    let chain = issuing.sign(&request).await.unwrap();
    assert_eq!(chain.leaf().tbs_der(), first, "what was recorded is what was signed");

    let other = LeafRequest { serial_seed: [3; 20], ..request };
    assert_ne!(issuing.to_be_signed(&other).unwrap(), first);
}

#[tokio::test]
async fn openssl_verifies_every_kind_of_ca_strictly() {
    let Some(openssl) = OpenSsl::new("ca_verify") else { return };
    // RSA keys of 4096 bits take seconds to make, and differ from the shorter ones in nothing.
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::EcdsaP521,
        KeyAlgorithm::Rsa2048,
        KeyAlgorithm::Ed25519,
    ] {
        let Authorities { root, issuing } = authorities(algorithm).await;
        let request = request(&key(algorithm));
        let chain = issuing.sign(&request).await.unwrap();
        openssl.write("root.pem", root.chain().to_pem());
        openssl.write("issuing.pem", chain.issuers_pem());
        openssl.write("leaf.pem", chain.leaf().to_pem());
        let verify = format!(
            "verify -x509_strict -check_ss_sig -attime {} -purpose sslserver -verify_hostname a.web.test \
             -CAfile root.pem -untrusted issuing.pem leaf.pem",
            NOW.as_secs() + 60
        );
        let said = openssl.run(&verify).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert!(said.contains("leaf.pem: OK"), "{said}");

        let text = openssl.run("x509 -in leaf.pem -noout -text").unwrap();
        assert!(text.contains("X509v3 Subject Alternative Name: critical"), "the subject is empty: {text}");
        assert!(text.contains("X509v3 Basic Constraints: critical\n                CA:FALSE"), "{text}");
        assert!(text.contains("TLS Web Server Authentication, TLS Web Client Authentication"), "{text}");
        let rsa = algorithm == KeyAlgorithm::Rsa2048;
        assert_eq!(text.contains("Key Encipherment"), rsa, "{text}");
        let text = openssl.run("x509 -in issuing.pem -noout -text").unwrap();
        assert!(text.contains("CA:TRUE, pathlen:0"), "{text}");
        assert!(
            text.contains("X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign"),
            "{text}"
        );
    }
}

/// A sub-CA of a directory service has several `DC` parts, in Teletex or Printable strings as its maker liked. The issuer's
/// name has to be the CA's own, octet by octet.
#[tokio::test]
async fn a_ca_with_an_unusual_name_is_named_exactly() {
    let Some(openssl) = OpenSsl::new("ca_foreign") else { return };
    openssl.write("ca.cnf", "[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\nstring_mask=nombstr\n[dn]\n0.DC=org\n1.DC=example\n2.DC=corp\nO=Acme\n+OU=Unit\nCN=Corp CA\n[v3]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\nsubjectKeyIdentifier=hash\n");
    openssl
        .run("req -x509 -config ca.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout ca.key -out ca.pem")
        .unwrap();
    let own = Chain::from_pem(&openssl.read("ca.pem")).unwrap();
    let signer = PrivateKey::from_pem(&certctl_core::Secret::new(openssl.read("ca.key"))).unwrap();
    let ca = CertificateAuthority::new(own, Arc::new(signer)).unwrap();

    let not_before = ca.certificate().not_before();
    let request = LeafRequest { not_before, ..request(&key(KeyAlgorithm::EcdsaP256)) };
    let chain = ca.sign(&request).await.unwrap();
    assert_eq!(chain.leaf().issuer_der(), ca.certificate().subject_der());
    assert_eq!(chain.certificates().len(), 2, "there is nothing but a root, so it goes along");
    openssl.write("leaf.pem", chain.leaf().to_pem());
    let said = openssl
        .run(&format!("verify -attime {} -CAfile ca.pem leaf.pem", not_before.as_secs() + 60))
        .unwrap();
    assert!(said.contains("OK"), "{said}");
}

#[tokio::test]
async fn a_leaf_never_outlives_its_ca() {
    let Authorities { issuing, .. } = authorities(KeyAlgorithm::EcdsaP256).await;
    let request = LeafRequest { not_after: after(5000), ..request(&key(KeyAlgorithm::EcdsaP256)) };
    let chain = issuing.sign(&request).await.unwrap();
    assert_eq!(chain.leaf().not_after(), issuing.certificate().not_after());

    let late = LeafRequest { not_before: after(1001), ..request };
    let error = issuing.sign(&late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("Test Issuing expired at"), "{error}");
    assert!(error.context_value("ca_fingerprint").is_some());

    issuing.check_valid_at(after(999)).unwrap();
    assert_eq!(issuing.check_valid_at(after(1001)).unwrap_err().kind(), ErrorKind::Precondition);
}

#[tokio::test]
async fn an_issuing_ca_never_outlives_its_root_and_has_no_ca_below() {
    let Authorities { root, issuing } = authorities(KeyAlgorithm::EcdsaP256).await;
    let make = |above: CertificateAuthority, name: &'static str, now: Timestamp| async move {
        let signer = key(KeyAlgorithm::EcdsaP256);
        CertificateAuthority::create_issuing(&above, signer, name, now, Lifetime::days(9000), [7; 20]).await
    };
    let long = make(root.clone(), "Other", NOW).await.unwrap();
    assert_eq!(long.certificate().not_after(), root.certificate().not_after());
    assert_eq!(long.certificate().path_length(), Some(0));

    let error = make(root.clone(), "Test Root", NOW).await.unwrap_err();
    assert_eq!((error.kind(), pointers(&error)), (ErrorKind::Invalid, vec!["/common_name"]));
    for (above, now) in [(issuing, NOW), (root, after(3651))] {
        let error = make(above, "Other", now).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    }
}

#[tokio::test]
async fn everything_wrong_with_a_request_is_said_at_once() {
    let Authorities { issuing, .. } = authorities(KeyAlgorithm::EcdsaP256).await;
    let bad = LeafRequest {
        public_key: issuing.signer().public_key().clone(),
        names: vec![
            SubjectAltName::Dns("ok.test".into()),
            SubjectAltName::Dns("10.0.0.1".into()),
            SubjectAltName::Dns("UPPER.test".into()),
            SubjectAltName::Dns("a\r\nb.test".into()),
        ],
        common_name: Some("x".repeat(65)),
        not_before: NOW,
        not_after: NOW,
        serial_seed: [0; 20],
        usages: Vec::new(),
    };
    let error = issuing.sign(&bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        pointers(&error),
        ["/names/1", "/names/2", "/names/3", "/common_name", "/public_key", "/not_after"]
    );
    assert!(error.violations().iter().all(|violation| !violation.remedy.is_empty()));

    let nameless =
        LeafRequest { names: Vec::new(), common_name: None, ..request(&key(KeyAlgorithm::EcdsaP256)) };
    assert_eq!(pointers(&issuing.sign(&nameless).await.unwrap_err()), ["/names"]);
    let named = LeafRequest { common_name: Some("device 7".into()), ..nameless };
    assert_eq!(issuing.sign(&named).await.unwrap().leaf().subject_common_name(), Some("device 7"));
}

#[tokio::test]
async fn only_a_ca_with_its_own_key_can_sign() {
    let Authorities { issuing, .. } = authorities(KeyAlgorithm::EcdsaP256).await;
    let leaf_key = key(KeyAlgorithm::EcdsaP256);
    let leaf = issuing.sign(&request(&leaf_key)).await.unwrap();
    for (chain, signer) in [(leaf, leaf_key.clone()), (issuing.chain().clone(), leaf_key)] {
        let error = CertificateAuthority::new(chain, signer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    }
}

#[tokio::test]
async fn a_bundle_is_checked_for_everything_at_once() {
    let Authorities { root, issuing } = authorities(KeyAlgorithm::EcdsaP256).await;
    let leaf_key = key(KeyAlgorithm::EcdsaP256);
    let chain = issuing.sign(&request(&leaf_key)).await.unwrap();
    let good = Bundle { chain: chain.clone(), key: (*leaf_key).clone() };
    let asked = names(&["web.test", "WWW.web.test", "*.web.test", "192.0.2.1", "admin@web.test"]);
    good.check(&asked, NOW).unwrap();
    good.check(&asked, NOW - std::time::Duration::from_secs(299)).unwrap();

    // Only what the leaf says serves: a name two labels below the wildcard does not, nor does another wildcard.
    let error = good.check(&names(&["a.b.web.test", "*.b.web.test", "192.0.2.2"]), NOW).unwrap_err();
    assert_eq!(pointers(&error), ["/names/0", "/names/1", "/names/2"]);

    let upside_down = Bundle {
        chain: Chain::new(vec![
            chain.leaf().clone(),
            root.certificate().clone(),
            issuing.certificate().clone(),
        ])
        .unwrap(),
        key: (*key(KeyAlgorithm::EcdsaP256)).clone(),
    };
    let error = upside_down.check(&names(&["other.test"]), after(91)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(pointers(&error), ["/key", "/names/0", "/chain/0", "/chain/0", "/chain/1"]);

    let early = good.check(&asked, NOW - std::time::Duration::from_secs(301)).unwrap_err();
    assert_eq!(pointers(&early), ["/chain/0"], "the CAs began five minutes before");
    good.check(&asked, after(90)).unwrap();
    let late = good.check(&asked, after(2000)).unwrap_err();
    assert_eq!(pointers(&late), ["/chain/0", "/chain/1"]);
}

#[tokio::test]
async fn a_forged_signature_is_found_in_a_chain() {
    let Authorities { root, issuing } = authorities(KeyAlgorithm::EcdsaP256).await;
    // The same names, another key: an impostor.
    let impostor = authorities(KeyAlgorithm::EcdsaP256).await.issuing;
    let leaf_key = key(KeyAlgorithm::EcdsaP256);
    let leaf = impostor.sign(&request(&leaf_key)).await.unwrap().leaf().clone();
    let chain = Chain::new(vec![leaf, issuing.certificate().clone(), root.certificate().clone()]).unwrap();
    let error = chain.check(leaf_key.public_key(), &[], NOW).unwrap_err();
    assert_eq!(pointers(&error), ["/chain/0"]);
    assert!(error.message().contains("signature"), "{error}");
}

/// A signer that is somewhere else: it answers later, and counts.
#[derive(Debug)]
struct Remote {
    key: PrivateKey,
    claims: PublicKey,
    calls: AtomicUsize,
}

#[async_trait]
impl Signer for Remote {
    fn public_key(&self) -> &PublicKey {
        &self.claims
    }
    async fn sign(&self, algorithm: certctl_core::SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        tokio::task::yield_now().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.key.sign(algorithm, message)
    }
}

#[tokio::test]
async fn a_remote_signer_signs_each_thing_once() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP384).unwrap();
    let claims = key.public_key().clone();
    let remote = Arc::new(Remote { key, claims, calls: AtomicUsize::new(0) });
    let root = CertificateAuthority::create_root(remote.clone(), "Remote", NOW, Lifetime::days(10), [9; 20])
        .await
        .unwrap();
    root.certificate().verify_signed_by(root.certificate()).unwrap();
    root.sign(&request(&PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap())).await.unwrap();
    Csr::create(remote.as_ref(), None, &names(&["a.test"])).await.unwrap();
    assert_eq!(remote.calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_signer_with_another_key_than_it_says_is_noticed() {
    let claims = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap().public_key().clone();
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let liar = Remote { key, claims, calls: AtomicUsize::new(0) };
    let error = Csr::create(&liar, None, &names(&["a.test"])).await.unwrap_err();
    assert_eq!(pointers(&error), ["/signature"]);
}

#[tokio::test]
async fn the_certificate_of_a_ca_reads_as_such() {
    let Authorities { root, issuing } = authorities(KeyAlgorithm::EcdsaP256).await;
    let own: &X509Certificate = root.certificate();
    assert!(own.is_ca() && own.signs_certificates() && own.is_self_issued());
    assert_eq!(own.subject_common_name(), Some("Test Root"));
    assert_eq!(own.not_before(), NOW - CertificateAuthority::BACKDATE);
    assert_eq!(own.not_after(), after(3650));
    assert_eq!(own.path_length(), None);
    assert_eq!(issuing.certificate().issuer_der(), own.subject_der());
    assert_eq!(issuing.chain().certificates().len(), 2);
}

fn pointers(error: &Error) -> Vec<&str> {
    error.violations().iter().map(|violation| violation.pointer.as_str()).collect()
}
