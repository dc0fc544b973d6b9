//! The deployer: the one order of steps that brings certificates to the targets of a unit, and back if one fails.
//!
//! Check, plan, probe, validate what is there, snapshot, journal, apply, validate, reload, prove, prune. A failure after
//! the first write restores what was there, reloads, and proves that again.

mod rollback;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use self::rollback::roll_back;
use crate::{
    Bundle, Context, Error, ErrorKind, Fingerprint, Id, Result, Target,
    records::{Deployment, Version},
    target::{Pair, Plan, Snapshot},
    worker::{
        DeployItem, DeployOutcome, DeployReport, EndpointProof, Journal, Proof,
        proof::{Prober, Verdict, Wanted},
    },
};

/// A target, and what is to be brought there.
#[derive(Debug)]
pub struct Member {
    /// The work item.
    pub item: DeployItem,
    /// The target.
    pub target: Arc<dyn Target>,
    /// Chain and key.
    pub bundle: Bundle,
    /// How it is proved.
    pub prober: Prober,
}

/// What the journal holds while a unit is being written: by deployment.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Entries(BTreeMap<Id<Deployment>, Entry>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    version: Id<Version>,
    snapshot: Snapshot,
    before: Vec<EndpointProof>,
    old: Option<Fingerprint>,
    /// This process has brought back what was there: the snapshot is what is in place.
    #[serde(skip)]
    restored: bool,
}

/// A member on its way.
struct Run<'a> {
    member: &'a Member,
    plan: Plan,
    before: Vec<EndpointProof>,
    snapshot: Option<Snapshot>,
    /// Somebody has begun to write already, and what was there before that is in the snapshot.
    resumed: bool,
    action: Action,
    report: DeployReport,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Reload,
    Write,
    Refused,
}

/// Why a unit is not in service.
struct Failure {
    error: Error,
    /// Whether anything may have been written.
    touched: bool,
}

/// Deploys to all members of one unit. Each member's report says how it ended; an error means that the journal could not
/// be written, so that somebody else may have taken the work over.
///
/// # Errors
/// Of the journal.
pub async fn deploy_unit(
    cx: &Context,
    members: &[Member],
    journal: &dyn Journal,
) -> Result<Vec<DeployReport>> {
    let mut begun: Entries = match journal.load().await? {
        Some(value) => serde_json::from_value(value)
            .map_err(|e| Error::internal("the deployment's journal does not read").with_source(e))?,
        None => Entries::default(),
    };
    let mut reports = Vec::new();
    let mut rest = members;
    let mut whole = true;
    while !rest.is_empty() {
        let batch = if whole { rest } else { &rest[..1] };
        match deploy_batch(cx, batch, journal, &mut begun).await? {
            Some(mut done) => {
                // Once the culprit is found, the others go together again.
                whole = whole || done.iter().any(|report| !report.outcome.is_success());
                reports.append(&mut done);
                rest = &rest[batch.len()..];
            }
            None => whole = false,
        }
    }
    Ok(reports)
}

/// Says what a deployment would change; touches nothing.
///
/// # Errors
/// What the deployment would be refused for.
pub async fn plan(cx: &Context, member: &Member) -> Result<Plan> {
    member.bundle.check(&member.item.names, cx.clock.now()).map_err(|e| e.with("step", "check"))?;
    member.target.plan(cx, &member.bundle).await
}

/// The report for an item whose target could not even be built.
pub(super) fn refused(item: &DeployItem, error: &Error) -> DeployReport {
    let error = error.clone().with("target", &item.target.name).report();
    // It may have been begun by a predecessor that could.
    DeployReport { outcome: DeployOutcome::Refused, error: Some(error), unfinished: true, ..blank(item) }
}

