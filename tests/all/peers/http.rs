//! The few requests that the servers' management interfaces need.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body of an answer with status 200, as text.
    #[track_caller]
    pub fn ok(self) -> String {
        let body = String::from_utf8(self.bytes).unwrap();
        assert_eq!(self.status, 200, "{body}");
        body
    }
}

/// Asks `localhost` at this port, with TLS if there is a connector.
pub async fn request(
    port: u16,
    tls: Option<&TlsConnector>,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Answer> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    // In HTTP/1.0 an answer ends with its connection, and never comes in chunks.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost:{port}\r\nUser-Agent: certctl-tests\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    match tls {
        None => exchange(tcp, &request).await,
        Some(tls) => {
            let name = ServerName::try_from("localhost").unwrap();
            exchange(tls.connect(name, tcp).await?, &request).await
        }
    }
}

async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> io::Result<Answer> {
    io.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await?;
    let malformed = || io::Error::other(format!("not an HTTP answer: {}", String::from_utf8_lossy(&answer)));
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { status, bytes: answer[end + 4..].to_vec() })
}
