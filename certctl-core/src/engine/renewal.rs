//! Asks the CAs when they want their certificates renewed (RFC 9773).
//!
//! A page of placements at a time: claimed in one commit, so that no other process asks the same; asked a few at a time; what
//! was heard goes into one commit again. The job loop has one such sweep in flight at most, and waits for none.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    Actor, Context, Error, ErrorKind, Id, Issuer, Result, Retry, Timestamp,
    engine::{
        Inner,
        plan::{self, Heard, Opinion},
    },
    random,
    records::{AuditEvent, Certificate, IssuerRecord, KeyPolicy, Placement, Version},
    store::{Change, Direction, Query, StoreExt, Stored, Test},
};

/// How many placements are claimed in one transaction.
const PAGE: usize = 200;
/// How many questions are under way at the same time.
const AT_ONCE: usize = 16;
/// How long what was claimed is left alone: who claimed it may be dead.
const CLAIM: Duration = Duration::from_secs(3_600);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What issued together does not ask together.
const SPREAD: Duration = Duration::from_secs(60);
/// No answer makes anybody wait longer.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Whether the certificate's CA has an opinion about renewals, and anybody here would act on it.
pub(super) async fn asks(engine: &Inner, certificate: &Certificate) -> bool {
    if !may_ask(certificate) {
        return false;
    }
    match issuer(engine, &certificate.issuer).await {
        Ok(issuer) => issuer.capabilities().renewal_info,
        // The sweep would find out no more than this.
        Err(_) => false,
    }
}

/// When a CA is asked first about a version that it has just issued.
pub(super) fn first_ask(engine: &Inner) -> Timestamp {
    engine.clock.now() + SPREAD.mul_f64(chance()) + Duration::from_millis(1)
}

/// Whether anything is to be asked now.
pub(super) async fn is_due(engine: &Inner) -> Result<bool> {
    Ok(!due(engine, engine.clock.now(), 1).await?.is_empty())
}

/// Asks whatever is to be asked now.
pub(super) async fn sweep(engine: Arc<Inner>) {
    loop {
        match page(&engine).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(e) => {
                tracing::warn!(error = %e, "CAs could not be asked when they want renewals");
                return;
            }
        }
    }
}

/// Nothing waits for a clock that was wrong: nobody is asked later than this of their own will.
pub(super) async fn clock_was_set_back(engine: &Inner, now: Timestamp) -> Result<()> {
    loop {
        let query = Query::of::<Placement>()
            .filter("ask_at", Test::Greater, now + LONGEST)
            .order("ask_at", Direction::Ascending)
            .limit(PAGE);
        let (mut late, _) = engine.store.list::<Placement>(query).await?;
        for placement in &mut late {
            placement.ask_at = Some(now + SPREAD.mul_f64(chance()));
        }
        if commit(engine, "renewal_windows.clock_set_back", late, &HashMap::new()).await?.is_empty() {
            return Ok(());
        }
    }
}

async fn due(engine: &Inner, now: Timestamp, limit: usize) -> Result<Vec<Stored<Placement>>> {
    let query = Query::of::<Placement>()
        .filter("ask_at", Test::AtMost, now)
        .order("ask_at", Direction::Ascending)
        .limit(limit);
    Ok(engine.store.list(query).await?.0)
}

/// One page; says whether there was anything.
async fn page(engine: &Arc<Inner>) -> Result<bool> {
    let now = engine.clock.now();
    let mut claimed = due(engine, now, PAGE).await?;
    if claimed.is_empty() {
        return Ok(false);
    }
    for placement in &mut claimed {
        placement.ask_at = Some(now + CLAIM);
    }
    let claimed = commit(engine, "renewal_windows.asked", claimed, &HashMap::new()).await?;
    let asked = ask_all(engine, claimed).await?;
    write_down(engine, asked).await?;
    Ok(true)
}

/// One placement, with what its CA said; without, if there is nothing to ask about it.
struct Asked {
    placement: Stored<Placement>,
    about: Option<(Stored<Certificate>, Stored<Version>, Opinion)>,
}

async fn ask_all(engine: &Arc<Inner>, placements: Vec<Stored<Placement>>) -> Result<Vec<Asked>> {
    let ids: Vec<_> = placements.iter().map(|placement| placement.certificate.clone()).collect();
    let certificates: HashMap<_, _> = engine
        .store
        .read_all(&ids)
        .await?
        .into_iter()
        .map(|c: Stored<Certificate>| (c.id.clone(), c))
        .collect();
    let ids: Vec<_> = placements.iter().filter_map(|placement| placement.version.clone()).collect();
    let versions: HashMap<_, _> =
        engine.store.read_all(&ids).await?.into_iter().map(|v: Stored<Version>| (v.id.clone(), v)).collect();
    let mut issuers: HashMap<Id<IssuerRecord>, Option<Arc<dyn Issuer>>> = HashMap::new();

    let mut asked = Vec::with_capacity(placements.len());
    let mut asking: JoinSet<(usize, Opinion)> = JoinSet::new();
    for placement in placements {
        let index = asked.len();
        let certificate = certificates.get(&placement.certificate);
        let version = placement.version.as_ref().and_then(|version| versions.get(version));
        let (Some(certificate), Some(version)) = (certificate, version) else {
            asked.push(Asked { placement, about: None });
            continue;
        };
        if placement.job.is_some() || placement.revoked || !may_ask(certificate) {
            asked.push(Asked { placement, about: None });
            continue;
        }
        if !issuers.contains_key(&version.issuer) {
            let built = issuer(engine, &version.issuer).await.map_err(|e| {
                tracing::warn!(issuer = %version.issuer, error = %e, "the issuer can't be asked when it wants renewals");
            });
            issuers.insert(version.issuer.clone(), built.ok());
        }
        let mut about = (certificate.clone(), version.clone(), Opinion::Failed(Retry::Backoff));
        match issuers.get(&version.issuer).cloned().flatten() {
            None => {}
            Some(issuer) if !issuer.capabilities().renewal_info => {
                asked.push(Asked { placement, about: None });
                continue;
            }
            Some(issuer) => {
                // Should the question's task break down, that is no answer.
                about.2 = Opinion::Failed(Retry::Backoff);
                if asking.len() >= AT_ONCE {
                    answered(&mut asking, &mut asked).await;
                }
                let (engine, version) = (engine.clone(), version.clone());
                asking.spawn(async move { (index, ask(&engine, &*issuer, &version).await) });
            }
        }
        asked.push(Asked { placement, about: Some(about) });
    }
    while !asking.is_empty() {
        answered(&mut asking, &mut asked).await;
    }
    Ok(asked)
}

