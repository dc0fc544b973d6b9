//! http-01 with the store between: whichever process the CA happens to ask has the answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Actor, Challenge, ChallengeKind, Clock, Context, Error, Result, Solver,
    engine::{Engine, Inner, commands::again_if_stale},
    records::{AuditEvent, ChallengeToken},
    store::{Change, Direction, Query, Record, Store, StoreExt, Stored, Test},
};

/// Longer than CAs keep an authorization pending.
const KEEP: Duration = Duration::from_secs(7 * 86_400);
/// How many are deleted in one transaction.
const PAGE: usize = 500;

impl Engine {
    /// What a web server answers to `GET /.well-known/acme-challenge/<token>` (RFC 8555 section 8.3); none is a 404. The
    /// answers are those of every process on this store that was built with
    /// [`EngineBuilder::answers_http01`](crate::EngineBuilder::answers_http01).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn http01_answer(&self, token: &str) -> Result<Option<String>> {
        if !is_token(token) {
            return Ok(None);
        }
        let found = find(&*self.inner.store, token).await?;
        let now = self.inner.clock.now();
        Ok(found.filter(|found| now < found.expires).map(|found| found.into_inner().key_authorization))
    }
}

/// Writes answers into the store.
#[derive(Debug)]
pub(super) struct StoreSolver {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Solver for StoreSolver {
    fn solves(&self, challenge: &Challenge) -> bool {
        challenge.kind == ChallengeKind::Http01
    }

    async fn present(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        if !is_token(&challenge.token) {
            let remedy = "a token has 1 to 256 letters, digits, - and _ (RFC 8555 section 8.3)";
            return Err(Error::invalid_field("/token", "the challenge's token is not one", remedy));
        }
        let shown = ChallengeToken {
            token: challenge.token.as_str().into(),
            key_authorization: challenge.key_authorization.clone(),
            expires: self.clock.now() + KEEP,
        };
        again_if_stale(|| async {
            let change = Change::new(self.event("challenge_token.shown", challenge));
            let change = match find(&*self.store, &challenge.token).await? {
                Some(known) => change.update(&Stored::new(shown.clone(), known.version()))?,
                None => change.insert(&shown)?,
            };
            self.store.commit(change).await.map(drop)
        })
        .await
    }

    async fn retract(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        again_if_stale(|| async {
            let Some(known) = find(&*self.store, &challenge.token).await? else { return Ok(()) };
            let change = Change::new(self.event("challenge_token.removed", challenge)).delete(&known);
            self.store.commit(change).await.map(drop)
        })
        .await
    }
}

impl StoreSolver {
    fn event(&self, action: &str, challenge: &Challenge) -> AuditEvent {
        AuditEvent::new(self.clock.now(), &Actor::engine(), action, &challenge.token)
            .with("name", challenge.name.to_string())
    }
}

/// Deletes what nobody took away.
pub(super) async fn prune(engine: &Inner) -> Result<()> {
    let now = engine.clock.now();
    loop {
        let query = Query::of::<ChallengeToken>()
            .filter("expires", Test::AtMost, now)
            .order("expires", Direction::Ascending)
            .limit(PAGE);
        let (old, _): (Vec<Stored<ChallengeToken>>, _) = engine.store.list(query).await?;
        let Some(first) = old.first() else { return Ok(()) };
        let event = AuditEvent::new(now, &Actor::engine(), "challenge_tokens.pruned", &first.token)
            .with("count", old.len());
        engine.commit(old.iter().fold(Change::new(event), Change::delete)).await?;
    }
}

async fn find(store: &dyn Store, token: &str) -> Result<Option<Stored<ChallengeToken>>> {
    store.get(ChallengeToken::KIND, &[token]).await?.first().map(Stored::read).transpose()
}

/// Whoever asks is anybody: what can't be a token is not looked up.
fn is_token(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
