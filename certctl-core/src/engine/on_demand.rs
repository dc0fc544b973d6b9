//! Certificates for names that nobody has listed beforehand: obtained when the first client asks for one.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::Semaphore;

use crate::{
    Actor, CertificateSpec, Effect, Error, ErrorKind, ErrorReport, Id, Permission, Result, Retry,
    SubjectAltName, Timestamp, TlsResolver,
    engine::{Engine, bundle, issue},
    records::{Certificate, CertificateStatus, Job, JobState, Placement, Version},
    store::{Query, Select, StoreExt, Stored, Test},
};

/// How much is issued on demand, and how long somebody waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDemandLimits {
    /// How many certificates are begun within an hour; all processes on the same store count together, as far as they
    /// began with a new name. Names that `decide` refuses do not count; once the number is reached, it is not asked.
    pub per_hour: usize,
    /// How many are being obtained at the same time, by this process.
    pub at_once: usize,
    /// How many names are looked into at the same time; a client that asks for a further one is refused at once.
    pub names_at_once: usize,
    /// How long `decide` may take; longer counts as a no.
    pub decide_within: Duration,
    /// How long a handshake waits for a certificate. Obtaining it goes on, for the next handshake.
    pub deadline: Duration,
    /// How long a name that was refused, or whose certificate could not be had, is not tried again.
    pub pause: Duration,
}

impl Default for OnDemandLimits {
    /// 50 an hour, 8 at the same time; 256 names, 10 seconds for a decision; 30 seconds for a handshake, 5 minutes' pause.
    fn default() -> Self {
        Self {
            per_hour: 50,
            at_once: 8,
            names_at_once: 256,
            decide_within: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            pause: Duration::from_secs(300),
        }
    }
}

/// Obtains certificates for the names that clients ask for, and installs them in a [`TlsResolver`]. Cheap to clone; all clones
/// are the same.
///
/// A name that has no certificate is put to `decide` first, unless the limit is reached anyway. Without that, whoever points names at a server has it order
/// certificates until the CA says no.
///
/// [`Engine::run`] has to run: it renews what was obtained, and polls CAs that let one wait. It renews also names that nobody
/// asks for any more, and does not ask `decide`. `decide` is asked again by clients' handshakes, in the second half of a
/// certificate's life and once an hour at most, which is before a renewal as a rule; a name that it refuses then is forgotten
/// ([`OnDemand::forget`]).
#[derive(Clone)]
pub struct OnDemand(Arc<Inner>);

struct Inner {
    engine: Engine,
    resolver: Arc<TlsResolver>,
    issuer: String,
    decide: Box<dyn Fn(String) -> BoxFuture<'static, Result<bool>> + Send + Sync>,
    limits: OnDemandLimits,
    at_once: Semaphore,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    installed: HashMap<String, Installed>,
    /// Why, and until when.
    refused: HashMap<String, (Timestamp, Error)>,
    under_way: HashMap<String, Shared<BoxFuture<'static, Result<()>>>>,
    /// When certificates were begun, within the last hour.
    begun: VecDeque<Timestamp>,
    /// When the store was asked how many all processes have begun, and what it said.
    stored: Option<(Timestamp, usize)>,
}

impl Names {
    /// Whether one more is within the limit.
    fn room(&mut self, name: &str, now: Timestamp, stored: usize, limit: usize) -> Result<()> {
        let since = now - HOUR;
        // Times in the future are those of a clock that was set back.
        self.begun.retain(|at| since < *at && *at <= now);
        if self.begun.len().max(stored) < limit {
            return Ok(());
        }
        let again = self.begun.front().map_or(now + LOOK_AGAIN, |first| *first + HOUR);
        let message = format!("{name} has to wait: {limit} certificates an hour are obtained on demand");
        Err(Error::new(ErrorKind::RateLimited, message).with_retry(Retry::After(again)))
    }
}

#[derive(Clone)]
struct Installed {
    version: Id<Version>,
    not_before: Timestamp,
    not_after: Timestamp,
    /// When the store was asked last.
    looked: Timestamp,
    /// When `decide` was asked last, if it was.
    decided: Option<Timestamp>,
}

