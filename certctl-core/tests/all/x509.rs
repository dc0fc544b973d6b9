//! Names, keys, requests and certificates: what is read, and what is refused.

use certctl_core::{
    Chain, Csr, Error, ErrorKind, Fingerprint, KeyAlgorithm, KeyKind, PrivateKey, PublicKey, Secret,
    SerialNumber, SignatureAlgorithm, Signer, SubjectAltName, X509Certificate,
};
use proptest::prelude::*;

use crate::openssl::OpenSsl;

fn san(text: &str) -> Result<SubjectAltName, Error> {
    text.parse()
}

/// The one violation of an error that must be `Invalid`.
#[allow(clippy::needless_pass_by_value)]
fn refused(error: Error, pointer: &str, message: &str, remedy: &str) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let violations = error.violations();
    assert_eq!(violations.len(), 1, "{error}");
    assert_eq!(violations[0].pointer, pointer, "{error}");
    assert!(violations[0].message.contains(message), "{error} lacks {message:?}");
    assert!(violations[0].remedy.contains(remedy), "{error} lacks {remedy:?}");
}

mod names {
    use super::*;

    #[test]
    fn a_plain_text_becomes_what_it_parses_as() {
        assert_eq!(san("Www.Example.com.").unwrap(), SubjectAltName::Dns("www.example.com".into()));
        assert_eq!(san("localhost").unwrap(), SubjectAltName::Dns("localhost".into()));
        assert_eq!(
            san("xn--bcher-kva.example").unwrap(),
            SubjectAltName::Dns("xn--bcher-kva.example".into())
        );
        assert_eq!(san("10.0.0.1").unwrap(), SubjectAltName::ip([10, 0, 0, 1]));
        assert_eq!(san("2001:DB8::1").unwrap().to_string(), "2001:db8::1");
        assert_eq!(san("Ops@Example.com").unwrap(), SubjectAltName::Email("Ops@example.com".into()));
        assert_eq!(san("SPIFFE://a.test/Web").unwrap(), SubjectAltName::Uri("spiffe://a.test/Web".into()));
        assert_eq!(san("https://u@h.test/").unwrap(), SubjectAltName::Uri("https://u@h.test/".into()));
        assert_eq!(san("urn:uuid:0b1e").unwrap(), SubjectAltName::Uri("urn:uuid:0b1e".into()));
    }

