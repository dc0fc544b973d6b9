//! What somebody can ask of the engine. Each command checks the actor, writes rows, and leaves the rest to the job loop.

use crate::{
    Actor, Effect, Error, ErrorKind, Id, Permission, Result, Retry, X509Certificate,
    engine::{
        CertificateSpec, Engine, EventStream, Inner, JobWatch, deploy, holders, issue, plan, remote, renewal,
        spec::{self, Wanted},
    },
    records::{
        AuditEvent, Certificate, CertificateStatus, Deployment, DeploymentState, Holder, IssuerRecord, Job,
        JobState, Placement, TargetRecord, Version,
    },
    store::{Change, Store, StoreExt, Stored},
};

impl Engine {
    /// Makes what is wanted so: records it, then steps the job itself until the certificate is deployed, has failed, or
    /// waits for somebody else, and gives it as it stands then. Safe to call at each start: a certificate that is in place
    /// is looked at and left alone, one that fell out of place is put back.
    ///
    /// A failed deployment is no error here: [`Certificate::status`] says how it stands, `reason` why. A CA that refused,
    /// or whose answer was lost, is not asked again by this: see [`Engine::retry`].
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong with the spec, `Conflict` if [`CertificateSpec::expected_version`] is not the
    /// stored one, `Denied` if the actor may not.
    pub async fn ensure(&self, actor: &Actor, spec: CertificateSpec) -> Result<Stored<Certificate>> {
        self.want(actor, spec).await?.step().await
    }

