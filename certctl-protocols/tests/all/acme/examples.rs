//! The examples of RFC 8555 and RFC 9773, and what servers make of them.

use std::net::{IpAddr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certctl_core::{RevocationReason, SubjectAltName, Timestamp, X509Certificate};
use certctl_protocols::{
    acme::wire::{
        Account, AccountStatus, Authorization, AuthorizationStatus, CertificateId, Challenge,
        ChallengeStatus, ChallengeType, Directory, Finalize, Identifier, KeyChange, NewAccount, NewOrder,
        Order, OrderStatus, OrdersList, Problem, ProblemType, RenewalInfo, Revocation, dns01_value,
        key_authorization, tls_alpn01_digest,
    },
    jose::Jwk,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

macro_rules! seed {
    ($name:literal) => {
        include_str!(concat!("../../../../fuzz/seeds/acme_wire/", $name, ".json"))
    };
}

#[test]
fn directory_of_section_7_1_1() {
    let directory: Directory = reads(seed!("directory"));
    assert_eq!(directory.new_nonce, "https://example.com/acme/new-nonce");
    assert_eq!(directory.new_account, "https://example.com/acme/new-account");
    assert_eq!(directory.new_order, "https://example.com/acme/new-order");
    assert_eq!(directory.new_authz.as_deref(), Some("https://example.com/acme/new-authz"));
    assert_eq!(directory.revoke_cert.as_deref(), Some("https://example.com/acme/revoke-cert"));
    assert_eq!(directory.key_change.as_deref(), Some("https://example.com/acme/key-change"));
    assert_eq!(directory.renewal_info, None);
    assert_eq!(directory.meta.terms_of_service.as_deref(), Some("https://example.com/acme/terms/2017-5-30"));
    assert_eq!(directory.meta.website.as_deref(), Some("https://www.example.com/"));
    assert_eq!(directory.meta.caa_identities, ["example.com"]);
    assert!(!directory.meta.external_account_required);
    assert!(directory.meta.profiles.is_empty());
}

#[test]
fn directory_with_all_that_came_later_and_with_next_to_nothing() {
    let mut full: Value = serde_json::from_str(seed!("directory")).unwrap();
    full["renewalInfo"] = json!("https://example.com/acme/renewal-info");
    full["meta"]["profiles"] = json!({ "classic": "https://example.com/docs/classic", "shortlived": "" });
    full["meta"]["externalAccountRequired"] = json!(true);
    // Let's Encrypt puts an entry with a random name into its directory, so that clients pass over what they don't know.
    full["rVfX-7xSQZs"] =
        json!("https://community.letsencrypt.org/t/adding-random-entries-to-the-directory/33417");
    let directory: Directory = reads(&full.to_string());
    assert_eq!(directory.renewal_info.as_deref(), Some("https://example.com/acme/renewal-info"));
    assert_eq!(directory.meta.profiles.keys().collect::<Vec<_>>(), ["classic", "shortlived"]);
    assert!(directory.meta.external_account_required);

    let least = json!({ "newNonce": "n", "newAccount": "a", "newOrder": "o", "meta": null });
    let directory: Directory = reads(&least.to_string());
    assert_eq!((directory.revoke_cert, directory.key_change), (None, None));
    serde_json::from_str::<Directory>(r#"{"newNonce":"n","newAccount":"a"}"#).unwrap_err();
}

#[test]
fn account_of_section_7_1_2() {
    let account: Account = reads(seed!("account"));
    assert_eq!(account.status, AccountStatus::Valid);
    assert_eq!(account.contact, ["mailto:cert-admin@example.org", "mailto:admin@example.org"]);
    assert_eq!(account.terms_of_service_agreed, Some(true));
    assert_eq!(account.orders.as_deref(), Some("https://example.com/acme/orders/rzGoeA"));
    // As Boulder gives it.
    let account: Account = reads(r#"{"key":{"kty":"EC"},"contact":null,"status":"deactivated"}"#);
    assert_eq!(account.status, AccountStatus::Deactivated);
    assert_eq!(account.contact, [""; 0]);
}

#[test]
fn orders_of_section_7_1_2_1() {
    assert_eq!(reads::<OrdersList>(seed!("orders")).orders.len(), 3);
    assert_eq!(reads::<OrdersList>(r#"{"orders":null}"#).orders, [""; 0]);
}

#[test]
fn order_of_section_7_1_3() {
    let order: Order = reads(seed!("order"));
    assert_eq!(order.status, OrderStatus::Valid);
    assert_eq!(order.expires, Some(Timestamp::from_millis(1_453_298_947_990)));
    assert_eq!(
        order.identifiers,
        [Identifier::Dns("www.example.org".into()), Identifier::Dns("example.org".into())]
    );
    assert_eq!(order.not_before, Some(Timestamp::from_secs(1_451_606_400)));
    assert_eq!(order.not_after, Some(Timestamp::from_secs(1_452_211_200)));
    assert_eq!(order.authorizations.len(), 2);
    assert_eq!(order.finalize, "https://example.com/acme/order/TOlocE8rfgo/finalize");
    assert_eq!(order.certificate.as_deref(), Some("https://example.com/acme/cert/mAt3xBGaobw"));
    assert_eq!((order.error, order.replaces, order.profile), (None, None, None));
}

#[test]
fn authorization_of_section_7_1_4() {
    let authorization: Authorization = reads(seed!("authorization"));
    assert_eq!(authorization.status, AuthorizationStatus::Valid);
    assert_eq!(authorization.identifier, Identifier::Dns("www.example.org".into()));
    assert_eq!(authorization.expires, Some(Timestamp::from_millis(1_425_218_947_990)));
    assert!(!authorization.wildcard);
    let [challenge] = &authorization.challenges[..] else { panic!("{:?}", authorization.challenges) };
    assert_eq!(challenge.kind, ChallengeType::Http01);
    assert_eq!(challenge.status, ChallengeStatus::Valid);
    assert_eq!(challenge.url, "https://example.com/acme/chall/prV_B7yEyA4");
    assert_eq!(challenge.token.as_deref(), Some("DGyRejmCefe7v4NfDGDKfA"));
    assert_eq!(challenge.validated, Some(Timestamp::from_millis(1_417_435_558_160)));
}

#[test]
fn dns_persist_has_no_token_but_names() {
    let challenge: Challenge = reads(seed!("dns-persist"));
    assert_eq!(challenge.kind, ChallengeType::DnsPersist01);
    assert_eq!(challenge.token, None);
    assert_eq!(challenge.issuer_domain_names, ["authority.example", "ca.example.net"]);
    assert_eq!(challenge.account_uri.as_deref(), Some("https://ca.example/acct/123"));
}

#[test]
fn problem_of_section_6_7_1() {
    let problem: Problem = reads(seed!("problem"));
    assert_eq!(problem.kind, ProblemType::Malformed);
    assert_eq!(problem.subproblems[1].kind, ProblemType::RejectedIdentifier);
    assert_eq!(problem.subproblems[0].identifier, Some(Identifier::Dns("_example.org".into())));
    assert_eq!(
        problem.sentence(),
        "Some of the identifiers requested were rejected (malformed); \
         _example.org: Invalid underscore in DNS name \"_example.org\" (malformed); \
         example.net: This CA will not issue for \"example.net\" (rejectedIdentifier)"
    );
}

#[test]
fn a_problem_says_what_it_has() {
    let sentence = |value: Value| serde_json::from_value::<Problem>(value).unwrap().sentence();
    assert_eq!(sentence(json!({})), "about:blank");
    assert_eq!(sentence(json!({ "status": 503 })), "about:blank, HTTP status 503");
    assert_eq!(sentence(json!({ "type": "urn:x:y", "title": "Oh", "detail": " " })), "Oh (urn:x:y)");
    assert_eq!(
        sentence(json!({ "type": null, "detail": null, "subproblems": null, "title": "No" })),
        "No (about:blank)"
    );
    let of = |name: &str| format!("urn:ietf:params:acme:error:{name}");
    assert_eq!(sentence(json!({ "type": of("rateLimited"), "detail": "later" })), "later (rateLimited)");
    assert_eq!(sentence(json!({ "type": of("new"), "detail": "what" })), "what (new)");
    assert_eq!(Problem::new(ProblemType::BadNonce, "old").sentence(), "old (badNonce)");
}

#[test]
fn every_name_of_a_problem_is_known() {
    // RFC 8555 section 6.7, RFC 9773 section 7.4, draft-ietf-acme-profiles.
    let names = "accountDoesNotExist alreadyReplaced alreadyRevoked badCSR badNonce badPublicKey badRevocationReason \
        badSignatureAlgorithm caa compound connection dns externalAccountRequired incorrectResponse invalidContact \
        invalidProfile malformed orderNotReady rateLimited rejectedIdentifier serverInternal tls unauthorized \
        unsupportedContact unsupportedIdentifier userActionRequired";
    for name in names.split_whitespace() {
        let urn = format!("urn:ietf:params:acme:error:{name}");
        let kind = ProblemType::from(urn.as_str());
        assert!(!matches!(kind, ProblemType::Other(_)), "{name}");
        assert_eq!(kind.as_str(), urn);
    }
    // Without the prefix it is somebody else's.
    assert_eq!(ProblemType::from("badNonce"), ProblemType::Other("badNonce".into()));
}

#[test]
fn identifiers_are_kept_even_if_unknown() {
    let order: NewOrder = reads(seed!("new-order"));
    let other = |kind: &str, value: &str| Identifier::Other { kind: kind.into(), value: value.into() };
    assert_eq!(
        order.identifiers,
        [
            Identifier::Dns("*.example.org".into()),
            Identifier::Ip(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
            other("permanent-identifier", "x"),
        ]
    );
    assert_eq!(order.replaces.unwrap().as_str(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    assert_eq!(order.not_before, Some(Timestamp::from_secs(1_451_592_240)));
    assert_eq!(reads::<Identifier>(r#"{"type":"ip","value":"010.0.0.1"}"#), other("ip", "010.0.0.1"));
    // RFC 8738 section 3 wants RFC 5952's form.
    let ip = Identifier::of(&SubjectAltName::ip([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0]));
    assert_eq!(serde_json::to_value(ip).unwrap(), json!({ "type": "ip", "value": "2001:db8::" }));
    let dns = Identifier::of(&SubjectAltName::dns("*.Example.org").unwrap());
    assert_eq!(serde_json::to_value(dns).unwrap(), json!({ "type": "dns", "value": "*.example.org" }));
    assert_eq!(Identifier::of(&SubjectAltName::email("a@example.org").unwrap()), None);
}

#[test]
fn requests_leave_out_what_is_not_said() {
    assert_eq!(json_of(&NewAccount::default()), json!({}));
    let find = NewAccount { only_return_existing: true, ..NewAccount::default() };
    assert_eq!(json_of(&find), json!({ "onlyReturnExisting": true }));
    let order = NewOrder { identifiers: vec![Identifier::Dns("a.example".into())], ..NewOrder::default() };
    assert_eq!(json_of(&order), json!({ "identifiers": [{ "type": "dns", "value": "a.example" }] }));
    let jwk: Jwk = serde_json::from_str(include_str!("../../../../fuzz/seeds/jwk/ed25519.json")).unwrap();
    let change = KeyChange { account: "https://a.example/1".into(), old_key: jwk };
    let expected = json!({
        "account": "https://a.example/1",
        "oldKey": { "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
    });
    assert_eq!(json_of(&change), expected);
    assert_eq!(json_of(&Finalize { csr: vec![0xfb, 0xff, 0] }), json!({ "csr": "-_8A" }));
}

#[test]
fn revocation_names_the_reasons_number() {
    let certificate = example_certificate();
    let number =
        |reason| serde_json::to_value(Revocation::new(&certificate, reason)).unwrap()["reason"].clone();
    assert_eq!(number(RevocationReason::Unspecified), Value::Null);
    assert_eq!(number(RevocationReason::KeyCompromise), 1);
    assert_eq!(number(RevocationReason::CaCompromise), 2);
    assert_eq!(number(RevocationReason::AffiliationChanged), 3);
    assert_eq!(number(RevocationReason::Superseded), 4);
    assert_eq!(number(RevocationReason::CessationOfOperation), 5);
    assert_eq!(number(RevocationReason::CertificateHold), 6);
    assert_eq!(number(RevocationReason::PrivilegeWithdrawn), 9);
    assert_eq!(number(RevocationReason::AaCompromise), 10);
    assert_eq!(Revocation::new(&certificate, RevocationReason::Superseded).certificate, certificate.der());
}

#[test]
fn renewal_information_of_rfc_9773_section_4_2() {
    let info: RenewalInfo = reads(seed!("renewal-info"));
    assert_eq!(info.suggested_window.start, Timestamp::from_secs(1_735_790_400));
    assert_eq!(info.suggested_window.end, Timestamp::from_secs(1_735_876_800));
    assert_eq!(info.explanation_url.as_deref(), Some("https://acme.example.com/docs/ari"));
}

#[test]
fn certificate_id_of_rfc_9773_section_4_1() {
    let id = CertificateId::of(&example_certificate()).unwrap();
    assert_eq!(id.as_str(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    assert_eq!(id.serial_octets(), [0, 0x87, 0x65, 0x43, 0x21]);
    assert_eq!(id.authority_key_id()[..4], [0x69, 0x88, 0x5b, 0x6b]);
    assert_eq!(id.as_str().parse::<CertificateId>().unwrap(), id);
}

#[test]
fn a_certificate_without_an_authority_key_identifier_has_no_id() {
    // The same certificate, with an extension that nobody knows in its place.
    let mut der = example_certificate().der().to_vec();
    let oid = der.windows(5).position(|octets| octets == [0x06, 0x03, 0x55, 0x1d, 0x23]).unwrap();
    der[oid + 4] = 0x7f;
    let without = X509Certificate::from_der(&der).unwrap();
    assert_eq!(without.authority_key_id(), None);
    let message = CertificateId::of(&without).unwrap_err().to_string();
    assert!(message.contains("no authority key identifier"), "{message}");
}

#[test]
fn answers_to_challenges() {
    // The account key of RFC 8555's examples is not printed, RFC 8037's is.
    let jwk: Jwk = serde_json::from_str(include_str!("../../../../fuzz/seeds/jwk/ed25519.json")).unwrap();
    let authorization = key_authorization("DGyRejmCefe7v4NfDGDKfA", &jwk.public_key().unwrap()).unwrap();
    assert_eq!(authorization, "DGyRejmCefe7v4NfDGDKfA.kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    // Computed with Python's hashlib.
    assert_eq!(dns01_value(&authorization), "bl1yq7QXQQajaEYNFcbypNpbIQ9-X67edgT9QsuejSY");
    assert_eq!(tls_alpn01_digest(&authorization)[..4], [0x6e, 0x5d, 0x72, 0xab]);
    key_authorization("../x", &jwk.public_key().unwrap()).unwrap_err();
}

fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// Reads, and checks that writing and reading again changes nothing.
fn reads<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(json: &str) -> T {
    let value: T = serde_json::from_str(json).unwrap();
    let again: T = serde_json::from_value(serde_json::to_value(&value).unwrap()).unwrap();
    assert_eq!(again, value);
    value
}

/// RFC 9773 appendix A.
fn example_certificate() -> X509Certificate {
    let der = STANDARD.decode(concat!(
        "MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt",
        "cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS",
        "BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu",
        "7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf",
        "qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B",
        "yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb",
        "+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK",
    ));
    X509Certificate::from_der(&der.unwrap()).unwrap()
}