    #[test]
    fn each_wrong_name_is_refused_with_a_remedy() {
        let long_label = format!("{}.test", "a".repeat(64));
        let long_name = format!("{}test", "abcdefg.".repeat(32));
        for (text, message, remedy) in [
            ("", "empty", "give a DNS name"),
            ("a..test", "empty label", "dot"),
            (".test", "empty label", "dot"),
            ("a_b.test", "underscore", "rename"),
            ("-a.test", "hyphen", "begin and end"),
            ("a-.test", "hyphen", "begin and end"),
            ("a b.test", "can't have", "letters"),
            ("a.test/path", "can't have", "leave out port"),
            ("[::1]", "can't have", "brackets"),
            ("bücher.example", "not ASCII", "xn--"),
            ("a.test\r\nX: y", "control", "line ends"),
            ("a\0.test", "control", "control characters"),
            ("*.test", "top-level", "two labels"),
            ("*", "misplaced wildcard", "whole first label"),
            ("a*.b.test", "misplaced wildcard", "whole first label"),
            ("a.*.test", "misplaced wildcard", "whole first label"),
            ("*.*.b.test", "misplaced wildcard", "whole first label"),
            ("300.1.2.3", "ends in a number", "valid IP address"),
            ("1.2.3", "ends in a number", "valid IP address"),
            ("10.0.0.1/24", "can't have", "leave out"),
            ("10.0.0.1:443", "can't have", "port"),
            ("web.test:443", "host with a port", "without the port"),
            ("https:", "scheme alone", "spiffe"),
            ("http://a b/", "URI can't have", "percent-encode"),
            ("http://a/%zz", "begins no escape", "two hexadecimal digits"),
            ("fe80::1%eth0", "begins no escape", "two hexadecimal digits"),
            ("a@b@c_d.test", "local part", "admin@example.com"),
            ("@b.test", "local part", "admin@example.com"),
            ("a@10.0.0.1", "IP address", "IP address"),
            ("a@*.b.test", "wildcard", "*"),
            ("a..b@c.test", "dot", "admin@example.com"),
            (&long_label, "longer than 63", "shorten"),
            (&long_name, "longer than 253", "at most 253"),
        ] {
            refused(san(text).unwrap_err(), "", message, remedy);
        }
        refused(SubjectAltName::dns("10.0.0.1").unwrap_err(), "", "IP address", "IP address 10.0.0.1");
        refused(SubjectAltName::dns("::1").unwrap_err(), "", "IP address", "IP address ::1");
        refused(SubjectAltName::email("a.test").unwrap_err(), "", "no @", "admin@example.com");
        refused(SubjectAltName::uri("a.test").unwrap_err(), "", "no scheme", "spiffe");
        refused(SubjectAltName::uri("fe80::1").unwrap_err(), "", "IP address", "IP address");
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let wildcard = san("*.a.test").unwrap();
        assert!(wildcard.matches("x.a.test") && wildcard.matches("X.A.TEST."));
        for host in ["a.test", "x.y.a.test", ".a.test", "xa.test", "*", ""] {
            assert!(!wildcard.matches(host), "{host}");
        }
        assert!(san("a.test").unwrap().matches("A.test") && !san("a.test").unwrap().matches("b.a.test"));
        assert!(san("::1").unwrap().matches("[::1]") && san("10.0.0.1").unwrap().matches("10.0.0.1"));
        assert!(!san("10.0.0.1").unwrap().matches("a.test"));
        assert!(!san("mailto:a@b.test").unwrap().matches("b.test"));
        assert!(wildcard.covers(&wildcard) && wildcard.covers(&san("x.a.test").unwrap()));
        assert!(!wildcard.covers(&san("*.x.a.test").unwrap()) && !wildcard.covers(&san("10.0.0.1").unwrap()));
    }

    #[test]
    fn names_are_strings_in_json_and_checked_there() {
        let names: Vec<SubjectAltName> = serde_json::from_str(r#"["a.test","10.0.0.1"]"#).unwrap();
        assert_eq!(serde_json::to_string(&names).unwrap(), r#"["a.test","10.0.0.1"]"#);
        let error = serde_json::from_str::<SubjectAltName>(r#""a_b.test""#).unwrap_err();
        assert!(error.to_string().contains("underscore"), "{error}");
    }

    #[test]
    fn a_long_name_is_cut_in_the_message() {
        let error = san(&format!("{}é", "x".repeat(100_000))).unwrap_err();
        assert!(error.message().len() < 300, "{}", error.message().len());
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_the_same(text in name_like()) {
            if let Ok(name) = san(&text) {
                prop_assert_eq!(san(&name.to_string()).unwrap(), name.clone());
                name.check().unwrap();
            }
        }

        #[test]
        fn a_constructor_makes_only_what_reads_back(text in name_like()) {
            let made = [SubjectAltName::dns(&text), SubjectAltName::email(&text), SubjectAltName::uri(&text)];
            for name in made.into_iter().flatten() {
                prop_assert_eq!(san(&name.to_string()).unwrap(), name);
            }
        }

        #[test]
        fn good_dns_names_are_read(labels in prop::collection::vec("[a-z][a-z0-9-]{0,20}[a-z0-9]", 1..6)) {
            let text = labels.join(".");
            prop_assert_eq!(san(&text).unwrap(), SubjectAltName::Dns(text));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = san(&text);
        }
    }

    fn name_like() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9*_.:@/%-]{0,40}",
            "[a-z]{1,4}:[0-9a-f:.]{0,12}",
            "[a-z.]{1,8}@[a-z0-9.]{1,12}",
            any::<std::net::IpAddr>().prop_map(|address| address.to_string()),
        ]
    }
}

mod numbers {
    use super::*;

