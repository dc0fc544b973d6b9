use certctl_core::{
    Id, Recipient, SealedAt, Sealer,
    records::{Place, Probe, TargetRecord},
};
use serde_json::json;

use super::*;

const AT: SealedAt<'static> = SealedAt { table: "targets", id: "tgt-1", field: "password" };

#[test]
fn only_the_right_key_opens_and_only_as_the_right_field() {
    let key = RecipientKey::generate().unwrap();
    let sealed = key.recipient().seal(&AT, &Secret::new("hunter2")).unwrap();
    assert!(sealed.is_for_recipient());
    assert_eq!(key.open(&AT, &sealed).unwrap(), Secret::new("hunter2"));
    // No two are the same.
    assert_ne!(sealed, key.recipient().seal(&AT, &Secret::new("hunter2")).unwrap());

    assert_kind(RecipientKey::generate().unwrap().open(&AT, &sealed), ErrorKind::Precondition);
    for elsewhere in [
        SealedAt { table: "issuers", ..AT },
        SealedAt { id: "tgt-2", ..AT },
        SealedAt { field: "token", ..AT },
    ] {
        let error = assert_kind(key.open(&elsewhere, &sealed), ErrorKind::Precondition);
        assert!(error.to_string().contains(elsewhere.id), "{error}");
    }
    // Damaged anywhere, cut off anywhere.
    let text = serde_json::to_value(&sealed).unwrap().as_str().unwrap().to_owned();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let damaged = serde_json::from_value(json!(String::from_utf8(bytes).unwrap())).unwrap();
        assert_kind(key.open(&AT, &damaged), ErrorKind::Precondition);
        let cut = serde_json::from_value(json!(text[..at])).unwrap();
        assert_kind(key.open(&AT, &cut), ErrorKind::Precondition);
    }
}

#[test]
fn neither_form_is_taken_for_the_other() {
    let (sealer, key) = (Sealer::ephemeral(), RecipientKey::generate().unwrap());
    let stored = sealer.seal(&AT, &Secret::new("hunter2")).unwrap();
    let sent = key.recipient().seal(&AT, &Secret::new("hunter2")).unwrap();
    assert!(!stored.is_for_recipient());
    let error = assert_kind(key.open(&AT, &stored), ErrorKind::Precondition);
    assert!(error.to_string().contains("sealed for its store"), "{error}");
    assert_kind(sealer.open(&AT, &sent), ErrorKind::Precondition);
}

#[test]
fn a_key_is_kept_in_a_file_and_shown_to_nobody() {
    let key = RecipientKey::generate().unwrap();
    let text = key.to_secret();
    let line = Secret::new([text.expose(), b"\n"].concat());
    let read = RecipientKey::from_secret(&line).unwrap();
    assert_eq!(read.recipient(), key.recipient());
    let sealed = key.recipient().seal(&AT, &Secret::new("hunter2")).unwrap();
    assert_eq!(read.open(&AT, &sealed).unwrap(), Secret::new("hunter2"));
    assert!(!format!("{key:?}").contains(text.expose_str().unwrap()));
    for bad in ["", "AAAA", "not base64!"] {
        assert_kind(RecipientKey::from_secret(&Secret::new(bad)), ErrorKind::Invalid);
        assert_kind(Recipient::parse(bad), ErrorKind::Invalid);
    }
    let public = serde_json::to_value(key.recipient()).unwrap();
    assert_eq!(serde_json::from_value::<Recipient>(public).unwrap(), *key.recipient());
}

/// RFC 9180 appendix A.1 has this key, though with AES-128: what it proves is the key's form.
#[test]
fn the_public_half_is_that_of_the_rfc() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let private = hex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
    let public = hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d");
    use base64::Engine as _;
    let private = base64::engine::general_purpose::STANDARD.encode(private);
    let key = RecipientKey::from_secret(&Secret::new(private)).unwrap();
    assert_eq!(key.recipient().as_bytes(), public);
}

#[tokio::test]
async fn what_an_agent_gets_is_sealed_to_it() {
    let world = World::new().await;
    let key = RecipientKey::generate().unwrap();
    let sealed = |field: &str, text: &str| json!({ "sealed": world.home.sealer.seal(&SealedAt { field, ..AT }, &Secret::new(text)).unwrap() });
    let config = json!({
        "url": "https://f5.test",
        "password": sealed("password", "hunter2"),
        "tokens": [sealed("tokens", "one"), { "env": "TOKEN" }],
        "dns": { "config": { "key": sealed("key", "deep") } },
        "sealed": true,
    });
    let record = TargetRecord {
        id: Id::parse("tgt-1").unwrap(),
        name: "f5".into(),
        kind: "f5".into(),
        config: Some(config.clone()),
        place: Place::default(),
        probe: Probe::default(),
        write: certctl_core::WriteMode::default(),
        checked: None,
    };
    let sent = world.engine.catalog().for_agent(&record, key.recipient()).unwrap();
    let sent = sent.config.unwrap();
    let open = |field: &str, at: &str| {
        let sealed = serde_json::from_value(sent.pointer(at).unwrap()["sealed"].clone()).unwrap();
        assert!(world.home.sealer.open(&SealedAt { field, ..AT }, &sealed).is_err());
        key.open(&SealedAt { field, ..AT }, &sealed).unwrap()
    };
    assert_eq!(open("password", "/password"), Secret::new("hunter2"));
    assert_eq!(open("tokens", "/tokens/0"), Secret::new("one"));
    assert_eq!(open("key", "/dns/config/key"), Secret::new("deep"));
    assert_eq!((&sent["url"], &sent["tokens"][1]), (&config["url"], &json!({ "env": "TOKEN" })));
    assert_eq!(sent["sealed"], true);

    // A store whose key is another one can't hand it out, and says which field of what.
    let other = World::new().await;
    let error =
        assert_kind(other.engine.catalog().for_agent(&record, key.recipient()), ErrorKind::Precondition);
    assert!(error.to_string().contains("tgt-1") && !error.to_string().contains("hunter2"), "{error}");
}
