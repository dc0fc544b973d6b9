use certctl_core::{ApiKeySpec, Lifetime, records::ApiKey};

use super::*;

#[tokio::test]
async fn a_key_says_who_asks() {
    let world = World::new().await;
    let (key, secret) =
        world.engine.create_api_key(&admin(), ApiKeySpec::new("ci", Role::Operator)).await.unwrap();
    let text = secret.expose_str().unwrap();
    assert!(text.starts_with(&format!("certctl_{}_", key.id.suffix())), "it says what it is");
    assert_eq!(text.len(), "certctl_".len() + key.id.suffix().len() + 1 + 43, "256 random bits");
    // Another server on the same store knows it as well.
    for engine in [&world.engine, &world.other().await] {
        assert_eq!(engine.authenticate(&secret).await.unwrap(), Actor::new("ci", Role::Operator));
    }
    let stored: Stored<ApiKey> = world.engine.read(&admin(), "ci").await.unwrap();
    assert_eq!(stored.last_used, Some(world.clock.now()));
    assert_eq!(world.actions(key.id.as_str()).await[0].action, "api_key.created".into());
}

#[tokio::test]
async fn what_is_stored_opens_nothing() {
    let world = World::new().await;
    let (_, secret) =
        world.engine.create_api_key(&admin(), ApiKeySpec::new("ci", Role::Admin)).await.unwrap();
    let token = world.token("web-1").await;
    let machine = Machine::new("web-1");
    world.enroll(&machine, &token).await.unwrap();
    let session = world.open(&machine).await.unwrap().token;
    world.engine.authenticate(&secret).await.unwrap();
    let everything = world.everything().await;
    assert!(everything.contains("web-1") && everything.contains("\"ci\""));
    for secret in [&secret, &token] {
        let text = secret.expose_str().unwrap();
        // What it is and whose it is come first; the random part may have underscores of its own.
        let random = text.splitn(3, '_').nth(2).unwrap();
        assert!(!everything.contains(text) && !everything.contains(&random[..16]), "{text}");
    }
    assert!(!everything.contains(session.expose_str().unwrap()));
    // Nor does a record print it.
    let stored: Stored<ApiKey> = world.engine.read(&admin(), "ci").await.unwrap();
    assert!(format!("{stored:?}").contains("hash: ***"));
}

#[tokio::test]
async fn a_wrong_key_and_one_that_is_no_more_are_refused_in_the_same_words() {
    let world = World::new().await;
    let make = async |name: &str, valid| {
        let spec = ApiKeySpec { valid, ..ApiKeySpec::new(name, Role::Viewer) };
        world.engine.create_api_key(&admin(), spec).await.unwrap()
    };
    let (_, good) = make("good", None).await;
    let (revoked, of_revoked) = make("revoked", None).await;
    let (_, of_expired) = make("expired", Some(Lifetime::hours(1))).await;
    world.engine.authenticate(&of_expired).await.unwrap();
    world.engine.revoke_api_key(&admin(), revoked.id.as_str()).await.unwrap();
    // Again, by name: it is what it was.
    let again = world.engine.revoke_api_key(&admin(), "revoked").await.unwrap();
    assert_eq!(world.actions(again.id.as_str()).await.len(), 2);
    world.pass(HOUR);

    let good = good.expose_str().unwrap();
    let last = if good.ends_with('A') { 'B' } else { 'A' };
    let changed = format!("{}{last}", &good[..good.len() - 1]);
    let other_id = good.replacen(&good[8..12], "zzzz", 1);
    let wrong = [
        changed.as_str(),
        other_id.as_str(),
        &good[..good.len() - 1],
        &good[1..],
        "",
        "certctl_",
        "certctl__",
        "session_",
        of_revoked.expose_str().unwrap(),
        of_expired.expose_str().unwrap(),
        "\u{fffd}certctl_ak_x",
    ];
    let mut said = std::collections::BTreeSet::new();
    for wrong in wrong {
        let error =
            assert_kind(world.engine.authenticate(&Secret::new(wrong)).await, ErrorKind::Unauthenticated);
        assert!(wrong.is_empty() || !format!("{error:?} {error}").contains(wrong));
        if !wrong.starts_with("session_") {
            said.insert(error.to_string());
        }
    }
    assert_eq!(said.len(), 1, "{said:?}");
    assert_kind(world.engine.authenticate(&Secret::new([0xff, 0xfe])).await, ErrorKind::Unauthenticated);
    world.engine.authenticate(&Secret::new(good)).await.unwrap();
}

