//! What the README and CONTRIBUTING name is there.

use std::path::Path;

const README: &str = include_str!("../../README.md");
const CONTRIBUTING: &str = include_str!("../../CONTRIBUTING.md");
const MAKEFILE: &str = include_str!("../../Makefile");

#[test]
fn the_makefile_has_every_target_that_is_named() {
    let named = targets_of(README);
    assert_eq!(named[..2], ["run", "test"], "the two commands come first");
    for target in named.into_iter().chain(targets_of(CONTRIBUTING)) {
        let rule = format!("{target}: ");
        assert!(MAKEFILE.lines().any(|line| line.starts_with(&rule)), "make {target} is not in the Makefile");
    }
}

#[test]
fn the_demonstration_is_the_example() {
    let recipe = MAKEFILE.lines().skip_while(|line| !line.starts_with("run: ")).nth(1).unwrap();
    let example = recipe.split("--example ").nth(1).unwrap().trim();
    let package = recipe.split("-p ").nth(1).unwrap().split(' ').next().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(package).join(format!("examples/{example}.rs"));
    let source = std::fs::read_to_string(file).unwrap();
    for setting in ["CERTCTL_LISTEN", "CERTCTL_DATA_DIR"] {
        assert!(README.contains(setting) && source.contains(setting), "{setting}");
    }
}

#[test]
fn every_file_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in links_of(README) {
        assert!(root.join(path).exists(), "the README links to {path}");
    }
    let mut named = 0;
    for path in CONTRIBUTING.split('`').skip(1).step_by(2).filter(|code| is_path(code)) {
        named += 1;
        let below = [
            "",
            "certctl-connectors/src",
            "certctl-connectors",
            "certctl-protocols/src",
            "certctl-server",
            "certctl-cli",
        ];
        assert!(below.iter().any(|dir| root.join(dir).join(path).exists()), "CONTRIBUTING names {path}");
    }
    assert!(named > 15, "only {named} paths were found");
}

/// What follows `make ` in code.
fn targets_of(text: &str) -> Vec<&str> {
    let words = text.split("make ").skip(1).zip(text.split("make "));
    words
        .filter(|(_, before)| before.ends_with('`') || before.ends_with('\n'))
        .filter_map(|(after, _)| after.split(|c: char| !c.is_ascii_lowercase()).next())
        .collect()
}

/// Where `[..](..)` leads, within the repository.
fn links_of(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.starts_with("http"))
}

/// A file or directory of the repository, without placeholders and those that the text tells to make.
fn is_path(code: &str) -> bool {
    let made_up = code.contains("apache") || code.contains("NAME");
    let plain = code.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    let file = [".rs", ".md", ".toml"].iter().any(|end| code.ends_with(end)) || code.ends_with('/');
    plain && file && !made_up
}
