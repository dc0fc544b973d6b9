//! A small TLS server that serves what two files hold.
#![allow(unreachable_pub)]

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener as Socket},
    path::{Path, PathBuf},
    sync::Arc,
};

use certctl::{Bundle, Chain, PrivateKey, Secret, TlsResolver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::LazyConfigAcceptor;

/// Where the setting says, else the default port, else a free one.
pub fn listen(setting: Option<String>, port: u16) -> io::Result<Socket> {
    let socket = match setting {
        Some(address) => {
            let explain = |e: &dyn Error| io::Error::other(format!("CERTCTL_LISTEN={address}: {e}"));
            let parsed: SocketAddr = address.parse().map_err(|e| explain(&e))?;
            Socket::bind(parsed).map_err(|e| explain(&e))?
        }
        None => Socket::bind(("127.0.0.1", port)).or_else(|_| Socket::bind("127.0.0.1:0"))?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A server that reads its files for each connection: what nginx does at a reload.
pub async fn serve(listener: TcpListener, cert: PathBuf, key: PathBuf) {
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
