//! The programs that show records: what they get, what becomes of what they write, and that nothing else is run.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use certctl_connectors::{hosts::LocalHosts, solvers::DnsScript};
use certctl_core::{
    Challenge, ChallengeKind, CommandLine, Context, Effect, Env, Error, ErrorKind, Lifetime, Result,
    SealedAt, Secret, SecretRef, Secrets, Solver, SolverSpec, SubjectAltName, SystemClock, TxtRecord,
    connectors::SolverConfig,
};
use tokio::sync::watch;

use crate::local_host::gone;

const TOKEN: &str = "s3cret-token-value";

#[tokio::test]
async fn a_program_gets_the_contract_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = DnsScript {
        // What a shell would make something of arrives as it is.
        present: sh(
            "cat /proc/self/environ >$0; printf '%s' \"$1\" >$0.argument",
            &dir,
            &["$(touch x);`id` *"],
        ),
        environment: vec!["API_TOKEN".into(), "NOT_SET".into()],
        ..DnsScript::default()
    };
    let solver = connect(config, &[("API_TOKEN", TOKEN), ("OTHER", "not listed")]).await;
    solver.present(&cx(), &challenge("*.web.test")).await.unwrap();
    let environ = fs::read_to_string(dir.path().join("out")).unwrap();
    let mut variables: BTreeMap<&str, &str> =
        environ.split_terminator('\0').map(|line| line.split_once('=').unwrap()).collect();
    // These are the shell's own.
    for own in ["PWD", "SHLVL", "_", "OLDPWD"] {
        variables.remove(own);
    }
    let path = variables.remove("PATH").unwrap();
    assert!(path.contains("/usr/bin"));
    let expected = [
        ("API_TOKEN", TOKEN),
        ("CERTCTL_DNS_DOMAIN", "web.test"),
        ("CERTCTL_DNS_FQDN", "_acme-challenge.web.test"),
        ("CERTCTL_DNS_TOKEN", "the-token"),
        ("CERTCTL_DNS_VALUE", "the-value"),
        ("LANG", "C"),
    ];
    assert_eq!(variables, BTreeMap::from(expected));
    let argument = fs::read_to_string(dir.path().join("out.argument")).unwrap();
    assert_eq!(argument, "$(touch x);`id` *");
}

#[tokio::test]
async fn cleanup_is_run_for_what_does_not_stay_and_may_be_absent() {
    let dir = tempfile::tempdir().unwrap();
    let config = DnsScript {
        present: CommandLine::from("/bin/false"),
        cleanup: Some(sh("echo \"$CERTCTL_DNS_FQDN=$CERTCTL_DNS_VALUE\" >>$0", &dir, &[])),
        ..DnsScript::default()
    };
    let solver = connect(config.clone(), &[]).await;
    solver.retract(&cx(), &challenge("web.test")).await.unwrap();
    let persistent = Challenge { kind: ChallengeKind::DnsPersist01, ..challenge("web.test") };
    solver.retract(&cx(), &persistent).await.unwrap();
    let runs = fs::read_to_string(dir.path().join("out")).unwrap();
    assert_eq!(runs, "_acme-challenge.web.test=the-value\n");

    let none = connect(DnsScript { cleanup: None, ..config }, &[]).await;
    none.retract(&cx(), &challenge("web.test")).await.unwrap();
}

#[tokio::test]
async fn an_exit_code_is_told_with_what_the_program_wrote() {
    let error = failure("echo the zone is locked; echo and more >&2; exit 3", &[]).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("exited with 3"), "{error}");
    assert!(error.message().contains("the zone is locked\nand more"), "{error}");
    assert_eq!(error.context_value("step"), Some("present"));
    assert!(!error.message().contains("not set"), "{error}");

    let error = failure("kill -9 $$", &[]).await;
    assert!(error.message().contains("ended by a signal; it wrote nothing"), "{error}");

    let missing = DnsScript { present: CommandLine::from("/nonexistent/program"), ..DnsScript::default() };
    let error = connect(missing, &[]).await.present(&cx(), &challenge("web.test")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test]
