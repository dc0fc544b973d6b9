//! The decisions of the lifecycle, without a clock, a store or a network: values in, values out.

use std::{ops::Deref, time::Duration};

use crate::{
    ErrorReport, Id, RenewalWindow, Retry, RevocationReason, Timestamp,
    records::{
        Certificate, CertificateStatus, Deployment, DeploymentState, Placement, RenewalPolicy, Version,
    },
};

/// After how many failures in a row for the same cause somebody has to look.
pub const FAILURES_BEFORE_ATTENTION: u32 = 8;

/// How long at most is waited before the next try.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(6 * 3600);

/// The longest pause that somebody else may ask for: the longest rate limits of public CAs hold for a week. Whoever asks for
/// more makes a person look, since nothing would happen meanwhile.
pub const LONGEST_TOLD: Duration = Duration::from_secs(8 * 86_400);

/// How long at most an order is left alone, whatever its CA says.
pub const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// How often in a row an order is asked for at once that goes on at once.
pub const POLLS_AT_ONCE: u32 = 8;

/// When to ask for an order of which its CA says: not before `told`. A CA that says "now" is not asked in a circle, and one
/// that says "in ten years" does not stop a renewal: between a second and [`LONGEST_WAIT`] from now.
pub fn poll_at(told: Timestamp, now: Timestamp) -> Timestamp {
    told.clamp(now + Duration::from_secs(1), now + LONGEST_WAIT)
}

/// When a version is to be renewed: at its share of the lifetime, or at once if its validity makes no sense.
pub fn renew_at(policy: RenewalPolicy, not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    let lifetime = not_after.since(not_before);
    not_before + lifetime.mul_f64(policy.at_share.clamp(0.1, 0.95))
}

/// The latest share of its lifetime at which a certificate is renewed, whatever its CA says.
const LATEST_SHARE: f64 = 0.95;
/// Up to which share of its lifetime a certificate is young: its CA has a reason to want it renewed then.
const YOUNG_SHARE: f64 = 0.1;
/// How often in a row a CA may want a young certificate renewed.
pub const HURRIES_IN_A_ROW: u32 = 8;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What came of asking a CA when it wants a certificate renewed (RFC 9773).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// This is when.
    Window(RenewalWindow),
    /// It has none about this certificate.
    None,
    /// It gave no answer; the error's retry says when to ask again.
    Failed(Retry),
}

/// What an [`Opinion`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    Same,
    /// The window is another one.
    Changed,
    /// The window makes no sense and is passed over; this says why.
    Nonsense(&'static str),
}

/// Writes down what a CA says about the newest version, which is valid from `not_before` to `not_after`, and since `created`
/// known here. `chance`, between 0 and 1, is random: it picks the moment within the window (RFC 9773 section 4.2), so that what
/// the CA issued together does not come back together.
pub fn hear(
    placement: &mut Placement,
    policy: RenewalPolicy,
    version: &Version,
    opinion: Opinion,
    now: Timestamp,
    chance: f64,
) -> Heard {
    let chance = chance.clamp(0.0, 1.0);
    let share = |share: f64| version.not_before + version.not_after.since(version.not_before).mul_f64(share);
    let by_policy = renew_at(policy, version.not_before, version.not_after);
    let window = match opinion {
        Opinion::Window(window) => window,
        Opinion::None => {
            if placement.window.take().is_some() {
                placement.renew_at = Some(by_policy);
            }
            placement.asking.failures = 0;
            placement.asking.early = false;
            placement.ask_at = Some(now + DAY);
            return Heard::Same;
        }
        Opinion::Failed(retry) => {
            placement.asking.failures = placement.asking.failures.saturating_add(1);
            let pause = HOUR.saturating_mul(1 << (placement.asking.failures - 1).min(3)).min(6 * HOUR);
            placement.ask_at = Some(match retry {
                Retry::After(at) => at.clamp(now + MINUTE, now + DAY),
                _ => now + pause.mul_f64(0.75 + chance / 4.0),
            });
            return Heard::Same;
        }
    };
    let nonsense = if window.end <= window.start {
        Some("it ends before it begins")
    } else if window.start >= version.not_after {
        Some("it begins after the certificate's end")
    } else {
        None
    };
    if let Some(why) = nonsense {
        // As if there had been no answer (RFC 9773 section 4.2).
        hear(placement, policy, version, Opinion::Failed(Retry::Backoff), now, chance);
        return Heard::Nonsense(why);
    }
    placement.asking.failures = 0;
    placement.ask_at = Some(window.ask_again.clamp(now + MINUTE, now + DAY));
    let same =
        placement.window.as_ref().is_some_and(|known| (known.start, known.end) == (window.start, window.end));
    if same {
        placement.window = Some(window);
        return Heard::Same;
    }
    let mut at = window.start + window.end.since(window.start).mul_f64(chance);
    at = at.max(now).min(share(LATEST_SHARE).max(now));
    placement.asking.early = at < share(YOUNG_SHARE);
    let hurried = placement.asking.hurried;
    placement.window = Some(window);
    if placement.asking.early && hurried >= HURRIES_IN_A_ROW {
        // It would want the next one renewed as well.
        placement.renew_at = Some(by_policy);
        return Heard::Nonsense("it wants each new certificate renewed at once");
    }
    if placement.asking.early && hurried > 0 {
        at = at.max(version.created + backoff(hurried + 1));
    }
    placement.renew_at = Some(at);
    Heard::Changed
}

