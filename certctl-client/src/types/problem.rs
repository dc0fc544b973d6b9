use certctl_core::{Effect, Error, ErrorKind, ErrorReport, Retry, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why a request was refused (RFC 9457), as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `about:blank`: the status says what there is to say, and `kind` says it more closely.
    #[serde(rename = "type", default = "about_blank")]
    pub type_uri: String,
    /// The status, in words.
    pub title: String,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// A sentence for a person.
    pub detail: String,
    /// The class of the error.
    pub kind: ErrorKind,
    /// Whether, and when, the same request may succeed.
    pub retry: Retry,
    /// Whether something may have happened all the same.
    #[serde(default = "no_effect", skip_serializing_if = "is_none")]
    pub effect: Effect,
    /// Everything that is wrong with the request: where, what, and what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// Facts, such as the version that a record has.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
}

impl Problem {
    /// The media type.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// The problem that an error is, with this status and its name. The causes stay behind: they are the server's own.
    pub fn new(error: &Error, status: u16, title: impl Into<String>) -> Self {
        Self {
            type_uri: about_blank(),
            title: title.into(),
            status,
            detail: error.message().to_owned(),
            kind: error.kind(),
            retry: error.retry(),
            effect: error.effect(),
            violations: error.violations().to_vec(),
            context: error
                .context()
                .iter()
                .map(|(key, value)| (key.clone(), value.as_str().into()))
                .collect(),
        }
    }
}

impl From<Problem> for Error {
    /// The error that the server had.
    fn from(problem: Problem) -> Self {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Self::from(ErrorReport {
            kind: problem.kind,
            message: if problem.detail.is_empty() { problem.title } else { problem.detail },
            retry: problem.retry,
            effect: problem.effect,
            violations: problem.violations,
            context: problem.context.into_iter().map(|(key, value)| (key, text(value))).collect(),
            causes: Vec::new(),
        })
    }
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

fn no_effect() -> Effect {
    Effect::None
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_none(effect: &Effect) -> bool {
    *effect == Effect::None
}