    #[test]
    fn a_serial_number_is_positive_and_20_octets_long() {
        for seed in [[0; 20], [0xff; 20], [0x80; 20]] {
            let serial = SerialNumber::from_seed(&seed);
            assert_eq!(serial.octets().len(), 20);
            assert!(serial.octets()[0] < 0x80);
            assert_eq!(serial.octets()[1..], seed[1..]);
            assert_eq!(serial.to_string().parse::<SerialNumber>().unwrap(), serial);
        }
        assert_ne!(SerialNumber::from_seed(&[1; 20]), SerialNumber::from_seed(&[2; 20]));
        assert_eq!("00:0A:ff".parse::<SerialNumber>().unwrap().to_string(), "0aff");
        assert_eq!("00".parse::<SerialNumber>().unwrap().to_string(), "00");
        for bad in ["", "0", "0x12", "zz", "+1", &"ab".repeat(21), &"00".repeat(5000)] {
            assert_eq!(bad.parse::<SerialNumber>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let fingerprint = Fingerprint::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint.to_string(), text);
        let colons: Vec<_> =
            text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        assert_eq!(colons.join(":").to_uppercase().parse::<Fingerprint>().unwrap(), fingerprint);
        assert_eq!(serde_json::to_string(&fingerprint).unwrap(), format!("{text:?}"));
        refused("ba78".parse::<Fingerprint>().unwrap_err(), "", "not a SHA-256", "64 hexadecimal");
    }
}

mod keys {
    use super::*;

    const QUICK: [KeyAlgorithm; 5] = [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::EcdsaP521,
        KeyAlgorithm::Rsa2048,
        KeyAlgorithm::Ed25519,
    ];

    #[test]
    fn every_algorithm_has_its_name() {
        for algorithm in KeyAlgorithm::ALL {
            let name = algorithm.to_string();
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("{name:?}"));
            assert_eq!(name.to_lowercase().parse::<KeyAlgorithm>().unwrap(), algorithm);
        }
        refused(
            "DSA".parse::<KeyAlgorithm>().unwrap_err(),
            "",
            "not a key algorithm",
            "ECDSA-P256, ECDSA-P384",
        );
        assert_eq!(KeyAlgorithm::default(), KeyAlgorithm::EcdsaP256);
    }