/// None: the batch failed, was restored, and its members have to go one by one.
async fn deploy_batch(
    cx: &Context,
    members: &[Member],
    journal: &dyn Journal,
    begun: &mut Entries,
) -> Result<Option<Vec<DeployReport>>> {
    let started = cx.clock.now();
    let mut runs = Vec::with_capacity(members.len());
    for member in members {
        runs.push(prepare(cx, member, begun.0.get(&member.item.deployment)).await);
    }
    refuse_if_broken_before(cx, &mut runs).await;
    if let Err(stopped) = cx.check_cancelled()
        && runs.iter().all(|run| !run.resumed)
    {
        for run in runs.iter_mut().filter(|run| run.acts()) {
            run.refuse(stopped.clone());
        }
    }
    keep(cx, &mut runs, journal, begun).await?;

    if let Err(failure) = act(cx, &mut runs).await {
        let mut acting: Vec<&mut Run<'_>> = runs.iter_mut().filter(|run| run.acts()).collect();
        let several = acting.len() > 1;
        if failure.touched {
            roll_back(cx, &mut acting, &failure.error).await;
        } else {
            for run in acting {
                run.refuse(failure.error.clone());
            }
        }
        if several && runs.iter().all(|run| run.report.outcome != DeployOutcome::RollbackFailed) {
            for run in &runs {
                if let Some(entry) = begun.0.get_mut(&run.member.item.deployment) {
                    entry.restored = true;
                }
            }
            return Ok(None);
        }
    }

    let ended = cx.clock.now();
    let mut reports = Vec::with_capacity(runs.len());
    for mut run in runs {
        run.report.duration_ms = u64::try_from(ended.since(started).as_millis()).unwrap_or(u64::MAX);
        if run.report.outcome != DeployOutcome::RollbackFailed
            && let Some(snapshot) = &run.snapshot
            && let Err(e) = discard(cx, &run, snapshot).await
        {
            run.report.warnings.push(format!("the snapshot {} could not be removed: {e}", snapshot.place));
        }
        count(&run);
        reports.push(run.report);
    }
    Ok(Some(reports))
}

/// Tries once more: what was kept is not left lying about for a moment's fault.
async fn discard(cx: &Context, run: &Run<'_>, snapshot: &Snapshot) -> Result<()> {
    match run.member.target.discard(cx, snapshot).await {
        Ok(()) => Ok(()),
        Err(_) => run.member.target.discard(cx, snapshot).await,
    }
}

/// Everything before the first write that concerns one member alone.
async fn prepare<'a>(cx: &Context, member: &'a Member, begun: Option<&Entry>) -> Run<'a> {
    let mut run = Run {
        member,
        plan: Plan::default(),
        before: Vec::new(),
        snapshot: None,
        resumed: false,
        action: Action::Nothing,
        report: DeployReport { address: member.target.address(), ..blank(&member.item) },
    };
    if let Err(e) = look(cx, &mut run, begun).await {
        if run.resumed {
            // It can't go forward; and what a predecessor left half done must not stay.
            run.action = Action::Write;
            let e = e.with("target", &member.item.target.name);
            roll_back(cx, &mut [&mut run], &e).await;
            run.action = Action::Refused;
        } else {
            run.refuse(e);
        }
    }
    run
}

async fn look(cx: &Context, run: &mut Run<'_>, begun: Option<&Entry>) -> Result<()> {
    let Member { item, target, bundle, prober } = run.member;
    // A snapshot is given up only once the old or the new is in place as a whole: without it, begin anew.
    run.report.unfinished = begun.is_some();
    if let Some(entry) = begun
        && !target.holds(cx, &entry.snapshot).await?
    {
        target.discard(cx, &entry.snapshot).await?;
    } else if let Some(entry) = begun {
        run.snapshot = Some(entry.snapshot.clone());
        if !entry.restored {
            // A predecessor died while writing, this version or another one. Go on from there, and keep what it knew of
            // the time before.
            run.resumed = true;
            run.before.clone_from(&entry.before);
            run.plan.old = entry.old;
        }
    }
    run.report.unfinished = false;
    bundle.check(&item.names, cx.clock.now()).map_err(|e| e.with("step", "check"))?;
    let plan = target.plan(cx, bundle).await?;
    run.plan = if run.resumed { Plan { old: run.plan.old, ..plan } } else { plan };
    run.before = prober.look(&run.before).await;
    run.report.changed = run.plan.clone();
    run.action = if run.resumed || !run.plan.changes.is_empty() {
        Action::Write
    } else if prober.serves(&run.before, &run.wanted(&run.known(), false)) {
        Action::Nothing
    } else {
        Action::Reload
    };
    if run.action == Action::Nothing {
        let verdict = prober.judge(run.before.clone(), &run.wanted(&run.known(), false));
        run.accept(verdict);
    }
    Ok(())
}

