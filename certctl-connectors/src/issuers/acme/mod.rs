//! A client for ACME (RFC 8555), as an issuer: one bounded step at a time, without ever waiting itself.

mod account;
mod challenge;
mod client;
mod config;
mod directory;
mod finish;
mod order;
mod problem;
mod renewal;
mod transport;

use async_trait::async_trait;
use certctl_core::{
    Account, Chain, ChallengeKind, Context, Handle, Issuer, IssuerCapabilities, Order, Progress, Recovery,
    RenewalWindow, Result, Revocation, connectors::IssuerConfig,
};

use client::Client;

pub use config::{Acme, LETS_ENCRYPT, LETS_ENCRYPT_STAGING, Seconds};

#[async_trait]
impl Issuer for Client {
    fn kind(&self) -> &str {
        Acme::KIND
    }

    fn capabilities(&self) -> IssuerCapabilities {
        let dns = matches!(self.config.challenge_type, ChallengeKind::Dns01 | ChallengeKind::DnsPersist01);
        IssuerCapabilities {
            wildcard: dns,
            ip: !dns,
            email: false,
            uri: false,
            revoke: true,
            renewal_info: self.config.ari_enabled,
            ..IssuerCapabilities::all(Recovery::Searchable)
        }
    }

    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        order::submit(self, cx, order).await
    }

    async fn poll(&self, cx: &Context, order: &Order, handle: Handle) -> Result<Progress> {
        order::poll(self, cx, order, &handle).await
    }

    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        order::recover(self, cx, order).await
    }

    async fn revoke(&self, cx: &Context, revocation: &Revocation) -> Result<()> {
        renewal::revoke(self, cx, revocation).await
    }

    async fn renewal_window(&self, cx: &Context, chain: &Chain) -> Result<Option<RenewalWindow>> {
        renewal::window(self, cx, chain).await
    }

    fn account(&self) -> Option<&dyn Account> {
        Some(self)
    }
}