    #[test]
    fn a_key_signs_and_its_public_half_verifies() {
        for algorithm in QUICK {
            let key = PrivateKey::generate(algorithm).unwrap();
            assert_eq!(key.public_key().kind().to_string(), algorithm.to_string());
            let with = Signer::algorithm(&key);
            let signature = key.sign(with, b"message").unwrap();
            key.public_key().verify(with, b"message", &signature).unwrap();
            let error = key.public_key().verify(with, b"massage", &signature).unwrap_err();
            refused(error, "/signature", "does not verify", "sign it with");
            let other = match with {
                SignatureAlgorithm::Ed25519 => SignatureAlgorithm::EcdsaSha256,
                _ => SignatureAlgorithm::Ed25519,
            };
            assert_eq!(key.sign(other, b"message").unwrap_err().kind(), ErrorKind::Unsupported);
            assert_eq!(key.public_key().verify(other, b"", b"").unwrap_err().kind(), ErrorKind::Invalid);

            let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(again.public_key(), key.public_key());
            assert_eq!(again.to_pem(), key.to_pem());
            let spki = PublicKey::from_spki_der(key.public_key().spki_der()).unwrap();
            assert_eq!(spki, *key.public_key());
            let json = serde_json::to_string(key.public_key()).unwrap();
            assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), spki);
        }
    }

    #[test]
    fn rsa_keys_sign_with_every_hash() {
        let key = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap();
        for with in [
            SignatureAlgorithm::RsaPkcs1Sha256,
            SignatureAlgorithm::RsaPkcs1Sha384,
            SignatureAlgorithm::RsaPkcs1Sha512,
        ] {
            let signature = key.sign(with, b"message").unwrap();
            key.public_key().verify(with, b"message", &signature).unwrap();
        }
    }

    #[test]
    fn a_private_key_never_shows() {
        let key = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let shown = format!("{key:?}");
        assert!(shown.starts_with("PrivateKey(*** of PublicKey(Ed25519 "), "{shown}");
        assert_eq!(format!("{:?}", key.to_pem()), "***");
    }

    #[test]
    fn every_form_that_openssl_writes_is_read() {
        let Some(openssl) = OpenSsl::new("key_forms") else { return };
        for (name, make, kind) in [
            ("sec1-256", "ecparam -name prime256v1 -genkey -out key.pem", KeyKind::EcdsaP256),
            ("sec1-384", "ecparam -name secp384r1 -genkey -out key.pem", KeyKind::EcdsaP384),
            ("sec1-521", "ecparam -name secp521r1 -genkey -noout -out key.pem", KeyKind::EcdsaP521),
            ("pkcs1", "genrsa -traditional -out key.pem 2048", KeyKind::Rsa { bits: 2048 }),
            (
                "pkcs8-rsa",
                "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2056 -out key.pem",
                KeyKind::Rsa { bits: 2056 },
            ),
            (
                "pkcs8-ec",
                "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem",
                KeyKind::EcdsaP384,
            ),
            ("pkcs8-ed", "genpkey -algorithm ED25519 -out key.pem", KeyKind::Ed25519),
        ] {
            openssl.run(make).unwrap();
            let key = PrivateKey::from_pem(&Secret::new(openssl.read("key.pem")))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(key.public_key().kind(), kind, "{name}");
            openssl.run("pkey -in key.pem -pubout -out theirs.pem").unwrap();
            assert_eq!(key.public_key().to_pem().as_bytes(), openssl.read("theirs.pem"), "{name}");
            openssl.write("ours.pem", key.to_pem().expose());
            openssl.run("pkey -in ours.pem -check -noout").unwrap();
            openssl.run("pkey -in ours.pem -pubout -out back.pem").unwrap();
            assert_eq!(openssl.read("back.pem"), openssl.read("theirs.pem"), "{name}");
        }
    }

    #[test]
    fn bad_private_keys_are_refused() {
        let read = |text: &[u8]| PrivateKey::from_pem(&Secret::new(text)).unwrap_err();
        refused(read(b"nothing"), "", "no private key", "PRIVATE KEY");
        refused(
            read(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "",
            "malformed",
            "ECDSA-P256",
        );
        refused(read(b"-----BEGIN PRIVATE KEY-----\n!!canary!!\n"), "", "broken PEM", "whole blocks");
        refused(read(&vec![b'a'; 70_000]), "", "70000 octets", "at most 65536");
        let Some(openssl) = OpenSsl::new("bad_keys") else { return };
        for (make, message, remedy) in [
            ("genrsa -out key.pem 1024", "weak", "RSA-2048"),
            (
                "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3 -out key.pem",
                "exponent",
                "65537",
            ),
            ("ecparam -name secp256k1 -genkey -out key.pem", "not supported", "ECDSA-P256"),
            ("genpkey -algorithm X25519 -out key.pem", "not supported", "Ed25519"),
            ("genrsa -aes128 -passout pass:secret -out key.pem 2048", "encrypted", "decrypt"),
            ("genrsa -traditional -aes128 -passout pass:secret -out key.pem 2048", "encrypted", "decrypt"),
        ] {
            openssl.run(make).unwrap();
            refused(read(&openssl.read("key.pem")), "", message, remedy);
        }
    }

    #[test]
    fn weak_and_odd_public_keys_are_refused() {
        refused(PublicKey::from_spki_der(b"\x30\x00").unwrap_err(), "", "malformed", "SubjectPublicKeyInfo");
        refused(PublicKey::from_pem(b"").unwrap_err(), "", "no public key", "PUBLIC KEY");
        let good = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let mut off_curve = good.public_key().spki_der().to_vec();
        *off_curve.last_mut().unwrap() ^= 1;
        refused(
            PublicKey::from_spki_der(&off_curve).unwrap_err(),
            "",
            "ECDSA-P256 public key is malformed",
            "new key",
        );
        let mut trailing = good.public_key().spki_der().to_vec();
        trailing.push(0);
        refused(PublicKey::from_spki_der(&trailing).unwrap_err(), "", "malformed", "DER");

        let Some(openssl) = OpenSsl::new("weak_public") else { return };
        for (make, message, remedy) in [
            ("genrsa -out key.pem 1024", "1024 bits, which is weak", "2048"),
            (
                "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3 -out key.pem",
                "exponent",
                "65537",
            ),
            (
                "ecparam -name secp256k1 -genkey -out key.pem",
                "curve 1.3.132.0.10 is not supported",
                "ECDSA-P256",
            ),
            ("genpkey -algorithm ED448 -out key.pem", "algorithm 1.3.101.113 is not supported", "Ed25519"),
        ] {
            openssl.run(make).unwrap();
            openssl.run("pkey -in key.pem -pubout -out public.pem").unwrap();
            refused(PublicKey::from_pem(&openssl.read("public.pem")).unwrap_err(), "", message, remedy);
        }
        openssl.run("ecparam -name prime256v1 -genkey -noout -out key.pem").unwrap();
        openssl.run("ec -in key.pem -pubout -conv_form compressed -out public.pem").unwrap();
        let compressed = PublicKey::from_pem(&openssl.read("public.pem")).unwrap_err();
        refused(compressed, "", "uncompressed", "RFC 5480");
    }
}