    /// Records what is wanted, and leaves the rest to [`Engine::run`].
    ///
    /// # Errors
    /// As for [`Engine::ensure`].
    pub async fn want(&self, actor: &Actor, spec: CertificateSpec) -> Result<JobWatch> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        let wanted = spec::check(inner, &spec).await?;
        again_if_stale(|| want(inner, actor, &wanted, spec.expected_version)).await
    }

    /// Renews a certificate now. Joins a renewal that is under way.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn renew(&self, actor: &Actor, id_or_name: &str) -> Result<JobWatch> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let certificate: Stored<Certificate> = inner.store.resolve(id_or_name).await?;
            let mut change = Change::new(event(inner, actor, "renewal.requested", &certificate.id));
            let mut jobs = Vec::new();
            for mut placement in staying(inner, &certificate.id).await? {
                let how = Join { insist: true, ..Join::default() };
                change = start_issue(inner, change, &mut placement, &mut jobs, how).await?;
            }
            inner.commit(change).await?;
            Ok(self.watch(certificate.into_inner().id, jobs))
        })
        .await
    }

    /// Brings the newest version to its targets once more; touches nothing where everything is in place.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if there is no version yet, or `Denied` if the actor may not.
    pub async fn deploy(&self, actor: &Actor, id_or_name: &str) -> Result<JobWatch> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let certificate: Stored<Certificate> = inner.store.resolve(id_or_name).await?;
            let mut change = Change::new(event(inner, actor, "deployment.requested", &certificate.id));
            let mut jobs = Vec::new();
            for placement in staying(inner, &certificate.id).await? {
                let version = placement.version.as_ref().ok_or_else(|| not_issued(&certificate))?;
                let deployments = inner.store.list_by("placement", (&placement.id).into()).await?;
                change = start_deploys(inner, change, deployments, version, &mut jobs, true).await?;
            }
            inner.commit(change).await?;
            Ok(self.watch(certificate.into_inner().id, jobs))
        })
        .await
    }

    /// Takes up a job that asks for attention, or waits for a later try, now. For a job whose CA may have issued already,
    /// this orders again: look there first.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if the job is finished, or `Denied` if the actor may not.
    pub async fn retry(&self, actor: &Actor, job: &Id<Job>) -> Result<JobWatch> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let mut job: Stored<Job> = inner.store.read(job).await?;
            if job.state.is_finished() {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("job {} is {}, so that there is nothing to take up", job.id, job.state.as_str()),
                ));
            }
            let change = Change::new(
                AuditEvent::new(inner.clock.now(), actor, "job.retried", job.about())
                    .with("job", job.id.as_str()),
            );
            if job.state == JobState::Waiting {
                // Those that it waits for are what can be hurried.
                let children: Vec<Stored<Job>> = inner.store.list_by("parent", (&job.id).into()).await?;
                let mut change = change;
                for mut child in children {
                    if child.state == JobState::Ready && child.due.is_some_and(|due| due > inner.clock.now())
                    {
                        deploy::kick(inner, &mut child);
                        change = change.update(&child)?;
                    }
                }
                inner.commit(change).await?;
            } else {
                deploy::kick(inner, &mut job);
                inner.commit(change.update(&job)?).await?;
            }
            Ok(self.watch(job.certificate()?.clone(), vec![job.id.clone()]))
        })
        .await
    }

    /// Asks a job, and those that it waits for, to stop. It is obeyed before the first write; after that, what has begun
    /// ends or is rolled back. An agent's job that nobody holds ends at once; one that is held, when the agent hears of it.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn cancel(&self, actor: &Actor, job: &Id<Job>) -> Result<()> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        let children: Vec<Stored<Job>> = inner.store.list_by("parent", job.into()).await?;
        for id in children.iter().map(|child| &child.id).chain([job]) {
            again_if_stale(|| async move {
                let mut job: Stored<Job> = inner.store.read(id).await?;
                if job.state.is_finished() {
                    return Ok(());
                }
                let event = AuditEvent::new(inner.clock.now(), actor, "job.cancel_requested", job.about())
                    .with("job", job.id.as_str());
                job.cancel = true;
                if job.state != JobState::Waiting {
                    // It has to be stepped to obey.
                    job.state = JobState::Ready;
                    job.due = Some(inner.clock.now());
                }
                inner.commit(Change::new(event).update(&job)?).await?;
                Ok(())
            })
            .await?;
            inner.ask_to_stop(id);
            remote::end_unheld(inner, id).await?;
        }
        Ok(())
    }

    /// A job that was asked for before, perhaps of another process, to wait for it or to step it.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn watch_job(&self, actor: &Actor, job: &Id<Job>) -> Result<JobWatch> {
        actor.require(Permission::Read)?;
        let job: Stored<Job> = self.inner.store.read(job).await?;
        Ok(self.watch(job.certificate()?.clone(), vec![job.id.clone()]))
    }

    /// The certificate of this id or name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn certificate(&self, id_or_name: &str) -> Result<Stored<Certificate>> {
        self.inner.store.resolve(id_or_name).await
    }

    /// Its versions, the newest first.
    pub async fn versions(&self, certificate: &Id<Certificate>) -> Result<Vec<Stored<Version>>> {
        let mut versions: Vec<Stored<Version>> =
            self.inner.store.list_by("certificate", certificate.into()).await?;
        versions.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(versions)
    }

    /// Where it goes, and how it stands there.
    pub async fn deployments(&self, certificate: &Id<Certificate>) -> Result<Vec<Stored<Deployment>>> {
        self.inner.store.list_by("certificate", certificate.into()).await
    }

    /// Its jobs, the newest first; finished ones are kept for a week.
    pub async fn jobs(&self, certificate: &Id<Certificate>) -> Result<Vec<Stored<Job>>> {
        let mut jobs: Vec<Stored<Job>> = self.inner.store.list_by("certificate", certificate.into()).await?;
        jobs.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(jobs)
    }

    /// The certificates that relying parties have to trust for this issuer's certificates; empty if the issuer is a public
    /// CA, or does not say.
    ///
    /// # Errors
    /// `NotFound`, and what the issuer gives.
    pub async fn trust_anchors(&self, issuer: &str) -> Result<Vec<X509Certificate>> {
        let record: Stored<IssuerRecord> = self.inner.store.resolve(issuer).await?;
        let cx = crate::Context::new(self.inner.clock.clone());
        self.inner.catalog.issuer(&record).await?.trust_anchors(&cx).await
    }

    /// What happens from now on, as it happens.
    pub fn events(&self) -> EventStream {
        EventStream::new(self.inner.events.subscribe())
    }

    /// The store, for questions that have no method here.
    pub fn store(&self) -> &dyn Store {
        &*self.inner.store
    }

    /// The catalog of issuers and targets.
    pub fn catalog(&self) -> &crate::Catalog {
        &self.inner.catalog
    }

    pub(super) fn watch(&self, certificate: Id<Certificate>, jobs: Vec<Id<Job>>) -> JobWatch {
        JobWatch { engine: self.inner.clone(), certificate, jobs }
    }
}

