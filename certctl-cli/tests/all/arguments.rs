//! What is said before any server is asked.

use std::collections::HashSet;

use certctl_cli::{Cli, Environment, Exit};
use certctl_core::ErrorKind;
use clap::{Command, CommandFactory};

use crate::shell::{assert_narrow, environment, run, run_with};

#[test]
fn the_definition_of_the_arguments_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_help_fits_eighty_columns_and_every_argument_has_one() {
    let mut seen = 0;
    walk(&Cli::command(), &[], &mut |path, command| {
        seen += 1;
        for flag in ["-h", "--help"] {
            let args: Vec<&str> = path.iter().copied().chain([flag]).collect();
            let ran = run(&args, &Environment::default());
            assert_eq!(ran.exit, Exit::Ok, "{args:?}");
            assert!(ran.out.contains("Usage: certctl"), "{args:?}: {}", ran.out);
            assert!(ran.err.is_empty());
            assert_narrow(&ran.out);
        }
        assert!(command.get_about().is_some(), "{path:?} says what it does");
        for arg in command.get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{path:?} {} says what it is for", arg.get_id());
        }
    });
    assert!(seen > 50, "{seen} commands");
}

fn walk<'c>(command: &'c Command, path: &[&'c str], each: &mut impl FnMut(&[&str], &Command)) {
    each(path, command);
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let path: Vec<&str> = path.iter().copied().chain([inner.get_name()]).collect();
        walk(inner, &path, each);
    }
}

#[test]
fn plain_certctl_explains_itself() {
    let ran = run(&[], &Environment::default());
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
    assert_narrow(&ran.out);
    for name in [Environment::SERVER_URL, Environment::CA_FILE, Environment::API_KEY] {
        assert!(ran.out.contains(name), "{name}: {}", ran.out);
    }
    let commands = ran.out.lines().filter(|line| line.starts_with("  certctl ")).collect::<Vec<_>>();
    assert_eq!(commands.len(), 5, "{}", ran.out);
    for line in commands {
        // What follows the command after some blanks is its explanation.
        let line = line.trim().split("   ").next().unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(Cli::command().try_get_matches_from(words).is_ok(), "{line}");
    }
}

#[test]
fn the_help_names_every_exit_code_and_no_two_are_the_same() {
    let help = run(&["--help"], &Environment::default()).out;
    let mut codes = HashSet::new();
    for exit in Exit::ALL {
        assert!(codes.insert(exit.code()));
        assert!(help.contains(&format!("  {:>2}  {}\n", exit.code(), exit.meaning())), "{exit}: {help}");
    }
}

#[test]
fn each_kind_of_error_has_its_exit_code() {
    for (kind, code) in [
        (ErrorKind::Internal, 1),
        (ErrorKind::Invalid, 2),
        (ErrorKind::Unauthenticated, 3),
        (ErrorKind::Denied, 4),
        (ErrorKind::NotFound, 5),
        (ErrorKind::Conflict, 6),
        (ErrorKind::Precondition, 7),
        (ErrorKind::RateLimited, 8),
        (ErrorKind::Unavailable, 9),
        (ErrorKind::BadResponse, 10),
        (ErrorKind::Unsupported, 11),
        (ErrorKind::Cancelled, 12),
    ] {
        assert_eq!(Exit::from(kind).code(), code, "{kind:?}");
    }
}

#[test]
fn the_lines_that_shall_work_as_written_are_understood() {
    for line in [
        "certctl agents enroll-token --name web-1",
        "certctl targets create nginx-1 --kind nginx --agent web-1 --config nginx.json",
        "certctl certs create web --san web.test --target nginx-1 --wait",
        "certctl certs get web --output json",
        "certctl certs renew web --wait",
        "certctl certs deploy web --dry-run",
        "certctl certs create api --issuer iss-local --csr api.csr --wait",
        "certctl certs export api",
        "certctl issuers create NAME --kind K --config FILE",
        "certctl jobs list --output json",
        "certctl jobs list --state open",
        "certctl connectors describe nginx",
        "certctl agents resolve web-1 --keep abcdefgh",
        "certctl --output json certs renew api --csr - --wait --timeout 90s",
        "certctl certs create web --san a.test --san b.test --target a --target b --reuse-key --key-algorithm rsa-2048",
        "certctl certs update web --reuse-key=false --lifetime 47d",
        "certctl certs revoke web --reason keyCompromise --version 01ab",
        "certctl audit --action certificate.created --resource mc-1 --limit 5",
        "certctl certs list --status attention --expires-within 30d --all",
    ] {
        let words = line.split_whitespace();
        if let Err(e) = Cli::command().try_get_matches_from(words) {
            panic!("{line}: {e}");
        }
    }
}