fn may_ask(certificate: &Certificate) -> bool {
    !matches!(certificate.key, KeyPolicy::External { .. })
}

/// Takes one answer in.
async fn answered(asking: &mut JoinSet<(usize, Opinion)>, asked: &mut [Asked]) {
    match asking.join_next().await {
        Some(Ok((index, opinion))) => {
            if let Some(Asked { about: Some(about), .. }) = asked.get_mut(index) {
                about.2 = opinion;
            }
        }
        Some(Err(e)) => tracing::error!(error = %e, "a question about renewals ended badly"),
        None => {}
    }
}

async fn ask(engine: &Inner, issuer: &dyn Issuer, version: &Version) -> Opinion {
    let cx = Context::new(engine.clock.clone());
    let answer = tokio::select! {
        answer = issuer.renewal_window(&cx, &version.chain) => answer,
        () = engine.clock.sleep_until(engine.clock.now() + PATIENCE) => {
            Err(Error::unavailable(format!("no answer within {} s", PATIENCE.as_secs())))
        }
    };
    match answer {
        Ok(Some(window)) => Opinion::Window(window),
        Ok(None) => Opinion::None,
        Err(e) => {
            tracing::warn!(
                version = %version.id, issuer = issuer.kind(), error = %e,
                "the CA did not say when it wants the certificate renewed"
            );
            Opinion::Failed(e.retry())
        }
    }
}

/// Commits what was heard. What somebody else has changed meanwhile is left as it is, and asked again after the claim.
async fn write_down(engine: &Inner, asked: Vec<Asked>) -> Result<()> {
    let now = engine.clock.now();
    let mut placements = Vec::with_capacity(asked.len());
    let mut events: HashMap<Id<Placement>, AuditEvent> = HashMap::new();
    for Asked { mut placement, about } in asked {
        let Some((certificate, version, opinion)) = about else {
            placement.ask_at = None;
            placements.push(placement);
            continue;
        };
        match plan::hear(&mut placement, certificate.renewal, &version, opinion, now, chance()) {
            Heard::Same => {}
            Heard::Changed => {
                events.insert(placement.id.clone(), changed(now, &placement));
            }
            Heard::Nonsense(why) => tracing::warn!(
                certificate = %placement.certificate, why,
                "the CA's window for the renewal is passed over"
            ),
        }
        placements.push(placement);
    }
    commit(engine, "renewal_windows.heard", placements, &events).await.map(drop)
}

fn changed(now: Timestamp, placement: &Placement) -> AuditEvent {
    let mut event =
        AuditEvent::new(now, &Actor::engine(), "renewal_window.changed", placement.certificate.as_str())
            .with("placement", placement.id.as_str());
    if let Some(window) = &placement.window {
        event = event.with("start", window.start.to_string()).with("end", window.end.to_string());
        if let Some(explanation) = &window.explanation {
            event = event.with("explanation", explanation.as_str());
        }
    }
    match placement.renew_at {
        Some(at) => event.with("renew_at", at.to_string()),
        None => event,
    }
}

/// Commits those that nobody else has changed meanwhile, and gives them as they are stored then.
async fn commit(
    engine: &Inner,
    action: &str,
    mut placements: Vec<Stored<Placement>>,
    events: &HashMap<Id<Placement>, AuditEvent>,
) -> Result<Vec<Stored<Placement>>> {
    while let Some(first) = placements.first() {
        let now = engine.clock.now();
        let event = AuditEvent::new(now, &Actor::engine(), action, first.certificate.as_str());
        let mut change = Change::new(event.with("count", placements.len()));
        for placement in &placements {
            change = change.update(placement)?;
            if let Some(event) = events.get(&placement.id) {
                change = change.event(event.clone());
            }
        }
        match engine.commit(change).await {
            Ok(versions) => {
                return Ok(placements
                    .into_iter()
                    .zip(versions)
                    .map(|(placement, version)| placement.at_version(version))
                    .collect());
            }
            Err(e) if e.kind() == ErrorKind::Conflict => {
                let ids: Vec<_> = placements.iter().map(|placement| placement.id.clone()).collect();
                let fresh: HashMap<_, _> = engine
                    .store
                    .read_all(&ids)
                    .await?
                    .into_iter()
                    .map(|placement: Stored<Placement>| (placement.id.clone(), placement.version()))
                    .collect();
                placements.retain(|placement| fresh.get(&placement.id) == Some(&placement.version()));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Vec::new())
}

async fn issuer(engine: &Inner, id: &Id<IssuerRecord>) -> Result<Arc<dyn Issuer>> {
    let record = engine.store.read(id).await?;
    engine.catalog.issuer(&record).await
}

/// Evenly between 0 and 1.
fn chance() -> f64 {
    f64::from(u32::from_be_bytes(random::bytes())) / f64::from(u32::MAX)
}
