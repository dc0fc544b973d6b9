//! The server: an engine in a directory, its own certificate, and REST in front of it.

use std::{net::SocketAddr, sync::Arc};

use certctl_connectors::{
    stores::{SqliteMemory, SqliteStore},
    targets::resolver_target,
};
use certctl_core::{
    Actor, CertificateSpec, Clock, Engine, Error, ErrorKind, Home, IntoHome, IssuerSpec, Result, SystemClock,
    TlsResolver, connectors::Connectors, records::CertificateStatus, tls::TlsListener,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::watch};

use crate::{Config, api, app::App, first_start, issuers, listen};

/// The issuer of the server's own certificate, and of those that name no other.
pub const LOCAL_ISSUER: &str = "iss-local";
/// The name of the server's own certificate, and of the target that it goes to.
pub const OWN: &str = "certctl-server";

/// A page of a list is some hundred KiB: a server that is idle most of the time keeps little.
const MEMORY: SqliteMemory = SqliteMemory { cache_kib: 2_048, mapped: 0 };

/// A server that listens. Nothing is answered before [`Server::run`].
#[derive(Debug)]
#[must_use]
pub struct Server {
    app: Arc<App>,
    config: Config,
    listener: TlsListener,
    address: SocketAddr,
}

/// Builds a [`Server`].
#[derive(Debug)]
#[must_use]
pub struct ServerBuilder {
    config: Config,
    clock: Arc<dyn Clock>,
    connectors: Option<Connectors>,
    socket: Option<TcpListener>,
    counted: Option<PrometheusHandle>,
}

/// A server that runs, to be told things.
#[derive(Clone, Debug)]
pub struct Handle {
    app: Arc<App>,
}

