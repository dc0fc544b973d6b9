//! An order, step by step. What the CA gave to hold, and where the order stands, is in the handle.

use std::time::Duration;

use certctl_core::{
    Challenge, Context, Effect, Error, ErrorKind, ErrorReport, Handle, Order, Progress, Result, Retry,
    Timestamp,
};
use certctl_protocols::acme::wire::{
    self, Authorization, AuthorizationStatus, Identifier, NewOrder, OrderStatus,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    account::Registered,
    challenge::{self, Pending},
    client::{By, Client},
    finish, problem, renewal,
    transport::{bad, check_own, shown},
};

/// Requests of one order at the same time: it may have a hundred names.
const AT_ONCE: usize = 8;
/// How long a CA is left alone that does not say, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Whatever it says: a twentieth of the time that it has taken so far, up to this. What takes days needs no answer within
/// seconds.
const SLOWEST_PACE: Duration = Duration::from_secs(600);
/// A finalized order is as good as issued: a CA with people in it may take its time.
const PROCESSING_TIMEOUT: Duration = Duration::from_secs(3 * 86_400);
/// After how many new processes challenges are not shown again.
const MAX_SHOWN: u8 = 5;

/// What is in the handle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// The order's URL.
    pub(super) order: String,
    pub(super) finalize: String,
    pub(super) authorizations: Vec<String>,
    stage: Stage,
    /// When the stage began.
    since: Timestamp,
    /// How often the CA was asked in this stage.
    #[serde(default)]
    asked: u32,
    /// Challenges that are to be answered, or were.
    #[serde(default)]
    challenges: Vec<Pending>,
    /// The process that had them shown last, and how often that was done.
    #[serde(default)]
    run: String,
    /// Whether the request was sent for this attempt: another one with the same names may have the same order.
    #[serde(default)]
    sent: bool,
    #[serde(default)]
    shown: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// The CA has the order.
    Ordered,
    /// Challenges are shown, and the CA was not told yet.
    Shown,
    /// The CA was told to look.
    Answered,
    /// The CA has the request.
    Finalized,
}

/// Orders (RFC 8555 section 7.4).
pub(super) async fn submit(client: &Client, cx: &Context, order: &Order) -> Result<Progress> {
    let harmless = |e: Error| e.with_effect(Effect::None);
    check(order)?;
    let directory = client.directory(cx).await?;
    let profile = client.profile_of(&directory)?;
    let account = client.registered(cx).await?;
    let mut request = NewOrder {
        identifiers: identifiers(order)?,
        not_before: None,
        not_after: order
            .profile
            .lifetime
            .map(|lifetime| (cx.clock.now() + lifetime.as_duration()).floor_secs()),
        profile,
        replaces: renewal::replaces(client, &directory, order),
    };
    let mut answer = client.post(cx, &directory.new_order, &request, By::Account(&account)).await;
    if let Err(e) = &answer
        && request.replaces.is_some()
        && (renewal::refuses_replacing(e) || renewal::fails_at_replacing(e))
    {
        // What was refused was refused as a whole. What went wrong in the CA may have been ordered.
        if e.effect() == Effect::Unknown
            && let Some(found) =
                recover(client, cx, order).await.map_err(|e| e.with_effect(Effect::Unknown))?
        {
            return Ok(found);
        }
        tracing::warn!(error = %e, "the CA does not let the order replace its predecessor; ordering without");
        request.replaces = None;
        answer = client.post(cx, &directory.new_order, &request, By::Account(&account)).await;
    }
    let answer = match answer {
        Err(e) if is_unknown_account(&e) => {
            client.forget_account().await.map_err(harmless)?;
            return Err(harmless(e).during("the account is registered again").with_retry(Retry::Backoff));
        }
        answer => answer?,
    };
    let url = answer.location("order")?;
    let made: wire::Order = answer.json("order")?;
    if request.replaces.is_some() && made.replaces.is_none() {
        tracing::info!(order = url, "the CA does not say that the order replaces its predecessor");
    }
    let state = State::new(client, url, &made, order.names.len(), cx.clock.now())?;
    let ready = made.status != OrderStatus::Pending;
    tracing::debug!(order = state.order, ready, "ordered");
    state.waiting(cx.clock.now())
}

