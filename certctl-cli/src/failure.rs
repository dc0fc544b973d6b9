//! What went wrong, for a person in front of a terminal.

use certctl_core::{Effect, Error, ErrorKind, Retry};

use crate::{
    exit::Exit,
    text::{printable, wrap},
};

/// How wide an error is at most.
const WIDTH: usize = 80;

/// Why a command ended without having done what it should.
#[derive(Clone, Debug)]
pub struct Failure {
    error: Error,
    exit: Exit,
    hints: Vec<String>,
}

impl Failure {
    /// With another exit code than that of the error's kind.
    pub fn new(exit: Exit, error: Error) -> Self {
        Self { exit, ..Self::from(error) }
    }

    /// Adds a sentence that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The error behind it.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The text for standard error: no line wider than 80 columns, each violation on its own, then what to do.
    pub fn render(&self) -> String {
        let violations = self.error.violations();
        let mut lines = match violations {
            [] => wrap(&format!("error: {}", printable(self.error.message())), WIDTH, "  "),
            [_] => vec![format!("error: {}", self.heading("this is"))],
            many => vec![format!("error: {}", self.heading(&format!("{} fields are", many.len())))],
        };
        for violation in violations {
            // What is wrong with the whole has no place of its own.
            let at =
                if violation.pointer.is_empty() { String::new() } else { format!("{}: ", violation.pointer) };
            let text = format!("{at}{}; {}", violation.message, violation.remedy);
            lines.extend(wrap(&format!("  {}", printable(&text)), WIDTH, "      "));
        }
        if let Some(cause) = innermost(&self.error) {
            lines.extend(wrap(&format!("  cause: {}", printable(&cause)), WIDTH, "      "));
        }
        for hint in self.hints.iter().chain(&general(&self.error)) {
            lines.extend(wrap(&printable(hint), WIDTH, ""));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    fn heading(&self, how_many: &str) -> String {
        match self.error.kind() {
            ErrorKind::Conflict => "there is a conflict".to_owned(),
            _ => format!("{how_many} wrong"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: error.kind().into(), error, hints: Vec::new() }
    }
}

/// What there is to say about any error of this kind.
fn general(error: &Error) -> Option<String> {
    match (error.effect(), error.retry()) {
        (Effect::Unknown, _) if error.kind() != ErrorKind::BadResponse => {
            Some("It may have been done all the same: look before you ask again.".to_owned())
        }
        (_, Retry::After(at)) => Some(format!("Ask again after {at}.")),
        _ => None,
    }
}

fn innermost(error: &Error) -> Option<String> {
    let mut cause = std::error::Error::source(error)?;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    (!error.message().contains(&text)).then_some(text)
}
