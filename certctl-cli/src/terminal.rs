//! Where the program writes to and reads from, so that a test can be the terminal.

use std::{
    fmt,
    io::{self, Read, Write},
};

use certctl_core::{Error, Result};

/// Standard input, output and error.
pub struct Terminal {
    /// What the command was asked for, and nothing else.
    pub out: Box<dyn Write + Send>,
    /// What a person should know.
    pub err: Box<dyn Write + Send>,
    /// Files that are given as `-`.
    pub input: Box<dyn Read + Send>,
    /// The width of the terminal behind `out`; none if it is a file or a pipe.
    pub width: Option<usize>,
}

impl Terminal {
    /// The process's own.
    pub fn standard() -> Self {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            width: size.map(|size| usize::from(size.ws_col)).filter(|&width| width >= 40),
        }
    }

    /// Writes text to standard output.
    ///
    /// # Errors
    /// `Internal` if that fails. Nobody reading any more is no failure.
    pub fn say(&mut self, text: &str) -> Result<()> {
        written(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()))
    }

    /// Writes a line to standard error.
    ///
    /// # Errors
    /// As for [`Terminal::say`].
    pub fn note(&mut self, line: &str) -> Result<()> {
        written(writeln!(self.err, "{}", crate::text::printable(line)).and_then(|()| self.err.flush()))
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("width", &self.width).finish_non_exhaustive()
    }
}

fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::internal("the output can't be written").with_source(e))
        }
        _ => Ok(()),
    }
}
