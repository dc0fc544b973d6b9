//! `--wait` and `jobs watch`: jobs that take their course, and how the program ends.

use std::time::Duration;

use certctl_cli::{Cli, Environment, Exit, Failure, Session, Terminal, commands};
use certctl_core::testkit::clock::TestClock;
use clap::Parser;
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::{
    scripted::{Answer, Scripted, problem},
    shell::{Kept, assert_narrow},
    things::{NOW, detail, failing, job, progress, started, with_error},
};

const CREATE: [&str; 7] = ["certs", "create", "web", "--san", "web.test", "--wait", "--target=nginx-1"];

/// How a run ended: what it wrote, and why it failed if it did.
struct Ended {
    out: String,
    err: String,
    failure: Option<Failure>,
}

impl Ended {
    fn exit(&self) -> Exit {
        self.failure.as_ref().map_or(Exit::Ok, Failure::exit)
    }

    fn says(&self) -> String {
        let text = self.failure.as_ref().map(Failure::render).unwrap_or_default();
        assert_narrow(&text);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

async fn run(args: &[&str], environment: &Environment, clock: &TestClock) -> Ended {
    let (out, err) = (Kept::default(), Kept::default());
    let mut terminal = Terminal {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(std::io::empty()),
        width: None,
    };
    let cli = Cli::try_parse_from(["certctl"].iter().chain(args)).unwrap();
    let mut session = Session::new(cli.global, environment, &mut terminal);
    session.clock = std::sync::Arc::new(clock.clone());
    let ended = commands::run(cli.command.unwrap(), &mut session).await;
    Ended { out: out.text(), err: err.text(), failure: ended.err() }
}

async fn create(server: &Scripted) -> Ended {
    run(&CREATE, &server.environment(), &TestClock::default()).await
}

/// A server that takes a certificate, whose one job then goes so.
fn server(history: impl IntoIterator<Item = Value>, end: Value) -> Scripted {
    let history = history.into_iter().map(|job| Answer::Json(200, job));
    Scripted::start()
        .on("POST /certificates", [Answer::Json(201, started("pending", &["job-1"], &[]))])
        .on("GET /jobs/job-1/watch", history)
        .says("GET /certificates/mc-1", end)
        .says("GET /version", json!({ "name": "certctl-server", "version": "1", "api": "v1", "time": NOW }))
}

fn issue(state: &str, step: &str) -> Value {
    job("job-1", "issue", state, Some(step))
}

fn deploy(state: &str) -> Value {
    job("job-2", "deploy", state, None)
}

#[tokio::test]
async fn steps_are_told_once_each_as_they_happen_and_the_end_is_good() {
    let server = server(
        [
            progress(issue("ready", "request"), &[], 1),
            progress(issue("ready", "submit"), &[], 2),
            progress(issue("ready", "submit"), &[], 3),
            progress(issue("waiting", "deploy"), &[deploy("ready")], 4),
            progress(issue("waiting", "deploy"), &[deploy("done")], 5),
            progress(issue("done", "deploy"), &[deploy("done")], 6),
        ],
        detail("active", "proved"),
    );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    assert_eq!(
        ended.err,
        "web: key and request are to be made\n\
         web: asking local\n\
         web: issued\n\
         nginx-1: to be deployed\n\
         nginx-1: deployed\n\
         nginx-1: deployed, and proved: it serves the new certificate (127.0.0.1:443)\n\
         web: active, serial 01ab, until 2027-04-15T12:00:00Z\n"
    );
    assert!(ended.out.contains("status:"), "{}", ended.out);
    let watches: Vec<_> = server
        .asked()
        .into_iter()
        .map(|request| request.line)
        .filter(|line| line.contains("watch"))
        .collect();
    assert_eq!(watches[0], "GET /jobs/job-1/watch?after=0&wait=25");
    assert_eq!(watches[5], "GET /jobs/job-1/watch?after=5&wait=25");
    assert_eq!(watches.len(), 6);
    assert_eq!(server.body_of("POST /certificates")["targets"], json!(["nginx-1"]));
}

#[tokio::test]
async fn standard_output_has_the_certificate_alone_as_json() {
    let server = server([progress(issue("done", "deploy"), &[], 1)], detail("active", "proved"));
    let args: Vec<_> = CREATE.into_iter().chain(["--output", "json"]).collect();
    let ended = run(&args, &server.environment(), &TestClock::default()).await;
    let certificate: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(certificate["status"], "active");
    assert_eq!(certificate["versions"][0]["serial_number"], "01ab");
}

#[tokio::test]
async fn a_deployment_whose_next_try_is_far_ends_the_wait_and_the_try_is_named() {
    let failed = failing(deploy("ready"), "nginx -t says no", "2027-01-15T12:01:10Z");
    let server = server(
        [
            progress(issue("waiting", "deploy"), &[deploy("ready")], 1),
            progress(issue("waiting", "deploy"), &[failed], 2),
        ],
        detail("pending", "failed"),
    );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Failed);
    assert_eq!(
        ended.says(),
        "error: nginx-1: the deployment failed: nginx -t says no The next try is in 70 s, at 2027-01-15T12:01:10Z; \
         `certctl jobs retry job-2` tries at once."
    );
    assert!(
        ended.err.ends_with("nginx-1: the deployment failed: nginx -t says no; next try in 70 s\n"),
        "{}",
        ended.err
    );
    assert!(ended.out.is_empty());
}

#[tokio::test]
async fn the_servers_clock_decides_how_far_a_try_is() {
    // An hour later there.
    let failed = failing(deploy("ready"), "no", "2027-01-15T13:01:10Z");
    let server = server([progress(issue("waiting", "deploy"), &[failed], 1)], detail("pending", "failed"))
        .says(
            "GET /version",
            json!({ "name": "s", "version": "1", "api": "v1", "time": "2027-01-15T13:00:00Z" }),
        );
    let ended = create(&server).await;
    assert!(ended.says().contains("The next try is in 70 s"), "{}", ended.says());
}

#[tokio::test]
async fn a_try_that_is_near_is_waited_for() {
    let failed = failing(issue("ready", "submit"), "the CA is busy", "2027-01-15T12:00:05Z");
    let server = server(
        [
            progress(failed.clone(), &[], 1),
            progress(failed, &[], 2),
            progress(issue("done", "deploy"), &[], 3),
        ],
        detail("active", "proved"),
    );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    let told = "web: the issuance failed: the CA is busy; next try in 5 s\nweb: issued\n";
    assert!(ended.err.starts_with(told), "{}", ended.err);
}

#[tokio::test]
async fn attention_ends_the_wait_and_says_how_to_go_on() {
    let server = server(
        [progress(with_error(issue("attention", "submit"), "the CA refuses web.test"), &[], 1)],
        detail("attention", "pending"),
    );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Failed);
    let says = ended.says();
    assert!(says.contains("web: the issuance needs a person: the CA refuses web.test"), "{says}");
    assert!(says.contains("`certctl jobs retry job-1`"), "{says}");
}

