//! Connections, with a limit on everything that a client can make larger or longer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo};
use certctl_core::{Clock, tls::TlsListener};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_rustls::server::TlsStream;

use crate::Config;

/// How long a client may take for a request's head, and be silent between two requests.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// The largest head of a request, in octets.
const MAX_HEAD: usize = 64 << 10;
/// How many requests one HTTP/2 connection may have at the same time.
const STREAMS: u32 = 128;
/// After so long without a word a peer is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);

/// Serves until `until` is done; then open requests have [`Config::shutdown_timeout`] to end.
pub(crate) async fn serve(
    mut listener: TlsListener,
    router: Router,
    config: &Config,
    clock: Arc<dyn Clock>,
    until: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(config.max_connections));
    let open = GracefulShutdown::new();
    // By what was agreed in the handshake: a guess by the first octets would wait for them without an end.
    let protocols = Protocols { http1: http().http1_only(), http2: http().http2_only() };
    tokio::pin!(until);
    loop {
        let turn = tokio::select! {
            () = &mut until => break,
            turn = free.clone().acquire_owned() => turn,
        };
        // Fails only if it was closed, which nobody does.
        let Ok(turn) = turn else { break };
        let (stream, peer) = tokio::select! {
            () = &mut until => break,
            accepted = listener.accept() => accepted,
        };
        let connection = protocols.connection(&router, stream, peer);
        let watched = open.watch(connection);
        tokio::spawn(async move {
            let _turn = turn;
            if let Err(error) = watched.await {
                tracing::debug!(%peer, %error, "a connection ended badly");
            }
        });
    }
    drop(listener);
    tokio::select! {
        () = open.shutdown() => {}
        () = clock.pause(config.shutdown_timeout) => {
            tracing::warn!("requests that were still open at the end were cut off");
        }
    }
}

struct Protocols {
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
}

impl Protocols {
    fn connection(
        &self,
        router: &Router,
        stream: TlsStream<TcpStream>,
        peer: SocketAddr,
    ) -> auto::Connection<'static, TokioIo<TlsStream<TcpStream>>, TowerToHyperService<Router>, TokioExecutor>
    {
        let service = TowerToHyperService::new(router.clone().layer(Extension(ConnectInfo(peer))));
        let http = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => &self.http2,
            _ => &self.http1,
        };
        http.serve_connection(TokioIo::new(stream), service).into_owned()
    }
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(MAX_HEAD);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        // Bodies are a mebibyte at most: windows of that size per connection would be memory for nothing.
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size(256 << 10);
    http
}
