use certctl_core::{Fingerprint, records::ConnectorInfo};
use serde_json::json;

use super::*;

#[tokio::test]
async fn an_agent_signs_a_challenge_for_ten_minutes() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let session = world.open_from(&machine, Some("192.0.2.7")).await.unwrap();
    assert_eq!((&*session.name, session.expires), ("web-1", world.clock.now() + 10 * MINUTE));
    assert!(session.token.expose_str().unwrap().starts_with("session_"));
    // A second server, or this one after a restart, takes it as well.
    for engine in [&world.engine, &world.other().await] {
        let known = engine.agent_session(&session.token).await.unwrap();
        assert_eq!((&known.agent, &*known.instance), (&session.agent, &*machine.instance));
        assert_eq!(known.seat(), format!("{}/{}", known.agent, machine.instance));
        assert_eq!(engine.authenticate(&session.token).await.unwrap(), known.actor());
        assert_eq!(known.actor().role(), Role::Agent);
    }
    world.pass(10 * MINUTE - Duration::from_millis(1));
    world.session(&session.token).await.unwrap();
    world.pass(Duration::from_millis(1));
    assert_kind(world.session(&session.token).await, ErrorKind::Unauthenticated);
    // An agent that was offline for a year comes back.
    world.pass(365 * 24 * HOUR);
    world.open(&machine).await.unwrap();
}

#[tokio::test]
async fn a_challenge_is_answered_once_and_in_time() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let request = machine.request(&world.engine).await;
    let open = async |request: &SessionRequest| world.engine.open_session(request, None).await;
    open(&request).await.unwrap();
    // Whoever has recorded it can't use it again, here or at another server.
    assert_kind(open(&request).await, ErrorKind::Unauthenticated);
    assert_kind(world.other().await.open_session(&request, None).await, ErrorKind::Unauthenticated);

    let late = machine.request(&world.engine).await;
    world.pass(MINUTE);
    assert_kind(open(&late).await, ErrorKind::Unauthenticated);
    // Of another server's key, or made up.
    let foreign = World::new().await;
    foreign.clock.set(world.clock.now());
    let foreign = machine.request(&foreign.engine).await;
    assert_kind(open(&foreign).await, ErrorKind::Unauthenticated);
    for challenge in ["", "AAAA", "not base64!", &"A".repeat(75)] {
        let forged = SessionRequest { challenge: challenge.into(), ..machine.request(&world.engine).await };
        assert_kind(open(&forged).await, ErrorKind::Unauthenticated);
    }
    let good = world.engine.session_challenge();
    assert_eq!(good.expires, world.clock.now() + MINUTE);
    open(&machine.request(&world.engine).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_answer_the_same_challenge_at_once_one_gets_in() {
    let world = Arc::new(World::new().await);
    let machine = world.enrolled("web-1").await;
    for _ in 0..20 {
        world.pass(Duration::from_millis(1));
        let request = machine.request(&world.engine).await;
        let barrier = Arc::new(tokio::sync::Barrier::new(3));
        let tries: Vec<_> = (0..3)
            .map(|_| {
                let (world, request, barrier) = (world.clone(), request.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    world.engine.open_session(&request, None).await
                })
            })
            .collect();
        let mut opened = 0;
        for one in tries {
            match one.await.unwrap() {
                Ok(_) => opened += 1,
                refused => drop(assert_kind(refused, ErrorKind::Unauthenticated)),
            }
        }
        assert_eq!(opened, 1);
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_locks_nobody_out() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    world.pass(24 * HOUR);
    let recorded = machine.request(&world.engine).await;
    world.engine.open_session(&recorded, None).await.unwrap();
    world.clock.set(world.clock.now() - 24 * HOUR);
    world.open(&machine).await.unwrap();
    // What was recorded then is from the future now.
    assert_kind(world.engine.open_session(&recorded, None).await, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_wrong_key_agent_or_answer_gets_the_same_words() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    world.enrolled("web-2").await;
    world.token("awaited").await;
    let mut said = Vec::new();
    let mut refused = async |request: SessionRequest| {
        said.push(assert_kind(world.engine.open_session(&request, None).await, ErrorKind::Unauthenticated));
    };
    let as_name = |name: &str| Machine { name: name.into(), ..machine.clone() };
    for name in ["web-2", "awaited", "nobody", "ag-nobody", "", "ag-", "ag-/etc"] {
        refused(as_name(name).request(&world.engine).await).await;
    }
    let other_key = Machine { signing: Machine::new("x").signing, ..machine.clone() };
    refused(other_key.request(&world.engine).await).await;
    let right = machine.request(&world.engine).await;
    refused(SessionRequest { agent: world.agent("web-1").await.id.to_string(), ..right.clone() }).await;
    refused(SessionRequest { instance: "another-instance".into(), ..right.clone() }).await;
    refused(SessionRequest { signature: "no base64!".into(), ..right.clone() }).await;
    assert!(said.iter().all(|error| error.to_string() == said[0].to_string()), "{said:?}");
    world.engine.open_session(&right, None).await.unwrap();
}

#[tokio::test]
async fn a_request_is_checked_as_input() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let huge = ConnectorInfo {
        family: "target".into(),
        kind: "huge".into(),
        aliases: Vec::new(),
        schema: json!("x".repeat(1024 * 1024)),
    };
    let request = SessionRequest {
        instance: "a b".into(),
        version: "v".repeat(101),
        connectors: vec![huge],
        trusts: vec![Fingerprint::of(b"x"); 101],
        ..machine.request(&world.engine).await
    };
    let opened = world.engine.open_session(&request, None).await;
    assert_invalid(opened, &["/instance", "/version", "/trusts", "/connectors"]);
}

#[tokio::test]
async fn a_session_can_t_be_forged() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let session = world.open(&machine).await.unwrap();
    let text = session.token.expose_str().unwrap().to_owned();
    let (body, code) = text.split_once('.').unwrap();
    let other = World::new().await;
    let foreign = other.enrolled("web-1").await;
    let foreign = other.open(&foreign).await.unwrap();
    let mut forged = vec![
        body.to_owned(),
        format!("{body}."),
        format!("{body}.{}", "A".repeat(43)),
        format!("{}{}.{code}", &body[..body.len() - 1], if body.ends_with('A') { 'Q' } else { 'A' }),
        "session_.".into(),
        foreign.token.expose_str().unwrap().into(),
    ];
    // Each character counts.
    for at in [10, body.len() / 2, body.len() - 2, text.len() - 3] {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'b' { b'c' } else { b'b' };
        forged.push(String::from_utf8(bytes).unwrap());
    }
    for forged in forged {
        assert_kind(world.session(&Secret::new(forged)).await, ErrorKind::Unauthenticated);
    }
    world.session(&session.token).await.unwrap();
}

