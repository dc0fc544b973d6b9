//! An agent's life: it enrols, works, is interrupted, and goes on.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use certctl_core::{
    Error, ErrorKind, Secret,
    testkit::host::When,
    worker::{DeployOutcome, DeployReport, Outcome, WorkReport},
};

use crate::fake::{Machine, clash, turned_away};

fn deployed(outcome: Outcome) -> DeployReport {
    match outcome {
        Outcome::Report(WorkReport::Deployed(mut reports)) => reports.remove(0),
        other => panic!("nothing was deployed: {other:?}"),
    }
}

#[tokio::test]
async fn it_enrols_once_makes_a_key_and_deploys() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let id = machine.fake.give(&["job-1"], machine.deploy(machine.target("tls"), &certificate));
    let report = deployed(machine.fake.report(&id).await);
    assert_eq!(report.outcome, DeployOutcome::Deployed, "{:?}", report.error);
    assert!(machine.holds("tls", &certificate));
    agent.stop().await.unwrap();
    assert_eq!(machine.journal(), Vec::<String>::new(), "what was acknowledged is forgotten");

    // The next start does not look at the token: it would be refused.
    let agent = machine.start_with(machine.builder().token(Secret::new("enroll_2_wrong")));
    let again = machine.fake.give(&["job-2"], machine.deploy(machine.target("tls"), &certificate));
    assert_eq!(deployed(machine.fake.report(&again).await).outcome, DeployOutcome::Unchanged);
    agent.stop().await.unwrap();
    machine.fake.with(|state| {
        assert_eq!(state.calls.iter().filter(|call| **call == "enroll").count(), 1);
        assert_eq!(state.opened.len(), 2, "a session for each process");
        assert_ne!(state.opened[0].instance, state.opened[1].instance);
        let targets = state.opened[0].connectors.iter().filter(|one| &*one.family == "target");
        assert_eq!(targets.map(|one| &*one.kind).collect::<Vec<_>>(), ["files", "nginx"]);
    });
}

