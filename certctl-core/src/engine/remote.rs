//! Work that agents do: jobs whose place names one. The agent leases them, and reports.
//!
//! A lease is fenced by its token, like any other: what is reported under one that was lost is a fact, and moves no job.

use std::time::Duration;

use crate::{
    Error, ErrorKind, Id, Result, Timestamp,
    engine::{
        AgentSession, Engine, Inner, deploy, errands,
        failure::{self, Failure},
        held::{Held, is_conflict},
        run::LEASE,
        sessions::is_still_served,
    },
    records::{Agent, Certificate, Job, Place, TargetRecord},
    store::{
        Change, ColumnValue, Direction, Filter, Lease, LeaseRequest, LeaseWhat, Query, Record, Select,
        StoreExt, Stored, Test,
    },
    worker::{
        AssignedJob, Assignment, DeployReport, DeployWork, JobToken, Outcome, Reported, Work, WorkReport,
        WorkResult,
    },
};

/// How long at most is waited without a look: what another process on the same store wrote wakes nobody here.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How many jobs are leased, extended or reported in one call at most.
const MOST: usize = 1_000;

impl Engine {
    /// What there is to do for an agent, about `limit` jobs of it: leased for a minute, with [`Engine::extend_work`] for more.
    /// Returns as soon as there is something, or with nothing at `until`.
    ///
    /// What the agent holds already is not given again, but for what it has not extended in time: the answer that gave it may
    /// have been lost. A new process of the agent gets at once what the one before it held.
    ///
    /// # Errors
    /// `Denied` or `Conflict`, as for [`Engine::agent_session`], if that was decided while it waited; what the store gives.
    pub async fn lease_work(
        &self,
        session: &AgentSession,
        limit: usize,
        until: Timestamp,
    ) -> Result<Vec<Assignment>> {
        let inner = &*self.inner;
        let mut changes = inner.changes_for_agents();
        loop {
            changes.mark_unchanged();
            let given = hand_out(inner, session, limit.min(MOST)).await?;
            let now = inner.clock.now();
            // A process that is to end keeps nobody waiting.
            if !given.is_empty() || limit == 0 || now >= until || inner.is_ending() {
                return Ok(given);
            }
            let next = next_due(inner, session, now).await?.map_or(until, |due| due.min(until));
            tokio::select! {
                _ = changes.changed() => {}
                () = inner.clock.sleep_until(next) => {}
                // Should the wall clock be set back meanwhile, that would be a long sleep.
                () = inner.clock.pause(LOOK_AGAIN) => {}
            }
        }
    }

    /// Gives an agent another minute for the jobs that it is at. Those that it has lost meanwhile are left out of the answer:
    /// it stops before the first write, or else ends what it has begun. The answer says which ones it has been asked to stop.
    ///
    /// # Errors
    /// `Invalid` for over a thousand jobs; what the store gives.
    pub async fn extend_work(&self, session: &AgentSession, jobs: &[JobToken]) -> Result<Vec<AssignedJob>> {
        few(jobs.len())?;
        let inner = &self.inner;
        let now = inner.clock.now();
        let leases = jobs.iter().map(|job| lease(job, now)).collect();
        let request = LeaseRequest {
            kind: Job::KIND,
            seat: session.seat(),
            now,
            until: now + LEASE,
            what: LeaseWhat::Extend(leases),
        };
        let mut kept = Vec::new();
        for leased in inner.store.lease(&request).await? {
            let job: Stored<Job> = Stored::read(&leased.row)?;
            kept.push(AssignedJob { id: job.id.clone(), token: leased.lease.token, cancel: job.cancel });
        }
        Ok(kept)
    }