/// Tries again if what was read has changed meanwhile, or somebody made the same thing at the same time.
///
/// No `AsyncFn`: its future can't be told to be `Send`, and callers spawn the commands.
pub(super) async fn again_if_stale<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    const TRIES: u32 = 10;
    let mut tries = 0;
    loop {
        match attempt().await {
            Err(e)
                if e.kind() == ErrorKind::Conflict
                    && e.retry() != Retry::Never
                    && e.context_value("expected").is_none()
                    && tries < TRIES =>
            {
                tries += 1;
            }
            done => return done,
        }
    }
}

async fn want(
    inner: &std::sync::Arc<Inner>,
    actor: &Actor,
    wanted: &Wanted,
    expected: Option<u64>,
) -> Result<JobWatch> {
    let known = match &wanted.id {
        Some(id) => inner.store.find::<Certificate>(id).await?,
        None => inner.store.find_by::<Certificate>("name", (&*wanted.name).into()).await?,
    };
    if let Some(expected) = expected {
        let stored = known.as_ref().map_or(0, Stored::version);
        if stored != expected {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("certificate {} has version {stored} and not {expected}: read it again", wanted.name),
            )
            .with("reason", "version")
            .with("expected", expected)
            .with("version", stored));
        }
    }
    let mut jobs = Vec::new();
    let certificate = match known {
        None => create(inner, actor, wanted, &mut jobs).await?,
        Some(known) => update(inner, actor, wanted, known, &mut jobs).await?,
    };
    remote::end_stopped(inner, &certificate).await?;
    Ok(JobWatch { engine: inner.clone(), certificate, jobs })
}

async fn create(
    inner: &Inner,
    actor: &Actor,
    wanted: &Wanted,
    jobs: &mut Vec<Id<Job>>,
) -> Result<Id<Certificate>> {
    let now = inner.clock.now();
    let certificate = Certificate {
        id: wanted.id.clone().unwrap_or_else(|| Id::mint_at(now)),
        name: wanted.name.clone(),
        names: wanted.names.clone(),
        common_name: wanted.common_name.clone(),
        issuer: wanted.issuer.id.clone(),
        profile_id: wanted.profile_id.clone(),
        profile: wanted.profile.clone(),
        key: wanted.key.clone(),
        renewal: wanted.renewal,
        targets: wanted.targets.iter().map(|target| target.id.clone()).collect(),
        status: CertificateStatus::Pending,
        reason: None,
        not_after: None,
        serial: None,
        created: now,
        updated: now,
    };
    let mut change =
        Change::new(event(inner, actor, "certificate.created", &certificate.id)).insert(&certificate)?;
    for (holder, targets) in holders::holders(wanted) {
        change = new_holder(inner, change, &certificate.id, holder, &targets, jobs)?;
    }
    inner.commit(change).await?;
    Ok(certificate.id)
}

