//! The decisions of the lifecycle, without a clock, a store or a network: values in, values out.

use std::{ops::Deref, time::Duration};

use crate::{
    ErrorReport, Id, Retry, Timestamp,
    records::{Certificate, CertificateStatus, Deployment, DeploymentState, RenewalPolicy, Version},
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

/// What becomes of a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Try again then.
    Again(Timestamp),
    /// A person has to look.
    Attention,
}

/// Decides by the error and by how often the step has failed in a row, this time included. `spread`, between 0 and 1, is
/// random: what failed together does not come back together.
pub fn after_failure(error: &ErrorReport, failures: u32, now: Timestamp, spread: f64) -> AfterFailure {
    let pause = backoff(failures).mul_f64(0.75 + spread.clamp(0.0, 1.0) / 2.0);
    match error.retry {
        _ if failures >= FAILURES_BEFORE_ATTENTION => AfterFailure::Attention,
        Retry::Never => AfterFailure::Attention,
        Retry::Backoff => AfterFailure::Again(now + pause),
        Retry::After(at) if at > now + LONGEST_TOLD => AfterFailure::Attention,
        Retry::After(at) => AfterFailure::Again(at.max(now + Duration::from_secs(1))),
    }
}

/// One minute, doubling, up to [`LONGEST_BACKOFF`].
pub fn backoff(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(60);
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_BACKOFF)
}

/// How a certificate stands, by its deployments and the newest versions of its placements.
pub fn status<'a>(
    newest: &[Option<Id<Version>>],
    deployments: impl IntoIterator<Item = &'a Deployment>,
) -> CertificateStatus {
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

/// Whether a change of what is wanted needs a new version.
pub fn needs_new_version(before: &Certificate, after: &Certificate) -> bool {
    before.names != after.names
        || before.common_name != after.common_name
        || before.issuer != after.issuer
        || before.profile != after.profile
        || before.key != after.key
}