    /// Records what became of an assignment. Safe to repeat: a report whose answer was lost is told again until there is one.
    ///
    /// A report that is not what was asked for counts as the failure of its jobs, and is recorded as such.
    ///
    /// # Errors
    /// `Denied` if a job is another agent's, `Invalid` if there is none or over a thousand; nothing is recorded then. What the
    /// store gives.
    pub async fn report_work(&self, session: &AgentSession, result: WorkResult) -> Result<Reported> {
        few(result.jobs.len())?;
        if result.jobs.is_empty() {
            return Err(Error::invalid_field(
                "/jobs",
                "the report is about no job",
                "name the assignment's jobs",
            ));
        }
        let inner = &self.inner;
        let mut known: Vec<(Stored<Job>, u64)> = Vec::new();
        for JobToken { id, token } in &result.jobs {
            // One that is pruned was ended long ago.
            let Some(job) = inner.store.find::<Job>(id).await? else { continue };
            if job.place.agent.as_ref() != Some(&session.agent) {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("the job {id} is not the agent {}'s to report about", session.name),
                ));
            }
            if !known.iter().any(|(other, _)| other.id == job.id) {
                known.push((job, *token));
            }
        }
        let (already, mut open): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|(job, token)| job.reported == Some(*token));
        if open.is_empty() {
            return Ok(if already.is_empty() { Reported::Superseded } else { Reported::Already });
        }
        let mut late = Vec::new();
        while !open.is_empty() {
            let now = inner.clock.now();
            let batch = open.iter().map(|(job, token)| {
                let mut job = job.clone();
                job.reported = Some(*token);
                Held { lease: lease(&JobToken { id: job.id.clone(), token: *token }, now), job }
            });
            match record(inner, batch.collect(), &result.outcome).await {
                Ok(()) => break,
                Err(e) if is_conflict(&e, "lease") => {
                    let lost =
                        open.iter().position(|(job, _)| e.context_value("id") == Some(job.id.as_str()));
                    let Some(lost) = lost else { return Err(e) };
                    let (job, token) = open.remove(lost);
                    late.push((inner.store.find(&job.id).await?.unwrap_or(job), token));
                }
                Err(e) => return Err(e),
            }
        }
        // The same report may have come twice at the same time.
        late.retain(|(job, token)| job.reported != Some(*token));
        if let Outcome::Report(WorkReport::Deployed(reports)) = &result.outcome {
            deploy::commit_late(inner, &late, reports).await?;
        }
        Ok(match (open.is_empty(), late.is_empty()) {
            (false, _) => Reported::Recorded,
            (true, true) => Reported::Already,
            (true, false) => Reported::Superseded,
        })
    }
}

fn few(jobs: usize) -> Result<()> {
    if jobs <= MOST {
        return Ok(());
    }
    Err(Error::invalid_field(
        "/jobs",
        format!("{jobs} jobs are too many at once"),
        format!("name at most {MOST}"),
    ))
}

fn lease(job: &JobToken, until: Timestamp) -> Lease {
    Lease { table: Job::KIND.table, id: job.id.as_str().into(), token: job.token, until }
}

fn at(session: &AgentSession) -> Vec<Filter> {
    vec![Filter { column: "place", test: Test::Equal, value: (&session.agent).into() }]
}

/// When the agent's next job is due that is not due now.
async fn next_due(engine: &Inner, session: &AgentSession, now: Timestamp) -> Result<Option<Timestamp>> {
    let query = Query::of::<Job>()
        .filter("place", Test::Equal, &session.agent)
        .filter("due", Test::Greater, now)
        .order("due", Direction::Ascending)
        .limit(1);
    Ok(engine.store.list::<Job>(query).await?.0.first().and_then(|job| job.due))
}

/// Leases what is due, and makes work of it. What needs no agent any more ends here.
async fn hand_out(engine: &Inner, session: &AgentSession, limit: usize) -> Result<Vec<Assignment>> {
    let mut given = Vec::new();
    if limit == 0 {
        return Ok(given);
    }
    let due = Query::of::<Job>()
        .filter("place", Test::Equal, &session.agent)
        .filter("due", Test::AtMost, engine.clock.now())
        .select(Select::Ids)
        .limit(1);
    // Asking costs less than trying to lease.
    if engine.store.query(&due).await?.ids.is_empty() {
        return Ok(given);
    }
    is_still_served(engine, session).await?;
    let seat = session.seat();
    let mut batches = engine.claim_at(&seat, at(session), limit).await?;
    if batches.is_empty() {
        // What this very process has leased and not extended in time is given again; only another seat can see that.
        let lost = engine.claim_at(engine.seat.name(), at(session), limit).await?;
        if !lost.is_empty() {
            engine.give_back(lost).await;
            batches = engine.claim_at(&seat, at(session), limit).await?;
        }
    }
    for batch in batches {
        let until = batch.iter().map(|held| held.lease.until).min().unwrap_or(engine.clock.now());
        match assign(engine, session, batch.clone()).await {
            Ok(Some((jobs, work))) => {
                let Some(first) = jobs.first() else { continue };
                given.push(Assignment { id: first.id.clone(), jobs, until, work });
            }
            Ok(None) => {}
            Err(e) if is_conflict(&e, "lease") => {}
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                engine.give_back_to(&seat, [batch]).await;
                if given.is_empty() {
                    return Err(e);
                }
            }
            Err(e) => failure::record(engine, &batch, &Failure::from(e)).await,
        }
    }
    Ok(given)
}

