//! The deployer: the one order of steps that brings certificates to the targets of a unit, and back if one fails.
//!
//! Check, plan, probe, validate what is there, snapshot, journal, apply, validate, reload, prove, prune. A failure after
//! the first write restores what was there, reloads, and proves that again.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Bundle, Context, Error, ErrorKind, Fingerprint, Id, Result, Target,
    records::{Deployment, Version},
    target::{Pair, Plan, Snapshot},
    worker::{
        DeployItem, DeployOutcome, DeployReport, EndpointProof, Journal, Proof,
        proof::{Prober, Verdict},
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
}

/// A member on its way.
struct Run<'a> {
    member: &'a Member,
    plan: Plan,
    before: Vec<EndpointProof>,
    snapshot: Option<Snapshot>,
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
    let begun: Entries = match journal.load().await? {
        Some(value) => serde_json::from_value(value)
            .map_err(|e| Error::internal("the deployment's journal does not read").with_source(e))?,
        None => Entries::default(),
    };
    let mut reports = Vec::new();
    let mut rest = members;
    let mut whole = true;
    while !rest.is_empty() {
        let batch = if whole { rest } else { &rest[..1] };
        let done = deploy_batch(cx, batch, journal, &begun).await?;
        match done {
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
    DeployReport { outcome: DeployOutcome::Refused, error: Some(error), ..blank(item) }
}

/// None: the batch failed, was restored, and its members have to go one by one.
async fn deploy_batch(
    cx: &Context,
    members: &[Member],
    journal: &dyn Journal,
    begun: &Entries,
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
        for run in runs.iter_mut().filter(|run| run.action != Action::Nothing) {
            run.refuse(stopped.clone());
        }
    }
    snapshot(cx, &mut runs, journal).await?;

    let culprit = act(cx, &mut runs).await;
    if let Some(error) = culprit {
        let writing = runs.iter().filter(|run| run.action == Action::Write).count();
        roll_back(cx, &mut runs, &error).await;
        let restored = runs.iter().all(|run| run.report.outcome != DeployOutcome::RollbackFailed);
        if writing > 1 && restored {
            return Ok(None);
        }
    }

    let ended = cx.clock.now();
    let mut reports = Vec::with_capacity(runs.len());
    for mut run in runs {
        run.report.duration_ms = u64::try_from(ended.since(started).as_millis()).unwrap_or(u64::MAX);
        if run.report.outcome != DeployOutcome::RollbackFailed
            && let Some(snapshot) = &run.snapshot
            && let Err(e) = run.member.target.discard(cx, snapshot).await
        {
            run.report.warnings.push(format!("the snapshot {} could not be removed: {e}", snapshot.place));
        }
        count(&run);
        reports.push(run.report);
    }
    Ok(Some(reports))
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
        run.refuse(e);
    }
    run
}