/// If the server would not take what is there now, and what is there is whole, somebody broke it before us, and we do not
/// make it harder to mend.
async fn refuse_if_broken_before(cx: &Context, runs: &mut [Run<'_>]) {
    let writing = || runs.iter().filter(|run| run.action == Action::Write);
    let Some(first) = writing().next() else { return };
    for run in writing() {
        let whole = match run.member.target.observe(cx).await {
            Ok(observed) => observed.pair == Pair::Whole,
            Err(_) => false,
        };
        if run.resumed || !whole {
            return;
        }
    }
    if let Err(e) = first.member.target.validate(cx).await {
        let e = e.during("the configuration was broken before this deployment; nothing was written");
        for run in runs.iter_mut().filter(|run| run.action == Action::Write) {
            run.refuse(e.clone());
        }
    }
}

/// Takes the snapshots, and writes down where they are.
async fn keep(cx: &Context, runs: &mut [Run<'_>], journal: &dyn Journal, begun: &mut Entries) -> Result<()> {
    let mut entries = Entries::default();
    for run in runs.iter_mut().filter(|run| run.action == Action::Write) {
        let snapshot = match &run.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => match run.member.target.snapshot(cx, run.member.item.deployment.as_str()).await {
                Ok(snapshot) => snapshot,
                Err(e) => {
                    run.refuse(e.during("before anything was written"));
                    continue;
                }
            },
        };
        run.snapshot = Some(snapshot.clone());
        let entry = Entry {
            version: run.member.item.version.clone(),
            snapshot,
            before: run.before.clone(),
            old: run.plan.old,
            restored: false,
        };
        entries.0.insert(run.member.item.deployment.clone(), entry);
    }
    if entries.0.is_empty() {
        return Ok(());
    }
    let value = serde_json::to_value(&entries)
        .map_err(|e| Error::internal("the deployment's journal has no JSON form").with_source(e))?;
    if let Err(e) = journal.save(&value).await {
        if e.kind() == ErrorKind::Cancelled {
            // Nobody comes back for them. After any other error, somebody may be using them already.
            for run in runs.iter().filter(|run| !run.resumed) {
                if let Some(snapshot) = &run.snapshot {
                    let _ = run.member.target.discard(cx, snapshot).await;
                }
            }
        }
        return Err(e);
    }
    begun.0.append(&mut entries.0);
    Ok(())
}

/// From the first write to the proof. Gives the first error; what was written stays for the caller to restore.
async fn act(cx: &Context, runs: &mut [Run<'_>]) -> Result<(), Failure> {
    let mut touched = runs.iter().any(|run| run.resumed);
    for run in runs.iter().filter(|run| run.action == Action::Write) {
        if let Err(error) = run.member.target.apply(cx, &run.member.bundle).await {
            let touched = touched || error.context_value("untouched").is_none();
            return Err(Failure { error: error.with("target", &run.member.item.target.name), touched });
        }
        touched = true;
    }
    let failed = |error| Failure { error, touched: true };
    // The members are one unit: any of them speaks for the server.
    let Some(speaker) = runs.iter().find(|run| run.acts()).map(|run| run.member.target.clone()) else {
        return Ok(());
    };
    let down = runs.iter().filter(|run| run.acts()).all(|run| run.member.prober.was_down(&run.before));
    speaker.validate(cx).await.map_err(failed)?;
    let mut warning = None;
    let mut started = false;
    if let Err(e) = speaker.reload(cx).await {
        if !down {
            return Err(failed(e));
        }
        // A server that is down can't reload. It can be started, or will read the new pair when somebody starts it.
        match speaker.start(cx).await {
            Ok(true) => started = true,
            Ok(false) => warning = Some(format!("the server was down before, and did not reload: {e}")),
            Err(start) => return Err(failed(start.with("reload", &e))),
        }
    }
    let mut proved = prove(cx, runs, started).await;
    let wrote = runs.iter().any(|run| run.action == Action::Write);
    // Whether it was down before, and the reload said nothing of that; or the reload of a pair that stays has killed it.
    if !started && (down || (!wrote && proved.is_err())) && is_down(runs).await {
        started = speaker.start(cx).await.map_err(failed)?;
        if started {
            proved = prove(cx, runs, true).await;
        }
    }
    proved.map_err(failed)?;
    for run in runs.iter_mut().filter(|run| run.acts()) {
        run.report.warnings.extend(warning.clone());
        run.report.outcome = match run.action {
            Action::Write => DeployOutcome::Deployed,
            _ => DeployOutcome::Reloaded,
        };
    }
    Ok(())
}

/// What is served now; the first member's error that does not serve what it should.
async fn prove(cx: &Context, runs: &mut [Run<'_>], started: bool) -> Result<()> {
    let mut proved = Ok(());
    let now: Vec<_> =
        runs.iter().filter(|run| run.acts()).map(|run| run.member.item.deployment.clone()).collect();
    for run in runs.iter_mut().filter(|run| run.acts()) {
        let Member { prober, item, .. } = run.member;
        let shared = item.behind.iter().any(|other| !now.contains(other));
        let known = run.known();
        match prober.prove(cx, &run.before, &run.wanted(&known, shared), started).await {
            Verdict::Failed(proof, e) => {
                run.report.proof = proof;
                proved = proved.and(Err(e.with("target", &item.target.name)));
            }
            verdict => run.accept(verdict),
        }
    }
    proved
}

/// Whether the server can be asked, and answers at no endpoint of these members.
async fn is_down(runs: &[Run<'_>]) -> bool {
    for run in runs.iter().filter(|run| run.acts()) {
        if !run.member.prober.is_down(&run.before).await {
            return false;
        }
    }
    true
}

fn blank(item: &DeployItem) -> DeployReport {
    DeployReport {
        deployment: item.deployment.clone(),
        version: item.version.clone(),
        outcome: DeployOutcome::Unchanged,
        changed: Plan::default(),
        proof: Proof::default(),
        warnings: Vec::new(),
        address: String::new(),
        duration_ms: 0,
        unfinished: false,
        error: None,
    }
}

fn count(run: &Run<'_>) {
    let kind = run.member.target.kind().to_owned();
    let outcome = run.report.outcome;
    metrics::counter!("certctl_deploy_total", "target_type" => kind.clone(), "outcome" => outcome.as_str())
        .increment(1);
    #[allow(clippy::cast_precision_loss)]
    metrics::histogram!("certctl_deploy_duration_seconds", "target_type" => kind.clone())
        .record(run.report.duration_ms as f64 / 1000.0);
    let rollback = match outcome {
        DeployOutcome::RolledBack => "restored",
        DeployOutcome::RollbackFailed => "also_failed",
        _ => return,
    };
    metrics::counter!("certctl_deploy_rollback_total", "target_type" => kind, "outcome" => rollback)
        .increment(1);
}

impl Run<'_> {
    /// Whether something is done for it.
    fn acts(&self) -> bool {
        matches!(self.action, Action::Write | Action::Reload)
    }

    fn refuse(&mut self, error: Error) {
        self.action = Action::Refused;
        self.report.outcome = DeployOutcome::Refused;
        self.report.error = Some(error.with("target", &self.member.item.target.name).report());
    }

    fn accept(&mut self, verdict: Verdict) {
        let (proof, warnings) = match verdict {
            Verdict::Proved(proof, warnings) | Verdict::Unproved(proof, warnings) => (proof, warnings),
            Verdict::Failed(proof, e) => (proof, vec![e.to_string()]),
        };
        self.report.proof = proof;
        self.report.warnings = warnings;
    }

    fn wanted<'k>(&self, known: &'k [Fingerprint], shared: bool) -> Wanted<'k> {
        Wanted { leaf: self.member.bundle.chain.leaf().fingerprint(), known, shared }
    }

    /// The leaves that this certificate had here before: what showed them must show the new one.
    fn known(&self) -> Vec<Fingerprint> {
        self.plan.old.into_iter().chain(self.member.item.previous).collect()
    }
}
