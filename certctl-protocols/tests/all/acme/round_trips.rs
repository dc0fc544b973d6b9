//! Everything that can be said is the same after writing and reading.

use std::{fmt::Debug, net::IpAddr, sync::LazyLock};

use certctl_core::{KeyAlgorithm, PrivateKey, Timestamp};
use certctl_protocols::{
    acme::wire::{
        Account, AccountStatus, AccountUpdate, Authorization, AuthorizationStatus, CertificateId, Challenge,
        ChallengeStatus, ChallengeType, Directory, DirectoryMeta, Finalize, Identifier, KeyChange,
        NewAccount, NewOrder, Order, OrderStatus, OrdersList, Problem, ProblemType, RenewalInfo, Revocation,
        SuggestedWindow,
    },
    jose::{Jwk, Jws},
};
use proptest::{collection::vec, option, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

proptest! {
    #[test]
    fn directories(
        (new_nonce, new_account, new_order) in (text(), text(), text()),
        (new_authz, revoke_cert, key_change, renewal_info) in (some(), some(), some(), some()),
        (terms_of_service, website, external_account_required) in (some(), some(), any::<bool>()),
        caa_identities in vec(text(), 0..3),
        profiles in prop::collection::btree_map(text(), text(), 0..3),
    ) {
        let meta = DirectoryMeta { terms_of_service, website, caa_identities, external_account_required, profiles };
        same(&Directory { new_nonce, new_account, new_order, new_authz, revoke_cert, key_change, renewal_info, meta })?;
    }

    #[test]
    fn accounts(
        contact in vec(text(), 0..3),
        status in text(),
        (agreed, flag, orders) in (option::of(any::<bool>()), any::<bool>(), some()),
        jws in option::of((text(), text(), text())),
        listed in vec(text(), 0..3),
    ) {
        let external_account_binding =
            jws.map(|(protected, payload, signature)| Jws { protected, payload, signature });
        same(&NewAccount {
            contact: contact.clone(),
            terms_of_service_agreed: flag,
            only_return_existing: !flag,
            external_account_binding,
        })?;
        let status = AccountStatus::from(status.as_str());
        let update = AccountUpdate {
            contact: agreed.map(|_| contact.clone()),
            terms_of_service_agreed: agreed,
            status: Some(status.clone()),
        };
        same(&update)?;
        same(&Account { status, contact, terms_of_service_agreed: agreed, orders })?;
        same(&OrdersList { orders: listed })?;
    }

    #[test]
    fn key_changes(account in text(), at in 0..3_usize) {
        static KEYS: LazyLock<Vec<Jwk>> = LazyLock::new(|| {
            let kinds = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519];
            kinds.map(|kind| Jwk::from_public_key(PrivateKey::generate(kind).unwrap().public_key()).unwrap()).into()
        });
        same(&KeyChange { account, old_key: KEYS[at].clone() })?;
    }

    #[test]
    fn orders(
        status in text(),
        identifiers in vec(identifier(), 0..4),
        (expires, not_before, not_after) in (option::of(time()), option::of(time()), option::of(time())),
        error in option::of(problem()),
        authorizations in vec(text(), 0..4),
        (finalize, certificate, profile) in (text(), some(), some()),
        (key_id, serial) in (vec(any::<u8>(), 1..30), vec(any::<u8>(), 1..22)),
    ) {
        let replaces: CertificateId = format!("{}.{}", base64url(&key_id), base64url(&serial)).parse().unwrap();
        prop_assert_eq!((replaces.authority_key_id(), replaces.serial_octets()), (key_id, serial));
        same(&NewOrder {
            identifiers: identifiers.clone(),
            not_before,
            not_after,
            profile: profile.clone(),
            replaces: Some(replaces.clone()),
        })?;
        same(&Order {
            status: OrderStatus::from(status.as_str()),
            expires,
            identifiers,
            not_before,
            not_after,
            error,
            authorizations,
            finalize,
            certificate,
            replaces: Some(replaces.to_string()),
            profile,
        })?;
    }

    #[test]
    fn authorizations(
        identifier in identifier(),
        (status, expires, wildcard) in (text(), option::of(time()), any::<bool>()),
        challenges in vec(challenge(), 0..4),
    ) {
        let status = AuthorizationStatus::from(status.as_str());
        same(&Authorization { identifier, status, expires, challenges, wildcard })?;
    }

    #[test]
    fn problems(problem in problem()) {
        same(&problem)?;
        let sentence = problem.sentence();
        prop_assert!(sentence.chars().count() <= Problem::MAX_SENTENCE);
        prop_assert!(!sentence.contains(char::is_control));
    }

    #[test]
    fn octets_and_windows(
        octets in vec(any::<u8>(), 0..200),
        reason in option::of(any::<u8>()),
        (start, end, explanation_url) in (time(), time(), some()),
    ) {
        same(&Finalize { csr: octets.clone() })?;
        same(&Revocation { certificate: octets, reason })?;
        same(&RenewalInfo { suggested_window: SuggestedWindow { start, end }, explanation_url })?;
    }
}

fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(value).unwrap();
    prop_assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{}", json);
    Ok(())
}

/// Also the words that mean something, and everything that JSON has to escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,20}",
        any::<String>(),
        prop::sample::select(vec!["valid", "pending", "invalid", "dns-01", "null", "", "\u{0}\"\\"])
            .prop_map(Into::into),
    ]
}

fn some() -> impl Strategy<Value = Option<String>> {
    option::of(text())
}

/// The years 0 to 9999, in milliseconds.
fn time() -> impl Strategy<Value = Timestamp> {
    (-62_167_219_200_000_i64..=253_402_300_799_999).prop_map(Timestamp::from_millis)
}

fn identifier() -> impl Strategy<Value = Identifier> {
    let other = (text(), text()).prop_filter("it would be read as a known one", |(kind, value)| {
        kind != "dns" && (kind != "ip" || value.parse::<IpAddr>().is_err())
    });
    prop_oneof![
        text().prop_map(Identifier::Dns),
        any::<IpAddr>().prop_map(Identifier::Ip),
        other.prop_map(|(kind, value)| Identifier::Other { kind, value }),
        Just(Identifier::Other { kind: "ip".into(), value: "none".into() }),
    ]
}

fn challenge() -> impl Strategy<Value = Challenge> {
    let parts = (
        text(),
        text(),
        text(),
        option::of(time()),
        option::of(problem()),
        some(),
        vec(text(), 0..3),
        some(),
    );
    parts.prop_map(|(kind, url, status, validated, error, token, issuer_domain_names, account_uri)| {
        Challenge {
            kind: ChallengeType::from(kind.as_str()),
            url,
            status: ChallengeStatus::from(status.as_str()),
            validated,
            error,
            token,
            issuer_domain_names,
            account_uri,
        }
    })
}

fn problem() -> impl Strategy<Value = Problem> {
    let kind = prop_oneof![
        text(),
        prop::sample::select(vec!["badNonce", "rateLimited", "caa"])
            .prop_map(|name| format!("urn:ietf:params:acme:error:{name}")),
    ];
    let parts =
        (kind, some(), some(), option::of(any::<u16>()), some(), option::of(identifier()), vec(text(), 0..3));
    let leaf = parts.prop_map(|(kind, title, detail, status, instance, identifier, algorithms)| Problem {
        kind: ProblemType::from(kind.as_str()),
        title,
        detail,
        status,
        instance,
        identifier,
        subproblems: Vec::new(),
        algorithms,
    });
    leaf.prop_recursive(3, 12, 4, |inner| {
        (inner.clone(), vec(inner, 0..4))
            .prop_map(|(problem, subproblems)| Problem { subproblems, ..problem })
    })
}

fn base64url(octets: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(octets)
}
