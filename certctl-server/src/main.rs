//! `certctl-server`: reads its settings, serves until it is told to stop, and tells systemd.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use certctl_core::{Clock, Error, ErrorKind, Result, SystemClock, connectors::Connectors};
use certctl_server::{
    Config, Server,
    config::{Settings, settings},
};
use clap::{Arg, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

mod systemd;

/// Requests are short, and what takes long waits: more threads would cost memory for nothing.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let connectors = certctl_server::connectors();
    let flags = flags(&connectors);
    let started = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|e| Error::internal("the program can't start its threads").with_source(e))
        .and_then(|runtime| runtime.block_on(serve(&connectors, flags)));
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            // As systemd's and sysexits' EX_CONFIG, for what a person has to change.
            ExitCode::from(if error.kind() == ErrorKind::Invalid { 78 } else { 1 })
        }
    }
}

async fn serve(connectors: &Connectors, flags: Vec<(String, String)>) -> Result<()> {
    let environment: Vec<(String, String)> = environment();
    let read = || Settings::gather(connectors, flags.iter().cloned(), environment.iter().cloned(), None);
    let mut current = read()?;
    let config = current.config(connectors)?;
    let filter = log(&config);
    let counted = count()?;

    let mut builder = Server::builder(config).metrics(counted.clone());
    if let Some(socket) = systemd::socket(&environment)? {
        if current.has("listen") {
            return Err(Error::invalid_field(
                "listen",
                "systemd hands over a socket, and the settings name an address",
                "leave one of them out",
            ));
        }
        builder = builder.socket(socket);
    }
    let server = builder.start().await?;
    let handle = server.handle();
    tracing::info!("serving https://{}", server.address());
    let notifier = systemd::Notifier::new(&environment);
    notifier.say("READY=1");

    let mut reloads = hang_ups()?;
    let reloading = async {
        loop {
            reloads.recv().await;
            notifier.say("RELOADING=1");
            match reload(&read, &mut current, connectors, &handle, &filter).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(%error, "the settings were not taken over: all stays as it was");
                }
            }
            notifier.say("READY=1");
        }
    };
    let keeping = async {
        let pause = notifier.watchdog().unwrap_or(Duration::from_secs(5));
        loop {
            SystemClock.pause(pause.min(Duration::from_secs(5))).await;
            counted.run_upkeep();
            if notifier.watchdog().is_some() && handle.check_ready().await.is_ok() {
                notifier.say("WATCHDOG=1");
            }
        }
    };
    let until = async {
        tokio::select! {
            () = terminated() => {}
            () = reloading => {}
            () = keeping => {}
        }
        notifier.say("STOPPING=1");
        tracing::info!("stopping: what has begun comes to its end");
    };
    Box::pin(server.run(until)).await
}

/// Takes over what has changed in the settings since, and says what needs a restart.
async fn reload(
    read: &impl Fn() -> Result<Settings>,
    current: &mut Settings,
    connectors: &Connectors,
    handle: &certctl_server::Handle,
    filter: &reload::Handle<EnvFilter, tracing_subscriber::Registry>,
) -> Result<()> {
    let fresh = read()?;
    let config = fresh.config(connectors)?;
    handle.reload(&config).await?;
    if let Ok(level) = EnvFilter::try_new(&config.log_level) {
        // Fails only if the subscriber is gone, and nobody would read it then.
        let _ = filter.reload(level);
    }
    let changed = fresh.changed(current, connectors);
    for (key, at_once) in &changed {
        match at_once {
            true => tracing::info!(setting = key, "taken over"),
            false => tracing::warn!(setting = key, "this has changed, and needs a restart"),
        }
    }
    if changed.is_empty() {
        tracing::info!("no setting has changed");
    }
    *current = fresh;
    Ok(())
}

fn flags(connectors: &Connectors) -> Vec<(String, String)> {
    let all = settings(connectors);
    let mut command = Command::new("certctl-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The certctl server: REST API, job loop, metrics")
        .long_about(
            "The certctl server: it holds the inventory and the issuers, and gives agents their work.\n\nEach setting is a \
             flag, an environment variable (CERTCTL_ and the flag's name in capitals), or a key of the settings' file; the \
             first of them counts. On its first start the server makes its data directory, with the administrator's API key \
             in admin.key and the root that clients have to trust in ca.pem.",
        )
        .max_term_width(80);
    for setting in &all {
        let Some(flag) = setting.flag() else { continue };
        let (heading, value) = match flag.starts_with("acme") {
            true => ("The issuers iss-acme-prod and iss-acme-staging", "VALUE"),
            false => ("Options", value_name(&flag)),
        };
        command = command.arg(
            Arg::new(setting.key.clone())
                .long(flag)
                .value_name(value)
                .help(setting.doc.clone())
                .help_heading(heading),
        );
    }
    let secrets: Vec<&str> = all
        .iter()
        .filter(|setting| setting.flag().is_none())
        .map(|setting| setting.variable.as_str())
        .collect();
    let secrets =
        format!("Secrets are never flags: {} is a variable, or a key of the file.", secrets.join(", "));
    let matches = command.after_help(secrets).get_matches();
    all.iter()
        .filter(|setting| setting.flag().is_some())
        .filter_map(|setting| {
            let value: &String = matches.get_one(&setting.key)?;
            Some((setting.key.clone(), value.clone()))
        })
        .collect()
}

fn value_name(flag: &str) -> &'static str {
    match flag {
        "config" => "FILE",
        "data-dir" => "DIR",
        "listen" => "ADDR",
        "database-url" => "URL",
        "server-names" => "NAMES",
        "log-level" => "LEVEL",
        "shutdown-timeout" => "TIME",
        _ => "N",
    }
}

/// What is no UTF-8 can't be a setting.
#[allow(clippy::disallowed_methods)] // A program reads its environment; the library does not.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn log(config: &Config) -> reload::Handle<EnvFilter, tracing_subscriber::Registry> {
    // The settings were checked.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let colours = std::io::stderr().is_terminal();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    // Fails only if there is a subscriber already, and this is the program's first.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    handle
}

/// Counts what the library counts.
fn count() -> Result<metrics_exporter_prometheus::PrometheusHandle> {
    const SECONDS: [f64; 11] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("nothing can be counted: {e}"));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .map_err(|e| failed(&e))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| failed(&e))?;
    Ok(handle)
}

fn hang_ups() -> Result<tokio::signal::unix::Signal> {
    signal(SignalKind::hangup()).map_err(|e| Error::internal("signals can't be waited for").with_source(e))
}

async fn terminated() {
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[allow(clippy::print_stderr)] // A program talks to its operator.
fn complain(error: &Error) {
    match error.violations() {
        [] => eprintln!("certctl-server: {error}"),
        violations => {
            for violation in violations {
                eprintln!(
                    "certctl-server: {}: {}; {}",
                    violation.pointer, violation.message, violation.remedy
                );
            }
        }
    }
}