#[tokio::test]
async fn its_files_are_its_own() {
    let machine = Machine::new().await;
    let agent = machine.start();
    machine.certificate("key-1").await;
    agent.stop().await.unwrap();
    let mode = |name: &str| {
        std::fs::metadata(machine.path("state").join(name)).unwrap().permissions().mode() & 0o7777
    };
    for directory in ["", "journal", "keys"] {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
    for file in ["identity.json", "identity.key", "sealing.key", "lock", "keys/key-1.key"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }

    // A key that others can read is no secret any more.
    let key = machine.path("state/identity.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = machine.builder().open().await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("exposed"), "{error}");
    std::fs::remove_file(&key).unwrap();
    let error = machine.builder().open().await.unwrap_err();
    assert!(error.message().contains("identity.key is missing"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_refused_ends_it_and_one_whose_answer_is_lost_does_not() {
    let machine = Machine::new().await;
    let error = machine
        .start_with(machine.builder().token(Secret::new("enroll_1_guessed")))
        .ended()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");

    machine.fake.with(|state| {
        state.lose.insert("enroll", 2);
    });
    let agent = machine.start();
    machine.certificate("key-1").await;
    agent.stop().await.unwrap();
    machine.fake.with(|state| {
        assert_eq!(state.calls.iter().filter(|call| **call == "enroll").count(), 4);
    });
}

#[tokio::test]
async fn without_identity_and_token_it_says_what_to_do() {
    let machine = Machine::new().await;
    let builder = certctl_agent::AgentBuilder::with_uplink(
        machine.fake.clone(),
        "https://x.test",
        machine.path("state"),
    );
    let error = builder.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.message().contains("certctl agents enroll-token --name NAME"), "{error}");
}

#[tokio::test]
async fn two_processes_do_not_share_a_state_directory() {
    let machine = Machine::new().await;
    let first = machine.builder().open().await.unwrap();
    let error = machine.builder().open().await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("in_use"), "{error}");
    drop(first);
    machine.builder().open().await.unwrap();
}

/// Everything that the host is asked for during a deployment is a place to be killed at: after it, which is before the next.
#[tokio::test]
async fn killed_at_any_step_it_goes_on_without_the_server_and_reports_once() {
    let operations = {
        let machine = Machine::new().await;
        let agent = machine.start();
        let certificate = machine.certificate("key-1").await;
        machine.host.reset();
        let id = machine.fake.give(&["job-1"], machine.deploy(machine.target("tls"), &certificate));
        deployed(machine.fake.report(&id).await);
        agent.stop().await.unwrap();
        machine.host.count()
    };
    assert!(operations > 10, "{operations}");
    killed_at(1, When::Before).await;
    for nth in 1..=operations {
        killed_at(nth, When::After).await;
    }
}

async fn killed_at(nth: usize, when: When) {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    machine.host.reset();
    machine.host.halt_nth(nth, when);
    let id = machine.fake.give(&["job-1"], machine.deploy(machine.target("tls"), &certificate));
    machine.host.ended().await;
    agent.kill().await;
    machine.host.reset();

    // What was begun is finished although the server is away.
    let begun = machine.content("state/journal/job-1.json").contains("\"snapshot\"");
    machine.fake.with(|state| state.away = true);
    let agent = machine.start();
    if begun {
        machine.fake.until("it asks", |state| state.calls.last() == Some(&"challenge")).await;
        wait_for(|| machine.content("state/journal/job-1.json").contains("\"report\"")).await;
        assert!(machine.holds("tls", &certificate), "killed {when:?} {nth}");
    }
    machine.fake.with(|state| state.away = false);
    machine.fake.expire();
    let report = deployed(machine.fake.report(&id).await);
    assert!(report.outcome.is_success(), "killed {when:?} {nth}: {report:?}");
    assert!(machine.holds("tls", &certificate), "killed {when:?} {nth}");
    agent.stop().await.unwrap();
    assert_eq!(machine.journal(), Vec::<String>::new(), "killed {when:?} {nth}");
    let left: Vec<String> = std::fs::read_dir(machine.path("tls"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left.len(), 2, "nothing is left beside the pair: {left:?}");
    machine.fake.with(|state| assert!(state.reports.is_empty(), "reported once"));
}

async fn wait_for(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes about");
}

#[tokio::test]
async fn a_report_that_is_lost_is_repeated_and_nothing_is_done_again() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    machine.fake.with(|state| {
        state.lose.insert("report", 2);
    });
    let id = machine.fake.give(&["job-1"], machine.deploy(machine.target("tls"), &certificate));
    deployed(machine.fake.report(&id).await);
    let before = machine.host.count();
    machine
        .fake
        .until("three reports", |state| state.calls.iter().filter(|call| **call == "report").count() >= 4)
        .await;
    wait_for(|| machine.journal().is_empty()).await;
    assert_eq!(machine.host.count(), before, "nothing was looked at, and nothing written");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_that_could_not_be_made_is_made_first_thing_at_the_next_start() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let target = machine.target("tls");
    // The server goes away while the agent is at work.
    let id = machine.fake.give(&["job-1"], machine.deploy(target, &certificate));
    machine.fake.until("it is taken", |state| state.calls.len() > 5).await;
    machine.fake.with(|state| state.away = true);
    wait_for(|| machine.content("state/journal/job-1.json").contains("\"report\"")).await;
    agent.stop().await.unwrap();
    let written = machine.content("state/journal/job-1.json");
    assert!(!written.contains("PRIVATE"), "no key is in the journal");

    let (before, calls) = (machine.host.count(), machine.fake.with(|state| state.calls.len()));
    machine.fake.with(|state| state.away = false);
    let agent = machine.start();
    assert!(deployed(machine.fake.report(&id).await).outcome.is_success());
    agent.stop().await.unwrap();
    assert_eq!(machine.host.count(), before, "it is not done again");
    machine.fake.with(|state| {
        let asked: Vec<_> =
            state.calls[calls..].iter().filter(|call| ["report", "lease"].contains(*call)).collect();
        assert_eq!(*asked[0], "report", "before it asks for more: {asked:?}");
    });
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_less_and_less_often() {
    let machine = Machine::new().await;
    let agent = machine.start();
    machine.certificate("key-1").await;
    machine.clock.spans.lock().unwrap().clear();
    machine.fake.with(|state| {
        state.away = true;
        state.calls.clear();
    });
    machine.fake.until("tries", |state| state.calls.len() > 12).await;
    machine.fake.with(|state| state.away = false);
    // It works again as soon as the server is back.
    machine.certificate("key-2").await;
    agent.stop().await.unwrap();
    let extending = Duration::from_secs(15);
    let spans: Vec<_> =
        machine.clock.spans.lock().unwrap().iter().copied().filter(|span| *span != extending).collect();
    assert!(spans[0] <= Duration::from_secs(2), "{spans:?}");
    assert!(spans[3] >= Duration::from_secs(4), "{spans:?}");
    let last = &spans[8..11];
    let (least, most) = (Duration::from_secs(30), Duration::from_secs(60));
    assert!(last.iter().all(|span| (least..=most).contains(span)), "{spans:?}");
    assert!(last[0] != last[1] || last[1] != last[2], "they are spread: {spans:?}");
}

#[tokio::test]
async fn turned_away_or_used_twice_it_waits_for_a_person() {
    for refusal in [turned_away(), clash(), Error::new(ErrorKind::Unauthenticated, "nobody knows this agent")]
    {
        let machine = Machine::new().await;
        let agent = machine.start();
        machine.certificate("key-1").await;
        machine.clock.spans.lock().unwrap().clear();
        machine.fake.with(|state| {
            state.refuse = Some(refusal.clone());
            state.calls.clear();
        });
        machine.fake.until("tries", |state| state.calls.len() > 6).await;
        let spans = machine.clock.spans.lock().unwrap().clone();
        let quiet = Duration::from_secs(150);
        let hammering: Vec<_> =
            spans.iter().filter(|span| **span < quiet && **span != Duration::from_secs(15)).collect();
        assert!(hammering.is_empty(), "{refusal}: {spans:?}");
        // Somebody has decided: it goes on by itself.
        machine.fake.with(|state| state.refuse = None);
        machine.certificate("key-2").await;
        agent.stop().await.unwrap();
    }
}

#[tokio::test]
async fn sessions_are_renewed_before_they_are_over_and_when_they_are() {
    let machine = Machine::new().await;
    let agent = machine.start();
    machine.certificate("key-1").await;
    machine.fake.end_sessions();
    machine.certificate("key-2").await;
    machine.fake.with(|state| assert_eq!(state.opened.len(), 2, "over, and opened anew"));

    machine.clock.clock.advance(Duration::from_secs(9 * 60));
    machine.certificate("key-3").await;
    machine.fake.with(|state| assert_eq!(state.opened.len(), 3, "nearly over"));
    machine.clock.clock.advance(Duration::from_secs(60));
    machine.certificate("key-4").await;
    machine.fake.with(|state| assert_eq!(state.opened.len(), 3));

    // A year later, from the same state directory.
    agent.stop().await.unwrap();
    machine.clock.clock.advance(Duration::from_secs(365 * 86_400));
    let agent = machine.start();
    machine.fake.until("a session", |state| state.opened.len() == 4).await;
    agent.stop().await.unwrap();
}

/// Where the agent is when it is told to stop: it waits there until it was told.
async fn stopped_at(operation: &'static str) -> (Machine, certctl_core::Id<certctl_core::records::Job>) {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let (gate, reached) = (machine.path("gate"), machine.path("reached"));
    let target = machine.target_with(serde_json::json!({
        "cert_path": machine.text("tls/web.crt"),
        "key_path": machine.text("tls/web.key"),
        "validate_command": ["sh", "-c", format!("touch {0}; while ! test -e {1}; do :; done", reached.display(), gate.display())],
        "command": ["true"],
    }));
    // An earlier pair is what `validate` is asked about before the first write.
    if operation == "before" {
        let id = machine.fake.give(&["job-0"], machine.deploy(machine.target("tls"), &certificate));
        assert!(deployed(machine.fake.report(&id).await).outcome.is_success());
    }
    let renewed = machine.certificate("key-2").await;
    let id = machine.fake.give(&["job-1"], machine.deploy(target, &renewed));
    wait_for(|| reached.exists()).await;
    assert_eq!(machine.holds("tls", &renewed), operation == "after");
    let stopping = tokio::spawn(agent.stop());
    // It is told before the command ends.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    std::fs::write(gate, "").unwrap();
    stopping.await.unwrap().unwrap();
    (machine, id)
}

#[tokio::test]
async fn told_to_stop_before_the_first_write_it_gives_the_work_back() {
    let (machine, id) = stopped_at("before").await;
    machine.fake.with(|state| assert!(state.reports.is_empty(), "nobody asked for that at the server"));
    assert_eq!(machine.journal(), Vec::<String>::new(), "it was not begun");
    machine.fake.expire();
    let agent = machine.start();
    assert!(deployed(machine.fake.report(&id).await).outcome.is_success());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn told_to_stop_after_the_first_write_it_ends_first_and_says_so() {
    let (machine, id) = stopped_at("after").await;
    let report = deployed(machine.fake.report(&id).await);
    assert_eq!(report.outcome, DeployOutcome::Deployed, "{:?}", report.error);
    assert_eq!(machine.journal(), Vec::<String>::new(), "and it was acknowledged");
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_before_its_first_write() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let id = machine.fake.give(&["job-0"], machine.deploy(machine.target("tls"), &certificate));
    assert!(deployed(machine.fake.report(&id).await).outcome.is_success());
    let (gate, reached) = (machine.path("gate"), machine.path("reached"));
    let target = machine.target_with(serde_json::json!({
        "cert_path": machine.text("tls/web.crt"),
        "key_path": machine.text("tls/web.key"),
        "validate_command": ["sh", "-c", format!("touch {0}; while ! test -e {1}; do :; done", reached.display(), gate.display())],
        "command": ["true"],
    }));
    let renewed = machine.certificate("key-2").await;
    let id = machine.fake.give(&["job-1"], machine.deploy(target, &renewed));
    wait_for(|| reached.exists()).await;
    let asked = machine.fake.with(|state| {
        state.cancel.insert(id.clone());
        state.calls.iter().filter(|call| **call == "extend").count()
    });
    machine
        .fake
        .until("it hears of it", |state| {
            state.calls.iter().filter(|call| **call == "extend").count() > asked + 1
        })
        .await;
    std::fs::write(gate, "").unwrap();
    let report = deployed(machine.fake.report(&id).await);
    assert_eq!(report.error.map(|error| error.kind), Some(ErrorKind::Cancelled));
    assert!(machine.holds("tls", &certificate), "what was there is there");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn work_that_comes_again_while_it_is_done_is_done_once_and_reported_with_the_newest_tokens() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let (gate, reached, runs) = (machine.path("gate"), machine.path("reached"), machine.path("runs"));
    let target = machine.target_with(serde_json::json!({
        "cert_path": machine.text("tls/web.crt"),
        "key_path": machine.text("tls/web.key"),
        "command": ["sh", "-c", format!("echo run >> {2}; touch {0}; while ! test -e {1}; do :; done", reached.display(), gate.display(), runs.display())],
    }));
    let id = machine.fake.give(&["job-1", "job-2"], machine.deploy(target, &certificate));
    wait_for(|| reached.exists()).await;
    machine.fake.expire();
    machine.fake.until("it is leased again", |state| state.is_leased(&id)).await;
    wait_for(|| {
        machine
            .content("state/journal/job-1.json")
            .contains(&format!("\"token\":{}", machine.fake.with(|s| s.token_of(&id))))
    })
    .await;
    std::fs::write(gate, "").unwrap();
    machine.fake.until("a report", |state| !state.reports.is_empty()).await;
    let tokens: Vec<u64> =
        machine.fake.with(|state| state.reports[0].jobs.iter().map(|job| job.token).collect());
    assert_eq!(tokens, [4, 5], "the newest ones: 1 was the request's");
    wait_for(|| machine.journal().is_empty()).await;
    assert_eq!(machine.content("runs"), "run\n", "it was done once");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_that_is_refused_for_good_is_set_aside_and_stops_nothing() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    machine.fake.with(|state| {
        state.refuse_report = Some(Error::invalid_field("/outcome", "this is nonsense", "say sense"));
    });
    machine.fake.give(&["job-1"], machine.deploy(machine.target("tls"), &certificate));
    wait_for(|| machine.journal() == ["job-1.refused"]).await;
    machine.certificate("key-2").await;
    agent.stop().await.unwrap();
    let agent = machine.start();
    machine.certificate("key-3").await;
    agent.stop().await.unwrap();
    assert_eq!(machine.journal(), ["job-1.refused"]);
}
