//! Revocation: what shall be revoked is recorded first, then the CA is asked, by a job, as often as it takes.

use std::{sync::Arc, time::Duration};

use crate::{
    Actor, Context, Effect, Error, ErrorKind, Fingerprint, Id, Issuer, Permission, PrivateKey, Result,
    Revocation, RevocationReason, SerialNumber, Signer,
    engine::{
        Engine, Inner, JobWatch,
        commands::{again_if_stale, event},
        deploy,
        held::{Held, is_conflict},
        plan,
    },
    records::{Certificate, IssuerRecord, Job, JobState, Place, Placement, RevocationRecord, Version},
    store::{Change, LeaseUse, Query, StoreExt, Stored, Test},
};

pub(super) const KIND: &str = "revoke";

/// How long a revocation by the certificate's own key has before its job takes over: whoever is at it may be dead.
const BY_OWN_KEY: Duration = Duration::from_secs(600);

/// How a certificate is revoked.
#[derive(Debug, Default)]
pub struct RevokeOptions {
    /// Why.
    pub reason: RevocationReason,
    /// The certificate's own key, for a CA that takes its word instead of the account's (RFC 8555 section 7.6). Used once, in
    /// this call, and never stored: where nobody can say whether the CA has done it, because its answer was lost or this
    /// program has ended, a job asks again without the key. That it is revoked already is its success then.
    pub key: Option<PrivateKey>,
}

impl Engine {
    /// Revokes one version of a certificate: by its id, its serial number (hexadecimal, with or without colons), or its SHA-256
    /// fingerprint. Once it is done, nothing renews a certificate whose newest version it was, until somebody asks for that.
    /// What is revoked already is left as it is.
    ///
    /// A job does it and tries until the CA has answered: await [`JobWatch::step`], or leave it to [`Engine::run`]. With the
    /// certificate's own key, it is done in this call, and goes on if the caller goes away.
    ///
    /// # Errors
    /// `Invalid` if it is none of the three, if the reason is `removeFromCRL`, or if the key is another one's; `NotFound` if no
    /// such version is stored; `Conflict` if several issuers have given the serial number; `Unsupported` if the issuer does not
    /// revoke; `Denied` if the actor may not. With a key, what the CA answers.
    pub async fn revoke(&self, actor: &Actor, what: &str, options: RevokeOptions) -> Result<JobWatch> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        let version = find(inner, what).await?;
        let reason = options.reason;
        if reason == RevocationReason::RemoveFromCrl {
            return Err(Error::invalid_field(
                "/reason",
                "removeFromCRL takes a certificate off a delta CRL, and revokes nothing",
                "use another reason",
            ));
        }
        let issuer = issuer(inner, &version).await?;
        let own = options.key.is_some();
        let key = match options.key {
            Some(key) => Some(own_key(&version, key)?),
            None => None,
        };
        let requested = again_if_stale(|| request(inner, actor, &version.id, reason, own)).await?;
        let certificate = version.certificate.clone();
        if let (Some(key), Some(job)) = (key, &requested) {
            let revocation = Revocation { chain: version.chain.clone(), reason, key: Some(key) };
            let asking = by_own_key(inner.clone(), actor.clone(), issuer, version, revocation, job.made);
            tokio::spawn(asking)
                .await
                .map_err(|e| Error::internal(format!("a connector or the engine panicked: {e}")))??;
        }
        Ok(self.watch(certificate, requested.into_iter().map(|job| job.id).collect()))
    }
}

/// The job that revokes.
struct Requested {
    id: Id<Job>,
    /// Whether it was made for this request.
    made: bool,
}

/// Asks the CA with the certificate's own key, and records what it said.
async fn by_own_key(
    engine: Arc<Inner>,
    actor: Actor,
    issuer: Arc<dyn Issuer>,
    version: Stored<Version>,
    revocation: Revocation,
    made: bool,
) -> Result<()> {
    let cx = Context::new(engine.clock.clone());
    let (engine, actor, version) = (&*engine, &actor, &version.id);
    match issuer.revoke(&cx, &revocation).await {
        Ok(()) => again_if_stale(|| conclude(engine, actor, version, None)).await,
        Err(error) if error.effect() == Effect::Unknown => {
            again_if_stale(|| hand_over(engine, actor, version, &error)).await
        }
        Err(error) => {
            again_if_stale(|| withdraw(engine, actor, version, &error, made)).await?;
            Err(error)
        }
    }
}

