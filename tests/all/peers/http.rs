//! The few requests that the servers' management interfaces need.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// An answer, its body as text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body of an answer with status 200.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
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
    let mut answer = String::new();
    io.read_to_string(&mut answer).await?;
    let malformed = || io::Error::other(format!("not an HTTP answer: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { status, body: body.to_owned() })
}