mod requests {
    use super::*;

    async fn csr(algorithm: KeyAlgorithm, names: &[&str]) -> Csr {
        let names: Vec<_> = names.iter().map(|text| san(text).unwrap()).collect();
        Csr::create(&PrivateKey::generate(algorithm).unwrap(), None, &names).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_comes_back_as_it_was_made() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let names: Vec<_> = ["a.test", "*.b.test", "10.0.0.1", "::1", "a@b.test", "spiffe://a/b"]
            .map(|text| san(text).unwrap())
            .into();
        let csr = Csr::create(&key, Some("A"), &names).await.unwrap();
        assert_eq!(
            (csr.common_name(), csr.names(), csr.public_key()),
            (Some("A"), &names[..], key.public_key())
        );
        assert_eq!(Csr::parse(csr.der()).unwrap(), csr);
        assert_eq!(Csr::parse(csr.to_pem().as_bytes()).unwrap(), csr);
        let renamed = csr.to_pem().replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
        assert_eq!(Csr::parse(format!("text before\n{renamed}").as_bytes()).unwrap(), csr);
        let json = serde_json::to_string(&csr).unwrap();
        assert_eq!(serde_json::from_str::<Csr>(&json).unwrap(), csr);
        assert_eq!(csr.fingerprint(), Fingerprint::of(csr.der()));
    }

    #[tokio::test]
    async fn openssl_accepts_requests_of_every_kind() {
        let Some(openssl) = OpenSsl::new("csr_verify") else { return };
        for algorithm in KeyAlgorithm::ALL
            .into_iter()
            .filter(|a| !matches!(a, KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096))
        {
            let csr = csr(algorithm, &["a.test", "10.0.0.1"]).await;
            openssl.write("csr.pem", csr.to_pem());
            let said = openssl.run("req -in csr.pem -verify -noout -text").unwrap();
            assert!(said.contains("self-signature verify OK"), "{algorithm}: {said}");
            assert!(said.contains("DNS:a.test, IP Address:10.0.0.1"), "{algorithm}: {said}");
        }
    }