async fn look(cx: &Context, run: &mut Run<'_>, begun: Option<&Entry>) -> Result<()> {
    let Member { item, target, bundle, prober } = run.member;
    if let Some(entry) = begun {
        if entry.version == item.version {
            // A predecessor died while writing this very version: go on, and keep what it knew of the time before.
            run.resumed = true;
            run.snapshot = Some(entry.snapshot.clone());
            run.before.clone_from(&entry.before);
        } else {
            target.restore(cx, &entry.snapshot).await?;
            target.discard(cx, &entry.snapshot).await?;
        }
    }
    bundle.check(&item.names, cx.clock.now()).map_err(|e| e.with("step", "check"))?;
    run.plan = target.plan(cx, bundle).await?;
    if run.resumed {
        run.plan.old = begun.and_then(|entry| entry.old);
        run.action = Action::Write;
    } else {
        run.before = prober.look(cx).await;
        run.action = if !run.plan.changes.is_empty() {
            Action::Write
        } else if prober.serves(&run.before, bundle) {
            Action::Nothing
        } else {
            Action::Reload
        };
    }
    run.report.changed = run.plan.clone();
    if run.action == Action::Nothing {
        let verdict = prober.judge(&run.before, run.before.clone(), &run.known(), bundle);
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

async fn snapshot(cx: &Context, runs: &mut [Run<'_>], journal: &dyn Journal) -> Result<()> {
    let mut entries = Entries::default();
    for run in runs.iter_mut().filter(|run| run.action == Action::Write) {
        if run.snapshot.is_none() {
            match run.member.target.snapshot(cx, run.member.item.deployment.as_str()).await {
                Ok(snapshot) => run.snapshot = Some(snapshot),
                Err(e) => {
                    run.refuse(e.during("before anything was written"));
                    continue;
                }
            }
        }
        if let Some(snapshot) = &run.snapshot {
            entries.0.insert(
                run.member.item.deployment.clone(),
                Entry {
                    version: run.member.item.version.clone(),
                    snapshot: snapshot.clone(),
                    before: run.before.clone(),
                    old: run.plan.old,
                },
            );
        }
    }
    if entries.0.is_empty() {
        return Ok(());
    }
    let entries = serde_json::to_value(&entries)
        .map_err(|e| Error::internal("the deployment's journal has no JSON form").with_source(e))?;
    journal.save(&entries).await
}

/// From the first write to the proof. Gives the first error; what was written stays for the caller to restore.
async fn act(cx: &Context, runs: &mut [Run<'_>]) -> Option<Error> {
    for run in runs.iter().filter(|run| run.action == Action::Write) {
        if let Err(e) = run.member.target.apply(cx, &run.member.bundle).await {
            return Some(e.with("target", &run.member.item.target.name));
        }
    }
    // The members are one unit: any of them speaks for the server.
    let acting = |run: &&Run<'_>| matches!(run.action, Action::Write | Action::Reload);
    let speaker = runs.iter().find(acting)?.member.target.clone();
    let down = runs.iter().filter(acting).all(|run| run.member.prober.is_down(&run.before));
    let mut warning = None;
    if let Err(e) = speaker.validate(cx).await {
        return Some(e);
    }
    if let Err(e) = speaker.reload(cx).await {
        if !down {
            return Some(e);
        }
        // A server that is down can't reload. It can be started, or will read the new pair when somebody starts it.
        match speaker.start(cx).await {
            Ok(true) => {}
            Ok(false) => warning = Some(format!("the server was down before, and did not reload: {e}")),
            Err(start) => return Some(start.with("reload", &e)),
        }
    }
    let mut failure = None;
    for run in runs.iter_mut().filter(|run| matches!(run.action, Action::Write | Action::Reload)) {
        run.report.warnings.extend(warning.clone());
        let Member { prober, bundle, .. } = run.member;
        let verdict = prober.prove(cx, &run.before, &run.known(), bundle).await;
        match verdict {
            Verdict::Failed(proof, e) => {
                run.report.proof = proof;
                failure = failure.or(Some(e.with("target", &run.member.item.target.name)));
            }
            verdict => {
                run.report.outcome = if run.action == Action::Write {
                    DeployOutcome::Deployed
                } else {
                    DeployOutcome::Reloaded
                };
                run.accept(verdict);
            }
        }
    }
    failure
}

async fn roll_back(cx: &Context, runs: &mut [Run<'_>], error: &Error) {
    let mut lost = Vec::new();
    for run in runs.iter().rev() {
        if let (Action::Write, Some(snapshot)) = (run.action, &run.snapshot)
            && let Err(e) = run.member.target.restore(cx, snapshot).await
        {
            lost.push(format!(
                "{}: {e} (what was there before is in {})",
                run.member.item.target.name, snapshot.place
            ));
        }
    }
    let wrote = runs.iter().any(|run| run.action == Action::Write);
    if wrote
        && lost.is_empty()
        && let Err(e) = serve_again(cx, runs).await
    {
        lost.push(e.to_string());
    }
    for run in runs.iter_mut().filter(|run| matches!(run.action, Action::Write | Action::Reload)) {
        let mut e = error.clone();
        if run.action == Action::Reload {
            // Nothing was written for it, so that there is no way back either: the old state is the present one.
            run.report.outcome = DeployOutcome::Refused;
        } else if lost.is_empty() {
            run.report.outcome = DeployOutcome::RolledBack;
        } else {
            run.report.outcome = DeployOutcome::RollbackFailed;
            e = Error::new(
                ErrorKind::Precondition,
                format!("{}; and the rollback failed: {}", error, lost.join("; ")),
            );
            for (key, value) in error.context() {
                e = e.with(key, value);
            }
            if let Some(snapshot) = &run.snapshot {
                e = e.with("snapshot", &snapshot.place);
            }
        }
        run.report.error = Some(e.report());
    }
}

/// After the files are back: the server must serve what it served before.
async fn serve_again(cx: &Context, runs: &[Run<'_>]) -> Result<()> {
    let writing = || runs.iter().filter(|run| run.action == Action::Write);
    let Some(first) = writing().next() else { return Ok(()) };
    let speaker = &first.member.target;
    let down_before = writing().all(|run| run.member.prober.is_down(&run.before));
    let reload = speaker.reload(cx).await;
    if down_before {
        // It was down, or nobody knows: a reload that fails proves nothing.
        return if first.member.prober.is_blind() { reload } else { Ok(()) };
    }
    let mut back = Ok(());
    for run in writing() {
        back = back.and(run.member.prober.prove_again(cx, &run.before).await);
    }
    if back.is_ok() {
        return Ok(());
    }
    // The reload may have killed it.
    match speaker.start(cx).await {
        Ok(true) => {
            for run in writing() {
                run.member.prober.prove_again(cx, &run.before).await?;
            }
            Ok(())
        }
        Ok(false) => {
            let hint = "the files are restored, and the server does not serve them: it may be down; start it, and give \
                        start_command so that this can be done for you";
            back.map_err(|e| e.during(hint))
        }
        Err(e) => Err(e.during("the files are restored, and the server does not start")),
    }
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
    fn refuse(&mut self, error: Error) {
        self.action = Action::Refused;
        self.report.outcome = DeployOutcome::Refused;
        self.report.error = Some(error.with("target", &self.member.item.target.name).report());
    }

    fn accept(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Proved(proof, warnings) | Verdict::Unproved(proof, warnings) => {
                self.report.proof = proof;
                self.report.warnings.extend(warnings);
            }
            Verdict::Failed(proof, e) => {
                self.report.proof = proof;
                self.report.warnings.push(e.to_string());
            }
        }
    }

    /// The leaves that this certificate had here before: what showed them must show the new one.
    fn known(&self) -> Vec<Fingerprint> {
        self.plan.old.into_iter().chain(self.member.item.previous).collect()
    }
}
