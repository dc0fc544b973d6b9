//! The account's key and what binds it to an external account are nowhere to be read.

use certctl::{Context, Secret, SecretRef};
use serde_json::json;

use super::{ALWAYS, Life, always, instead};
use crate::acme::server::{Answer, Manners, Resource, Twist};

/// base64url of `canary-canary-canary-canary-canary`.
const HMAC: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbmFyeQ";
const HMAC_CLEAR: &str = "canary-canary-canary-canary-canary";

fn bound(rules: Vec<super::Rule>) -> Manners {
    let eab = Some(("kid-1".to_owned(), Secret::new(HMAC_CLEAR.as_bytes())));
    Manners { rules, eab, ..Manners::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_appear_in_no_error_no_event_and_no_debug_output() {
    let failures: [(&str, fn() -> Vec<super::Rule>); 5] = [
        ("", Vec::new),
        ("no", || always(Resource::NewAccount, instead(Answer::problem(403, "unauthorized", "no")))),
        ("is not the", || {
            always(Resource::NewAccount, instead(Answer::json(201, &json!({ "status": [1] }))))
        }),
        ("no", || vec![(Resource::NewOrder, ALWAYS, instead(Answer::problem(400, "malformed", "no")))]),
        ("in a row", || always(Resource::NewOrder, Twist::Instead(Answer::problem(400, "badNonce", "no")))),
    ];
    for (sentence, rules) in failures {
        let life = Life::new(bound(rules()), |acme| {
            acme.eab_kid = Some("kid-1".to_owned());
            acme.eab_hmac = Some(SecretRef::Value(Secret::new(HMAC.as_bytes())));
        })
        .await;
        if sentence.is_empty() {
            life.succeeds().await;
        } else {
            life.fails(sentence).await;
        }
        let issuer = life.issuer().await;
        let cx = Context::new(std::sync::Arc::new(life.clock.clone()));
        let mut seen = format!("{:?} {:?} {:#?}", life.engine, issuer, life.everything().await);
        let account = issuer.account().unwrap();
        let mut canaries = vec![HMAC.to_owned(), HMAC_CLEAR.to_owned()];
        if let Ok(exported) = account.export(&cx).await {
            seen.push_str(&format!("{exported:?}"));
            let exported: serde_json::Value = serde_json::from_slice(exported.expose()).unwrap();
            let pem = exported["key"].as_str().unwrap();
            canaries.extend(pem.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
            assert!(canaries.len() > 3, "the key has lines");
        }
        for canary in canaries {
            assert!(!seen.contains(&canary), "{sentence}: a secret is seen");
            // Not as a list of octets either.
            let octets = format!("{:?}", canary.as_bytes());
            assert!(
                !seen.contains(octets.trim_matches(['[', ']'])),
                "{sentence}: a secret's octets are seen"
            );
        }
    }
}

/// What a CA gives for an email address has a key in it: no part of it is quoted, however malformed it is.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_quoted() {
    let canary = "dG9wLXNlY3JldC1jYW5hcnk";
    for body in [
        format!("{{\"success\":true,\"eab_kid\":\"k\",\"eab_hmac_key\":\"{canary}"),
        format!("{{\"success\":\"{canary}\",\"eab_kid\":\"k\",\"eab_hmac_key\":\"{canary}\"}}"),
        format!("{{\"success\":true,\"eab_kid\":[\"{canary}\"],\"eab_hmac_key\":\"{canary}\"}}"),
        format!(
            "{{\"success\":false,\"error\":\"{canary}\",\"eab_kid\":\"k\",\"eab_hmac_key\":\"{canary}\"}}"
        ),
        format!("{{\"success\":true,\"eab_kid\":\"k\",\"eab_hmac_key\":\"!{canary}\"}}"),
    ] {
        let rules =
            always(Resource::RenewalInfo, instead(Answer::new(200, "application/json", body.clone())));
        let life = Life::new(bound(rules), |acme| {
            // Any address of the server's will do.
            let url = acme.directory_url.replace("/directory", "/renewal-info");
            acme.eab_credentials_url = Some(url);
        })
        .await;
        let error = life.fails("").await;
        let seen = format!("{error:?} {}", life.everything().await);
        assert!(!seen.contains(canary), "{body}");
        assert_eq!(life.server.count(Resource::RenewalInfo), 1, "{body}: {seen}");
    }
}