    #[test]
    fn requests_of_openssl_are_read() {
        let Some(openssl) = OpenSsl::new("csr_read") else { return };
        // An extension and a use that nobody knows, an empty use, must-staple, and a challenge password.
        openssl.write(
            "req.cnf",
            "[req]\ndistinguished_name=dn\nreq_extensions=v3\nattributes=attrs\nprompt=no\n[dn]\nO=Acme\nCN=web.test\n\
             [attrs]\nchallengePassword=hunter22\n\
             [v3]\nsubjectAltName=DNS:web.test,IP:192.0.2.7,DNS:WEB.test\n1.2.3.4=ASN1:UTF8String:x\n\
             extendedKeyUsage=serverAuth,1.2.3.4.5\ntlsfeature=status_request\n2.5.29.15=DER:30:00\n",
        );
        for (algorithm, digest) in [
            ("ec -pkeyopt ec_paramgen_curve:P-256", "sha256"),
            ("ec -pkeyopt ec_paramgen_curve:P-256", "sha512"),
            ("ec -pkeyopt ec_paramgen_curve:P-384", "sha384"),
            ("ec -pkeyopt ec_paramgen_curve:P-521", "sha512"),
            ("ec -pkeyopt ec_paramgen_curve:P-521", "sha256"),
            ("rsa:2048", "sha384"),
            ("ed25519", "sha256"),
        ] {
            openssl.run(&format!("req -new -config req.cnf -newkey {algorithm} -{digest} -nodes -keyout key.pem -out csr.pem"))
                .unwrap();
            let csr =
                Csr::parse(&openssl.read("csr.pem")).unwrap_or_else(|e| panic!("{algorithm} {digest}: {e}"));
            assert_eq!(csr.common_name(), Some("web.test"));
            assert_eq!(csr.names(), [san("web.test").unwrap(), san("192.0.2.7").unwrap()], "each once");
        }
        openssl
            .run("req -new -config req.cnf -newkey rsa:2048 -sha1 -nodes -keyout key.pem -out csr.pem")
            .unwrap();
        refused(Csr::parse(&openssl.read("csr.pem")).unwrap_err(), "/signature", "not supported", "SHA-256");
    }

    #[test]
    fn wrong_names_and_weak_keys_are_all_reported() {
        let Some(openssl) = OpenSsl::new("csr_wrong") else { return };
        let make = |san: &str, key: &str| {
            openssl.write(
                "req.cnf",
                format!(
                    "[req]\ndistinguished_name=dn\nreq_extensions=v3\nprompt=no\n[dn]\nCN=x\n[v3]\n{san}\n"
                ),
            );
            openssl
                .run(&format!("req -new -config req.cnf -newkey {key} -nodes -keyout key.pem -out csr.pem"))
                .unwrap();
            Csr::parse(&openssl.read("csr.pem")).unwrap_err()
        };
        let error =
            make("subjectAltName=DNS:10.0.0.1,DNS:ok.test,DNS:a_b.test,otherName:1.2.3.4;UTF8:x", "rsa:1024");
        let found: Vec<_> =
            error.violations().iter().map(|v| (v.pointer.as_str(), v.message.as_str())).collect();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            found,
            [
                ("/public_key", "the RSA key has 1024 bits, which is weak"),
                ("/names/0", "\"10.0.0.1\" is an IP address, given as a DNS name"),
                ("/names/2", "\"a_b.test\" has an underscore"),
                ("/names/3", "a name is of a type that is not supported"),
            ]
        );
        assert!(error.violations().iter().all(|violation| !violation.remedy.is_empty()));

        let p256 = "ec -pkeyopt ec_paramgen_curve:P-256";
        refused(make("subjectAltName=DER:30:00", p256), "/names", "malformed", "anew");
        refused(make("subjectAltName=DER:04:00", p256), "/names", "malformed", "anew");
        refused(
            make("subjectAltName=DER:30:07:87:05:01:02:03:04:05", p256),
            "/names/0",
            "5 octets",
            "4 octets",
        );
        refused(make("subjectAltName=DER:30:04:82:02:ff:fe", p256), "/names/0", "not text", "ASCII");
    }

    #[tokio::test]
    async fn a_changed_request_does_not_verify() {
        let csr = csr(KeyAlgorithm::EcdsaP256, &["a.test"]).await;
        let position = csr.der().windows(6).position(|window| window == b"a.test").unwrap();
        let mut changed = csr.der().to_vec();
        changed[position] = b'b';
        refused(
            Csr::from_der(&changed).unwrap_err(),
            "/signature",
            "does not verify",
            "sign it with the key",
        );

        let mut trailing = csr.der().to_vec();
        trailing.push(0);
        refused(Csr::from_der(&trailing).unwrap_err(), "", "something follows", "one PKCS#10");
    }

    #[tokio::test]
    async fn a_request_has_a_thousand_names_at_most() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let names: Vec<_> = (0..=Csr::MAX_NAMES).map(|i| san(&format!("{i}.a.test")).unwrap()).collect();
        assert_eq!(Csr::create(&key, None, &names[1..]).await.unwrap().names().len(), Csr::MAX_NAMES);
        refused(Csr::create(&key, None, &names).await.unwrap_err(), "/names", "1001 names", "at most 1000");
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let oversized = vec![0x30; Csr::MAX_LEN + 1];
        for read in [Csr::parse, Csr::from_der, Csr::from_pem] {
            refused(read(&oversized).unwrap_err(), "", "65537 octets", "at most 65536");
        }
        refused(Csr::parse(b"").unwrap_err(), "", "no certification request", "PKCS#10");
        refused(Csr::parse(b"\x30\x80\xff").unwrap_err(), "", "malformed", "PKCS#10");
        let certificate = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        refused(Csr::parse(certificate).unwrap_err(), "", "no certification request", "PKCS#10");
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let names = [SubjectAltName::Dns("A.test".into()), SubjectAltName::Dns("1.2.3.4".into())];
        let error = Csr::create(&key, Some(""), &names).await.unwrap_err();
        let pointers: Vec<_> =
            error.violations().iter().map(|violation| violation.pointer.as_str()).collect();
        assert_eq!(pointers, ["/names/0", "/names/1", "/common_name"]);
    }
}

