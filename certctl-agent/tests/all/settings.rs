//! The program's settings, each by flag, variable and file.

use std::{path::Path, process::Command};

use certctl_agent::settings::{Asked, Settings};
use certctl_core::Error;

fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, Error> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match Settings::read(arguments, environment)? {
        Asked::Run(settings) => Ok(*settings),
        Asked::Say(text) => panic!("it said {text}"),
    }
}

fn pointers(error: &Error) -> Vec<&str> {
    error.violations().iter().map(|wrong| &*wrong.pointer).collect()
}

const FLAGS: [&str; 6] =
    ["--server", "https://flag.test", "--ca", "/flag/ca.pem", "--state-dir", "/flag/state"];

#[test]
fn a_flag_comes_before_a_variable_and_that_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    let written = "server_url = 'https://file.test'\nca_file = '/file/ca.pem'\nstate_dir = '/file/state'\n\
                   key_dir = '/file/keys'\nparallel = 3\nlog = 'warn'\n[allow]\nkinds = ['nginx']";
    std::fs::write(&file, written).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let variables = [
        ("CERTCTL_SERVER_URL", "https://variable.test"),
        ("CERTCTL_CA_FILE", "/variable/ca.pem"),
        ("CERTCTL_STATE_DIR", "/variable/state"),
        ("CERTCTL_KEY_DIR", "/variable/keys"),
        ("CERTCTL_AGENT_PARALLEL", "5"),
        ("CERTCTL_LOG", "debug"),
    ];
    let more = ["--key-dir", "/flag/keys", "--parallel=7", "--log", "error"];

    let by_file = read(&config, &[]).unwrap();
    let by_variable = read(&config, &variables).unwrap();
    let by_flag = read(&[&config[..], &FLAGS, &more].concat(), &variables).unwrap();
    for (settings, from, parallel, log) in [
        (&by_file, "file", 3, "warn"),
        (&by_variable, "variable", 5, "debug"),
        (&by_flag, "flag", 7, "error"),
    ] {
        assert_eq!(settings.server, format!("https://{from}.test"));
        assert_eq!(settings.ca, Path::new(&format!("/{from}/ca.pem")));
        assert_eq!(settings.state_dir, Path::new(&format!("/{from}/state")));
        assert_eq!(settings.key_dir.as_deref(), Some(Path::new(&format!("/{from}/keys"))));
        assert_eq!((settings.parallel, &*settings.log), (parallel, log));
        assert_eq!(settings.policy.kinds.as_deref(), Some(&["nginx".to_owned()][..]));
        assert_eq!(settings.file.as_deref(), Some(&*file));
    }
    let named_by_variable = read(&[], &[("CERTCTL_AGENT_CONFIG", file.to_str().unwrap())]).unwrap();
    assert_eq!(named_by_variable.server, "https://file.test");
}

#[test]
fn rules_in_the_state_directory_need_not_be_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("agent.toml"), "[allow]\npaths = []").unwrap();
    let state = dir.path().to_str().unwrap();
    let settings =
        read(&["--server", "https://x.test", "--ca", "ca.pem", "--state-dir", state], &[]).unwrap();
    assert_eq!(settings.policy.paths, Some(Vec::new()));
}

#[test]
fn everything_that_is_wrong_is_said_by_its_name() {
    let error =
        read(&["--sever", "x", "--parallel", "many", "--log", "loud"], &[("CERTCTL_AGENT_NAME", "web-1")])
            .unwrap_err();
    let all = pointers(&error);
    for name in ["--sever", "--parallel", "log", "CERTCTL_AGENT_NAME", "--server", "--ca", "--state-dir"] {
        assert!(all.contains(&name), "{name} in {all:?}");
    }
    for twice in [["--log", "info", "--log", "info"], ["--log=info", "--parallel=4", "--log=info", "--ca=x"]]
    {
        let error = read(&[&twice[..], &FLAGS].concat(), &[]).unwrap_err();
        assert!(error.violations().iter().any(|wrong| wrong.message.contains("twice")), "{error}");
    }
    // Of other programs in the same shell.
    read(&FLAGS, &[("CERTCTL_API_KEY", "x"), ("CERTCTL_DATA_DIR", "d"), ("CERTCTL_LISTEN", "y")]).unwrap();
}

#[test]
fn a_key_of_the_file_that_nobody_knows_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    let cases = [
        ("paths = ['/etc']", "paths", 1),
        ("log = 'info'\n[allow]\ncommand = ['x']", "command", 3),
        ("[allow]\npaths = ['etc/../x']", "etc/../x", 2),
        ("[allow", "allow", 1),
    ];
    for (text, name, line) in cases {
        std::fs::write(&file, text).unwrap();
        let error = read(&[&FLAGS[..], &["--config", file.to_str().unwrap()]].concat(), &[]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(name) || name == "allow", "{said}");
        assert!(said.contains(&format!("agent.toml line {line}")), "{said}");
    }
}

#[test]
fn a_token_is_no_argument_and_is_not_repeated() {
    for given in [
        &["--enroll-token", "enroll_1_canary"][..],
        &["--enroll-token=enroll_1_canary"],
        &["--token", "enroll_1_canary"],
    ] {
        let error = read(&[given, &FLAGS].concat(), &[]).unwrap_err();
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        assert!(error.to_string().contains("CERTCTL_ENROLL_TOKEN"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "enroll_1_file\n").unwrap();
    let variable = [("CERTCTL_ENROLL_TOKEN", "enroll_1_variable ")];
    let settings = read(&FLAGS, &variable).unwrap();
    assert_eq!(settings.token.as_ref().unwrap().expose(), b"enroll_1_variable");
    assert!(!format!("{settings:?}").contains("enroll_1"), "{settings:?}");
    let by_file = [&FLAGS[..], &["--enroll-token-file", file.to_str().unwrap()]].concat();
    assert_eq!(read(&by_file, &variable).unwrap().token.unwrap().expose(), b"enroll_1_file");
    std::fs::write(&file, "\n").unwrap();
    assert!(read(&by_file, &[]).is_err());
}

#[test]
fn the_program_explains_itself_on_80_columns() {
    let run = |arguments: &[&str]| {
        // The program itself, as an operator starts it.
        #[allow(clippy::disallowed_methods)]
        Command::new(env!("CARGO_BIN_EXE_certctl-agent")).args(arguments).env_clear().output().unwrap()
    };
    let help = run(&["--help"]);
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success() && help.stderr.is_empty());
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:?}");
    for name in ["--server URL", "CERTCTL_ENROLL_TOKEN", "CERTCTL_KEY_DIR, key_dir", "agent.toml", "SIGHUP"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    let version = run(&["--version"]);
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("certctl-agent 0."));

    let wrong = run(&["--nonsense"]);
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.lines().any(|line| line.contains("--nonsense")), "{said}");
    assert!(said.lines().any(|line| line.contains("CERTCTL_SERVER_URL")), "{said}");
}
