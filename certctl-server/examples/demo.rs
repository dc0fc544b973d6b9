//! What `make run` starts: a server with its defaults and one agent, in one process for the demonstration's sake; they talk
//! over HTTPS as they would over a network. The agent deploys a first certificate to a small TLS server, and each step is
//! printed. Ctrl-C stops it, and the next start carries on.
//!
//! `CERTCTL_LISTEN` (127.0.0.1:8443) and `CERTCTL_DATA_DIR` (./data) say where.

// What the examples share knows the library under this name.
extern crate certctl_core as certctl;

#[path = "../../examples/talk/mod.rs"]
mod talk;
#[path = "../../examples/web/mod.rs"]
mod web;

use std::{error::Error, path::PathBuf};

use certctl_agent::Agent;
use certctl_client::{Client, types::EnrollTokenRequest};
use certctl_core::{CertificateSpec, Secret, TargetSpec, engine::PlaceSpec, records::CertificateStatus};
use certctl_server::{Config, Server};
use talk::{narrate, say, setting};
use tokio::{net::TcpListener, sync::watch};
use web::{listen, serve};

/// The agent, the target and the certificate are called so.
const AGENT: &str = "demo";
const WEB: &str = "web";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = PathBuf::from(setting("CERTCTL_DATA_DIR").unwrap_or_else(|| "data".to_owned()));
    let demo = std::path::absolute(data.join("demo"))?;
    std::fs::create_dir_all(&demo)?;
    let (stop, stopped) = watch::channel(false);
    let until = || {
        let mut stopped = stopped.clone();
        async move {
            // Fails only when the sender is gone, and then it is time as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    };

    // The server.
    let config = Config { data_dir: data.clone(), ..Config::default() };
    let socket = TcpListener::from_std(listen(setting("CERTCTL_LISTEN"), 8443)?)?;
    let server = Server::builder(config).socket(socket).start().await?;
    let url = format!("https://localhost:{}", server.address().port());
    let (ca, key) = (data.join("ca.pem"), data.join("admin.key"));
    say(&format!("the server lives in {} and listens on {url}", data.display()));
    say(&format!("its root is {}, the API key of its administrator {}", ca.display(), key.display()));
    tokio::spawn(narrate(server.engine().events()));
    let server = tokio::spawn(server.run(until()));

    // Its agent. It enrols once; the token is of no use afterwards.
    let client = Client::builder(&url)
        .ca_file(&ca)
        .api_key(Secret::new(std::fs::read_to_string(&key)?.trim()))
        .build()?;
    let state = data.join("agent");
    let mut agent = Agent::builder(&url, &ca, &state);
    if !state.join("identity.json").exists() {
        let request = EnrollTokenRequest { name: AGENT.to_owned(), valid: None };
        agent = agent.token(client.create_enroll_token(&request).await?.token.into_secret());
    }
    let agent = tokio::spawn(agent.run(until()));

    // The target: a server that reads two files.
    let socket = listen(None, 8444)?;
    let address = socket.local_addr()?;
    let (cert_path, key_path) = (demo.join("web.crt"), demo.join("web.key"));
    tokio::spawn(serve(TcpListener::from_std(socket)?, cert_path.clone(), key_path.clone()));
    let files = serde_json::json!({
        "cert_path": cert_path, "key_path": key_path, "probe": [address.to_string()],
    });
    let place = PlaceSpec { agent: Some(AGENT.to_owned()), ..Default::default() };
    client.put_target(WEB, &TargetSpec { place, ..TargetSpec::new(WEB, "files", files) }).await?;

    // The certificate. Said again at the next start, it is looked at and left alone, or mended.
    let spec = CertificateSpec::new(WEB).dns("localhost").ip("127.0.0.1").ip("::1").target(WEB);
    let started = client.put_certificate(WEB, &spec).await?;
    for job in &started.jobs {
        follow(&client, job.as_str()).await?;
    }
    let certificate = client.certificate(WEB).await?.certificate;
    match (certificate.status, certificate.not_after) {
        (CertificateStatus::Active, Some(until)) => {
            say(&format!("the certificate is served; it is good until {until}"));
        }
        (status, _) => say(&format!("the certificate is {}: {:?}", status.as_str(), certificate.reason)),
    }

    say("Try it:");
    say(&format!("curl --cacert {} https://localhost:{}/", ca.display(), address.port()));
    say("Look at it, with the programs that `cargo build` puts into target/debug:");
    say(&format!(
        "export CERTCTL_SERVER_URL={url} CERTCTL_CA_FILE={} CERTCTL_API_KEY=$(cat {})",
        ca.display(),
        key.display()
    ));
    say(
        "certctl certs get web\ncertctl certs renew web --wait\ncertctl jobs list\ncertctl connectors describe nginx",
    );
    say(&format!(
        "Break it: rm {}, then certctl certs deploy web --wait; or stop this with Ctrl-C and start it again.\nThe library \
         without a server: cargo run --example embedded. The guide: make docs.",
        key_path.strip_prefix(std::env::current_dir()?).unwrap_or(&key_path).display()
    ));

    tokio::signal::ctrl_c().await?;
    stop.send_replace(true);
    agent.await??;
    server.await??;
    say("stopped; the next start carries on from here");
    Ok(())
}

/// Waits for the end of a job, or until it waits for something itself.
async fn follow(client: &Client, job: &str) -> certctl_core::Result<()> {
    let mut after = 0;
    loop {
        let request = certctl_client::types::JobWatchRequest { after, ..Default::default() };
        let detail = client.watch_job(job, request).await?;
        if detail.job.state.is_finished() || detail.job.failures > 0 || detail.job.last_error.is_some() {
            return Ok(());
        }
        after = detail.progress;
    }
}
