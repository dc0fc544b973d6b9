//! The commands of a layout.

use super::OnHost;
use crate::{Error, ErrorKind, FileTarget, Result, host::Command};

impl<T: FileTarget> OnHost<T> {
    /// Runs the command; `false` if there is none.
    pub(super) async fn run(&self, step: &str, command: Option<Command>) -> Result<bool> {
        let Some(command) = command else { return Ok(false) };
        let output = self.host.run(&command).await.map_err(|error| at_step(&error, step))?;
        if output.ok() {
            return Ok(true);
        }
        let end = match output.code {
            Some(code) => format!("exit code {code}"),
            None => "a signal".to_owned(),
        };
        let said = match output.text.trim() {
            "" => "it printed nothing",
            text => text,
        };
        let message = format!("{step} failed: `{command}` ended with {end}: {said}");
        Err(Error::new(ErrorKind::Precondition, message).with("step", step).with("command", command))
    }
}

/// The host names its own operation as the step; for a person it is what the command was run for.
fn at_step(error: &Error, step: &str) -> Error {
    let mut report = error.report();
    report.context.retain(|(key, _)| key != "step");
    report.context.insert(0, ("step".to_owned(), step.to_owned()));
    report.message = format!("{step} failed: {}", report.message);
    Error::from(report)
}