/// How long a name's newest version is taken for granted.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often `decide` is asked again, at most, about a name that has a certificate in the second half of its life.
const DECIDE_AGAIN: Duration = HOUR;
/// How many refusals are remembered: names come from anybody.
const REFUSALS: usize = 10_000;
/// How long obtaining one certificate may take a place among those at the same time.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the names of these certificates begin with.
const PREFIX: &str = "on-demand:";
const HOUR: Duration = Duration::from_secs(3_600);

impl OnDemand {
    /// For this engine, resolver and issuer (name or id). `decide` is asked whether a name, a lower-case DNS name without
    /// wildcard, shall have a certificate; an error counts as a no.
    pub fn new<F>(
        engine: &Engine,
        resolver: &Arc<TlsResolver>,
        issuer: impl Into<String>,
        limits: OnDemandLimits,
        decide: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<bool>> + Send + 'static,
    {
        Self(Arc::new(Inner {
            engine: engine.clone(),
            resolver: resolver.clone(),
            issuer: issuer.into(),
            decide: Box::new(move |name| decide(name).boxed()),
            at_once: Semaphore::new(limits.at_once.max(1)),
            limits,
            names: Mutex::default(),
        }))
    }

    /// To be awaited between a client's hello and the handshake: once it returns, the resolver has a certificate for the name
    /// that the client asks for. A client that asks for no name is left to the resolver, as is a name of a certificate that
    /// was installed otherwise. A CA that validates tls-alpn-01 has to be told apart first
    /// ([`TlsResolver::asks_for_challenge`]): its question must not wait for the certificate.
    ///
    /// However many handshakes wait for one name, one certificate is ordered; who goes away cancels nothing. A name that is in
    /// the store, from an earlier life of this process or from another process, is not put to `decide` again before the second
    /// half of its certificate's life.
    ///
    /// # Errors
    /// `Invalid` for what is no DNS name, `Denied` if `decide` says no, `RateLimited` beyond a limit, `Unavailable` if the
    /// certificate does not come in time, and why it could not be had.
    pub async fn prepare(&self, server_name: Option<&str>) -> Result<()> {
        let Some(server_name) = server_name else { return Ok(()) };
        let name = dns_name(server_name)?;
        let under_way = match self.0.look(&name) {
            Look::Ready => return Ok(()),
            Look::Refused(error) => return Err(error),
            Look::Old => {
                // What there is still serves.
                if let Err(error) = self.obtain(&name) {
                    tracing::debug!(name, %error, "whether there is a newer certificate is looked into later");
                }
                return Ok(());
            }
            Look::Missing => self.obtain(&name)?,
        };
        match tokio::time::timeout(self.0.limits.deadline, under_way).await {
            Ok(done) => done,
            Err(_) => Err(Error::unavailable(format!("the certificate for {name} is not here yet"))),
        }
    }

    /// Serves this name no longer, and stops renewing its certificate, which stays in the store. The next client that asks for
    /// the name has it put to `decide`. Other processes on the store go on serving what they have until they ask `decide`
    /// again.
    ///
    /// # Errors
    /// `Invalid` for what is no DNS name, those of the store, `Denied` if the actor may not.
    pub async fn forget(&self, actor: &Actor, name: &str) -> Result<()> {
        actor.require(Permission::ManageCertificates)?;
        self.0.forget(actor, &dns_name(name)?).await
    }

    /// Joins what is under way for this name, or begins.
    fn obtain(&self, name: &str) -> Result<Shared<BoxFuture<'static, Result<()>>>> {
        let mut names = self.0.names();
        if let Some(under_way) = names.under_way.get(name) {
            return Ok(under_way.clone());
        }
        if names.under_way.len() >= self.0.limits.names_at_once.max(1) {
            let message = format!("too many names are asked for at the same time to look into {name}");
            return Err(Error::new(ErrorKind::RateLimited, message));
        }
        let (inner, wanted) = (self.0.clone(), name.to_owned());
        let obtaining = tokio::spawn(async move {
            tokio::time::timeout(PATIENCE, inner.obtain(&wanted)).await.unwrap_or_else(|_| {
                Err(Error::unavailable(format!("the certificate for {wanted} did not come in time")))
            })
        });
        let panicked = |e| Err(Error::internal(format!("obtaining a certificate panicked: {e}")));
        let (inner, wanted) = (self.0.clone(), name.to_owned());
        // A task of its own: it comes to its end whether or not somebody waits, and whatever `decide` did.
        let task = tokio::spawn(async move {
            let done = obtaining.await.unwrap_or_else(panicked);
            inner.finish(&wanted, done)
        });
        let under_way = async move { task.await.unwrap_or_else(panicked) };
        let under_way = under_way.boxed().shared();
        names.under_way.insert(name.to_owned(), under_way.clone());
        Ok(under_way)
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand")
            .field("issuer", &self.0.issuer)
            .field("limits", &self.0.limits)
            .field("installed", &self.0.names().installed.len())
            .finish_non_exhaustive()
    }
}

