//! What arguments name: files, and standard input.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use certctl_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::terminal::Terminal;

/// The largest file that is read: a configuration, a request, a key.
const MAX: u64 = 1 << 20;

/// A file, or `-` for standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Standard,
    /// A file.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Standard } else { Self::File(text.into()) })
    }
}

impl Source {
    /// Reads it whole.
    ///
    /// # Errors
    /// `Precondition` if it can't be read, `Invalid` if it is too large.
    pub fn bytes(&self, terminal: &mut Terminal) -> Result<Vec<u8>> {
        let mut read = Vec::new();
        let result = match self {
            Self::Standard => (&mut terminal.input).take(MAX + 1).read_to_end(&mut read),
            Self::File(path) => {
                fs::File::open(path).and_then(|file| file.take(MAX + 1).read_to_end(&mut read))
            }
        };
        result.map_err(|e| self.unreadable(e))?;
        if read.len() as u64 > MAX {
            return Err(self.wrong("has more than a megabyte", "give the right file"));
        }
        Ok(read)
    }

    /// Reads it as text.
    ///
    /// # Errors
    /// As for [`Source::bytes`]; `Invalid` if it is no UTF-8.
    pub fn text(&self, terminal: &mut Terminal) -> Result<String> {
        String::from_utf8(self.bytes(terminal)?)
            .map_err(|_| self.wrong("is no text", "give a file with text in UTF-8"))
    }

    /// Reads it as JSON.
    ///
    /// # Errors
    /// As for [`Source::text`]; `Invalid`, with the place, if it is no JSON.
    pub fn json(&self, terminal: &mut Terminal) -> Result<Value> {
        let text = self.text(terminal)?;
        serde_json::from_str(&text).map_err(|e| {
            // The parser's own words repeat what it read, which may be a secret.
            let what = if e.is_eof() { "ends too early" } else { "has no JSON" };
            self.wrong(
                &format!("{what}, at line {}, column {}", e.line(), e.column()),
                "write an object such as {\"field\": \"value\"}",
            )
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Standard => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    fn unreadable(&self, cause: io::Error) -> Error {
        let name = self.name();
        Error::new(ErrorKind::Precondition, format!("{name} can't be read"))
            .with("file", name)
            .with_source(cause)
    }

    fn wrong(&self, what: &str, remedy: &str) -> Error {
        let name = self.name();
        Error::new(ErrorKind::Invalid, format!("{name} {what}: {remedy}")).with("file", name)
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}
