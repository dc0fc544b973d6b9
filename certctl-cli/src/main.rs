//! The binary `certctl`.

use std::process::ExitCode;

use certctl_cli::{Environment, Terminal};

fn main() -> ExitCode {
    let mut terminal = Terminal::standard();
    certctl_cli::main(std::env::args_os(), &environment(), &mut terminal).code().into()
}

#[allow(clippy::disallowed_methods)] // The environment is a binary's to read.
fn environment() -> Environment {
    Environment::from_names(|name| std::env::var_os(name))
}