async fn update(
    inner: &Inner,
    actor: &Actor,
    wanted: &Wanted,
    known: Stored<Certificate>,
    jobs: &mut Vec<Id<Job>>,
) -> Result<Id<Certificate>> {
    let now = inner.clock.now();
    let mut certificate = known.clone();
    certificate.name.clone_from(&wanted.name);
    certificate.names.clone_from(&wanted.names);
    certificate.common_name.clone_from(&wanted.common_name);
    certificate.issuer.clone_from(&wanted.issuer.id);
    certificate.profile_id.clone_from(&wanted.profile_id);
    certificate.profile.clone_from(&wanted.profile);
    certificate.key.clone_from(&wanted.key);
    certificate.renewal = wanted.renewal;
    certificate.targets = wanted.targets.iter().map(|target| target.id.clone()).collect();
    let changed = *certificate != *known;

    let action = if changed { "certificate.changed" } else { "certificate.ensured" };
    let mut change = Change::new(event(inner, actor, action, &certificate.id));
    let mut writes = changed;
    let mut known_placements = placements(inner, &certificate.id).await?;
    for (holder, targets) in holders::holders(wanted) {
        // Both are here: who makes the key may change.
        let same = |known: &Stored<Placement>| known.holder.as_column() == holder.as_column();
        let Some(at) = known_placements.iter().position(same) else {
            change = new_holder(inner, change, &certificate.id, holder, &targets, jobs)?;
            writes = true;
            continue;
        };
        let mut placement = known_placements.swap_remove(at);
        let deployments: Vec<Stored<Deployment>> =
            inner.store.list_by("placement", (&placement.id).into()).await?;
        let (deployments, gone): (Vec<_>, Vec<_>) =
            deployments.into_iter().partition(|d| targets.iter().any(|target| target.id == d.target));
        for gone in &gone {
            match deploy::open_job(inner, &gone.id).await? {
                Some(job) if !job.step.is_null() => {
                    // Something is half written there: that comes to its end first, and the next time it is gone.
                    jobs.push(job.id.clone());
                    if let Some(job) = deploy::take_up(inner, job, gone.state) {
                        change = change.update(&job)?;
                        writes = true;
                    }
                }
                _ => {
                    change = change.delete(gone);
                    writes = true;
                }
            }
        }
        let mut fresh: Vec<Deployment> = targets
            .iter()
            .filter(|target| !deployments.iter().any(|deployment| deployment.target == target.id))
            .map(|target| new_deployment(inner, &placement, target))
            .collect();

        let other = plan::needs_new_version(&known, &certificate);
        let renew = plan::wants_new_version(&placement, other, now);
        let back = std::mem::take(&mut placement.leaving);
        if placement.job.is_some() || renew {
            let how = Join { insist: back, other, touch: back || !fresh.is_empty() };
            placement.holder = holder;
            change = start_issue(inner, change, &mut placement, jobs, how).await?;
            writes = true;
        }
        if placement.job.is_none()
            && !placement.revoked
            && placement.ask_at.is_none()
            && renewal::asks(inner, &certificate).await
        {
            // The CA has learnt to say when it wants renewals, or nobody has asked it so far.
            placement.ask_at = Some(renewal::first_ask(inner));
            change = change.update(&placement)?;
            writes = true;
        }
        // What was revoked is brought nowhere any more.
        let version = if renew || placement.revoked { None } else { placement.version.clone() };
        for deployment in &mut fresh {
            deployment.wanted.clone_from(&version);
            change = change.insert(deployment)?;
            if version.is_some() {
                let job = deploy::job(inner, deployment, None).await?;
                jobs.push(job.id.clone());
                change = change.insert(&job)?;
            }
            writes = true;
        }
        // Also while the order of the next version is pending or waits for a person: what is in service stays whole.
        if let Some(version) = &version
            && rests(inner, &placement).await?
        {
            let before = jobs.len();
            change = start_deploys(inner, change, deployments, version, jobs, false).await?;
            writes |= jobs.len() > before;
        }
    }
    for placement in known_placements {
        change = holders::leave(inner, change, placement, jobs).await?;
        writes = true;
    }
    if changed && jobs.is_empty() && certificate.status == CertificateStatus::Partial {
        // What it was partial for has gone, and nothing is left that could say so.
        certificate.status = CertificateStatus::Active;
        certificate.reason = None;
    }
    if changed {
        certificate.updated = now;
        change = change.update(&certificate)?;
    }
    if writes {
        inner.commit(change).await?;
    }
    Ok(certificate.into_inner().id)
}

/// Whether no job of the placement is at work: what is at work brings its own version, and waits for the deployments.
async fn rests(inner: &Inner, placement: &Placement) -> Result<bool> {
    let Some(job) = &placement.job else { return Ok(true) };
    let Some(job) = inner.store.find::<Job>(job).await? else { return Ok(true) };
    Ok(match job.state {
        JobState::Attention => true,
        JobState::Ready => job.due.is_some_and(|due| due > inner.clock.now()),
        _ => false,
    })
}

/// How a job that is open is joined.
#[derive(Clone, Copy, Debug, Default)]
struct Join {
    /// Somebody asks for just that.
    insist: bool,
    /// Something else is wanted than what the job failed at.
    other: bool,
    /// Targets are added: the job has to notice, so that it sends the version to them as well.
    touch: bool,
}