/// The work of a batch; none if there is nothing to do any more, which is recorded.
async fn assign(
    engine: &Inner,
    session: &AgentSession,
    batch: Vec<Held>,
) -> Result<Option<(Vec<AssignedJob>, Work)>> {
    let job = |held: &Held| AssignedJob {
        id: held.job.id.clone(),
        token: held.lease.token,
        cancel: held.job.cancel,
    };
    let Some(first) = batch.first() else { return Ok(None) };
    let recipient = engine.store.find(&session.agent).await?.and_then(|agent| agent.sealing_key.clone());
    let sealed = |target: &mut TargetRecord| match &recipient {
        // No secret is sealed to an agent whose target it is not.
        _ if target.place.agent.as_ref() != Some(&session.agent) => Err(Error::new(
            ErrorKind::Precondition,
            format!("the target {} is not the agent {}'s any more", target.name, session.name),
        )),
        Some(recipient) => engine.catalog.for_agent(target, recipient).map(|sealed| *target = sealed),
        // Whoever has not enrolled can open nothing.
        None => Ok(()),
    };
    if &*first.job.kind != deploy::KIND {
        let mut jobs = Vec::new();
        let mut work = None;
        for held in batch {
            let assigned = job(&held);
            let Some(mut wanted) = errands::work(engine, held.clone()).await? else { continue };
            let addressed = match &mut wanted {
                Work::Plan(item) => sealed(&mut item.target),
                Work::Check(target) => sealed(target),
                _ => Ok(()),
            };
            if let Err(e) = addressed {
                errands::answered(engine, held, &Outcome::Failed(e.report())).await?;
                continue;
            }
            jobs.push(assigned);
            work = Some(wanted);
        }
        return Ok(work.map(|work| (jobs, work)));
    }
    let (mut all, prepared) = deploy::prepare(engine, batch).await?;
    let mut items = Vec::with_capacity(prepared.len());
    for mut item in prepared {
        match sealed(&mut item.target) {
            Ok(()) => items.push(item),
            Err(e) => {
                let one = all.iter_mut().find(|one| *one.held.job.subject == *item.deployment.as_str());
                if let Some(one) = one {
                    one.refuse(e);
                }
            }
        }
    }
    let (go, rest): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|one| items.iter().any(|item| *item.deployment.as_str() == *one.held.job.subject));
    if !rest.is_empty() {
        deploy::commit(engine, rest).await?;
    }
    if go.is_empty() {
        return Ok(None);
    }
    tracing::debug!(agent = %session.agent, jobs = go.len(), "deployments are handed out");
    Ok(Some((go.iter().map(|one| job(&one.held)).collect(), Work::Deploy(DeployWork { items }))))
}

/// Commits what an agent says about jobs that it still holds.
async fn record(engine: &Inner, batch: Vec<Held>, outcome: &Outcome) -> Result<()> {
    let (deployments, others): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|held| &*held.job.kind == deploy::KIND);
    if !deployments.is_empty() {
        let wrong = |what: &str| Error::new(ErrorKind::BadResponse, format!("the agent's report {what}"));
        let said: Result<Vec<DeployReport>> = match outcome {
            Outcome::Report(WorkReport::Deployed(reports)) => {
                let ours = |report: &DeployReport| {
                    deployments.iter().any(|held| *held.job.subject == *report.deployment.as_str())
                };
                // What belongs to jobs that were lost meanwhile is looked at as well, elsewhere.
                Ok(reports.iter().filter(|report| ours(report)).cloned().collect())
            }
            Outcome::Report(_) => Err(wrong("is not about deployments")),
            Outcome::Failed(error) => Err(Error::from(error.clone())),
        };
        deploy::commit_reports(engine, deployments, &said).await?;
    }
    for held in others {
        errands::answered(engine, held, outcome).await?;
    }
    Ok(())
}