async fn a_variable_that_is_not_set_is_named_once_the_program_fails() {
    let config = DnsScript {
        present: CommandLine::from("/bin/false"),
        environment: vec!["API_TOKEN".into(), "HTTPS_PROXY".into()],
        ..DnsScript::default()
    };
    let solver = connect(config, &[("API_TOKEN", TOKEN)]).await;
    let error = solver.present(&cx(), &challenge("web.test")).await.unwrap_err();
    assert!(error.message().contains("(not set in the environment: HTTPS_PROXY)"), "{error}");
}

#[tokio::test]
async fn what_is_secret_does_not_come_out() {
    let error = failure("echo \"401 for $API_TOKEN\"; exit 1", &[("API_TOKEN", TOKEN)]).await;
    assert!(error.message().contains("401 for ***"), "{error}");
    assert_covered(&error, &["s3cret"]);

    // One that is part of another, and one of several lines.
    let values = [("A", "abcdef"), ("B", "abcdefghi"), ("KEY", "-----BEGIN-----\nline-one\nline-two\n")];
    let error = failure("echo \"$B $A\"; echo \"<$KEY>\"; echo \"$KEY\" | tail -n 2; exit 1", &values).await;
    assert!(error.message().contains("*** ***"), "{error}");
    assert_covered(&error, &["abc", "ghi", "line-one", "line-two"]);

    // Output of which the beginning, in the middle of the secret, is cut off.
    for extra in ["", "x", "xxxxxxx"] {
        let script = format!(
            "i=0; while [ $i -lt 2000 ]; do printf %s \"$API_TOKEN\"; i=$((i+1)); done; printf '{extra}'; exit 1"
        );
        let error = failure(&script, &[("API_TOKEN", TOKEN)]).await;
        assert_covered(&error, &["s3cret", "token", "value", "alue*", "lue*"]);
    }
    let value = "0123456789".repeat(1_000);
    let error = failure("printf %s \"$BIG$BIG$BIG\"; exit 1", &[("BIG", &value)]).await;
    assert_covered(&error, &["0123", "789"]);
}

#[tokio::test]
async fn at_the_timeout_the_program_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("out");
    let script = "echo \"begun with $API_TOKEN\"; sleep 600 & echo $! >$0.new; mv $0.new $0; wait";
    let mut timeout = Duration::from_millis(250);
    // On a busy machine the shell may need longer to get so far.
    while !pid_file.exists() {
        timeout *= 2;
        assert!(timeout < Duration::from_secs(60), "the grandchild never began");
        let config = DnsScript {
            present: sh(script, &dir, &[]),
            timeout: Lifetime::from(timeout),
            environment: vec!["API_TOKEN".into()],
            ..DnsScript::default()
        };
        let solver = connect(config, &[("API_TOKEN", TOKEN)]).await;
        let error = solver.present(&cx(), &challenge("web.test")).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
        assert_covered(&error, &["s3cret"]);
        if pid_file.exists() {
            assert_eq!(error.context_value("output"), Some("begun with ***\n"));
        }
    }
    gone(&pid_file).await;
}