mod certificates {
    use super::*;

    #[test]
    fn foreign_certificates_are_read_whatever_they_have() {
        let Some(openssl) = OpenSsl::new("cert_foreign") else { return };
        openssl.write(
            "cert.cnf",
            "[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n[dn]\nCN=device\n[d]\nCN=x\n\
             [v3]\nsubjectAltName=DNS:a.test,otherName:1.2.3.4;UTF8:x,dirName:d,DNS:under_score.test\n1.2.3.4=ASN1:NULL\n\
             extendedKeyUsage=DER:30:00\n",
        );
        openssl
            .run("req -x509 -config cert.cnf -newkey rsa:1024 -set_serial 0 -nodes -days 10 -keyout key.pem -out cert.pem")
            .unwrap();
        let chain = Chain::from_pem(&openssl.read("cert.pem")).unwrap();
        let certificate = chain.leaf();
        assert_eq!(certificate.names(), [san("a.test").unwrap()]);
        assert_eq!(certificate.other_names(), 3);
        assert_eq!(certificate.serial().to_string(), "00");
        assert_eq!(certificate.subject_common_name(), Some("device"));
        refused(certificate.public_key().unwrap_err(), "", "1024 bits", "2048");
        let printed = openssl.run("x509 -in cert.pem -noout -fingerprint -sha256").unwrap();
        let theirs = printed.trim().rsplit('=').next().unwrap().parse::<Fingerprint>().unwrap();
        assert_eq!(certificate.fingerprint(), theirs);
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        refused(Chain::from_pem(b"").unwrap_err(), "", "no certificate", "CERTIFICATE");
        refused(
            Chain::from_pem(&vec![b'a'; Chain::MAX_PEM_LEN + 1]).unwrap_err(),
            "",
            "1048577 octets",
            "1048576",
        );
        let broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        refused(Chain::from_pem(broken).unwrap_err(), "/0", "malformed", "DER");
        refused(Chain::from_pem(&broken[..40]).unwrap_err(), "", "broken PEM", "whole blocks");
        refused(X509Certificate::from_der(&[0x30; 70_000]).unwrap_err(), "", "70000 octets", "65536");
    }
}

/// Hostile bytes give an error, never a panic; a changed certificate or request never passes for the original.
mod hostile {
    use std::sync::LazyLock;

    use certctl_core::{CertificateAuthority, Lifetime, Timestamp};

    use super::*;

    struct Samples {
        csr: Csr,
        certificate: X509Certificate,
        pem: String,
    }