/// What nobody has taken for so long.
const OVERDUE: Duration = Duration::from_secs(60);
const PAGE: usize = 500;

/// Ends the jobs that were asked to stop and that nobody holds any more, and says of the certificates that wait for an agent
/// which one that is.
pub(super) async fn sweep(engine: &Inner) -> Result<()> {
    let mut agents = Query::of::<Agent>().limit(PAGE);
    loop {
        let (page, next) = engine.store.list::<Agent>(agents.clone()).await?;
        for agent in page {
            let overdue = Query::of::<Job>()
                .filter("place", Test::Equal, &agent.id)
                .filter("due", Test::AtMost, engine.clock.now() - OVERDUE)
                .order("due", Direction::Ascending)
                .limit(PAGE);
            for job in engine.store.list::<Job>(overdue).await?.0 {
                if job.cancel {
                    end_unheld(engine, &job.id).await?;
                } else {
                    errands::note_absence(engine, &agent, &job).await?;
                }
            }
        }
        match next {
            Some(cursor) => agents = agents.after(Some(cursor)),
            None => return Ok(()),
        }
    }
}

/// Whether a change writes a job that an agent may be waiting for.
pub(super) fn is_for_agents(change: &Change) -> bool {
    let Some(place) = Job::KIND.column("place") else { return false };
    let here = ColumnValue::from(Place::HERE);
    change.writes().iter().any(|write| {
        let columns = write.row.as_ref().filter(|_| write.kind.table == Job::KIND.table);
        columns.is_some_and(|(columns, _)| columns.get(place).is_some_and(|place| *place != here))
    })
}

/// Ends the agents' jobs of a certificate that were asked to stop and that nobody holds.
pub(super) async fn end_stopped(engine: &Inner, certificate: &Id<Certificate>) -> Result<()> {
    let query = Query::of::<Job>()
        .filter("certificate", Test::Equal, certificate)
        .filter("due", Test::AtMost, engine.clock.now())
        .limit(PAGE);
    for job in engine.store.list::<Job>(query).await?.0 {
        end_unheld(engine, &job.id).await?;
    }
    Ok(())
}

/// Ends an agent's job that was asked to stop, unless the agent holds it, or the unit that it belongs to: it hears of it then.
pub(super) async fn end_unheld(engine: &Inner, job: &Id<Job>) -> Result<()> {
    let Some(job) = engine.store.find(job).await? else { return Ok(()) };
    let Some(agent) = job.place.agent.as_ref().filter(|_| job.cancel && !job.state.is_finished()) else {
        return Ok(());
    };
    let equal = |column, value| Filter { column, test: Test::Equal, value };
    let filter = vec![equal("place", agent.into()), equal("id", (&job.id).into())];
    for batch in engine.claim_at(engine.seat.name(), filter, 1).await? {
        let stays = batch.clone();
        let ended = async {
            match batch.first() {
                Some(held) if !held.job.cancel => Ok(false),
                Some(held) if &*held.job.kind == deploy::KIND => {
                    let (all, items) = deploy::prepare(engine, batch).await?;
                    // What is half written there is brought back first.
                    if !items.is_empty() {
                        return Ok(false);
                    }
                    deploy::commit(engine, all).await.map(|()| true)
                }
                Some(held) => Ok(errands::work(engine, held.clone()).await?.is_none()),
                None => Ok(true),
            }
        };
        match ended.await {
            Ok(true) => {}
            Ok(false) => engine.give_back([stays]).await,
            Err(e) if is_conflict(&e, "lease") => {}
            Err(e) => {
                engine.give_back([stays]).await;
                return Err(e);
            }
        }
    }
    Ok(())
}