enum Look {
    /// Served.
    Ready,
    /// Served, and there may be something newer.
    Old,
    Refused(Error),
    Missing,
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.engine.inner.clock.now()
    }

    fn look(&self, name: &str) -> Look {
        let now = self.now();
        let names = self.names();
        if let Some(installed) = names.installed.get(name)
            && installed.not_before <= now
            && now < installed.not_after
        {
            let fresh = installed.looked <= now && now < installed.looked + LOOK_AGAIN;
            return if fresh { Look::Ready } else { Look::Old };
        }
        // A certificate of somebody else's making, such as a target's.
        if !names.installed.contains_key(name) && self.resolver.serves(name, now) {
            return Look::Ready;
        }
        match names.refused.get(name) {
            Some((until, error)) if now < *until && *until <= now + self.limits.pause => {
                Look::Refused(error.clone())
            }
            _ => Look::Missing,
        }
    }

    /// What is under way for this name has ended.
    fn finish(&self, name: &str, done: Result<()>) -> Result<()> {
        let now = self.now();
        let mut names = self.names();
        names.under_way.remove(name);
        match &done {
            Ok(()) => {
                names.refused.remove(name);
            }
            Err(error) => {
                tracing::warn!(name, %error, "no certificate on demand");
                let until = match error.retry() {
                    // No reason to hold the pause against the name itself.
                    Retry::After(at) => at.min(now + self.limits.pause),
                    _ => now + self.limits.pause,
                };
                if names.refused.len() >= REFUSALS {
                    names.refused.retain(|_, (until, _)| now < *until);
                }
                if names.refused.len() >= REFUSALS
                    && let Some(any) = names.refused.keys().next().cloned()
                {
                    names.refused.remove(&any);
                }
                names.refused.insert(name.to_owned(), (until, error.clone()));
                // It need not be asked for at each handshake that what is served has nothing newer.
                if let Some(installed) = names.installed.get_mut(name) {
                    installed.looked = now;
                }
            }
        }
        done
    }

    async fn obtain(&self, name: &str) -> Result<()> {
        let known = self.known(name).await?;
        if let Some(certificate) = &known {
            if certificate.status == CertificateStatus::Revoked {
                self.resolver.remove(&slot(name));
                self.names().installed.remove(name);
                return Err(Error::new(ErrorKind::Denied, format!("the certificate for {name} was revoked")));
            }
            // One that was forgotten is as good as new.
            if !self.is_forgotten(certificate).await? && self.install(name, certificate).await? {
                return self.decide_again(name).await;
            }
        }
        // Whoever floods this with names gets no answer from the application once the hour's share is used up.
        self.check_limit(name).await?;
        self.decide(name).await?;
        self.count(name).await?;
        let _place =
            self.at_once.acquire().await.map_err(|e| {
                Error::internal("the places for certificates on demand are gone").with_source(e)
            })?;
        let certificate = self.issue(name, known.as_deref()).await?;
        if self.install(name, &certificate).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!("the key of the certificate for {name} is not held here"),
        ))
    }

    async fn decide(&self, name: &str) -> Result<()> {
        let deciding = (self.decide)(name.to_owned());
        match tokio::time::timeout(self.limits.decide_within, deciding).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                Err(Error::new(ErrorKind::Denied, format!("{name} shall have no certificate here")))
            }
            Ok(Err(error)) => Err(error.during(format!("deciding about {name}"))),
            Err(_) => Err(Error::unavailable(format!("it was not decided in time about {name}"))),
        }
    }

    /// Whether what is installed may go on being served, and renewed.
    async fn decide_again(&self, name: &str) -> Result<()> {
        let now = self.now();
        let Some(installed) = self.names().installed.get(name).cloned() else { return Ok(()) };
        let half = installed.not_before + installed.not_after.since(installed.not_before) / 2;
        let fresh = installed.decided.is_some_and(|at| at <= now && now < at + DECIDE_AGAIN);
        if now < half || fresh {
            return Ok(());
        }
        match self.decide(name).await {
            Err(error) if error.kind() == ErrorKind::Denied => {
                self.forget(&Actor::engine(), name).await?;
                return Err(error);
            }
            // What is served already goes on until somebody says no.
            Err(error) => tracing::warn!(name, %error, "it could not be decided again"),
            Ok(()) => {}
        }
        if let Some(installed) = self.names().installed.get_mut(name) {
            installed.decided = Some(now);
        }
        Ok(())
    }

    async fn forget(&self, actor: &Actor, name: &str) -> Result<()> {
        if let Some(certificate) = self.known(name).await? {
            self.engine.inner.stop_renewing(actor, &certificate.id).await?;
        }
        self.names().installed.remove(name);
        self.resolver.remove(&slot(name));
        Ok(())
    }

    /// Whether nothing renews it any more.
    async fn is_forgotten(&self, certificate: &Certificate) -> Result<bool> {
        let store = &self.engine.inner.store;
        let placements: Vec<Stored<Placement>> =
            store.list_by("certificate", (&certificate.id).into()).await?;
        let stopped = |placement: &Stored<Placement>| {
            placement.version.is_some() && placement.job.is_none() && placement.renew_at.is_none()
        };
        Ok(!placements.is_empty() && placements.iter().all(stopped))
    }

    async fn known(&self, name: &str) -> Result<Option<Stored<Certificate>>> {
        self.engine.inner.store.find_by("name", slot(name).into()).await
    }

    /// Puts the newest version into its slot, if it is valid now.
    async fn install(&self, name: &str, certificate: &Certificate) -> Result<bool> {
        let Some(version) = bundle::newest(&self.engine.inner, certificate).await? else { return Ok(false) };
        let now = self.now();
        if now < version.not_before || version.not_after <= now {
            return Ok(false);
        }
        let installed = Installed {
            version: version.id.clone(),
            not_before: version.not_before,
            not_after: version.not_after,
            looked: now,
            decided: self.names().installed.get(name).and_then(|known| known.decided),
        };
        let same = self.names().installed.get(name).is_some_and(|known| known.version == installed.version);
        if !same {
            let Some(bundle) = self.engine.inner.bundle_of(version).await? else { return Ok(false) };
            self.resolver.install(&slot(name), &bundle)?;
        }
        self.names().installed.insert(name.to_owned(), installed);
        Ok(true)
    }

    /// Whether one more is within the limit, as far as was known a moment ago.
    async fn check_limit(&self, name: &str) -> Result<()> {
        let now = self.now();
        let known = self.names().stored;
        let stored = match known {
            Some((at, stored)) if at <= now && now < at + LOOK_AGAIN => stored,
            _ => self.begun_by_all(now).await?,
        };
        self.names().room(name, now, stored, self.limits.per_hour)
    }

    /// Counts one more, if that is within the limit. What was refused is not counted: no name takes another's place by being
    /// asked for.
    async fn count(&self, name: &str) -> Result<()> {
        let now = self.now();
        let stored = self.begun_by_all(now).await?;
        let mut names = self.names();
        names.room(name, now, stored, self.limits.per_hour)?;
        names.begun.push_back(now);
        Ok(())
    }

    /// How many names were begun with within the last hour, by all processes on the store; none above the limit is counted.
    async fn begun_by_all(&self, now: Timestamp) -> Result<usize> {
        let query = Query::of::<Certificate>()
            .filter("name", Test::AtLeast, PREFIX)
            .filter("name", Test::Less, "on-demand;")
            .filter("created", Test::AtLeast, now - HOUR)
            .select(Select::Ids)
            .limit(self.limits.per_hour.max(1));
        let stored = self.engine.inner.store.query(&query).await?.ids.len();
        self.names().stored = Some((now, stored));
        Ok(stored)
    }

    /// Orders it, or takes up what went wrong before, and waits until it is there or goes wrong.
    async fn issue(&self, name: &str, known: Option<&Certificate>) -> Result<Stored<Certificate>> {
        let actor = Actor::engine();
        if let Some(certificate) = known {
            for job in self.open_jobs(&certificate.id).await? {
                // One whose answer was lost is for a person to look at.
                let lost = job.last_error.as_ref().is_some_and(|error| error.effect == Effect::Unknown);
                if is_stuck(&job) && !lost {
                    drop(self.engine.retry(&actor, &job.id).await?);
                }
            }
        }
        let spec = CertificateSpec::new(slot(name)).dns(name).issuer(&self.issuer);
        let mut watch = self.engine.want(&actor, spec).await?;
        if let Some(certificate) = known
            && self.is_forgotten(certificate).await?
        {
            watch = self.engine.renew(&actor, certificate.id.as_str()).await?;
        }
        let engine = &self.engine.inner;
        let before = match known {
            Some(certificate) => bundle::newest(engine, certificate).await?.map(|version| version.id),
            None => None,
        };
        let mut changes = engine.changes();
        loop {
            changes.mark_unchanged();
            let certificate = watch.step().await?;
            let now = self.now();
            let valid = certificate.not_after.is_some_and(|end| now < end);
            let jobs = self.open_jobs(&certificate.id).await?;
            if valid
                && (jobs.is_empty() || before != bundle::newest(engine, &certificate).await?.map(|v| v.id))
            {
                return Ok(certificate);
            }
            if jobs.is_empty() {
                return Err(failed(name, certificate.reason.clone()));
            }
            if let Some(stuck) = jobs.iter().find(|job| is_stuck(job)) {
                return Err(failed(name, stuck.last_error.clone()));
            }
            // A CA that lets one wait, or jobs that somebody else steps.
            let due = jobs.iter().filter_map(|job| job.due).filter(|due| now < *due).min();
            tokio::select! {
                _ = changes.changed() => {}
                () = engine.clock.sleep_until(due.unwrap_or(now + LOOK_AGAIN)) => {}
                () = engine.clock.pause(Duration::from_secs(1)) => {}
            }
        }
    }

    /// Those that the certificate waits for: nobody waits for challenges to be taken away.
    async fn open_jobs(&self, certificate: &Id<Certificate>) -> Result<Vec<Stored<Job>>> {
        let mut jobs = self.engine.jobs(certificate).await?;
        jobs.retain(|job| !job.state.is_finished() && (&*job.kind == issue::KIND || job.parent.is_some()));
        Ok(jobs)
    }
}

/// Nothing comes of it now.
fn is_stuck(job: &Job) -> bool {
    job.state == JobState::Attention || (job.failures > 0 && job.state == JobState::Ready)
}

fn failed(name: &str, cause: Option<ErrorReport>) -> Error {
    let error = cause.map_or_else(|| Error::unavailable("its job ended without one"), Error::from);
    error.during(format!("no certificate for {name}"))
}

/// The slot of the resolver, and the name of the certificate.
fn slot(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn dns_name(text: &str) -> Result<String> {
    let wrong = |why: &str| {
        Error::invalid_field(
            "",
            format!("a client asked for a name {why}"),
            "ask for a DNS name without wildcard",
        )
    };
    match SubjectAltName::dns(text)? {
        SubjectAltName::Dns(name) if name.starts_with("*.") => Err(wrong("with a wildcard")),
        SubjectAltName::Dns(name) if name.len() > 180 => Err(wrong("of more than 180 octets")),
        SubjectAltName::Dns(name) => Ok(name),
        _ => Err(wrong("that is none of the DNS")),
    }
}