/// Records what is wanted; gives the job that does it, unless it is done already. One that waits for somebody who has the
/// certificate's own key (`own`) is due only when nobody can be at it any more.
async fn request(
    inner: &Inner,
    actor: &Actor,
    version: &Id<Version>,
    reason: RevocationReason,
    own: bool,
) -> Result<Option<Requested>> {
    let mut version: Stored<Version> = inner.store.read(version).await?;
    if version.is_revoked() {
        return Ok(None);
    }
    let requested = inner.clock.now();
    let event = event(inner, actor, "revocation.requested", &version.certificate)
        .with("version", version.id.as_str())
        .with("serial", version.serial.to_string())
        .with("reason", reason.as_str());
    version.revocation = Some(RevocationRecord { reason, requested, done: None });
    let mut change = Change::new(event).update(&version)?;
    let job = match open_job(inner, &version.id).await? {
        Some(mut job) => {
            if !own && (job.state == JobState::Attention || job.due.is_some_and(|due| due > requested)) {
                deploy::kick(inner, &mut job);
                change = change.update(&job)?;
            }
            Requested { id: job.id.clone(), made: false }
        }
        None => {
            let (id, place) = (version.id.as_str(), Place::default());
            let mut job = deploy::blank_job(inner, KIND, id, &version.certificate, place);
            job.unique = Some(unique_key(&version.id).into());
            job.actor = actor.clone();
            if own {
                job.due = Some(requested + BY_OWN_KEY);
            }
            change = change.insert(&job)?;
            Requested { id: job.id, made: true }
        }
    };
    inner.commit(change).await?;
    Ok(Some(job))
}

/// Lets the job ask at once what became of it.
async fn hand_over(inner: &Inner, actor: &Actor, version: &Id<Version>, error: &Error) -> Result<()> {
    let Some(mut job) = open_job(inner, version).await? else { return Ok(()) };
    let event = event(inner, actor, "revocation.unknown", job.certificate()?)
        .with("version", version.as_str())
        .with("error", error.to_string());
    deploy::kick(inner, &mut job);
    job.last_error = Some(error.report());
    inner.commit(Change::new(event).update(&job)?).await.map(drop)
}

/// What the CA refused to a key is wanted no more, unless somebody has asked for it without: `made` says whether its job was
/// made for the key's sake.
async fn withdraw(
    inner: &Inner,
    actor: &Actor,
    version: &Id<Version>,
    error: &Error,
    made: bool,
) -> Result<()> {
    let mut version: Stored<Version> = inner.store.read(version).await?;
    let event = event(inner, actor, "revocation.failed", &version.certificate)
        .with("version", version.id.as_str())
        .with("error", error.to_string());
    let mut change = Change::new(event);
    if made
        && !version.is_revoked()
        && let Some(mut job) = open_job(inner, &version.id).await?
        && waits(inner, &job)
    {
        version.revocation = None;
        end(inner, &mut job, JobState::Cancelled);
        change = change.update(&job)?.update(&version)?;
    }
    inner.commit(change).await.map(drop)
}

/// Asks the CA, and records that it is done.
pub(super) async fn run(engine: &Inner, mut held: Held, cx: &Context) -> Result<()> {
    let id: Id<Version> = Id::parse(&held.job.subject)?;
    let Some(version) = engine.store.find(&id).await? else {
        held.finish(engine, JobState::Done);
        let event = held.event(engine, "revocation.skipped");
        return held.save(engine, event, LeaseUse::Release, Ok).await;
    };
    if let Some(RevocationRecord { reason, done: None, .. }) = version.revocation
        && !held.job.cancel
    {
        let issuer = issuer(engine, &version).await?;
        issuer.revoke(cx, &Revocation { chain: version.chain.clone(), reason, key: None }).await?;
    }
    loop {
        let actor = held.job.actor.clone();
        match conclude(engine, &actor, &id, Some(&mut held)).await {
            // The CA has done it: whatever else was written meanwhile comes first, and this is written on top.
            Err(e) if is_conflict(&e, "version") || is_conflict(&e, "missing") => {}
            done => return done,
        }
    }
}

/// Records that the CA has revoked a version; or that its job was cancelled, or had nothing to do any more.
async fn conclude(
    engine: &Inner,
    actor: &Actor,
    version: &Id<Version>,
    held: Option<&mut Held>,
) -> Result<()> {
    let now = engine.clock.now();
    let mut version: Stored<Version> = engine.store.read(version).await?;
    let mut placement = engine.store.find::<Placement>(&version.placement).await?;
    let cancelled = held.as_ref().is_some_and(|held| held.job.cancel);
    let mut newest = false;
    let before = version.revocation;
    match &mut version.revocation {
        revocation if cancelled => *revocation = revocation.filter(|revocation| revocation.done.is_some()),
        Some(revocation) if revocation.done.is_none() => {
            revocation.done = Some(now);
            if let Some(placement) = &mut placement {
                newest = plan::revoke(placement, &version.id);
            }
        }
        _ => {}
    }
    let action = match version.revocation {
        _ if version.revocation == before => "revocation.skipped",
        None => "revocation.cancelled",
        Some(_) => "certificate.revoked",
    };
    let mut event = event(engine, actor, action, &version.certificate)
        .with("version", version.id.as_str())
        .with("serial", version.serial.to_string())
        .with("newest", newest);
    if let Some(revocation) = version.revocation {
        event = event.with("reason", revocation.reason.as_str());
    }
    let mut job = None;
    if let Some(held) = &held {
        job = Some(engine.store.read(&held.job.id).await?);
    } else if let Some(mut open) = open_job(engine, &version.id).await? {
        if waits(engine, &open) {
            end(engine, &mut open, JobState::Done);
        } else {
            // It finds nothing to do, and ends.
            deploy::kick(engine, &mut open);
        }
        job = Some(open);
    }
    let mut change = Change::new(event).update(&version)?;
    if newest && let Some(placement) = &placement {
        change = change.update(placement)?;
    }
    if let Some(certificate) = deploy::roll_up(engine, &version.certificate, placement.as_deref()).await? {
        change = change.update(&certificate)?;
    }
    if let (Some(held), Some(fresh)) = (held, &job) {
        held.job = held.job.clone().at_version(fresh.version());
        held.finish(engine, if cancelled { JobState::Cancelled } else { JobState::Done });
        held.job.last_error = None;
        change = change.update(&held.job)?.lease(&held.lease, LeaseUse::Release);
    } else if let Some(job) = &job {
        change = change.update(job)?;
    }
    engine.commit(change).await.map(drop)
}

