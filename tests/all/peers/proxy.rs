//! A proxy between an ACME client and its CA: it counts what the CA was asked and what it answered, and knows the moment
//! before a request reaches the CA, and the one before its answer reaches the client.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::tls::ServerFiles;

/// One request that the CA has answered.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub method: String,
    pub path: String,
    pub status: u16,
    /// What the answer's `Location` says.
    pub location: Option<String>,
}

/// A proxy with an HTTPS certificate of its own. The CA takes it for the name that it was asked by, as its own directory
/// shows.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    inner: Arc<Inner>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    upstream: u16,
    /// Boundaries that are left; 0 never burns.
    left: AtomicUsize,
    burnt: Notify,
    seen: Mutex<Vec<Exchange>>,
}

impl Proxy {
    /// In front of the CA at `upstream`, with the certificate in `files`. At the `at`th boundary, of which each request has
    /// two, time stands still: [`Proxy::burnt`] says so, and that request comes no further.
    pub async fn start(upstream: u16, to: TlsConnector, files: &ServerFiles, at: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            upstream,
            left: AtomicUsize::new(at),
            burnt: Notify::new(),
            seen: Mutex::default(),
        });
        let acceptor = acceptor(files);
        let accepting = tokio::spawn(accept(listener, acceptor, to, inner.clone()));
        Self { port, inner, accepting }
    }

    /// Its own address of the CA's resource with this path.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// Returns once the boundary is reached.
    pub async fn burnt(&self) {
        self.inner.burnt.notified().await;
    }

    /// From now on time goes on.
    pub fn disarm(&self) {
        self.inner.left.store(0, Ordering::SeqCst);
    }

    /// What the CA has answered so far, whether or not the client came to hear of it.
    pub fn seen(&self) -> Vec<Exchange> {
        self.inner.seen.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Inner {
    async fn burn(&self) {
        let burnt = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if burnt == Ok(1) {
            self.burnt.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, to: TlsConnector, inner: Arc<Inner>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        let (acceptor, to, inner) = (acceptor.clone(), to.clone(), inner.clone());
        connections.spawn(async move {
            // A client that breaks off, because it was killed for instance, is what this is for.
            let _ = pass_on(stream, &acceptor, &to, &inner).await;
        });
    }
}

/// One request, one answer.
async fn pass_on(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    to: &TlsConnector,
    inner: &Inner,
) -> io::Result<()> {
    let mut client = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    let (head, length) = loop {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).into_owned();
        let length = end + 4 + header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        break (head, length);
    };
    while request.len() < length {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    inner.burn().await;
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, inner.upstream)).await?;
    let mut ca = to.connect(ServerName::try_from("localhost").unwrap(), tcp).await?;
    // Then the answer ends with its connection.
    ca.write_all(format!("{head}\r\nConnection: close").as_bytes()).await?;
    ca.write_all(&request[head.len()..]).await?;
    let mut answer = Vec::new();
    ca.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let said = text.split("\r\n\r\n").next().unwrap();
    let mut line = head.split(' ');
    inner.seen.lock().unwrap().push(Exchange {
        method: line.next().unwrap().to_owned(),
        path: line.next().unwrap().to_owned(),
        status: said.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap(),
        location: header(said, "location").map(str::to_owned),
    });
    inner.burn().await;
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then(|| value.trim()))
}

fn acceptor(files: &ServerFiles) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
