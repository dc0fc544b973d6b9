//! The one error of every certctl crate.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, whether trying again can help, and whether the other side may have acted.
///
/// Opaque and cheap to move; [`Error::report`] is its serialisable form.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    retry: Retry,
    effect: Effect,
    violations: Vec<Violation>,
    context: Vec<(String, String)>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The class of an [`Error`]; frontends map it to a status code, an exit code or an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is wrong; [`Error::violations`] says where and what to do.
    Invalid,
    /// Nobody knows who asks.
    Unauthenticated,
    /// Who asks may not.
    Denied,
    /// No such thing.
    NotFound,
    /// Somebody else was faster, or the name is taken.
    Conflict,
    /// The world is not as the operation needs it.
    Precondition,
    /// Asked too often; [`Error::retry`] says when again.
    RateLimited,
    /// Not reachable, or not working right now.
    Unavailable,
    /// The other side answered with nonsense.
    BadResponse,
    /// This connector can't do that.
    Unsupported,
    /// Somebody asked to stop.
    Cancelled,
    /// A bug or broken machinery on this side.
    Internal,
}

/// Whether, and when, the same call may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same call fails again until somebody changes something.
    Never,
    /// Later, with growing pauses.
    Backoff,
    /// Not before this time.
    After(Timestamp),
}

/// Whether the other side may have acted although the call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing happened there.
    None,
    /// It may have happened: ask with `recover` before trying again.
    Unknown,
}

/// One thing that is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// JSON pointer to the field (RFC 6901); empty for the whole input.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Violation {
    /// `pointer` says where, `message` what is wrong, `remedy` what to do.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.pointer.is_empty() { "/" } else { &self.pointer };
        write!(f, "{at}: {}; {}", self.message, self.remedy)
    }
}

/// The serialisable form of an [`Error`]: stored with jobs, sent on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReport {
    /// See [`Error::kind`].
    pub kind: ErrorKind,
    /// A sentence for a person.
    pub message: String,
    /// See [`Error::retry`].
    pub retry: Retry,
    /// See [`Error::effect`].
    pub effect: Effect,
    /// See [`Error::violations`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// See [`Error::context`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<(String, String)>,
    /// The messages of the causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl Error {
    /// An error of this kind. `Unavailable`, `RateLimited` and `Conflict` may be tried again with growing pauses, the
    /// others may not; [`Error::with_retry`] overrides that.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable | ErrorKind::RateLimited | ErrorKind::Conflict => Retry::Backoff,
            _ => Retry::Never,
        };
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            retry,
            effect: Effect::None,
            violations: Vec::new(),
            context: Vec::new(),
            source: None,
        }))
    }

    /// `Invalid`, with everything that is wrong.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [] => "invalid input".to_owned(),
            [one] => one.to_string(),
            many => format!("{} fields are wrong: {}", many.len(), join(many)),
        };
        let mut error = Self::new(ErrorKind::Invalid, message);
        error.0.violations = violations;
        error
    }

    /// `Invalid`, with one violation.
    pub fn invalid_field(
        pointer: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::invalid(vec![Violation::new(pointer, message, remedy)])
    }

    /// `Conflict`, which the same call does not get over: what the field says is taken.
    pub fn taken(pointer: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let violation = Violation::new(pointer, message, remedy);
        let mut error = Self::new(ErrorKind::Conflict, violation.to_string()).with_retry(Retry::Never);
        error.0.violations = vec![violation];
        error.with("reason", "taken")
    }

    /// `NotFound`: there is no `what` called `id`.
    pub fn not_found(what: &str, id: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no {what} {id}")).with("id", id)
    }

    /// `Internal`: broken machinery on this side.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// `Unavailable`, to be tried again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// `Unsupported`: a capability that the connector does not have.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Adds a fact; a key that is there already keeps its first value.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        let key = key.into();
        if !self.0.context.iter().any(|(k, _)| *k == key) {
            self.0.context.push((key, value.to_string()));
        }
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Overrides whether the same call may be tried again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Says whether the other side may have acted.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// Puts `what: ` before the message, as an error travels outwards.
    #[must_use]
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Moves every violation below `prefix` (a JSON pointer), as a nested input travels outwards.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        for violation in &mut self.0.violations {
            violation.pointer.insert_str(0, prefix);
        }
        if self.0.kind == ErrorKind::Invalid && !self.0.violations.is_empty() {
            let context = std::mem::take(&mut self.0.context);
            self = Self::invalid(std::mem::take(&mut self.0.violations));
            self.0.context = context;
        }
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// A sentence for a person, without the causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether, and when, the same call may succeed.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether the other side may have acted.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Everything that is wrong with the input, for `Invalid`; what is taken, for [`Error::taken`].
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// Facts about the failure, such as `step` and `file`.
    pub fn context(&self) -> &[(String, String)] {
        &self.0.context
    }

    /// One fact about the failure.
    pub fn context_value(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The serialisable form.
    pub fn report(&self) -> ErrorReport {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        ErrorReport {
            kind: self.0.kind,
            message: self.0.message.clone(),
            retry: self.0.retry,
            effect: self.0.effect,
            violations: self.0.violations.clone(),
            context: self.0.context.clone(),
            causes,
        }
    }
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Self {
        // Innermost first, so that each wraps the one before.
        let source = report.causes.into_iter().rev().fold(None, |inner, message| {
            Some(Arc::new(Cause { message, inner }) as Arc<dyn std::error::Error + Send + Sync>)
        });
        Self(Box::new(Inner {
            kind: report.kind,
            message: report.message,
            retry: report.retry,
            effect: report.effect,
            violations: report.violations,
            context: report.context,
            source,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        for (key, value) in &self.0.context {
            write!(f, " {key}={value:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

#[derive(Debug)]
struct Cause {
    message: String,
    inner: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.as_deref().map(|s| s as _)
    }
}

fn join(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join(" | ")
}