/// Whether nobody steps it now.
fn waits(engine: &Inner, job: &Job) -> bool {
    job.state == JobState::Ready && job.due.is_some_and(|due| due > engine.clock.now())
}

fn end(engine: &Inner, job: &mut Job, state: JobState) {
    job.state = state;
    job.due = None;
    job.finished = Some(engine.clock.now());
}

/// Whether a revocation of this certificate waits for a person.
pub(super) async fn asks_for_attention(engine: &Inner, certificate: &Id<Certificate>) -> Result<bool> {
    let query = Query::of::<Job>()
        .filter("certificate", Test::Equal, certificate)
        .filter("kind", Test::Equal, KIND)
        .filter("state", Test::Equal, JobState::Attention.as_str())
        .limit(1);
    Ok(!engine.store.list::<Job>(query).await?.0.is_empty())
}

fn unique_key(version: &Id<Version>) -> String {
    format!("revoke:{version}")
}

async fn open_job(engine: &Inner, version: &Id<Version>) -> Result<Option<Stored<Job>>> {
    engine.store.find_by("unique_key", unique_key(version).into()).await
}

/// The issuer of a version, if it revokes.
async fn issuer(engine: &Inner, version: &Version) -> Result<Arc<dyn Issuer>> {
    let record: Stored<IssuerRecord> = engine.store.read(&version.issuer).await?;
    let issuer = engine.catalog.issuer(&record).await?;
    if !issuer.capabilities().revoke {
        return Err(Error::unsupported(format!(
            "the issuer {} of the kind {} does not revoke certificates",
            record.name,
            issuer.kind()
        )));
    }
    Ok(issuer)
}

fn own_key(version: &Version, key: PrivateKey) -> Result<Arc<dyn Signer>> {
    if key.public_key() != version.chain.leaf().public_key()? {
        return Err(Error::invalid_field(
            "/key",
            format!("the key is not that of the certificate with the serial number {}", version.serial),
            "give the certificate's own key, or leave it out to revoke with the account's",
        ));
    }
    Ok(Arc::new(key))
}

/// The version that somebody means.
async fn find(engine: &Inner, what: &str) -> Result<Stored<Version>> {
    let what = what.trim();
    if Id::<Version>::looks_like(what) {
        return engine.store.read(&Id::parse(what)?).await;
    }
    let missing = |noun: &str| {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "no certificate with the {noun} {what} is stored here: only a certificate whose version is stored can be \
                 revoked by it, since the CA wants the certificate itself"
            ),
        )
    };
    if let Ok(fingerprint) = what.parse::<Fingerprint>() {
        let found = engine.store.list_by("fingerprint", fingerprint.to_string().into()).await?;
        return only_one(engine, what, found).await?.ok_or_else(|| missing("fingerprint"));
    }
    // As some programs print numbers.
    let even =
        if what.contains(':') || what.len().is_multiple_of(2) { what.to_owned() } else { format!("0{what}") };
    let serial: SerialNumber = even.parse().map_err(|_| {
        Error::invalid_field(
            "",
            format!("{:?} names no version", what.chars().take(80).collect::<String>()),
            "give a version's id, a serial number in hexadecimal, or a SHA-256 fingerprint",
        )
    })?;
    let found = engine.store.list_by("serial", serial.to_string().into()).await?;
    only_one(engine, what, found).await?.ok_or_else(|| missing("serial number"))
}

async fn only_one(
    engine: &Inner,
    what: &str,
    mut found: Vec<Stored<Version>>,
) -> Result<Option<Stored<Version>>> {
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let mut all = Vec::new();
    for version in &found {
        let issuer = engine.store.find::<IssuerRecord>(&version.issuer).await?;
        let name = issuer.map_or_else(|| version.issuer.to_string(), |issuer| issuer.name.to_string());
        all.push(format!("{} of the issuer {name}", version.id));
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("{what} is the number of several certificates; name the version instead: {}", all.join(", ")),
    )
    .with_retry(crate::Retry::Never))
}