#[tokio::test]
async fn a_deployment_that_failed_for_good_ends_the_wait_though_others_go_on() {
    let server = server(
        [progress(issue("waiting", "deploy"), &[with_error(deploy("failed"), "rolled back")], 1)],
        detail("partial", "failed"),
    );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Failed);
    assert!(ended.says().contains("nginx-1: the deployment failed: rolled back"), "{}", ended.says());
}

#[tokio::test]
async fn another_child_that_failed_is_its_parents_to_judge() {
    let shown = with_error(job("job-2", "present", "failed", None), "no such zone");
    let server = server(
        [
            progress(issue("ready", "poll"), std::slice::from_ref(&shown), 1),
            progress(issue("done", "deploy"), &[shown], 2),
        ],
        detail("active", "proved"),
    );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
}

#[tokio::test]
async fn a_cancelled_job_has_its_own_exit_code() {
    let server = server([progress(issue("cancelled", "request"), &[], 1)], detail("pending", "pending"));
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Cancelled);
    assert!(ended.says().contains("web: the issuance was cancelled"), "{}", ended.says());
}

#[tokio::test]
async fn jobs_that_ended_well_are_not_enough() {
    let mut end = detail("partial", "failed");
    end["reason"] = json!({ "kind": "precondition", "message": "nginx-1 has an old version", "retry": "never", "effect": "none" });
    let server = server([progress(issue("done", "deploy"), &[], 1)], end);
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Failed);
    assert!(
        ended.says().contains("the certificate web is partial: nginx-1 has an old version"),
        "{}",
        ended.says()
    );
}

#[tokio::test]
async fn a_job_that_somebody_else_began_meanwhile_is_waited_for_as_well() {
    let mut between = detail("partial", "pending");
    between["jobs"] = json!([job("job-9", "deploy", "ready", None), job("job-8", "forget", "ready", None)]);
    let server = server([progress(issue("done", "deploy"), &[], 1)], Value::Null)
        .on(
            "GET /certificates/mc-1",
            [Answer::Json(200, between), Answer::Json(200, detail("active", "proved"))],
        )
        .says("GET /jobs/job-9/watch", progress(job("job-9", "deploy", "done", None), &[], 1));
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    assert!(
        !server.asked().iter().any(|request| request.line.contains("job-8")),
        "a key's end is not waited for"
    );
}

