//! Command lines: split without a shell.

use certctl_core::{CommandLine, ErrorKind};
use proptest::prelude::*;

#[test]
fn lines_are_split() {
    for (line, argv) in [
        ("nginx -t", vec!["nginx", "-t"]),
        ("  systemctl \t reload  nginx ", vec!["systemctl", "reload", "nginx"]),
        ("/usr/sbin/nginx -c '/etc/my nginx.conf'", vec!["/usr/sbin/nginx", "-c", "/etc/my nginx.conf"]),
        (r#"tool "a 'b' c" 'd "e" f'"#, vec!["tool", "a 'b' c", r#"d "e" f"#]),
        (r#"tool a"b c"d "" '' e"#, vec!["tool", "ab cd", "", "", "e"]),
        ("tool '$HOME; rm * | x \\ `id` #'", vec!["tool", "$HOME; rm * | x \\ `id` #"]),
        ("tool \"a;b|c&d*?~#!(){}<>\"", vec!["tool", "a;b|c&d*?~#!(){}<>"]),
        ("'/opt/my tool' x=1", vec!["/opt/my tool", "x=1"]),
        ("docker exec nginx nginx -s reload", vec!["docker", "exec", "nginx", "nginx", "-s", "reload"]),
    ] {
        assert_eq!(CommandLine::from(line).argv().unwrap(), argv, "{line}");
    }
}

#[test]
fn what_only_a_shell_understands_is_refused() {
    for c in ";|&$`<>(){}*?~#!\\\n\r".chars() {
        let line = format!("nginx -t {c} x");
        let violations = CommandLine::from(line.clone()).check("/reload_command");
        assert_eq!(violations.len(), 1, "{line:?}");
        assert_eq!(violations[0].pointer, "/reload_command");
        assert!(violations[0].remedy.contains(r#"["nginx","-t""#), "the array form is shown: {violations:?}");
    }
    for c in "$`\\".chars() {
        let line = format!("tool \"{c}HOME\"");
        assert!(CommandLine::from(line.clone()).argv().is_err(), "{line}: a shell would expand it");
    }
}

#[test]
fn arrays_are_taken_as_they_are() {
    let argv = ["/bin/sh", "-c", "a && b | c > $d\n"];
    assert_eq!(CommandLine::from(argv).argv().unwrap(), argv);
    assert_eq!(CommandLine::from(vec!["nginx".to_owned()]).argv().unwrap(), ["nginx"]);
}

#[test]
fn bad_commands_are_refused_with_a_remedy() {
    let long = format!("tool {}", "x".repeat(9000));
    let nothing: [&str; 0] = [];
    let commands: Vec<CommandLine> = vec![
        "".into(),
        "   ".into(),
        "''".into(),
        "tool 'open".into(),
        "tool \"open".into(),
        "./tool".into(),
        "bin/tool".into(),
        "../tool".into(),
        "/usr/../tool".into(),
        "-tool".into(),
        "A=1 tool".into(),
        "tool \u{7}".into(),
        nothing.into(),
        [""].into(),
        ["tool", "a\0b"].into(),
        ["to ol"].into(),
        long.clone().into(),
        ["tool", &long].into(),
    ];
    for command in commands {
        let error = command.argv().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{command:?}");
        assert!(!error.violations()[0].remedy.is_empty(), "{command:?}");
        assert!(command.command().is_err());
    }
}

#[test]
fn json_is_a_string_or_an_array() {
    for json in [r#""nginx -s reload""#, r#"["nginx","-s","reload"]"#, r#""not; checked yet""#] {
        let command: CommandLine = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&command).unwrap(), json, "written as it was read");
    }
    for json in ["1", "{}", "null", r#"["a",1]"#] {
        let error = serde_json::from_str::<CommandLine>(json).unwrap_err();
        assert!(error.to_string().contains("a string, or an array of strings"), "{error}");
    }
}

proptest! {
    #[test]
    fn splitting_never_panics_and_never_makes_up_bytes(line in any::<String>()) {
        if let Ok(argv) = CommandLine::from(line.as_str()).argv() {
            prop_assert!(argv.iter().map(String::len).sum::<usize>() <= line.len());
            prop_assert!(!argv[0].is_empty());
        }
    }

    #[test]
    fn single_quotes_keep_everything(words in proptest::collection::vec("[ -&(-~]{0,20}", 0..6)) {
        let line = words.iter().fold("tool".to_owned(), |line, word| format!("{line} '{word}'"));
        let argv = CommandLine::from(line).argv().unwrap();
        prop_assert_eq!(&argv[1..], &words[..]);
    }
}
