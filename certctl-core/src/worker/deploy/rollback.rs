//! The way back: files first, then the server, then the proof that it serves what it served.

use super::{Action, Run};
use crate::{Context, Error, ErrorKind, Result, target::Snapshot, worker::DeployOutcome};

/// Restores what these members had, and has it served again. Each report then says how that went; the first error of a
/// report is the one that led here.
pub(super) async fn roll_back(cx: &Context, runs: &mut [&mut Run<'_>], error: &Error) {
    let mut lost: Vec<Option<String>> = vec![None; runs.len()];
    for (run, lost) in runs.iter().zip(&mut lost).rev() {
        if let (Action::Write, Some(snapshot)) = (run.action, &run.snapshot)
            && let Err(e) = restore(cx, run, snapshot).await
        {
            *lost = Some(e.to_string());
        }
    }
    let restored = lost.iter().all(Option::is_none);
    if let Err(e) = serve_again(cx, runs, restored).await {
        for lost in &mut lost {
            *lost = Some(lost.take().map_or_else(|| e.to_string(), |first| format!("{first}; {e}")));
        }
    }
    for (run, lost) in runs.iter_mut().zip(lost) {
        let (outcome, error) = match (run.action, lost) {
            // Nothing was written for it, so that there is no way back either: the old state is the present one.
            (Action::Reload, _) => (DeployOutcome::Refused, error.clone()),
            (_, None) => (DeployOutcome::RolledBack, error.clone()),
            (_, Some(lost)) => (DeployOutcome::RollbackFailed, also_failed(run, error, &lost)),
        };
        run.report.outcome = outcome;
        run.report.unfinished = outcome == DeployOutcome::RollbackFailed;
        // Where another member of the unit is the culprit, the error names that already.
        run.report.error = Some(error.with("target", &run.member.item.target.name).report());
    }
}

/// Tries once more: what was there is not given up for a moment's fault.
async fn restore(cx: &Context, run: &Run<'_>, snapshot: &Snapshot) -> Result<()> {
    match run.member.target.restore(cx, snapshot).await {
        Ok(()) => Ok(()),
        Err(_) => run.member.target.restore(cx, snapshot).await,
    }
}

fn also_failed(run: &Run<'_>, error: &Error, lost: &str) -> Error {
    let place = run.snapshot.as_ref().map(|snapshot| snapshot.place.as_str());
    let kept = place.map(|place| format!(" (what was there before is in {place})")).unwrap_or_default();
    let message = format!("{error}; and the rollback failed: {lost}{kept}");
    let mut failed = Error::new(ErrorKind::Precondition, message);
    for (key, value) in error.context() {
        failed = failed.with(key, value);
    }
    match place {
        Some(place) => failed.with("snapshot", place),
        None => failed,
    }
}

/// After the files are back: the server must serve what it served before. Where they are not all `restored`, it is not made
/// to read them: it may have been spared so far what failed.
async fn serve_again(cx: &Context, runs: &[&mut Run<'_>], restored: bool) -> Result<()> {
    let writing = || runs.iter().filter(|run| run.action == Action::Write);
    let Some(speaker) = writing().next().map(|run| &run.member.target) else { return Ok(()) };
    let blind = writing().all(|run| run.member.prober.is_blind());
    let down = writing().all(|run| run.member.prober.is_blind() || run.member.prober.was_down(&run.before));
    if down && !restored {
        return Ok(());
    }
    if blind {
        // Nobody sees what is served: the commands' word has to do.
        let Err(e) = speaker.reload(cx).await else { return Ok(()) };
        return match speaker.start(cx).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(e.during("the files are restored")),
            Err(start) => Err(start.during("the files are restored").with("reload", &e)),
        };
    }
    if down {
        // A reload that fails says nothing then.
        let _ = speaker.reload(cx).await;
        return Ok(());
    }
    // A reload may have killed it.
    let no_start = |e: Error| e.during("the files are restored, and the server does not start");
    let mut started = is_gone(runs).await && speaker.start(cx).await.map_err(no_start)?;
    let reloaded = if started || !restored { Ok(()) } else { speaker.reload(cx).await };
    let mut back = proved_again(cx, runs).await;
    if back.is_err() && !started {
        started = match speaker.start(cx).await {
            Ok(started) => started,
            // Where it is up, it can't be started: what is wrong is what it serves.
            Err(_) if !is_gone(runs).await => false,
            Err(e) => return Err(no_start(e)),
        };
        if started {
            back = proved_again(cx, runs).await;
        }
    }
    let Err(e) = back else { return Ok(()) };
    let e = match reloaded {
        Err(reload) => e.with("reload", reload),
        Ok(()) => e,
    };
    if !restored {
        return Err(e);
    }
    Err(match (is_gone(runs).await, started) {
        (true, false) => e.during(
            "the files are restored, and the server is down: start it, and give start_command so that this is done for you",
        ),
        (true, true) => e.during("the files are restored, and the server is down although it was started"),
        (false, _) => e.during("the files are restored, and the server does not serve them"),
    })
}

async fn proved_again(cx: &Context, runs: &[&mut Run<'_>]) -> Result<()> {
    for run in runs.iter().filter(|run| run.action == Action::Write) {
        run.member.prober.prove_again(cx, &run.before).await?;
    }
    Ok(())
}

/// Whether nobody answers any more.
async fn is_gone(runs: &[&mut Run<'_>]) -> bool {
    for run in runs.iter().filter(|run| run.action == Action::Write && !run.member.prober.is_blind()) {
        if !run.member.prober.is_down(&run.before).await {
            return false;
        }
    }
    true
}
