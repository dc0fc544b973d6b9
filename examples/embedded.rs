//! A program that manages its own certificate: the local CA issues it, two files receive it, and a small TLS listener in
//! this process serves it. Ctrl-C stops it, and the next start carries on.
//!
//! `CERTCTL_LISTEN` (127.0.0.1:8443) and `CERTCTL_DATA_DIR` (./data) say where.

mod talk;

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener as Socket},
    path::{Path, PathBuf},
    sync::Arc,
};

use certctl::{
    Actor, Bundle, CertificateSpec, Chain, Engine, PrivateKey, Secret, TlsResolver, issuers::LocalCa,
    prelude::*, records::CertificateStatus, stores::SqliteStore, targets::Files,
};
use talk::{narrate, say, setting};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::LazyConfigAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = PathBuf::from(setting("CERTCTL_DATA_DIR").unwrap_or_else(|| "data".to_owned()));
    let listener = listen()?;
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

/// Where to listen: where the setting says, else the default port, else a free one.
fn listen() -> io::Result<Socket> {
    let socket = match setting("CERTCTL_LISTEN") {
        Some(address) => {
            let explain = |e: &dyn Error| io::Error::other(format!("CERTCTL_LISTEN={address}: {e}"));
            let parsed: SocketAddr = address.parse().map_err(|e| explain(&e))?;
            Socket::bind(parsed).map_err(|e| explain(&e))?
        }
        None => Socket::bind("127.0.0.1:8443").or_else(|_| Socket::bind("127.0.0.1:0"))?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A server that reads its files for each connection: what nginx does at a reload.
async fn serve(listener: TcpListener, cert: PathBuf, key: PathBuf) {
    let resolver = Arc::new(TlsResolver::new());
    let config = Arc::new(resolver.server_config());
    while let Ok((stream, _)) = listener.accept().await {
        if let Ok(bundle) = read(&cert, &key) {
            let _ = resolver.install("web", &bundle);
        }
        let config = config.clone();
        tokio::spawn(async move {
            let accepted = LazyConfigAcceptor::new(Default::default(), stream).await?;
            let mut stream = accepted.into_stream(config).await?;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await?;
            let body = "hello from certctl\n";
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
            stream.shutdown().await
        });
    }
}

fn read(cert: &Path, key: &Path) -> Result<Bundle, Box<dyn Error>> {
    let chain = Chain::from_pem(&std::fs::read(cert)?)?;
    let key = PrivateKey::from_pem(&Secret::new(std::fs::read(key)?))?;
    Ok(Bundle { chain, key })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
