use std::sync::Arc;

use certctl_core::{
    Clock, Context, Effect, Env, ErrorKind, Notification, Notifier, NotifierCapabilities, Result, Retry,
    Severity,
    connectors::{Connectors, NotifierConfig, NotifierKind},
    testkit::{
        clock::TestClock,
        notifier::{RecordingNotifier, Script, conformance},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

fn context() -> Context {
    Context::new(Arc::new(TestClock::default()))
}

fn notification() -> Notification {
    Notification::new(TestClock::default().now(), Severity::Warning, "web.test: 14 days left", "Renew it.")
}

#[tokio::test]
async fn the_recording_notifier_conforms() {
    for idempotent in [true, false] {
        for recipients in [true, false] {
            let notifier = RecordingNotifier::new(NotifierCapabilities { idempotent, recipients });
            let delivered = || {
                notifier.delivered().iter().map(|told| format!("{}\n{}", told.subject, told.body)).collect()
            };
            conformance(&notifier, &context(), &delivered).await;
        }
    }
}

#[tokio::test]
#[should_panic(expected = "it says whether it knows an id again")]
async fn the_suite_finds_one_that_tells_twice() {
    let notifier =
        Forgetful(RecordingNotifier::new(NotifierCapabilities { idempotent: false, recipients: false }));
    let delivered =
        || notifier.0.delivered().iter().map(|told| format!("{}\n{}", told.subject, told.body)).collect();
    conformance(&notifier, &context(), &delivered).await;
}

/// Says that it knows ids again, and does not.
#[derive(Debug)]
struct Forgetful(RecordingNotifier);

#[async_trait::async_trait]
impl Notifier for Forgetful {
    fn kind(&self) -> &str {
        "forgetful"
    }

    fn capabilities(&self) -> NotifierCapabilities {
        NotifierCapabilities { idempotent: true, recipients: false }
    }

    async fn notify(&self, cx: &Context, notification: &Notification) -> Result<()> {
        self.0.notify(cx, notification).await
    }
}

#[tokio::test]
async fn failures_say_whether_it_may_have_gone_out() {
    let later = TestClock::default().now() + std::time::Duration::from_secs(60);
    let notifier = RecordingNotifier::new(NotifierCapabilities { idempotent: true, recipients: false });
    notifier.script_next([Script::Down, Script::Reject, Script::RateLimit(later), Script::LoseAnswer]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let error = notifier.notify(&context(), &notification()).await.unwrap_err();
        seen.push((error.kind(), error.retry(), error.effect()));
    }
    assert_eq!(
        seen,
        [
            (ErrorKind::Unavailable, Retry::Backoff, Effect::None),
            (ErrorKind::Invalid, Retry::Never, Effect::None),
            (ErrorKind::RateLimited, Retry::After(later), Effect::None),
            (ErrorKind::Unavailable, Retry::Backoff, Effect::Unknown),
        ]
    );
    assert_eq!(notifier.delivered().len(), 1, "the one whose answer was lost");
}

#[test]
fn a_notification_is_a_value() {
    let notification = notification();
    let json = serde_json::to_value(&notification).unwrap();
    assert_eq!(json["severity"], "warning");
    assert_eq!(json["at"], "2027-01-15T12:00:00Z");
    assert_eq!(serde_json::from_value::<Notification>(json).unwrap(), notification);
    assert!(Severity::Critical > Severity::Warning && Severity::Warning > Severity::Informational);
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Chat {
    channel: String,
}

impl NotifierConfig for Chat {
    const KIND: &'static str = "chat";
    const ALIASES: &'static [&'static str] = &["Chat"];

    fn connect(self, _: Env) -> Result<Arc<dyn Notifier>> {
        Ok(Arc::new(RecordingNotifier::new(NotifierCapabilities { idempotent: false, recipients: false })))
    }
}

#[test]
fn a_kind_is_registered_and_found() {
    let mut connectors = Connectors::default();
    let nobody = connectors.notifier("chat").unwrap_err();
    assert!(nobody.violations()[0].remedy.contains("register"), "{nobody}");
    connectors.register_notifier(NotifierKind::of::<Chat>());
    let kind = connectors.notifier("Chat").unwrap();
    assert_eq!(kind.connect(&json!({ "channel": "ops" }), Env::in_memory()).unwrap().kind(), "recording");
    assert_eq!(kind.check(&json!({ "chanel": "ops" })).unwrap_err().violations()[0].pointer, "/chanel");
    assert_eq!(connectors.notifiers().count(), 1);
}
