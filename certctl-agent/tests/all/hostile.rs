//! A server that was taken over.

use certctl_agent::policy::Policy;
use certctl_core::{
    ErrorKind, ErrorReport, Id,
    host::HostPath,
    records::{Agent, TargetRecord},
    worker::{AssignedJob, Assignment, DeployOutcome, Outcome, Work, WorkReport},
};
use serde_json::json;

use crate::fake::Machine;

/// Why nothing was done.
fn refused(outcome: Outcome) -> ErrorReport {
    match outcome {
        Outcome::Failed(error) => error,
        Outcome::Report(WorkReport::Deployed(mut reports)) => {
            let report = reports.remove(0);
            assert_eq!(report.outcome, DeployOutcome::Refused, "{report:?}");
            report.error.unwrap()
        }
        other => panic!("it was done: {other:?}"),
    }
}

fn line(error: &ErrorReport) -> Option<&str> {
    error.context.iter().find(|(key, _)| key == "allow").map(|(_, value)| value.as_str())
}

fn restricted(machine: &Machine) -> Policy {
    Policy {
        kinds: Some(vec!["files".to_owned()]),
        paths: Some(vec![HostPath::parse(&machine.text("tls")).unwrap()]),
        commands: Some(vec!["true now".into()]),
        secrets: None,
    }
}

