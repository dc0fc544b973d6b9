//! A program that manages its own certificate: the local CA issues it, two files receive it, and a small TLS listener in
//! this process serves it. Ctrl-C stops it, and the next start carries on.
//!
//! `CERTCTL_LISTEN` (127.0.0.1:8443) and `CERTCTL_DATA_DIR` (./data) say where.

mod talk;
mod web;

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use certctl::{
    Actor, CertificateSpec, Engine, issuers::LocalCa, prelude::*, records::CertificateStatus,
    stores::SqliteStore, targets::Files,
};
use talk::{narrate, say, setting};
use tokio::net::TcpListener;
use web::{listen, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = PathBuf::from(setting("CERTCTL_DATA_DIR").unwrap_or_else(|| "data".to_owned()));
    let listener = listen(setting("CERTCTL_LISTEN"), 8443)?;
    let address = listener.local_addr()?;
    std::fs::create_dir_all(data.join("demo"))?;
    let demo = std::path::absolute(data.join("demo"))?;
    let (cert, key) = (demo.join("web.crt"), demo.join("web.key"));

    // The library: a home for records and keys, an issuer, a target.
    let engine = Engine::builder(SqliteStore::open(data.join("certs.db")).await?)
        .issuer("local", LocalCa::default())
        .target(
            "web",
            Files { cert_path: text(&cert), key_path: text(&key), ..Default::default() }
                .probe([address.to_string()]),
        )
        .build()
        .await?;

    tokio::spawn(serve(TcpListener::from_std(listener)?, cert, key));
    tokio::spawn(narrate(engine.events()));

    say(&format!("certctl lives in {} and listens on {address}", data.display()));
    let spec =
        CertificateSpec::new("web").dns("localhost").ip("127.0.0.1").ip("::1").issuer("local").target("web");
    let certificate = engine.ensure(&Actor::process(), spec).await?;

    let ca = data.join("ca.pem");
    std::fs::write(&ca, engine.trust_anchors("local").await?.iter().map(|c| c.to_pem()).collect::<String>())?;
    match (certificate.status, certificate.not_after) {
        (CertificateStatus::Active, Some(until)) => {
            say(&format!("the certificate is served; it is good until {until}"));
        }
        (status, _) => say(&format!("the certificate is {}: {:?}", status.as_str(), certificate.reason)),
    }
    say("Try it:");
    say(&format!("curl --cacert {} https://localhost:{}/", ca.display(), address.port()));
    say(&format!(
        "Then break it: rm {}; stop this with Ctrl-C, start it again, and it is mended.\nNext: the examples custom_issuer, \
         custom_target and csr (cargo run --example csr), and the guide (make docs).",
        demo.join("web.key")
            .strip_prefix(std::env::current_dir()?)
            .unwrap_or(&demo.join("web.key"))
            .display()
    ));

    engine
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    say("stopped; the next start carries on from here");
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
