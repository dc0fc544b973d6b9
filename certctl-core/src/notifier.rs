//! What tells people: email, chat, a pager.

use std::{collections::BTreeMap, fmt::Debug};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Id, Identified, Result, Timestamp, Violation, records::Certificate};

/// A way to tell people. Each call is one bounded step: a notifier neither queues nor tries again; that is the business of
/// whoever calls it, by what the error says ([`Error::retry`], [`Error::effect`]).
///
/// The engine does not notify yet: the outbox that remembers what has to be said to whom, and which channel has taken it, is
/// still to come. Until then a program calls its notifiers itself, for example for what [`crate::Engine::events`] gives.
#[async_trait]
pub trait Notifier: Send + Sync + Debug {
    /// The connector's kind, such as `slack`.
    fn kind(&self) -> &str;

    /// What it can do. What it can't is refused before it is asked.
    fn capabilities(&self) -> NotifierCapabilities;

    /// Hands the notification over. It has gone out once this returns.
    ///
    /// # Errors
    /// `Unavailable` or `RateLimited` for what a later call may get over, with an unknown effect if it may have gone out all
    /// the same; `Invalid` or `Denied` if the other side refused it for good; `Unsupported` for what
    /// [`NotifierCapabilities::check`] refuses.
    async fn notify(&self, cx: &Context, notification: &Notification) -> Result<()>;
}

/// What a notifier can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifierCapabilities {
    /// Whether the other side knows a notification again by its id, so that one whose answer was lost can be sent again and
    /// nobody reads it twice.
    pub idempotent: bool,
    /// Whether it reaches the recipients that a notification names (email); otherwise its configuration says who reads it.
    pub recipients: bool,
}

/// Something that people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// Its id: the same whenever the same thing is told again, through whatever channel.
    pub id: Id<Notification>,
    /// When what it is about happened.
    pub at: Timestamp,
    /// How urgent it is.
    pub severity: Severity,
    /// One line.
    pub subject: String,
    /// Plain text, several lines perhaps.
    pub body: String,
    /// Who is to read it, where the channel addresses people; empty leaves it to the notifier's configuration.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// The certificate that it is about.
    #[serde(default)]
    pub certificate: Option<Id<Certificate>>,
    /// Facts for machines and tables: names, serials, days left. Never a secret.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
}

/// How urgent a notification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Informational,
    /// Somebody should look in the next days.
    Warning,
    /// Somebody has to act now.
    Critical,
}

impl Severity {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl Notification {
    /// The longest subject, in bytes.
    pub const MAX_SUBJECT: usize = 500;

    /// A notification with a new id. The other fields are public.
    pub fn new(
        at: Timestamp,
        severity: Severity,
        subject: impl Into<String>,
        body: impl Into<String>,
    ) -> Self {
        Self {
            id: Id::mint_at(at),
            at,
            severity,
            subject: subject.into(),
            body: body.into(),
            recipients: Vec::new(),
            certificate: None,
            details: BTreeMap::new(),
        }
    }
}

impl Identified for Notification {
    const PREFIX: &'static str = "ntf";
    const NOUN: &'static str = "notification";
}

impl NotifierCapabilities {
    /// What [`Notifier::notify`] begins with.
    ///
    /// # Errors
    /// `Unsupported` if recipients are named that the channel does not reach; `Invalid` if the subject is empty, too long, or
    /// not one line: a line end in it would forge a header of a mail.
    pub fn check(self, kind: &str, notification: &Notification) -> Result<()> {
        let subject = &notification.subject;
        if subject.is_empty()
            || subject.len() > Notification::MAX_SUBJECT
            || subject.contains(char::is_control)
        {
            return Err(Error::invalid(vec![Violation::new(
                "/subject",
                format!("the subject is not one line of 1 to {} bytes", Notification::MAX_SUBJECT),
                "put the rest into the body",
            )]));
        }
        if !self.recipients && !notification.recipients.is_empty() {
            return Err(Error::unsupported(format!(
                "the notifier kind {kind} does not reach single recipients: its configuration says who reads it"
            )));
        }
        Ok(())
    }
}