    static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
        let make = async {
            let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
            let names = ["a.test", "10.0.0.1", "a@b.test", "urn:x:y"].map(|text| san(text).unwrap());
            let csr = Csr::create(&key, Some("a"), &names).await.unwrap();
            let now = Timestamp::from_secs(1_900_000_000);
            let ca = CertificateAuthority::create_root(
                std::sync::Arc::new(key),
                "ca",
                now,
                Lifetime::days(9),
                [1; 20],
            );
            let chain = ca.await.unwrap().chain().clone();
            Samples { csr, certificate: chain.leaf().clone(), pem: chain.to_pem() }
        };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(make)
    });

    fn read_all(bytes: &[u8]) {
        if let Ok(csr) = Csr::parse(bytes) {
            let _ = (csr.names(), csr.common_name(), format!("{csr:?}"));
        }
        let _ = (Csr::from_der(bytes), Csr::from_pem(bytes), PublicKey::from_spki_der(bytes));
        if let Ok(certificate) = X509Certificate::from_der(bytes) {
            let _ = (
                certificate.public_key().is_ok(),
                certificate.verify_signed_by(&certificate),
                format!("{certificate:?}"),
            );
        }
        let _ = (Chain::from_pem(bytes), PrivateKey::from_pem(&Secret::new(bytes)));
    }

    /// Positions of DER elements, so that a mutation hits structure and not only content.
    fn elements(der: &[u8], from: usize, out: &mut Vec<(usize, usize, usize)>) {
        let mut at = from;
        while at + 2 <= der.len() {
            let (header, len) = match der[at + 1] {
                len @ ..=0x7f => (2, usize::from(len)),
                0x81 if at + 3 <= der.len() => (3, usize::from(der[at + 2])),
                0x82 if at + 4 <= der.len() => (4, usize::from(der[at + 2]) << 8 | usize::from(der[at + 3])),
                _ => return,
            };
            if at + header + len > der.len() {
                return;
            }
            out.push((at, header, len));
            // Octet and bit strings are looked into as well: extensions and keys are inside.
            match der[at] {
                tag if tag & 0x20 != 0 => elements(&der[..at + header + len], at + header, out),
                0x04 => elements(&der[..at + header + len], at + header, out),
                _ => {}
            }
            at += header + len;
        }
    }

    /// Each element in turn is emptied, with the lengths around it set right again.
    fn emptied(der: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        elements(der, 0, &mut all);
        all.iter()
            .map(|&(at, header, len)| {
                let mut out = der.to_vec();
                out.splice(at + 1..at + header + len, [0]);
                let removed = header - 1 + len - 1;
                for &(outer, outer_header, outer_len) in &all {
                    if outer < at && outer + outer_header + outer_len >= at + header + len {
                        let len = outer_len - removed;
                        match outer_header {
                            2 => out[outer + 1] = len as u8,
                            3 => out[outer + 2] = len as u8,
                            _ => out[outer + 2..outer + 4].copy_from_slice(&(len as u16).to_be_bytes()),
                        }
                    }
                }
                out
            })
            .collect()
    }

    #[test]
    fn every_element_emptied_in_turn() {
        for der in [SAMPLES.csr.der(), SAMPLES.certificate.der(), SAMPLES.csr.public_key().spki_der()] {
            let mutants = emptied(der);
            assert!(mutants.len() > 4);
            for mutant in mutants {
                read_all(&mutant);
                assert!(mutant == der || Csr::from_der(&mutant).is_err());
            }
        }
    }

    #[test]
    fn every_truncation() {
        for der in [SAMPLES.csr.der(), SAMPLES.certificate.der(), SAMPLES.pem.as_bytes()] {
            for end in 0..der.len() {
                read_all(&der[..end]);
                assert!(
                    Csr::from_der(&der[..end]).is_err() && X509Certificate::from_der(&der[..end]).is_err()
                );
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read_all(&bytes);
        }

        #[test]
        fn changed_bytes(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            for der in [SAMPLES.csr.der(), SAMPLES.certificate.der(), SAMPLES.pem.as_bytes()] {
                let mut bytes = der.to_vec();
                for (at, value) in &edits {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
                read_all(&bytes);
            }
        }

        /// The encoding around the signed part has some play; what is asked for has none.
        #[test]
        fn a_changed_request_never_asks_for_something_else(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = SAMPLES.csr.der().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(csr) = Csr::from_der(&bytes) {
                prop_assert_eq!(csr.names(), SAMPLES.csr.names());
                prop_assert_eq!(csr.common_name(), SAMPLES.csr.common_name());
                prop_assert_eq!(csr.public_key(), SAMPLES.csr.public_key());
            }
        }
    }
}
