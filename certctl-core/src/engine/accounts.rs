//! What somebody can do with the account that an issuer has at its CA. What changes it, or takes its key out, is in the audit
//! trail, also where it failed or nobody knows how it ended.

use std::sync::Arc;

use crate::{
    Account, AccountInfo, Actor, Context, Error, Issuer, KeyAlgorithm, Permission, Result, Secret,
    engine::Engine,
    records::{AuditEvent, IssuerRecord},
    store::{Change, StoreExt, Stored},
};

impl Engine {
    /// The account that an issuer has at its CA; makes it if there is none.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported` if the issuer has no account, what the CA answers, or `Denied` if the actor may not.
    pub async fn account(&self, actor: &Actor, issuer: &str) -> Result<AccountInfo> {
        let (_, issuer) = self.account_holder(actor, issuer, Permission::ManageConnectors).await?;
        account_of(&*issuer)?.describe(&Context::new(self.inner.clock.clone())).await
    }

    /// Gives the account a new key (RFC 8555 section 7.3.5). A crash in the middle loses neither key nor account.
    ///
    /// # Errors
    /// As for [`Engine::account`].
    pub async fn roll_account_key(&self, actor: &Actor, issuer: &str, algorithm: KeyAlgorithm) -> Result<()> {
        let call = async move |issuer: Arc<dyn Issuer>, cx: Context| {
            account_of(&*issuer)?.roll_key(&cx, algorithm).await
        };
        let words = Words { asked: "account.key_roll_requested", done: "account.key_rolled" };
        self.audited(actor, issuer, Permission::ManageConnectors, words, call).await
    }

    /// Ends the account, for good (RFC 8555 section 7.3.6). Its certificates stay valid, and can't be renewed with it.
    ///
    /// # Errors
    /// As for [`Engine::account`].
    pub async fn deactivate_account(&self, actor: &Actor, issuer: &str) -> Result<()> {
        let call =
            async move |issuer: Arc<dyn Issuer>, cx: Context| account_of(&*issuer)?.deactivate(&cx).await;
        let words = Words { asked: "account.deactivation_requested", done: "account.deactivated" };
        self.audited(actor, issuer, Permission::ManageConnectors, words, call).await
    }

    /// All that another program needs to use the account, its private key among it.
    ///
    /// # Errors
    /// As for [`Engine::account`]; the actor has to be one who may take keys out.
    pub async fn export_account(&self, actor: &Actor, issuer: &str) -> Result<Secret> {
        let call = async move |issuer: Arc<dyn Issuer>, cx: Context| account_of(&*issuer)?.export(&cx).await;
        let words = Words { asked: "account.export_requested", done: "account.exported" };
        self.audited(actor, issuer, Permission::ReadKeys, words, call).await
    }

    /// Takes over an account: what [`Engine::export_account`] gave, or an account's private key in PEM.
    ///
    /// # Errors
    /// As for [`Engine::account`]; `Precondition` if the issuer has an account already, `Invalid` if it is none of its CA's.
    pub async fn import_account(&self, actor: &Actor, issuer: &str, exported: Secret) -> Result<()> {
        let call =
            async move |issuer: Arc<dyn Issuer>, _: Context| account_of(&*issuer)?.import(&exported).await;
        let words = Words { asked: "account.import_requested", done: "account.imported" };
        self.audited(actor, issuer, Permission::ManageConnectors, words, call).await
    }

    async fn account_holder(
        &self,
        actor: &Actor,
        issuer: &str,
        permission: Permission,
    ) -> Result<(Stored<IssuerRecord>, Arc<dyn Issuer>)> {
        actor.require(permission)?;
        let record: Stored<IssuerRecord> = self.inner.store.resolve(issuer).await?;
        let issuer = self.inner.catalog.issuer(&record).await?;
        account_of(&*issuer)?;
        Ok((record, issuer))
    }

    /// Records that it is asked for, does it, and records how it went; also if the caller goes away meanwhile.
    async fn audited<T, F>(
        &self,
        actor: &Actor,
        issuer: &str,
        permission: Permission,
        words: Words,
        call: impl FnOnce(Arc<dyn Issuer>, Context) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (record, issuer) = self.account_holder(actor, issuer, permission).await?;
        let (inner, actor) = (self.inner.clone(), actor.clone());
        let event = move |action: &str, now| {
            AuditEvent::new(now, &actor, action, record.id.as_str()).with("issuer", &*record.name)
        };
        inner.commit(Change::new(event(words.asked, inner.clock.now()))).await?;
        let doing = tokio::spawn(async move {
            let done = call(issuer, Context::new(inner.clock.clone())).await;
            let now = inner.clock.now();
            let event = match &done {
                Ok(_) => event(words.done, now),
                Err(e) => {
                    event("account.failed", now).with("asked", words.asked).with("error", e.to_string())
                }
            };
            // Nobody gets what is not on record.
            let recorded = inner.commit(Change::new(event)).await;
            done.and_then(|done| recorded.map(|_| done))
        });
        doing.await.map_err(|e| Error::internal(format!("a connector or the engine panicked: {e}")))?
    }
}

/// What the events are called.
#[derive(Clone, Copy, Debug)]
struct Words {
    asked: &'static str,
    done: &'static str,
}

fn account_of(issuer: &dyn Issuer) -> Result<&dyn Account> {
    issuer
        .account()
        .ok_or_else(|| Error::unsupported(format!("the issuer kind {} has no account", issuer.kind())))
}
