//! The program `certctl-agent`: the library's agent with settings, signals and a log.

mod notify;

use std::{process::ExitCode, sync::Arc};

use certctl_agent::{
    Agent,
    policy::Guard,
    settings::{Asked, Settings},
};
use certctl_core::{Error, ErrorKind};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::{filter::LevelFilter, fmt, prelude::*};

// One thread is enough for what waits most of the time; files and commands have threads of their own while they need them.
fn main() -> ExitCode {
    // A program reads its environment; the library does not.
    #[allow(clippy::disallowed_methods)]
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let settings = match Settings::read(arguments, environment) {
        Ok(Asked::Run(settings)) => settings,
        Ok(Asked::Say(text)) => {
            // What was asked for is an answer, not a message.
            #[allow(clippy::print_stdout)]
            {
                println!("{}", text.trim_end());
            }
            return ExitCode::SUCCESS;
        }
        Err(error) => return failed(&error),
    };
    log(&settings.log);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(*settings)),
        Err(error) => Err(Error::internal("the runtime can't be started").with_source(error)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(settings: Settings) -> certctl_core::Result<()> {
    let Settings { server, ca, state_dir, key_dir, token, parallel, policy, file, .. } = settings;
    let mut builder = Agent::builder(server, ca, state_dir).parallel(parallel).policy(policy, file.clone());
    if let Some(dir) = key_dir {
        builder = builder.key_dir(dir);
    }
    if let Some(token) = token {
        builder = builder.token(token);
    }
    let agent = builder.open().await?;
    let no_signals = |error| Error::internal("signals can't be waited for").with_source(error);
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(no_signals)?;
    let guard = agent.guard();
    let reload = tokio::spawn(async move {
        while hung_up.recv().await.is_some() {
            reread(&guard, file.as_deref());
        }
    });
    notify::tell("READY=1");
    let stopped = agent
        .run(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            notify::tell("STOPPING=1");
            tracing::info!("stopping");
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminated.recv() => {}
                    _ = interrupted.recv() => {}
                }
                // Told twice. The journal knows what was begun.
                std::process::exit(1);
            });
        })
        .await;
    reload.abort();
    stopped
}

fn reread(guard: &Arc<Guard>, file: Option<&std::path::Path>) {
    let Some(file) = file else {
        return tracing::info!("there is no file of settings to read again");
    };
    match Settings::read_policy(file).and_then(|policy| guard.replace(policy)) {
        Ok(()) => tracing::info!(file = %file.display(), "read the rules again"),
        Err(error) => tracing::error!("the rules stay as they were: {error}"),
    }
}

fn log(level: &str) {
    let filter = level.parse().unwrap_or(LevelFilter::INFO);
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().compact().with_target(false).with_ansi(terminal).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// Says why it ends: a line for each thing that is wrong. 2 is for settings, 1 for everything else.
#[allow(clippy::print_stderr)]
fn failed(error: &Error) -> ExitCode {
    if error.violations().is_empty() {
        eprintln!("certctl-agent: {error}");
    }
    for wrong in error.violations() {
        let at = if wrong.pointer.is_empty() { String::new() } else { format!("{}: ", wrong.pointer) };
        eprintln!("certctl-agent: {at}{}; {}", wrong.message, wrong.remedy);
    }
    ExitCode::from(if error.kind() == ErrorKind::Invalid { 2 } else { 1 })
}
