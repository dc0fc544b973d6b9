//! A server's process, which never outlives the test.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// Runs the program until standard input ends, which it does however this process ends, and says how the program ended.
const UNTIL_INPUT_ENDS: &str = r#"exec 3<&0
"$@" 3<&- </dev/null & program=$!
{ read -r _ <&3; kill -KILL $program; } 2>/dev/null & watch=$!
wait $program; status=$?
kill $watch 2>/dev/null
exit $status"#;

const LIMIT: Duration = Duration::from_secs(60);
const TRIES: usize = 10;

/// A port was taken in the moment between being found free and being listened on.
#[derive(Debug)]
pub struct PortTaken;

/// Starts a server, again with other ports if one of them was taken.
pub async fn on_free_ports<S>(name: &str, start: impl AsyncFn() -> Result<S, PortTaken>) -> S {
    for _ in 0..TRIES {
        if let Ok(server) = start().await {
            return server;
        }
    }
    panic!("{name} found its ports taken {TRIES} times");
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`. What it prints goes to the file `log`.
    pub fn start(program: &Path, log: &Path, with: impl FnOnce(&mut Command)) -> Self {
        let output = File::create(log).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", UNTIL_INPUT_ENDS, "sh"]).arg(program);
        with(&mut command);
        command.stdin(Stdio::piped()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Waits until `ready` says so; fails with what the server printed if it ends before that.
    pub async fn until(&mut self, ready: impl AsyncFn() -> bool) -> Result<(), PortTaken> {
        let waiting = async {
            loop {
                let is_ready = ready().await;
                let printed = self.printed();
                if printed.contains("address already in use") || printed.contains("address in use") {
                    return Err(PortTaken);
                }
                if let Some(status) = self.ended() {
                    panic!("{self:?} ended with {status}:\n{}", self.printed());
                }
                if is_ready {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("{self:?} is not ready after {LIMIT:?}:\n{}", self.printed()),
        }
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