#[tokio::test]
async fn nothing_is_run_for_what_a_hostile_ca_gives_or_when_somebody_asked_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let config = DnsScript { present: sh("touch $0", &dir, &[]), ..DnsScript::default() };
    let solver = connect(config, &[]).await;
    let record = |name: &str, value: &str| Some(TxtRecord { name: name.into(), value: value.into() });
    let fine = challenge("web.test");
    for hostile in [
        Challenge { token: "a\nb".into(), ..fine.clone() },
        Challenge { token: "a\0b".into(), ..fine.clone() },
        Challenge { token: "a".repeat(5_000), ..fine.clone() },
        Challenge { txt: record("_acme-challenge.web.test", "a\x1b[31m"), ..fine.clone() },
        Challenge { txt: record("a\nb.test", "x"), ..fine.clone() },
        Challenge { txt: record("$(id).test", "x"), ..fine.clone() },
        Challenge { txt: record("-rf.test/..", "x"), ..fine.clone() },
    ] {
        let error = solver.present(&cx(), &hostile).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::BadResponse), "{error:?}");
    }
    let (_stop, stopped) = watch::channel(true);
    let error =
        solver.present(&Context::cancelled_by(Arc::new(SystemClock), stopped), &fine).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // The same program, for what is fine.
    solver.present(&cx(), &fine).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_configuration_says_all_that_is_wrong() {
    let mut environment =
        vec!["CERTCTL_DNS_VALUE".into(), "A=b".into(), "".into(), "FINE_1".into(), "2X".into()];
    let wrong = DnsScript {
        present: CommandLine::from("dns-add | tee log"),
        cleanup: Some(CommandLine::from("")),
        timeout: Lifetime::from(Duration::from_millis(10)),
        environment: environment.clone(),
        host: None,
    };
    let found = wrong.check();
    let pointers: Vec<_> = found.iter().map(|v| v.pointer.as_str()).collect();
    let expected = [
        "/present",
        "/cleanup",
        "/timeout",
        "/environment/0",
        "/environment/1",
        "/environment/2",
        "/environment/4",
    ];
    assert_eq!(pointers, expected);
    assert!(found.iter().all(|violation| !violation.remedy.is_empty()));
    environment = (0..65).map(|n| format!("V{n}")).collect();
    let many = DnsScript { present: CommandLine::from("dns-add"), environment, ..DnsScript::default() };
    assert_eq!(many.check()[0].pointer, "/environment");
    assert_eq!(DnsScript::default().check()[0].pointer, "/present");

    let good = DnsScript { present: CommandLine::from("/usr/local/bin/dns-add"), ..DnsScript::default() };
    let spec = SolverSpec::of(&good).unwrap();
    assert_eq!(&*spec.kind, "dns_script");
    certctl_connectors::connectors().solver("dns_script").unwrap().check(&spec.config).unwrap();
}

// ---- What they share -------------------------------------------------------------------------------------------------------

/// The environment of a process that is none of this one.
#[derive(Debug)]
struct Variables(BTreeMap<String, String>);

#[async_trait]
impl Secrets for Variables {
    async fn resolve(&self, _: &SealedAt<'_>, reference: &SecretRef) -> Result<Secret> {
        let SecretRef::Env(name) = reference else { panic!("only variables are asked for") };
        let missing = || Error::new(ErrorKind::Precondition, format!("there is no variable {name}"));
        self.0.get(name).map(|value| Secret::new(value.as_bytes())).ok_or_else(missing)
    }
}

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

/// A script whose `$0` is a file in this directory.
fn sh(script: &str, dir: impl AsRef<Path>, arguments: &[&str]) -> CommandLine {
    let out = dir.as_ref().join("out").to_str().unwrap().to_owned();
    let mut argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned(), out];
    argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    CommandLine::from(argv)
}

async fn connect(config: DnsScript, variables: &[(&str, &str)]) -> Arc<dyn Solver> {
    let mut env = Env::in_memory();
    env.hosts = Arc::new(LocalHosts);
    env.secrets =
        Arc::new(Variables(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()));
    config.connect(env).await.unwrap()
}

/// What a script that fails gives, with these variables passed on.
async fn failure(script: &str, variables: &[(&str, &str)]) -> Error {
    let config = DnsScript {
        present: CommandLine::from(["/bin/sh", "-c", script]),
        environment: variables.iter().map(|(name, _)| (*name).to_owned()).collect(),
        ..DnsScript::default()
    };
    connect(config, variables).await.present(&cx(), &challenge("web.test")).await.unwrap_err()
}

#[track_caller]
fn assert_covered(error: &Error, parts: &[&str]) {
    let report = serde_json::to_string(&error.report()).unwrap() + &format!("{error:?}");
    for part in parts {
        assert!(!report.contains(part), "{part} in {report}");
    }
}

fn challenge(domain: &str) -> Challenge {
    Challenge {
        kind: ChallengeKind::Dns01,
        name: SubjectAltName::Dns(domain.into()),
        token: "the-token".into(),
        key_authorization: "the-token.thumbprint".into(),
        txt: Some(TxtRecord { name: "_acme-challenge.web.test".into(), value: "the-value".into() }),
        solver: None,
    }
}