#[test]
fn wrong_arguments_are_refused_with_exit_code_2_within_eighty_columns() {
    for (args, words) in [
        (&["foo"][..], "unrecognized subcommand 'foo'"),
        (&["certs", "create"], "required arguments"),
        (
            &["certs", "create", "web", "--lifetime", "3w"],
            "\"3w\" is not a duration; write it like 60s, 90m, 12h or 7d",
        ),
        (&["certs", "create", "web", "--key-algorithm", "DSA"], "use one of ECDSA-P256"),
        (&["certs", "revoke", "web", "--reason", "x"], "use one of unspecified"),
        (&["certs", "list", "--status", "good"], "use pending, active, partial, attention or revoked"),
        (&["certs", "list", "--limit", "1001"], "1001 is not in 1..=1000"),
        (&["certs", "deploy", "web", "--dry-run", "--wait"], "cannot be used with"),
        (&["certs", "renew", "web", "--timeout", "5s"], "--wait"),
        (&["api-keys", "create", "ci", "--role", "god"], "\"god\" is no role; use admin"),
        (&["certs", "list", "--api-key", "certctl_1_secret"], "unexpected argument '--api-key'"),
    ] {
        let ran = run(args, &Environment::default());
        assert_eq!(ran.exit, Exit::Invalid, "{args:?}");
        assert!(ran.out.is_empty());
        let unwrapped = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(unwrapped.starts_with("error: ") && unwrapped.contains(words), "{args:?}: {}", ran.err);
        assert!(!ran.err.contains("/:"), "{}", ran.err);
        assert_narrow(&ran.err);
    }
}

#[test]
fn settings_that_are_wrong_are_named_as_they_were_given() {
    let url = environment(&[(Environment::SERVER_URL, "http://certctl.test")]);
    let ran = run(&["status"], &url);
    assert_eq!(ran.exit, Exit::Invalid);
    assert_eq!(
        ran.err,
        "error: this is wrong\n  --server or CERTCTL_SERVER_URL: \"http://certctl.test\" does not begin with\n      \
         https://, and a certctl server speaks nothing else; write it like\n      https://certctl.example.com:8443\n"
    );

    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let ca = run(&["status", "--ca-file", empty.to_str().unwrap()], &Environment::default());
    assert_eq!(ca.exit, Exit::Invalid);
    assert!(ca.err.contains("  --ca-file or CERTCTL_CA_FILE: there is no certificate in"), "{}", ca.err);

    let missing = folder.path().join("missing");
    let key = run(&["status", "--api-key-file", missing.to_str().unwrap()], &Environment::default());
    assert_eq!(key.exit, Exit::Precondition);
    assert!(key.err.contains("can't be read\n  cause: No such file"), "{}", key.err);

    let blank = run_with(&["status", "--api-key-file", "-"], &Environment::default(), " \n", None);
    assert_eq!(blank.exit, Exit::Invalid);
    assert!(blank.err.contains("--api-key-file: there is nothing in standard input"), "{}", blank.err);
}

#[test]
fn a_configuration_that_is_no_json_is_refused_without_being_repeated() {
    let config = "{\"password\": hush}";
    let ran = run_with(
        &["issuers", "create", "a", "--kind", "acme", "--config", "-"],
        &Environment::default(),
        config,
        None,
    );
    assert_eq!(ran.exit, Exit::Invalid);
    assert!(ran.err.contains("standard input has no JSON, at line 1, column 14"), "{}", ran.err);
    assert!(!ran.err.contains("hush"));
}

#[test]
fn an_empty_variable_counts_as_none_and_foreign_ones_do_not_matter() {
    let names = [(Environment::SERVER_URL, ""), ("CERTCTL_DATA_DIR", "/x"), ("CERTCTL_NONSENSE", "1")];
    let ran = run(&["version"], &environment(&names));
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
    assert_eq!(ran.out, format!("certctl:  {}\n", env!("CARGO_PKG_VERSION")));
}
