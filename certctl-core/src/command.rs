//! Commands in configurations.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, Violation,
    host::{Command, HostPath},
};

/// A command as a person writes it: a line that is split at blanks, or an array of arguments that is taken as it is.
///
/// No shell is ever involved. A line may have simple quotes; what a shell would give a meaning to (`;`, `|`, `$`, `*`, ...) is
/// refused outside of them, so that nobody believes it works. It is checked when it is used, and by [`CommandLine::check`].
///
/// ```
/// use certctl_core::CommandLine;
/// assert_eq!(CommandLine::from("nginx -s 'reload'").argv()?, ["nginx", "-s", "reload"]);
/// assert_eq!(CommandLine::from(["/opt/my tool", "$x"]).argv()?, ["/opt/my tool", "$x"]);
/// assert!(CommandLine::from("nginx -t && reload").argv().is_err());
/// # Ok::<(), certctl_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandLine(Form);

#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, expecting = "a command is a string, or an array of strings")]
enum Form {
    Line(String),
    Argv(Vec<String>),
}

impl CommandLine {
    /// The longest command, in bytes of all its arguments.
    pub const MAX_LEN: usize = 8 << 10;

    /// The program and its arguments.
    ///
    /// # Errors
    /// `Invalid` if it is empty or too long, has something in it that only a shell understands, or its program is neither
    /// an absolute path nor a bare name.
    pub fn argv(&self) -> Result<Vec<String>> {
        let argv = match &self.0 {
            Form::Line(line) if line.len() > Self::MAX_LEN => return Err(too_long(line.len())),
            Form::Line(line) => split(line)?,
            Form::Argv(argv) => argv.clone(),
        };
        let len = argv.iter().map(|argument| argument.len() + 1).sum::<usize>();
        if len > Self::MAX_LEN {
            return Err(too_long(len));
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return Err(Error::invalid_field("", "the command has a NUL in it", "remove it"));
        }
        check_program(argv.first().map_or("", String::as_str))?;
        Ok(argv)
    }

    /// The command, with the default deadline.
    ///
    /// # Errors
    /// As for [`CommandLine::argv`].
    pub fn command(&self) -> Result<Command> {
        self.argv().map(Command::new)
    }

    /// What is wrong with it, for the field at `pointer`.
    pub fn check(&self, pointer: &str) -> Vec<Violation> {
        self.argv().err().map(|error| error.below(pointer).violations().to_vec()).unwrap_or_default()
    }
}

impl From<&str> for CommandLine {
    fn from(line: &str) -> Self {
        Self(Form::Line(line.to_owned()))
    }
}
impl From<String> for CommandLine {
    fn from(line: String) -> Self {
        Self(Form::Line(line))
    }
}
impl From<Vec<String>> for CommandLine {
    fn from(argv: Vec<String>) -> Self {
        Self(Form::Argv(argv))
    }
}
impl<const N: usize> From<[&str; N]> for CommandLine {
    fn from(argv: [&str; N]) -> Self {
        Self(Form::Argv(argv.map(str::to_owned).to_vec()))
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Line(line) => f.write_str(line),
            Form::Argv(argv) => f.write_str(&array_form(argv)),
        }
    }
}
impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl JsonSchema for CommandLine {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CommandLine".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A command line without shell syntax, or an array of arguments",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ],
        })
    }
}

/// What a shell gives a meaning to, outside of quotes.
const SPECIAL: &str = ";|&$`<>(){}*?~#!\\\n\r";
/// What it still gives one to between double quotes.
const SPECIAL_QUOTED: &str = "$`\\";

fn split(line: &str) -> Result<Vec<String>> {
    let mut argv = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        let special = match quote {
            Some('\'') => false,
            Some(_) => SPECIAL_QUOTED.contains(c),
            None => SPECIAL.contains(c),
        };
        if special {
            return Err(shell_syntax(line, c));
        }
        if c.is_control() && c != '\t' {
            let message = format!("the command {line:?} has control characters");
            return Err(Error::invalid_field("", message, "remove them"));
        }
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c == ' ' || c == '\t' => argv.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        let message = format!("the command {line:?} has a {quote} that is not closed");
        return Err(Error::invalid_field("", message, "close the quote"));
    }
    argv.extend(word);
    Ok(argv)
}

fn shell_syntax(line: &str, c: char) -> Error {
    let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Error::invalid_field(
        "",
        format!("the command {line:?} has {c:?} in it, and no shell reads it"),
        format!(
            "if it is meant literally, quote it or write the command as an array: {}; if a shell is needed, put the line \
             into a script and name that",
            array_form(&argv)
        ),
    )
}

fn check_program(program: &str) -> Result<()> {
    if program.is_empty() {
        let remedy = "give a program and its arguments, or leave the field away";
        return Err(Error::invalid_field("", "the command is empty", remedy));
    }
    let bare = !program.contains(['/', '\\', '=', ':'])
        && !program.starts_with(['-', '.'])
        && !program.chars().any(|c| c.is_control() || c.is_whitespace());
    if bare || HostPath::parse(program).is_ok() {
        return Ok(());
    }
    Err(Error::invalid_field(
        "",
        format!("the program {program:?} is neither an absolute path nor a bare name"),
        "write it like /usr/sbin/nginx or nginx",
    ))
}

fn too_long(len: usize) -> Error {
    let remedy = format!("use at most {}; put long commands into a script", CommandLine::MAX_LEN);
    Error::invalid_field("", format!("the command has {len} bytes"), remedy)
}

fn array_form(argv: &[String]) -> String {
    serde_json::to_string(argv).unwrap_or_default()
}
