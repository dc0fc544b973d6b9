//! A notifier that does what a test's script says, and the conformance suite for every notifier.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;

use crate::{
    Context, Effect, Error, ErrorKind, Notification, Notifier, NotifierCapabilities, Result, Retry, Severity,
    Timestamp,
};

/// What a [`RecordingNotifier`] does with a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// Delivers it.
    Deliver,
    /// Is down: `Unavailable`, and nothing went out.
    Down,
    /// Delivers it, and loses the answer: `Unavailable`, with an unknown effect.
    LoseAnswer,
    /// Refuses it for good: `Invalid`.
    Reject,
    /// Wants to be left alone until then.
    RateLimit(Timestamp),
}

/// Keeps what it is given, and fails as a script says.
#[derive(Debug)]
pub struct RecordingNotifier {
    capabilities: NotifierCapabilities,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scripts: VecDeque<Script>,
    delivered: Vec<Notification>,
}

impl RecordingNotifier {
    /// Delivers everything until told otherwise.
    pub fn new(capabilities: NotifierCapabilities) -> Self {
        Self { capabilities, state: Mutex::default() }
    }

    /// What to do with the next calls, one each, before it delivers again.
    pub fn script_next(&self, scripts: impl IntoIterator<Item = Script>) {
        self.state().scripts.extend(scripts);
    }

    /// What people have read, in that order.
    pub fn delivered(&self) -> Vec<Notification> {
        self.state().delivered.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the notifier's state")
    }
}

#[async_trait]
impl Notifier for RecordingNotifier {
    fn kind(&self) -> &str {
        "recording"
    }

    fn capabilities(&self) -> NotifierCapabilities {
        self.capabilities
    }

    async fn notify(&self, cx: &Context, notification: &Notification) -> Result<()> {
        self.capabilities.check(self.kind(), notification)?;
        let mut state = self.state();
        let script = state.scripts.pop_front().unwrap_or(Script::Deliver);
        match script {
            Script::Down => return Err(Error::unavailable("the channel is down")),
            Script::Reject => {
                return Err(Error::invalid_field("/body", "the channel refuses the text", "shorten it"));
            }
            Script::RateLimit(until) if cx.clock.now() < until => {
                let error = Error::new(ErrorKind::RateLimited, "too many notifications");
                return Err(error.with_retry(Retry::After(until)));
            }
            _ => {}
        }
        let known = state.delivered.iter().any(|delivered| delivered.id == notification.id);
        if !(known && self.capabilities.idempotent) {
            state.delivered.push(notification.clone());
        }
        if script == Script::LoseAnswer {
            return Err(Error::unavailable("the answer was lost").with_effect(Effect::Unknown));
        }
        Ok(())
    }
}

/// What every notifier must do. `delivered` gives, for each notification that has arrived at the other side, the text as
/// people read it there; nothing has arrived yet.
///
/// # Panics
/// If it does not.
pub async fn conformance(
    notifier: &dyn Notifier,
    cx: &Context,
    delivered: &(dyn Fn() -> Vec<String> + Sync),
) {
    let kind = notifier.kind();
    assert!(!kind.is_empty() && !kind.contains(char::is_whitespace), "a kind is one word: {kind:?}");
    assert_eq!(delivered(), Vec::<String>::new(), "nothing has arrived yet");
    let suite = Suite { notifier, cx, delivered };
    suite.every_severity_arrives().await;
    suite.text_arrives_as_it_is().await;
    suite.the_same_id_twice().await;
    suite.what_is_refused_does_not_go_out().await;
}

struct Suite<'a> {
    notifier: &'a dyn Notifier,
    cx: &'a Context,
    delivered: &'a (dyn Fn() -> Vec<String> + Sync),
}

impl Suite<'_> {
    async fn every_severity_arrives(&self) {
        for severity in [Severity::Informational, Severity::Warning, Severity::Critical] {
            let before = (self.delivered)().len();
            let subject = format!("web.test: {}", severity.as_str());
            self.notifier
                .notify(self.cx, &self.notification(severity, &subject, "30 days left"))
                .await
                .unwrap();
            let arrived = (self.delivered)();
            assert_eq!(arrived.len(), before + 1, "one notification arrives once");
            let text = arrived.last().expect("it arrived");
            assert!(text.contains(&subject) && text.contains("30 days left"), "nothing is left out: {text}");
        }
    }

    /// No markup of the channel's own is taken for markup.
    async fn text_arrives_as_it_is(&self) {
        let body = "Größe <b>&amp; \"quoted\"</b>\n*second* line \\ 終";
        let notification = self.notification(Severity::Warning, "Überblick <https://x.test|y> {0}", body);
        self.notifier.notify(self.cx, &notification).await.unwrap();
        let arrived = (self.delivered)();
        let text = arrived.last().expect("it arrived");
        assert!(text.contains(&notification.subject), "the subject is as it was: {text}");
        for line in body.lines() {
            assert!(text.contains(line), "the line {line:?} is as it was: {text}");
        }
    }

    async fn the_same_id_twice(&self) {
        let before = (self.delivered)().len();
        let notification = self.notification(Severity::Critical, "once", "or twice");
        for _ in 0..2 {
            self.notifier.notify(self.cx, &notification).await.unwrap();
        }
        let expected = if self.notifier.capabilities().idempotent { 1 } else { 2 };
        assert_eq!((self.delivered)().len(), before + expected, "it says whether it knows an id again");
    }

    async fn what_is_refused_does_not_go_out(&self) {
        let before = (self.delivered)().len();
        for subject in ["", "two\r\nBcc: somebody@else.test", &"x".repeat(Notification::MAX_SUBJECT + 1)] {
            let notification = self.notification(Severity::Warning, subject, "text");
            let error = self.notifier.notify(self.cx, &notification).await.expect_err("no subject");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
            assert!(error.violations().iter().any(|wrong| wrong.pointer == "/subject"), "{error:?}");
        }
        let reaches = self.notifier.capabilities().recipients;
        if !reaches {
            let mut notification = self.notification(Severity::Warning, "to somebody", "text");
            notification.recipients = vec!["somebody@example.test".to_owned()];
            let error =
                self.notifier.notify(self.cx, &notification).await.expect_err("a recipient is not reached");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        }
        assert_eq!((self.delivered)().len(), before, "nothing went out");
    }

    fn notification(&self, severity: Severity, subject: &str, body: &str) -> Notification {
        let mut notification = Notification::new(self.cx.clock.now(), severity, subject, body);
        if self.notifier.capabilities().recipients {
            notification.recipients = vec!["ops@example.test".to_owned()];
        }
        notification
    }
}