#[tokio::test]
async fn when_a_key_was_used_is_written_once_an_hour_and_without_an_event() {
    let world = World::new().await;
    let (key, secret) =
        world.engine.create_api_key(&admin(), ApiKeySpec::new("ci", Role::Viewer)).await.unwrap();
    let stored = async || world.engine.read::<ApiKey>(&admin(), "ci").await.unwrap();
    let begin = world.clock.now();
    for _ in 0..3 {
        world.engine.authenticate(&secret).await.unwrap();
        world.pass(MINUTE);
    }
    assert_eq!((stored().await.last_used, stored().await.version()), (Some(begin), 2));
    world.pass(HOUR);
    world.engine.authenticate(&secret).await.unwrap();
    assert_eq!((stored().await.last_used, stored().await.version()), (Some(world.clock.now()), 3));
    assert_eq!(world.actions(key.id.as_str()).await.len(), 1);
}

#[tokio::test]
async fn the_first_start_makes_one_key() {
    let world = World::new().await;
    let first = world.engine.ensure_api_key("admin", Role::Admin).await.unwrap().unwrap();
    assert_eq!(world.engine.authenticate(&first).await.unwrap(), Actor::new("admin", Role::Admin));
    assert!(world.other().await.ensure_api_key("admin", Role::Admin).await.unwrap().is_none());
    // A key of another role does not help an admin who is locked out.
    world.engine.create_api_key(&admin(), ApiKeySpec::new("eyes", Role::Viewer)).await.unwrap();
    world.engine.revoke_api_key(&admin(), "admin").await.unwrap();
    let second = world.engine.ensure_api_key("admin", Role::Admin).await.unwrap().unwrap();
    assert_eq!(world.engine.authenticate(&second).await.unwrap().name(), "admin-2");
}

#[tokio::test]
async fn a_spec_is_checked_and_a_name_is_unique() {
    let world = World::new().await;
    let make = async |spec| world.engine.create_api_key(&admin(), spec).await;
    let spec = ApiKeySpec { valid: Some(Lifetime::secs(0)), ..ApiKeySpec::new("ak-like-an-id", Role::Agent) };
    assert_invalid(make(spec).await, &["/name", "/role", "/valid"]);
    make(ApiKeySpec::new("ci", Role::Viewer)).await.unwrap();
    let error = assert_kind(make(ApiKeySpec::new("ci", Role::Viewer)).await, ErrorKind::Conflict);
    assert_eq!(error.violations()[0].pointer, "/name");
}

#[tokio::test]
async fn only_an_admin_manages_access_and_agents() {
    let world = World::new().await;
    world.enrolled("web-1").await;
    for role in [Role::Operator, Role::Viewer, Role::Agent] {
        let (engine, actor) = (&world.engine, as_role(role));
        let error = assert_kind(
            engine.create_api_key(&actor, ApiKeySpec::new("x", Role::Admin)).await,
            ErrorKind::Denied,
        );
        assert!(error.to_string().ends_with("ask as admin"), "{error}");
        assert_kind(engine.revoke_api_key(&actor, "x").await, ErrorKind::Denied);
        assert_kind(engine.read::<ApiKey>(&actor, "x").await, ErrorKind::Denied);
        assert_kind(engine.list::<ApiKey>(&actor, Query::of::<ApiKey>()).await, ErrorKind::Denied);
        assert_kind(engine.create_enroll_token(&actor, "x", None).await, ErrorKind::Denied);
        assert_kind(engine.revoke_agent(&actor, "web-1").await, ErrorKind::Denied);
        assert_kind(engine.resolve_agent(&actor, "web-1", "x").await, ErrorKind::Denied);
        assert_kind(engine.delete_agent(&actor, "web-1").await, ErrorKind::Denied);
    }
}
