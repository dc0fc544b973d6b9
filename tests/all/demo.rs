//! What `make run` starts, as a newcomer meets it: the example `demo` of the server; and the library's own, `embedded`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use certctl::{Chain, Fingerprint};

use crate::world::World;

/// An example's process; ended when dropped.
struct Demo {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Demo {
    fn start(example: &str, data: &Path) -> Self {
        // Examples are built beside the tests.
        let program = std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples")
            .join(example);
        let mut child = Command::new(program)
            .env("CERTCTL_DATA_DIR", data)
            .env("CERTCTL_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the examples are built: cargo build --workspace --examples");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The line that begins so.
    fn line(&mut self, begin: &str) -> String {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.starts_with(begin) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line begins with {begin:?}: {seen:#?}");
    }

    /// Ctrl-C.
    fn interrupt(&mut self) {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
        self.line("stopped");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demonstration_serves_what_it_prints_and_carries_on() {
    serves_what_it_prints_and_carries_on("demo");
}

#[test]
fn so_does_the_librarys_own() {
    serves_what_it_prints_and_carries_on("embedded");
}

fn serves_what_it_prints_and_carries_on(example: &str) {
    let world = World::new();
    let data = world.path("data");
    let mut first = Demo::start(example, &data);
    let line = first.line("curl ");
    assert_eq!(line.split(' ').count(), 4, "no blanks or quotes in the path: {line}");
    let (root, leaf) = (fingerprint(data.join("ca.pem")), fingerprint(data.join("demo/web.crt")));
    curl(&line);
    first.interrupt();

    // What an operator breaks meanwhile is mended, with the same certificate of the same CA.
    std::fs::remove_file(data.join("demo/web.key")).unwrap();
    let mut second = Demo::start(example, &data);
    let line = second.line("curl ");
    assert_eq!((root, leaf), (fingerprint(data.join("ca.pem")), fingerprint(data.join("demo/web.crt"))));
    curl(&line);
    second.interrupt();
}

/// The line as it was printed, by a shell as it would be pasted into.
fn curl(line: &str) {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_none(), "curl is not installed");
        eprintln!("skipped: curl is not installed");
        return;
    }
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).contains("hello"));
}

fn fingerprint(path: PathBuf) -> Fingerprint {
    Chain::from_pem(&std::fs::read(path).unwrap()).unwrap().leaf().fingerprint()
}