#[tokio::test]
async fn what_the_owner_did_not_allow_is_denied_with_the_line_that_would_allow_it() {
    let machine = Machine::new().await;
    let agent = machine.start_restricted(restricted(&machine));
    let certificate = machine.certificate("key-1").await;
    std::fs::create_dir(machine.path("out")).unwrap();
    std::os::unix::fs::symlink(machine.path("out"), machine.path("tls/door")).unwrap();
    let config = |dir: &str, command: serde_json::Value| {
        json!({
            "cert_path": machine.text(&format!("{dir}/web.crt")),
            "key_path": machine.text(&format!("{dir}/web.key")),
            "command": command,
        })
    };
    let mut nginx = machine.target("tls");
    nginx.kind = "nginx".into();
    let cases: Vec<(&str, TargetRecord, String)> = vec![
        ("another kind", nginx, r#"kinds = ["files","nginx"]"#.to_owned()),
        (
            "a path outside",
            machine.target("out"),
            format!("paths = [{:?},{:?}]", machine.text("tls"), machine.text("out")),
        ),
        (
            "a symlink that leads out",
            machine.target("tls/door"),
            format!("paths = [{:?},{:?}]", machine.text("tls"), machine.text("out")),
        ),
        (
            "another command",
            machine.target_with(config("tls", json!(["sh", "-c", "true now"]))),
            r#"commands = ["true now",["sh","-c","true now"]]"#.to_owned(),
        ),
    ];
    for (number, (what, target, allowed)) in cases.into_iter().enumerate() {
        // When the agent receives the target, and not only when something is deployed to it.
        let check =
            machine.fake.give(&[&format!("job-check-{number}")], Work::Check(Box::new(target.clone())));
        let error = refused(machine.fake.report(&check).await);
        assert_eq!((error.kind, line(&error)), (ErrorKind::Denied, Some(&*allowed)), "{what}: {error:?}");
        let id = machine.fake.give(&[&format!("job-{number}")], machine.deploy(target, &certificate));
        let outcome = machine.fake.report(&id).await;
        let error = refused(outcome);
        assert_eq!((error.kind, line(&error)), (ErrorKind::Denied, Some(&*allowed)), "{what}: {error:?}");
        assert!(error.message.contains(&allowed), "{what}: {}", error.message);
    }
    assert_eq!(std::fs::read_dir(machine.path("out")).unwrap().count(), 0);
    assert!(!machine.path("tls/web.key").exists(), "nothing stays of what was refused");

    // What is allowed is done.
    let target = machine.target_with(config("tls", json!("true now")));
    let id = machine.fake.give(&["job-good"], machine.deploy(target, &certificate));
    let Outcome::Report(WorkReport::Deployed(reports)) = machine.fake.report(&id).await else { panic!() };
    assert_eq!(reports[0].outcome, DeployOutcome::Deployed, "{:?}", reports[0].error);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn its_kinds_are_announced_and_checked_before_anything_is_built() {
    let machine = Machine::new().await;
    let agent = machine.start_restricted(restricted(&machine));
    machine.certificate("key-1").await;
    machine.fake.with(|state| {
        let kinds: Vec<&str> = state.opened[0].connectors.iter().map(|one| &*one.kind).collect();
        assert_eq!(kinds, ["files"]);
    });
    for (kind, expected) in [("nginx", ErrorKind::Denied), ("nonsense", ErrorKind::Denied)] {
        let mut target = machine.target("tls");
        target.kind = kind.into();
        let id = machine.fake.give(&[&format!("job-{kind}")], Work::Check(Box::new(target)));
        assert_eq!(refused(machine.fake.report(&id).await).kind, expected, "{kind}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_with_its_place_also_without_rules() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let good = machine.text("tls/web.key");
    let cases = [
        ("relative", json!({ "cert_path": "web.crt", "key_path": good }), "/cert_path"),
        ("dots", json!({ "cert_path": machine.text("tls/../web.crt"), "key_path": good }), "/cert_path"),
        (
            "shell",
            json!({ "cert_path": machine.text("tls/web.crt"), "key_path": good, "command": "true; touch x" }),
            "/command",
        ),
        ("fields", json!({ "cert_path": machine.text("tls/web.crt"), "key_path": good, "x": 1 }), "/x"),
    ];
    for (what, config, pointer) in cases {
        let target = machine.target_with(config);
        for (check, work) in [
            ("check", Work::Check(Box::new(target.clone()))),
            ("deploy", machine.deploy(target.clone(), &certificate)),
        ] {
            let id = machine.fake.give(&[&format!("job-{what}-{check}")], work);
            let error = refused(machine.fake.report(&id).await);
            assert_eq!(error.kind, ErrorKind::Invalid, "{what}: {error:?}");
            assert_eq!(error.violations[0].pointer, pointer, "{what}: {error:?}");
        }
    }
    agent.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(machine.path("tls")).unwrap().count(), 0);
}

#[tokio::test]
async fn its_own_state_and_others_targets_are_out_of_reach_also_without_rules() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let identity = machine.content("state/identity.json");
    for (number, dir) in ["state", "state/keys", "state/journal"].into_iter().enumerate() {
        let target = machine.target_with(json!({
            "cert_path": machine.text(&format!("{dir}/identity.json")),
            "key_path": machine.text(&format!("{dir}/key-1.key")),
        }));
        let id = machine.fake.give(&[&format!("job-{number}")], machine.deploy(target, &certificate));
        let error = refused(machine.fake.report(&id).await);
        assert_eq!((error.kind, line(&error)), (ErrorKind::Denied, None), "{dir}: {error:?}");
    }
    let mut foreign = machine.target("tls");
    foreign.place.agent = Some(Id::<Agent>::parse("ag-db-7").unwrap());
    let id = machine.fake.give(&["job-foreign"], machine.deploy(foreign, &certificate));
    let error = refused(machine.fake.report(&id).await);
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("ag-db-7"), "{}", error.message);
    agent.stop().await.unwrap();
    assert_eq!(machine.content("state/identity.json"), identity);
    assert!(!machine.path("tls/web.key").exists());
}

#[tokio::test]
async fn enormous_and_malformed_assignments_are_passed_over() {
    let machine = Machine::new().await;
    let agent = machine.start();
    let certificate = machine.certificate("key-1").await;
    let until = certctl_core::Timestamp::from_secs(1_800_014_460);
    let job = |id: &str| AssignedJob { id: Id::parse(id).unwrap(), token: 1, cancel: false };
    let enormous = machine.target_with(json!({ "cert_path": "x".repeat(5 << 20) }));
    machine.fake.give_as_it_is(Assignment {
        id: Id::parse("job-enormous").unwrap(),
        jobs: vec![job("job-enormous")],
        until,
        work: machine.deploy(enormous, &certificate),
    });
    machine.fake.give_as_it_is(Assignment {
        id: Id::parse("job-nobody").unwrap(),
        jobs: vec![job("job-other")],
        until,
        work: machine.deploy(machine.target("tls"), &certificate),
    });
    machine.certificate("key-2").await;
    agent.stop().await.unwrap();
    machine.fake.with(|state| assert!(state.reports.is_empty()));
    assert_eq!(machine.journal(), Vec::<String>::new());
    assert!(!machine.path("tls/web.key").exists());
}