#[tokio::test]
async fn a_restart_is_no_clash() {
    let world = World::new().await;
    let first = world.enrolled("web-1").await;
    let mut last = world.open(&first).await.unwrap();
    for start in 0..20 {
        world.pass(SECOND);
        let next = first.process(&format!("process-{start:03}"));
        let session = world.open(&next).await.unwrap();
        // What the process before has sent off still arrives, for some seconds.
        world.session(&last.token).await.unwrap();
        world.pass(3 * SECOND);
        world.session(&last.token).await.unwrap();
        world.session(&session.token).await.unwrap();
        // A session is renewed within one process.
        last = world.open(&next).await.unwrap();
    }
    let agent = world.agent("web-1").await;
    assert_eq!(agent.state(), "enrolled");
    let presence = world.engine.agent_presence(&admin(), "web-1").await.unwrap().unwrap();
    assert_eq!((&*presence.now.instance, &*presence.version), ("process-019", "1.0"));
    assert_eq!(presence.earlier.len(), 8, "no more are remembered");
    let started =
        world.actions(agent.id.as_str()).await.iter().filter(|e| &*e.action == "agent.started").count();
    assert_eq!(started, 21, "each start has an event, and a renewed session has none");
}

#[tokio::test]
async fn two_processes_with_one_identity_are_both_told() {
    let world = World::new().await;
    let original = world.enrolled("web-1").await;
    let copy = original.process("the-copy-process");
    let first = world.open_from(&original, Some("192.0.2.1")).await.unwrap();
    world.pass(MINUTE);
    let second = world.open_from(&copy, Some("192.0.2.2")).await.unwrap();
    world.pass(5 * SECOND);
    // The original goes on, which it would not if it had been replaced.
    let told = assert_kind(world.session(&first.token).await, ErrorKind::Conflict);
    let also = assert_kind(world.session(&second.token).await, ErrorKind::Conflict);
    let at_the_door = assert_kind(world.open_from(&copy, Some("192.0.2.2")).await, ErrorKind::Conflict);
    for error in [&told, &also, &at_the_door] {
        assert_eq!(error.context_value("reason"), Some("clash"));
        assert_eq!(error.retry(), certctl_core::Retry::Never);
        for fact in [
            "192.0.2.1",
            "192.0.2.2",
            &*original.instance,
            "the-copy-process",
            "certctl agents resolve web-1 --keep",
        ] {
            assert!(error.to_string().contains(fact), "{error} does not say {fact}");
        }
    }
    let agent = world.agent("web-1").await;
    assert_eq!(agent.state(), "clash");
    let clashes =
        world.actions(agent.id.as_str()).await.iter().filter(|e| &*e.action == "agent.clash").count();
    assert_eq!(clashes, 1, "it is told again and again, and recorded once");
}