impl Server {
    /// A server with this configuration.
    ///
    /// ```no_run
    /// use certctl_server::{Config, Server};
    ///
    /// # async fn example() -> certctl_core::Result<()> {
    /// let config = Config { data_dir: "state".into(), ..Config::default() };
    /// let server = Server::builder(config).start().await?;
    /// println!("https://{}", server.address());
    /// server.run(std::future::pending()).await
    /// # }
    /// ```
    pub fn builder(config: Config) -> ServerBuilder {
        ServerBuilder { config, clock: Arc::new(SystemClock), connectors: None, socket: None, counted: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The engine, for what has no REST.
    pub fn engine(&self) -> &Engine {
        &self.app.engine
    }

    /// To tell it things while it runs.
    pub fn handle(&self) -> Handle {
        Handle { app: self.app.clone() }
    }

    /// Serves, and steps the jobs, until `until` is done. Then it takes no new connections and no new jobs, answers what waits,
    /// and returns when what it was doing is at rest.
    ///
    /// # Errors
    /// `Internal` only.
    pub async fn run(self, until: impl Future<Output = ()> + Send) -> Result<()> {
        let Self { app, config, listener, .. } = self;
        let (stop, stopped) = watch::channel(false);
        let done = |mut stopped: watch::Receiver<bool>| async move {
            // Fails only when the sender is gone, and then it is time as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let jobs = app.engine.run(done(stopped.clone()));
        let http = listen::serve(listener, api::router(&app), &config, app.clock.clone(), done(stopped));
        let stopping = async {
            until.await;
            app.stop();
            stop.send_replace(true);
        };
        let (jobs, (), ()) = tokio::join!(jobs, http, stopping);
        jobs
    }
}

impl ServerBuilder {
    /// Another clock than this machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Other connectors than those of this build: with some of one's own, for example.
    pub fn connectors(mut self, connectors: Connectors) -> Self {
        self.connectors = Some(connectors);
        self
    }

    /// A socket that listens already, instead of [`Config::listen`].
    pub fn socket(mut self, socket: TcpListener) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Where what this program counts can be read: it becomes part of `metrics/prometheus`.
    pub fn metrics(mut self, counted: PrometheusHandle) -> Self {
        self.counted = Some(counted);
        self
    }

    /// Opens the data directory and fills it at the first start, obtains the server's own certificate, and listens.
    ///
    /// # Errors
    /// `Precondition` if the directory can't be used, or nothing can listen there; `Invalid` for issuers and names that are
    /// none; what the store gives.
    pub async fn start(self) -> Result<Server> {
        let Self { config, clock, connectors, socket, counted } = self;
        first_start::directory(&config.data_dir)?;
        // Before anything else: who starts twice by mistake learns it at once.
        let socket = match socket {
            Some(socket) => socket,
            None => TcpListener::bind(config.listen).await.map_err(|e| {
                let message = format!("the server can't listen on {}", config.listen);
                Error::new(ErrorKind::Precondition, message).with_source(e)
            })?,
        };
        let address = socket.local_addr().map_err(|e| {
            Error::new(ErrorKind::Precondition, "the server's socket has no address").with_source(e)
        })?;
        let home = home(&config, connectors).await?;
        let resolver = Arc::new(TlsResolver::new());
        let engine = Engine::builder(home)
            .clock(clock.clone())
            .at_once(config.renewal_concurrency)
            .target(OWN, resolver_target(&resolver, OWN))
            .default_issuer(LOCAL_ISSUER)
            .keys_need_a_place()
            .build()
            .await?;
        describe_issuers(&engine, &config).await?;
        first_start::admin_key(&engine, &config.data_dir).await?;
        first_start::ca_file(&engine, &config.data_dir).await?;
        own_certificate(&engine, &config.server_names).await?;
        let app = App::new(engine, clock, counted);
        let listener = TlsListener::new(socket, &resolver, &["h2", "http/1.1"]);
        Ok(Server { app, config, listener, address })
    }
}

impl Handle {
    /// Takes over what can be changed while it runs: names of its certificate, and issuers that the settings describe.
    ///
    /// # Errors
    /// As for [`ServerBuilder::start`].
    pub async fn reload(&self, config: &Config) -> Result<()> {
        describe_issuers(&self.app.engine, config).await?;
        first_start::ca_file(&self.app.engine, &config.data_dir).await?;
        own_certificate(&self.app.engine, &config.server_names).await
    }

    /// Whether it is ready to work.
    ///
    /// # Errors
    /// `Unavailable` if it is stopping, or its store does not answer.
    pub async fn check_ready(&self) -> Result<()> {
        self.app.check_ready().await
    }
}

/// The data directory as the engine's home, whatever file the database is.
async fn home(config: &Config, connectors: Option<Connectors>) -> Result<Home> {
    let beside = config.data_dir.join("certctl.db");
    let mut home = match &config.database {
        Some(file) => {
            let store = SqliteStore::open_with(file, MEMORY).await?;
            certctl_connectors::home_in(&config.data_dir, store)?
        }
        None => SqliteStore::open_with(beside, MEMORY).await?.into_home()?,
    };
    if let Some(connectors) = connectors {
        home.connectors = connectors;
    }
    Ok(home)
}

async fn describe_issuers(engine: &Engine, config: &Config) -> Result<()> {
    let local = IssuerSpec {
        id: Some(LOCAL_ISSUER.to_owned()),
        ..IssuerSpec::new("local", "local", serde_json::json!({}))
    };
    issuers::describe(engine, [local].into_iter().chain(config.issuers.iter().cloned())).await
}

/// Wants the server's own certificate and waits for it: what has been issued is installed again, and a new one takes a
/// moment. Without one the server shows a certificate that nobody trusts, and says so.
async fn own_certificate(engine: &Engine, names: &[String]) -> Result<()> {
    let mut spec =
        CertificateSpec::new(OWN).dns("localhost").ip("127.0.0.1").ip("::1").issuer(LOCAL_ISSUER).target(OWN);
    let mut taken = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let host = Some(host).filter(|host| certctl_core::SubjectAltName::dns(host).is_ok());
    for name in host.iter().chain(names) {
        let name = name.to_ascii_lowercase();
        if !taken.contains(&name) {
            spec = spec.san(name.clone());
            taken.push(name);
        }
    }
    let certificate = engine.ensure(&Actor::process(), spec).await?;
    match (&certificate.status, &certificate.reason) {
        (CertificateStatus::Active, _) => {}
        (status, reason) => {
            let why = reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default();
            tracing::error!(
                status = status.as_str(),
                why,
                "the server's own certificate is not as it should be: clients may not trust it"
            );
        }
    }
    Ok(())
}
