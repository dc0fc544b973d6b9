//! What the handlers share.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use certctl_core::{
    Actor, Clock, Engine, Error, Result,
    records::{Certificate, Job},
    store::{ColumnValue, Query, Select},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use tokio::sync::watch;

/// The application: an engine, and what a server has besides.
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) openapi: OnceLock<Value>,
    counted: Option<PrometheusHandle>,
    /// Whether it takes no new work any more.
    stopping: watch::Sender<bool>,
    failing: AtomicBool,
}

impl App {
    pub(crate) fn new(engine: Engine, clock: Arc<dyn Clock>, counted: Option<PrometheusHandle>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            clock,
            openapi: OnceLock::new(),
            counted,
            stopping: watch::channel(false).0,
            failing: AtomicBool::new(false),
        })
    }

    /// Ends what waits, and says that it is not ready any more.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Done after this time, or when the server stops.
    pub(crate) fn wait(&self, span: Duration) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        let clock = self.clock.clone();
        async move {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => {}
                () = clock.pause(span) => {}
            }
        }
    }

    /// # Errors
    /// `Unavailable` if it is stopping, or the store does not answer.
    pub(crate) async fn check_ready(&self) -> Result<()> {
        if self.is_stopping() {
            return Err(Error::unavailable("the server is stopping"));
        }
        let query = Query::of::<Certificate>().select(Select::Ids).limit(1);
        match self.engine.store().query(&query).await {
            Ok(_) => {
                self.failing.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(error = %e, "the store does not answer");
                }
                Err(Error::unavailable("the store does not answer"))
            }
        }
    }

    /// What was counted since the start, and how certificates and jobs stand, in Prometheus' text format.
    ///
    /// # Errors
    /// `Denied` if the actor may not.
    pub(crate) async fn metrics(&self, actor: &Actor) -> Result<String> {
        let certificates = self.engine.counts::<Certificate>(actor, "status").await?;
        let jobs = self.engine.counts::<Job>(actor, "state").await?;
        let mut text = self.counted.as_ref().map(PrometheusHandle::render).unwrap_or_default();
        gauge(&mut text, "certctl_certificates", "How many certificates there are.", "status", &certificates);
        gauge(&mut text, "certctl_jobs", "How many jobs there are.", "state", &jobs);
        Ok(text)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// The values of counted columns are words: nothing has to be escaped.
fn gauge(text: &mut String, name: &str, help: &str, label: &str, counts: &[(ColumnValue, u64)]) {
    use fmt::Write as _;
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (value, count) in counts {
        let ColumnValue::Text(value) = value else { continue };
        let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {count}");
    }
}
