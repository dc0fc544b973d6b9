//! The `openssl` program as an independent reader and writer.

use std::{path::PathBuf, process::Command};

/// A directory of a test's own, for what openssl reads and writes.
pub(crate) struct OpenSsl(PathBuf);

impl OpenSsl {
    /// `None`, with a word about it, where the program is not installed; a failure where `CERTCTL_TEST_REQUIRE_PEERS` is
    /// set.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn new(test: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            assert!(std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_none(), "openssl is not installed");
            eprintln!("skipped {test}: openssl is not installed");
            return None;
        }
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        std::fs::create_dir_all(&dir).unwrap();
        Some(Self(dir))
    }

    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(file), content).unwrap();
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.0.join(file)).unwrap()
    }

    /// Runs openssl with these arguments, split at spaces; what it printed, or why it failed.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn run(&self, args: &str) -> Result<String, String> {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(&self.0).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(text) } else { Err(text) }
    }
}
