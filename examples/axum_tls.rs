//! An axum server that gets its own certificate from an ACME CA, by tls-alpn-01 on its own port, and renews it while it
//! serves. Until the first one is there, it serves with a self-signed stand-in; Ctrl-C stops it.
//!
//! ```text
//! CERTCTL_DOMAIN=www.example.com CERTCTL_ACME_EMAIL=me@example.com \
//!   cargo run --example axum_tls --no-default-features --features acme,axum,rustls,sqlite
//! ```
//!
//! `CERTCTL_DOMAIN` has to point to this machine, and its port 443 to `CERTCTL_LISTEN` ([::]:443). By default the certificate
//! is one of Let's Encrypt's staging environment; `CERTCTL_ACME_DIRECTORY_URL` names another CA, and `CERTCTL_ACME_CA_FILE` the
//! roots that one's own server is to be trusted by. What it keeps is in `CERTCTL_DATA_DIR` (./data).

mod talk;

use std::{error::Error, future::IntoFuture, path::PathBuf, sync::Arc};

use axum::{Router, routing::get};
use certctl::{
    Actor, CertificateSpec, ChallengeKind, Engine, TlsResolver,
    axum::TlsListener,
    issuers::acme::{Acme, LETS_ENCRYPT_STAGING},
    stores::SqliteStore,
    targets::resolver_target,
};
use talk::{narrate, say, setting};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The application.
    let app = Router::new().route("/", get(|| async { "hello from certctl\n" }));
    let domain =
        setting("CERTCTL_DOMAIN").ok_or("CERTCTL_DOMAIN is not set: give the name of this server")?;
    let port = TcpListener::bind(setting("CERTCTL_LISTEN").as_deref().unwrap_or("[::]:443")).await?;
    let data = PathBuf::from(setting("CERTCTL_DATA_DIR").as_deref().unwrap_or("data"));
    let acme = Acme {
        directory_url: setting("CERTCTL_ACME_DIRECTORY_URL").unwrap_or(LETS_ENCRYPT_STAGING.to_owned()),
        ca_file: setting("CERTCTL_ACME_CA_FILE").map(|file| file.parse()).transpose()?,
        email: setting("CERTCTL_ACME_EMAIL"),
        terms_of_service_agreed: true,
        challenge_type: ChallengeKind::TlsAlpn01,
        ..Acme::default()
    };
    say(&format!("listening on {}", port.local_addr()?));

    // The library.
    let resolver = Arc::new(TlsResolver::new());
    let engine = Engine::builder(SqliteStore::open(data.join("certs.db")).await?)
        .issuer("acme", acme)
        .target("web", resolver_target(&resolver, "web"))
        .solver(resolver.clone())
        .build()
        .await?;
    tokio::spawn(narrate(engine.events()));
    tokio::spawn(axum::serve(TlsListener::new(port, &resolver), app).into_future());
    let spec = CertificateSpec::new("web").dns(domain).issuer("acme").target("web");
    let _ = engine.want(&Actor::process(), spec).await?;
    engine
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    say("stopped; the next start carries on from here");
    Ok(())
}
