//! The operator's command line for a certctl server.
//!
//! Everything that it does goes through [`certctl_client`]; there is no rule here about certificates, and no permission. What
//! the binary adds is how things are written and shown: arguments, tables, errors that say what to do, exit codes
//! ([`Exit`]), and waiting for jobs ([`wait`]).

mod cli;
pub mod commands;
mod environment;
mod exit;
mod failure;
mod input;
mod schema;
mod session;
mod table;
mod terminal;
mod text;
pub mod wait;

use std::{ffi::OsString, io::Write};

use certctl_core::Error;
use clap::{CommandFactory, FromArgMatches};

pub use cli::{Cli, Command, Format};
pub use environment::Environment;
pub use exit::Exit;
pub use failure::Failure;
pub use schema::{Field, fields};
pub use session::Session;
pub use table::{Fields, Table};
pub use terminal::Terminal;
pub use text::wrap;

/// Does what these arguments ask for, with the program's name first.
pub fn main(
    args: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    terminal: &mut Terminal,
) -> Exit {
    let ended =
        match Cli::command().try_get_matches_from(args).and_then(|found| Cli::from_arg_matches(&found)) {
            Ok(cli) => run(cli, environment, terminal),
            Err(e) => return refused(&e, terminal),
        };
    match ended {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            // If nobody reads that either, the exit code says it.
            let _ = write!(terminal.err, "{}", failure.render());
            failure.exit()
        }
    }
}

/// What clap has to say: help and version for those who asked, or what is wrong with the arguments.
fn refused(error: &clap::Error, terminal: &mut Terminal) -> Exit {
    let text = error.render().to_string();
    if error.use_stderr() {
        let _ = writeln!(terminal.err, "{}", wrap(text.trim_end(), 80, "  ").join("\n"));
        Exit::Invalid
    } else {
        let _ = terminal.say(&text);
        Exit::Ok
    }
}

fn run(cli: Cli, environment: &Environment, terminal: &mut Terminal) -> Result<(), Failure> {
    let Some(command) = cli.command else {
        return Ok(terminal.say(cli::WELCOME)?);
    };
    let mut session = Session::new(cli.global, environment, terminal);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal("the program can't begin").with_source(e))?;
    let ended = runtime.block_on(commands::run(command, &mut session));
    ended.map_err(|failure| session.explained(failure))
}
