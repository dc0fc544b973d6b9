//! A TLS client over TCP that trusts whatever it is shown.

use std::{io, net::SocketAddr};

use certctl::{X509Certificate, testkit::tls};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection as a client that asks for this name and offers these protocols, and the certificate that it was shown.
pub async fn connect(
    at: SocketAddr,
    name: &str,
    protocols: &[&str],
) -> io::Result<(TlsStream<TcpStream>, X509Certificate)> {
    let (stream, shown) = tls::connect(TcpStream::connect(at).await?, name, protocols).await?;
    Ok((stream, X509Certificate::from_der(&shown[0]).map_err(io::Error::other)?))
}

/// What a client that asks for this name is shown.
pub async fn certificate(at: SocketAddr, name: &str) -> io::Result<X509Certificate> {
    connect(at, name, &["http/1.1"]).await.map(|(_, certificate)| certificate)
}