/// The next step.
pub(super) async fn poll(client: &Client, cx: &Context, order: &Order, handle: &Handle) -> Result<Progress> {
    let state = State::read(handle)?;
    let account = client.registered(cx).await?;
    let now = cx.clock.now();
    let step = Step { client, cx, order, account: &account, now };
    let known = [std::slice::from_ref(&state.order), &state.authorizations].concat();
    match step.go_on(state).await {
        Err(e) if is_unknown_account(&e) => {
            client.forget_account().await?;
            step.failed(e.during("the account is registered again").with_retry(Retry::Backoff))
        }
        // Orders expire, and are forgotten then.
        Err(e) if is_gone(&e, &known) => {
            let e = e.during("the CA does not have the order any more").with_retry(Retry::Backoff);
            step.failed(e.with("order", &known[0]))
        }
        progress => progress,
    }
}

/// Looks for the order among those of the account, where the CA lists them (RFC 8555 section 7.1.2.1).
pub(super) async fn recover(client: &Client, cx: &Context, order: &Order) -> Result<Option<Progress>> {
    /// Of the last and of the first in the list, which has no order that is agreed on; and the pages that it may have.
    const LOOKED_AT: [usize; 2] = [30, 10];
    const PAGES: usize = 20;

    let account = client.registered(cx).await?;
    let at_ca = match client.read(cx, &account.url, &account, "application/json").await {
        Ok(at_ca) => at_ca,
        Err(e) if is_unknown_account(&e) => {
            // An account that is not there has no orders.
            client.forget_account().await?;
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let Some(orders) = at_ca.json::<wire::Account>("account")?.orders else { return Ok(None) };
    check_own(&account.url, &orders)?;
    let mut urls: Vec<String> = Vec::new();
    let mut pages: Vec<String> = Vec::new();
    let mut next = Some(orders);
    while let Some(url) = next.take().filter(|url| pages.len() < PAGES && !pages.contains(url)) {
        let page = match client.read(cx, &url, &account, "application/json").await {
            Ok(page) => page,
            // Some servers name a list that they do not have.
            Err(e) if e.retry() == Retry::Never => return Ok(None),
            Err(e) => return Err(e),
        };
        urls.extend(match page.json::<Vec<String>>("list of orders") {
            // step-ca answers with the array alone.
            Ok(orders) => orders,
            Err(_) => page.json::<wire::OrdersList>("list of orders")?.orders,
        });
        next = page.own_links("next").into_iter().next();
        pages.push(url);
    }
    let wanted = identifiers(order)?;
    let (last, first) = (LOOKED_AT[0], LOOKED_AT[1].min(urls.len().saturating_sub(LOOKED_AT[0])));
    for url in urls.iter().rev().take(last).chain(&urls[..first]) {
        if check_own(&account.url, url).is_err() {
            continue;
        }
        let found = match client.read(cx, url, &account, "application/json").await {
            Ok(found) => found,
            Err(e) if e.retry() == Retry::Never => continue,
            // It may be this one: that it can't be read now does not say that it is not there.
            Err(e) => return Err(e),
        };
        let Ok(found) = found.json::<wire::Order>("order") else { continue };
        let open = matches!(found.status, OrderStatus::Pending | OrderStatus::Ready);
        if open && same(&found.identifiers, &wanted) {
            tracing::info!(order = url, attempt = %order.attempt, "found the order whose answer was lost");
            let now = cx.clock.now();
            return State::new(client, url.clone(), &found, wanted.len(), now)?.waiting(now).map(Some);
        }
    }
    // An order that nobody finalizes comes to nothing.
    Ok(None)
}

/// What every step needs.
pub(super) struct Step<'a> {
    pub(super) client: &'a Client,
    pub(super) cx: &'a Context,
    pub(super) order: &'a Order,
    pub(super) account: &'a Registered,
    pub(super) now: Timestamp,
}

impl Step<'_> {
    async fn go_on(&self, state: State) -> Result<Progress> {
        match state.stage {
            Stage::Ordered => self.authorize(state).await,
            Stage::Shown if self.has_to_show_again(&state) => self.show(state),
            Stage::Shown => self.answer(state).await,
            Stage::Answered | Stage::Finalized => self.look(state).await,
        }
    }

    /// Reads the authorizations, and has those shown that are not valid already.
    async fn authorize(&self, mut state: State) -> Result<Progress> {
        let authorizations = self.authorizations(&state).await?;
        let asked = identifiers(self.order)?;
        let mut open = Vec::new();
        for (url, authorization) in state.authorizations.iter().zip(&authorizations) {
            if !is_for(authorization, &asked) {
                return self.failed(not_ours(authorization));
            }
            match authorization.status {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending => open.push((url.clone(), authorization.clone())),
                _ => return self.failed(invalid_authorization(authorization, self.now)),
            }
        }
        // Each may ask the DNS.
        let pending: Vec<Pending> = stream::iter(open)
            .map(|(url, authorization)| async move { challenge::choose(self, &url, &authorization).await })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        if pending.is_empty() {
            // All of them are reused: the order is ready.
            state.enter(Stage::Answered, self.now);
            return self.look(state).await;
        }
        state.challenges = pending;
        self.show(state)
    }

    /// What a process has shown itself went with it: the next one shows it again.
    fn show(&self, mut state: State) -> Result<Progress> {
        let present =
            state.challenges.iter().map(|pending| pending.challenge.clone()).collect::<Vec<Challenge>>();
        if state.stage != Stage::Shown {
            state.enter(Stage::Shown, self.now);
        }
        state.run.clone_from(&self.client.run);
        state.shown = state.shown.saturating_add(1);
        state.asked = 0;
        Ok(Progress::Challenges { handle: state.handle()?, present })
    }

    /// Whether another process had them shown, where what it had shown is gone with it.
    fn has_to_show_again(&self, state: &State) -> bool {
        state.run != self.client.run
            && state.shown < MAX_SHOWN
            && state.challenges.iter().any(|pending| challenge::is_volatile(&pending.challenge))
    }

    /// Tells the CA to look, once what it will look at can be seen.
    async fn answer(&self, mut state: State) -> Result<Progress> {
        if state.asked == 0 {
            // Shown by now, however long that has taken.
            state.since = self.now;
        }
        match challenge::visible(self, &state.challenges, state.since).await {
            challenge::Visible::Yes => {}
            challenge::Visible::NotYet(sentence) => {
                tracing::debug!(order = state.order, "{sentence}");
                state.asked += 1;
                return state.waiting(self.now + pause(state.asked));
            }
            challenge::Visible::Never(error) => return self.failed(error),
        }
        let answers = stream::iter(state.challenges.clone())
            .map(|pending| async move { challenge::tell(self, &pending).await })
            .buffer_unordered(AT_ONCE);
        answers.try_collect::<Vec<()>>().await?;
        state.enter(Stage::Answered, self.now);
        state.waiting(self.now + FIRST_PAUSE)
    }

    /// Looks how the order stands.
    async fn look(&self, mut state: State) -> Result<Progress> {
        let answer = self.client.read(self.cx, &state.order, self.account, "application/json").await?;
        let after = answer.retry_after();
        let at_ca: wire::Order = answer.json("order")?;
        match at_ca.status {
            OrderStatus::Pending => {
                // Some CAs leave an order pending although one of its authorizations has failed.
                let authorizations = self.authorizations(&state).await?;
                let failed = |a: &&Authorization| {
                    !matches!(a.status, AuthorizationStatus::Pending | AuthorizationStatus::Valid)
                };
                if let Some(failed) = authorizations.iter().find(failed) {
                    return self.failed(invalid_authorization(failed, self.now));
                }
                if self.has_to_show_again(&state) {
                    // Shown again, in case the CA has not looked yet; then asked again.
                    return self.show(state);
                }
                let limit = self.client.config.order_timeout.as_duration();
                if self.now.since(state.since) > limit {
                    return self.failed(timed_out(&state, "has not looked at the challenges", limit));
                }
                self.ask_again(state, after)
            }
            OrderStatus::Ready => {
                let limit = self.client.config.order_timeout.as_duration();
                if state.is_finalized() && self.now.since(state.since) > limit {
                    return self.failed(timed_out(
                        &state,
                        "takes the request and does nothing with it",
                        limit,
                    ));
                }
                finish::finalize(self, state).await
            }
            OrderStatus::Processing => {
                if state.stage != Stage::Finalized {
                    state.enter(Stage::Finalized, self.now);
                }
                if self.now.since(state.since) > PROCESSING_TIMEOUT {
                    return self.failed(timed_out(
                        &state,
                        "has not made the certificate",
                        PROCESSING_TIMEOUT,
                    ));
                }
                self.ask_again(state, after)
            }
            OrderStatus::Valid => finish::collect(self, &state, &at_ca).await,
            OrderStatus::Invalid => self.failed(self.why_invalid(&state, &at_ca).await),
            other => {
                let other = shown(other.as_str(), 60);
                Err(bad(&state.order, format!("the order is {other:?}, which is no status")))
            }
        }
    }

    pub(super) fn ask_again(&self, mut state: State, after: Option<Timestamp>) -> Result<Progress> {
        state.asked += 1;
        let at = after.unwrap_or(self.now + pause(state.asked));
        // Not before: a date that has passed, or a clock that is wrong, is no invitation to a circle.
        let pace = (self.now.since(state.since) / 20).clamp(FIRST_PAUSE, SLOWEST_PACE);
        // Nor much later while the CA has nothing to do but look: some say "tomorrow" and are done in seconds.
        let latest = match state.stage {
            Stage::Finalized => at,
            _ => self.now + SLOWEST_PACE,
        };
        state.waiting(at.min(latest).max(self.now + pace))
    }

    async fn authorizations(&self, state: &State) -> Result<Vec<Authorization>> {
        stream::iter(state.authorizations.clone())
            .map(|url| async move {
                let answer = self.client.read(self.cx, &url, self.account, "application/json").await?;
                answer.json::<Authorization>("authorization")
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// The order says why, or one of its authorizations does.
    async fn why_invalid(&self, state: &State, at_ca: &wire::Order) -> Error {
        if let Ok(authorizations) = self.authorizations(state).await {
            let failed = |a: &&Authorization| {
                a.challenges.iter().any(|challenge| challenge.error.is_some())
                    && a.status != AuthorizationStatus::Valid
            };
            if let Some(failed) = authorizations.iter().find(failed) {
                return invalid_authorization(failed, self.now);
            }
        }
        match &at_ca.error {
            Some(problem) => problem::of_order(problem, self.now).during("the order came to nothing"),
            None => Error::new(ErrorKind::Precondition, "the CA gave the order up, and does not say why")
                .with_retry(Retry::Backoff),
        }
        .with("order", &state.order)
    }

    /// The order is over.
    pub(super) fn failed(&self, error: Error) -> Result<Progress> {
        let error: ErrorReport = error.with_effect(Effect::None).report();
        Ok(Progress::Failed { error })
    }
}

impl State {
    fn new(client: &Client, url: String, order: &wire::Order, names: usize, now: Timestamp) -> Result<Self> {
        if order.authorizations.len() > names {
            let wanted = order.authorizations.len();
            return Err(bad(&url, format!("it wants {wanted} authorizations for an order of {names} names")));
        }
        for named in order.authorizations.iter().chain([&order.finalize]) {
            check_own(&url, named)?;
        }
        Ok(Self {
            order: url,
            finalize: order.finalize.clone(),
            authorizations: order.authorizations.clone(),
            stage: Stage::Ordered,
            since: now,
            asked: 0,
            challenges: Vec::new(),
            run: client.run.clone(),
            sent: false,
            shown: 0,
        })
    }

    fn read(handle: &Handle) -> Result<Self> {
        if handle.version != 1 {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("the order was made by a newer program (handle version {})", handle.version),
            ));
        }
        Self::deserialize(&handle.state)
            .map_err(|e| Error::internal("the order's handle is not one of an ACME issuer").with_source(e))
    }

    fn handle(&self) -> Result<Handle> {
        let state = serde_json::to_value(self)
            .map_err(|e| Error::internal("a handle has no JSON form").with_source(e))?;
        Ok(Handle { version: 1, state })
    }

    fn enter(&mut self, stage: Stage, now: Timestamp) {
        (self.stage, self.since, self.asked) = (stage, now, 0);
    }

    /// The CA has the request, and makes the certificate.
    pub(super) fn finalized(&mut self, now: Timestamp) {
        self.sent = true;
        self.enter(Stage::Finalized, now);
    }

    /// Whether it has it from this attempt.
    pub(super) fn is_finalized(&self) -> bool {
        self.sent
    }

    fn waiting(&self, at: Timestamp) -> Result<Progress> {
        Ok(Progress::Waiting { handle: self.handle()?, at })
    }
}

/// What ACME has no way to ask for.
fn check(order: &Order) -> Result<()> {
    use certctl_core::ExtendedKeyUsage::ServerAuth;
    let usages = &order.profile.extended_key_usages;
    if usages.iter().any(|usage| *usage != ServerAuth) {
        return Err(Error::unsupported(
            "an ACME server decides about extended key usages itself: leave them out, or use one of its profiles",
        ));
    }
    Ok(())
}

fn identifiers(order: &Order) -> Result<Vec<Identifier>> {
    let names = order.names.iter().map(|name| {
        Identifier::of(name)
            .ok_or_else(|| Error::unsupported(format!("ACME has no identifier for the name {name}")))
    });
    names.collect()
}

fn same(some: &[Identifier], others: &[Identifier]) -> bool {
    let sorted = |identifiers: &[Identifier]| {
        let mut all: Vec<String> =
            identifiers.iter().map(|i| format!("{}:{}", i.kind(), i.value().to_ascii_lowercase())).collect();
        all.sort();
        all
    };
    sorted(some) == sorted(others)
}

/// Whether a name of ours is what has to be proved. What else a server may want proved is nobody's business.
fn is_for(authorization: &Authorization, asked: &[Identifier]) -> bool {
    asked.iter().any(|identifier| match (identifier, &authorization.identifier) {
        (Identifier::Dns(asked), Identifier::Dns(found)) => {
            let asked = asked.strip_prefix("*.").unwrap_or(asked);
            // A CA may have a parent domain proved instead (RFC 9444), which nobody asks it for.
            asked.eq_ignore_ascii_case(found)
        }
        (asked, found) => asked == found,
    })
}

fn not_ours(authorization: &Authorization) -> Error {
    let found = shown(&authorization.identifier.value(), 100);
    Error::new(
        ErrorKind::BadResponse,
        format!("the ACME server wants control over {found:?} proved, which was not asked for"),
    )
}

fn invalid_authorization(authorization: &Authorization, now: Timestamp) -> Error {
    let name = shown(&authorization.identifier.value(), 300);
    let failed =
        authorization.challenges.iter().find_map(|challenge| Some((challenge, challenge.error.as_ref()?)));
    match failed {
        Some((challenge, problem)) => problem::of_order(problem, now)
            .during(format!("{} of {name} failed", shown(challenge.kind.as_str(), 40)))
            .with("name", name)
            .with("challenge", shown(challenge.kind.as_str(), 40)),
        None => Error::new(
            ErrorKind::Precondition,
            format!(
                "the authorization of {name} is {}, and the CA does not say why",
                shown(authorization.status.as_str(), 60)
            ),
        )
        .with_retry(Retry::Backoff)
        .with("name", name),
    }
}

fn timed_out(state: &State, what: &str, limit: Duration) -> Error {
    let limit = certctl_core::Lifetime::from(limit);
    Error::unavailable(format!("the CA {what} within {limit}")).with("order", &state.order)
}

fn is_unknown_account(error: &Error) -> bool {
    error.context_value("problem").is_some_and(|problem| problem.ends_with(":accountDoesNotExist"))
}

/// Whether the CA does not know the order that these are of.
fn is_gone(error: &Error, known: &[String]) -> bool {
    error.retry() == Retry::Never
        && error.context_value("url").is_some_and(|url| known.iter().any(|known| known == url))
        && matches!(error.context_value("status"), Some("404" | "410"))
}

/// Half a second, growing by half, up to half a minute.
fn pause(asked: u32) -> Duration {
    FIRST_PAUSE.mul_f64(1.5_f64.powi(i32::try_from(asked.min(20)).unwrap_or(20))).min(LONGEST_PAUSE)
}