/// What becomes of a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Try again then.
    Again(Timestamp),
    /// A person has to look.
    Attention,
}

/// Decides by the error and by how often the step has failed in a row, this time included. `spread`, between 0 and 1, is
/// random: what failed together does not come back together. The pause is that of [`backoff`], up to a half more.
pub fn after_failure(error: &ErrorReport, failures: u32, now: Timestamp, spread: f64) -> AfterFailure {
    let pause = backoff(failures).mul_f64(1.0 + spread.clamp(0.0, 1.0) / 2.0);
    match error.retry {
        _ if failures >= FAILURES_BEFORE_ATTENTION => AfterFailure::Attention,
        Retry::Never => AfterFailure::Attention,
        Retry::Backoff => AfterFailure::Again(now + pause),
        Retry::After(at) if at > now + LONGEST_TOLD => AfterFailure::Attention,
        // A CA that says "in a second" each time would otherwise be given up within seconds.
        Retry::After(at) => {
            let least = if failures < 3 { Duration::from_secs(1) } else { backoff(failures - 2) };
            AfterFailure::Again(at.max(now + least))
        }
    }
}

/// One minute, doubling, up to [`LONGEST_BACKOFF`].
pub fn backoff(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(60);
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_BACKOFF)
}

/// How a certificate stands, by its placements and deployments.
pub fn status<'a>(
    placements: &[&Placement],
    deployments: impl IntoIterator<Item = &'a Deployment>,
) -> CertificateStatus {
    if placements.iter().any(|placement| placement.revoked) {
        return CertificateStatus::Revoked;
    }
    let newest: Vec<_> = placements.iter().map(|placement| placement.version.clone()).collect();
    if newest.is_empty() || newest.iter().any(Option::is_none) {
        return CertificateStatus::Pending;
    }
    let in_place = |deployment: &Deployment| {
        matches!(deployment.state, DeploymentState::Proved | DeploymentState::Unproved)
            && deployment.current.is_some()
            && newest.contains(&deployment.current)
    };
    if deployments.into_iter().all(in_place) { CertificateStatus::Active } else { CertificateStatus::Partial }
}

/// How a deployment stands after a try that failed; `lost` if what was there could not be brought back. As long as a journal
/// says that there is something to bring back (`unfinished`), a later failure for another reason hides nothing.
pub fn state_after_failure(before: DeploymentState, lost: bool, unfinished: bool) -> DeploymentState {
    let still = unfinished && before == DeploymentState::RollbackFailed;
    if lost || still { DeploymentState::RollbackFailed } else { DeploymentState::Failed }
}

/// The versions whose keys nothing needs any more: no deployment has or wants them, and they are not the newest.
pub fn forgettable(
    versions: &[impl Deref<Target = Version>],
    newest: Option<&Id<Version>>,
    deployments: &[impl Deref<Target = Deployment>],
) -> Vec<Id<Version>> {
    let needed = |id: &Id<Version>| {
        newest == Some(id)
            || deployments.iter().any(|d| d.current.as_ref() == Some(id) || d.wanted.as_ref() == Some(id))
    };
    // A key that a needed version shares stays.
    let kept: Vec<_> = versions
        .iter()
        .filter(|version| needed(&version.id))
        .filter_map(|version| version.key.as_ref())
        .collect();
    versions
        .iter()
        .filter(|version| !version.key_forgotten && !needed(&version.id))
        .filter(|version| version.key.as_ref().is_some_and(|key| !kept.contains(&key)))
        .map(|version| version.id.clone())
        .collect()
}

/// Writes down that the CA has revoked a version of this placement; says whether that was the newest one. Nothing renews it
/// by itself then: whoever revokes decides what comes after.
pub fn revoke(placement: &mut Placement, version: &Id<Version>) -> bool {
    let newest = placement.version.as_ref() == Some(version);
    if newest {
        placement.revoked = true;
        placement.renew_at = None;
        placement.ask_at = None;
        placement.window = None;
    }
    newest
}

/// Whether wanting a certificate once more makes a new version: at the first time, when a renewal is due, or if something
/// else is wanted (`other`). One that was revoked waits for somebody who says so.
pub fn wants_new_version(placement: &Placement, other: bool, now: Timestamp) -> bool {
    !placement.revoked
        && (placement.version.is_none() || placement.renew_at.is_some_and(|at| at <= now) || other)
}

/// Whether the key of a version may be used for the next one, where that is asked for.
pub fn may_reuse_key(version: &Version) -> bool {
    version.revocation.is_none_or(|revocation| revocation.reason != RevocationReason::KeyCompromise)
}

/// Whether a change of what is wanted needs a new version.
pub fn needs_new_version(before: &Certificate, after: &Certificate) -> bool {
    before.names != after.names
        || before.common_name != after.common_name
        || before.issuer != after.issuer
        || before.profile != after.profile
        || before.key != after.key
}