/// Adds a job that issues, or joins the one that is open. An open one that waits for a later try, or for a person, is taken
/// up if its CA was never asked, if it was asked for something else and has refused, or if somebody asks for just that: a
/// program that is started over and over must not order over and over.
async fn start_issue(
    inner: &Inner,
    mut change: Change,
    placement: &mut Stored<Placement>,
    jobs: &mut Vec<Id<Job>>,
    how: Join,
) -> Result<Change> {
    if let Some(open) = &placement.job
        && let Some(mut job) = inner.store.find::<Job>(open).await?
        && !job.state.is_finished()
    {
        jobs.push(job.id.clone());
        let waits = job.state == JobState::Attention || job.failures > 0 || (how.insist && job.cancel);
        let lost = job.last_error.as_ref().is_some_and(|e| e.effect == Effect::Unknown);
        let take_up = how.insist || issue::never_asked(&job) || (how.other && !lost);
        if take_up && waits && job.state != JobState::Waiting {
            deploy::kick(inner, &mut job);
            change = change.update(&job)?;
        }
        return if how.touch { change.update(placement) } else { Ok(change) };
    }
    let job = issue::job(inner, placement)?;
    placement.job = Some(job.id.clone());
    placement.renew_at = None;
    placement.ask_at = None;
    jobs.push(job.id.clone());
    change.update(placement)?.insert(&job)
}

/// Adds jobs that deploy, or takes up those that wait for a later try. One whose rollback failed is taken up only if somebody
/// asks for just that (`insist`): its snapshot may be the last copy of what was there.
async fn start_deploys(
    inner: &Inner,
    mut change: Change,
    deployments: Vec<Stored<Deployment>>,
    version: &Id<Version>,
    jobs: &mut Vec<Id<Job>>,
    insist: bool,
) -> Result<Change> {
    for mut deployment in deployments {
        if deployment.wanted.as_ref() != Some(version) {
            deployment.wanted = Some(version.clone());
            change = change.update(&deployment)?;
        }
        match deploy::open_job(inner, &deployment.id).await? {
            Some(mut job) => {
                jobs.push(job.id.clone());
                if insist && job.state != JobState::Waiting {
                    deploy::kick(inner, &mut job);
                    change = change.update(&job)?;
                } else if let Some(job) = deploy::take_up(inner, job, deployment.state) {
                    change = change.update(&job)?;
                }
            }
            None => {
                let job = deploy::job(inner, &deployment, None).await?;
                jobs.push(job.id.clone());
                change = change.insert(&job)?;
            }
        }
    }
    Ok(change)
}

fn new_deployment(inner: &Inner, placement: &Placement, target: &TargetRecord) -> Deployment {
    Deployment {
        id: Id::mint_at(inner.clock.now()),
        certificate: placement.certificate.clone(),
        placement: placement.id.clone(),
        target: target.id.clone(),
        current: None,
        current_fingerprint: None,
        wanted: None,
        state: DeploymentState::Pending,
        error: None,
        warnings: Vec::new(),
        proof: None,
        changed: None,
        address: None,
        duration_ms: None,
        at: None,
        metadata: std::collections::BTreeMap::new(),
    }
}

/// Adds a placement with the job that issues its first version, and its deployments.
fn new_holder(
    inner: &Inner,
    mut change: Change,
    certificate: &Id<Certificate>,
    holder: Holder,
    targets: &[&TargetRecord],
    jobs: &mut Vec<Id<Job>>,
) -> Result<Change> {
    let mut placement = holders::new_placement(inner, certificate, holder);
    let job = issue::job(inner, &placement)?;
    placement.job = Some(job.id.clone());
    jobs.push(job.id.clone());
    change = change.insert(&placement)?.insert(&job)?;
    for target in targets {
        change = change.insert(&new_deployment(inner, &placement, target))?;
    }
    Ok(change)
}

async fn placements(inner: &Inner, certificate: &Id<Certificate>) -> Result<Vec<Stored<Placement>>> {
    inner.store.list_by("certificate", certificate.into()).await
}

/// Those that are wanted.
pub(super) async fn staying(inner: &Inner, certificate: &Id<Certificate>) -> Result<Vec<Stored<Placement>>> {
    let mut placements = placements(inner, certificate).await?;
    placements.retain(|placement| !placement.leaving);
    Ok(placements)
}

pub(super) fn event(inner: &Inner, actor: &Actor, action: &str, certificate: &Id<Certificate>) -> AuditEvent {
    AuditEvent::new(inner.clock.now(), actor, action, certificate.as_str())
}

pub(super) fn not_issued(certificate: &Certificate) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("certificate {} has no version yet, so that there is nothing to deploy", certificate.name),
    )
}
