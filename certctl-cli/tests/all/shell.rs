//! A terminal that keeps what is written to it.

use std::{
    ffi::OsString,
    io::{self, Cursor, Write},
    sync::{Arc, Mutex},
};

use certctl_cli::{Environment, Exit, Terminal};

/// What a run has left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `certctl` with these arguments, nothing on standard input, and no terminal.
pub(crate) fn run(args: &[&str], environment: &Environment) -> Ran {
    run_with(args, environment, "", None)
}

pub(crate) fn run_with(args: &[&str], environment: &Environment, input: &str, width: Option<usize>) -> Ran {
    let (out, err) = (Kept::default(), Kept::default());
    let mut terminal = Terminal {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(Cursor::new(input.to_owned())),
        width,
    };
    let args = ["certctl"].iter().chain(args).map(OsString::from);
    let exit = certctl_cli::main(args, environment, &mut terminal);
    Ran { exit, out: out.text(), err: err.text() }
}

/// The environment that these variables make.
pub(crate) fn environment(names: &[(&str, &str)]) -> Environment {
    Environment::from_names(|name| {
        names.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    })
}

pub(crate) fn assert_narrow(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