#[tokio::test]
async fn a_copy_whose_original_only_opens_sessions_is_found_as_well() {
    let world = World::new().await;
    let original = world.enrolled("web-1").await;
    world.open(&original).await.unwrap();
    world.pass(HOUR);
    world.open(&original.process("the-copy-process")).await.unwrap();
    world.pass(HOUR);
    assert_kind(world.open(&original).await, ErrorKind::Conflict);
    assert_eq!(world.agent("web-1").await.state(), "clash");
}

#[tokio::test]
async fn an_operator_decides_which_process_goes_on() {
    let world = World::new().await;
    let original = world.enrolled("web-1").await;
    let copy = original.process("the-copy-process");
    let resolve = async |keep: &str| world.engine.resolve_agent(&admin(), "web-1", keep).await;
    assert_kind(resolve(&original.instance).await, ErrorKind::Precondition);
    let first = world.open(&original).await.unwrap();
    let second = world.open(&copy).await.unwrap();
    world.pass(MINUTE);
    assert_kind(world.session(&first.token).await, ErrorKind::Conflict);
    // A third start of either is known to the operator, so that it can be kept.
    let third = original.process("the-third-process");
    assert_kind(world.open(&third).await, ErrorKind::Conflict);
    assert_invalid(resolve("whoever").await, &["/keep"]);

    let resolved = resolve(&original.instance).await.unwrap();
    assert_eq!(resolved.state(), "enrolled");
    world.session(&first.token).await.unwrap();
    for error in [
        assert_kind(world.session(&second.token).await, ErrorKind::Denied),
        assert_kind(world.open(&copy).await, ErrorKind::Denied),
        assert_kind(world.open(&third).await, ErrorKind::Denied),
    ] {
        assert!(error.to_string().contains("under a name of its own"), "{error}");
    }
    // The one that was kept may be restarted.
    world.pass(MINUTE);
    let session = world.open(&original.process("after-a-restart")).await.unwrap();
    world.session(&session.token).await.unwrap();
    // A copy that is started again is a clash again.
    let other = world.open(&copy.process("the-copy-again")).await.unwrap();
    world.pass(MINUTE);
    assert_kind(world.session(&session.token).await, ErrorKind::Conflict);
    assert_kind(world.session(&other.token).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn a_sign_of_life_is_written_once_a_minute_and_without_an_event() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let token = world.open_from(&machine, Some("192.0.2.1")).await.unwrap().token;
    let session = world.session(&token).await.unwrap();
    let events = world.actions(session.agent.as_str()).await.len();
    let seen = async || world.engine.agent_presence(&admin(), "web-1").await.unwrap().unwrap().now;
    let begin = world.clock.now();
    for _ in 0..5 {
        world.pass(10 * SECOND);
        world.engine.heartbeat(&session, Some("192.0.2.1")).await.unwrap();
        assert_eq!(seen().await.last_seen, begin);
    }
    world.pass(10 * SECOND);
    world.engine.heartbeat(&session, None).await.unwrap();
    assert_eq!(seen().await.last_seen, world.clock.now());
    // That it has moved is written at once.
    world.pass(SECOND);
    world.engine.heartbeat(&session, Some("192.0.2.9")).await.unwrap();
    assert_eq!(
        (seen().await.last_seen, seen().await.address.as_deref()),
        (world.clock.now(), Some("192.0.2.9"))
    );
    assert_eq!(world.actions(session.agent.as_str()).await.len(), events);
    let all = world
        .engine
        .agent_presences(&as_role(Role::Viewer), std::slice::from_ref(&session.agent))
        .await
        .unwrap();
    assert_eq!(all.len(), 1);
    assert_kind(world.engine.agent_presences(&session.actor(), &[]).await, ErrorKind::Denied);
}

#[tokio::test]
async fn an_agent_says_what_it_can_do() {
    let world = World::new().await;
    let machine = world.enrolled("web-1").await;
    let can = async || world.engine.agent_connectors(&admin(), "web-1").await.unwrap();
    assert!(can().await.is_empty());
    let nginx = ConnectorInfo {
        family: "target".into(),
        kind: "nginx".into(),
        aliases: Vec::new(),
        schema: json!({ "type": "object" }),
    };
    for said in [vec![nginx.clone()], vec![nginx.clone()], vec![]] {
        world.pass(SECOND);
        let request = SessionRequest { connectors: said.clone(), ..machine.request(&world.engine).await };
        world.engine.open_session(&request, None).await.unwrap();
        assert_eq!(can().await, said);
    }
}