#[tokio::test]
async fn each_job_of_two_is_waited_for() {
    let server = server([progress(issue("done", "deploy"), &[], 1)], detail("active", "proved"))
        .on("POST /certificates", [Answer::Json(201, started("pending", &["job-1", "job-5"], &[]))])
        .says(
            "GET /jobs/job-5/watch",
            progress(with_error(job("job-5", "issue", "failed", None), "no"), &[], 1),
        );
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Failed);
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while_is_waited_for() {
    let away = std::iter::repeat_n(Answer::HangUp, 6);
    let done = Answer::Json(200, progress(issue("done", "deploy"), &[], 1));
    let server = server([], detail("active", "proved")).on("GET /jobs/job-1/watch", away.chain([done]));
    let ended = create(&server).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    assert_eq!(ended.err.matches("; trying again\n").count(), 1, "{}", ended.err);
    assert!(ended.err.contains("The server is there again.\nweb: issued\n"), "{}", ended.err);
}

#[tokio::test]
async fn a_key_that_is_revoked_meanwhile_ends_the_wait() {
    let server = server([], detail("active", "proved"))
        .on("GET /jobs/job-1/watch", [problem(401, "unauthenticated", "no")]);
    assert_eq!(create(&server).await.exit(), Exit::Unauthenticated);
}

#[tokio::test]
async fn when_the_time_is_over_the_job_is_named_and_goes_on() {
    let server = server([], detail("pending", "pending")).on(
        "GET /jobs/job-1/watch",
        [Answer::Json(200, progress(issue("ready", "poll"), &[], 1)), Answer::Silence],
    );
    let clock = TestClock::default();
    let (environment, args) =
        (server.environment(), CREATE.into_iter().chain(["--timeout", "90s"]).collect::<Vec<_>>());
    let waiting = run(&args, &environment, &clock);
    let passing = async {
        let until = clock.asleep().await;
        assert_eq!(until.to_string(), "2027-01-15T12:01:30Z");
        clock.advance(Duration::from_secs(90));
    };
    let (ended, ()) =
        tokio::join!(waiting, tokio::time::timeout(Duration::from_secs(20), passing).map(Result::unwrap));
    assert_eq!(ended.exit(), Exit::TimedOut);
    assert_eq!(
        ended.says(),
        "error: web is not done after 90s; its jobs go on `certctl jobs watch job-1` waits on, `certctl jobs cancel job-1` \
         stops it."
    );
    assert!(!server.asked().iter().any(|request| request.line.contains("cancel")));
}

#[tokio::test]
async fn nothing_to_do_is_a_good_end_at_once_with_the_servers_warnings() {
    let server = Scripted::start()
        .says("POST /certificates/web/renew", started("active", &[], &["the same request was sent again"]))
        .says("GET /certificates/mc-1", detail("active", "proved"));
    let ended = run(&["certs", "renew", "web", "--wait"], &server.environment(), &TestClock::default()).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    assert!(ended.err.starts_with("warning: the same request was sent again\n"), "{}", ended.err);
}

#[tokio::test]
async fn a_revocation_ends_well_when_it_is_revoked() {
    let server = Scripted::start()
        .says("POST /certificates/web/revoke", started("active", &["job-1"], &[]))
        .says("GET /jobs/job-1/watch", progress(job("job-1", "revoke", "done", None), &[], 1))
        .says("GET /certificates/mc-1", detail("revoked", "proved"));
    let args = ["certs", "revoke", "web", "--reason", "keyCompromise", "--wait"];
    let ended = run(&args, &server.environment(), &TestClock::default()).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    assert_eq!(server.body_of("POST /certificates/web/revoke"), json!({ "reason": "key_compromise" }));
}

#[tokio::test]
async fn a_job_is_watched_until_its_end() {
    let server = Scripted::start().says("GET /jobs/job-2", progress(deploy("ready"), &[], 1)).on(
        "GET /jobs/job-2/watch",
        [
            Answer::Json(200, progress(deploy("ready"), &[], 1)),
            Answer::Json(200, progress(deploy("done"), &[], 2)),
        ],
    );
    let ended = run(&["jobs", "watch", "job-2"], &server.environment(), &TestClock::default()).await;
    assert_eq!(ended.exit(), Exit::Ok, "{}", ended.says());
    assert_eq!(ended.err, "nginx-1: to be deployed\nnginx-1: deployed\n");
    assert!(ended.out.contains("state:        done\n"), "{}", ended.out);
}
