use std::sync::Arc;

use certctl_client::{Client, types::List};
use certctl_core::{Clock, Error, ErrorKind, Result, Secret, SystemClock, Violation};
use serde::Serialize;

use crate::{
    Environment, Failure, Fields, Format, Table, Terminal, cli::Global, input::Source, text::counted,
};

/// Where the server is if nobody says so.
const DEFAULT_URL: &str = "https://localhost:8443";

/// One run of the program: whom to ask, and how to show it.
#[derive(Debug)]
pub struct Session<'a> {
    /// Where it reads and writes.
    pub terminal: &'a mut Terminal,
    /// The time, and pauses.
    pub clock: Arc<dyn Clock>,
    /// How to show what comes.
    pub format: Format,
    url: String,
    global: Global,
    environment: Environment,
    has_key: bool,
}

impl<'a> Session<'a> {
    /// Asks nobody yet.
    pub fn new(global: Global, environment: &Environment, terminal: &'a mut Terminal) -> Self {
        let url = global.server.as_ref().or(environment.server_url.as_ref());
        Self {
            terminal,
            clock: Arc::new(SystemClock),
            format: global.output,
            url: url.map_or(DEFAULT_URL, String::as_str).to_owned(),
            global,
            environment: environment.clone(),
            has_key: false,
        }
    }

    /// A client of the server.
    ///
    /// # Errors
    /// What is wrong with the URL, the CA's file or the API key's.
    pub fn client(&mut self) -> Result<Client> {
        let mut builder = Client::builder(&self.url).clock(self.clock.clone());
        if let Some(file) = self.global.ca_file.as_ref().or(self.environment.ca_file.as_ref()) {
            builder = builder.ca_file(file);
        }
        if let Some(key) = self.api_key()? {
            self.has_key = true;
            builder = builder.api_key(key);
        }
        builder.build().map_err(|e| {
            // The builder's fields are these settings.
            let named = e.violations().iter().map(|wrong| Violation {
                pointer: match wrong.pointer.as_str() {
                    "/server_url" => "--server or CERTCTL_SERVER_URL".to_owned(),
                    "/ca_file" => "--ca-file or CERTCTL_CA_FILE".to_owned(),
                    other => other.to_owned(),
                },
                ..wrong.clone()
            });
            let named: Vec<_> = named.collect();
            if named.is_empty() { e } else { Error::invalid(named) }
        })
    }

    /// The server's URL, as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether somebody said where the server is.
    pub fn names_server(&self) -> bool {
        self.global.server.is_some() || self.environment.server_url.is_some()
    }

    /// Shows one thing: as the server has it, or its fields.
    ///
    /// # Errors
    /// `Internal` if it can't be written.
    pub fn show<T: Serialize>(&mut self, thing: &T, fields: impl FnOnce(&T) -> Fields) -> Result<()> {
        let text = match self.format {
            Format::Json => json(thing)?,
            Format::Table => fields(thing).render(self.terminal.width),
        };
        self.terminal.say(&text)
    }

    /// Shows a list: as the server has it, or a table with a line for each item.
    ///
    /// # Errors
    /// As for [`Session::show`].
    pub fn show_list<T: Serialize, const N: usize>(
        &mut self,
        list: &List<T>,
        heading: &[&'static str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<()> {
        if self.format == Format::Json {
            return self.terminal.say(&json(list)?);
        }
        if list.data.is_empty() && list.next_cursor.is_none() {
            return self.terminal.note("There are none.");
        }
        let mut table = Table::new(heading);
        for item in &list.data {
            table.row(row(item));
        }
        self.terminal.say(&table.render(self.terminal.width))?;
        match &list.next_cursor {
            Some(cursor) => self.terminal.note(&format!(
                "These are {}, and there are more: add --all, or --cursor {cursor} for the next page.",
                counted(list.data.len(), "item", "items")
            )),
            None => Ok(()),
        }
    }

    /// Adds to a failure what this session knows about it: what to set, and to what.
    pub fn explained(&self, failure: Failure) -> Failure {
        let error = failure.error();
        let url = &self.url;
        let hint = match error.kind() {
            ErrorKind::Unauthenticated if self.has_key => {
                let source = match &self.global.api_key_file {
                    Some(_) => "--api-key-file",
                    None => "CERTCTL_API_KEY",
                };
                format!(
                    "The key in {source} is not, or no longer, one of {url}: take the one in the server's admin.key, or one \
                     that an admin makes with `certctl api-keys create`."
                )
            }
            ErrorKind::Unauthenticated => {
                "No API key was given: set CERTCTL_API_KEY to what stands in the server's admin.key, or name a file with \
                 --api-key-file."
                    .to_owned()
            }
            ErrorKind::Unavailable if error.context_value("reason") == Some("trust") => {
                match self.global.ca_file.as_ref().or(self.environment.ca_file.as_ref()) {
                    Some(file) => format!(
                        "Is {} the ca.pem of the server at {url}, and does the URL have a name that is in the server's \
                         certificate?",
                        file.display()
                    ),
                    None => "Set CERTCTL_CA_FILE to the server's ca.pem: without it only the system's CAs are trusted."
                        .to_owned(),
                }
            }
            ErrorKind::Unavailable if error.context_value("url").is_some() => {
                let said = match (&self.global.server, &self.environment.server_url) {
                    (Some(_), _) => "--server says so",
                    (None, Some(_)) => "CERTCTL_SERVER_URL says so",
                    (None, None) => "CERTCTL_SERVER_URL is not set",
                };
                format!("Is the server running, and is its URL {url}? ({said})")
            }
            ErrorKind::Denied => "Ask with the key of an admin, or of another role.".to_owned(),
            _ => return failure,
        };
        failure.hint(hint)
    }

    fn api_key(&mut self) -> Result<Option<Secret>> {
        let Some(source) = self.global.api_key_file.clone() else {
            return Ok(self.environment.api_key.clone());
        };
        let bytes = source.bytes(self.terminal)?;
        let key = bytes.trim_ascii();
        if key.is_empty() {
            let name = match source {
                Source::Standard => "standard input".to_owned(),
                Source::File(path) => path.display().to_string(),
            };
            return Err(Error::invalid_field(
                "--api-key-file",
                format!("there is nothing in {name}"),
                "name a file with an API key, such as the server's admin.key",
            ));
        }
        Ok(Some(Secret::new(key.to_vec())))
    }
}

fn json(thing: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(thing);
    text.map(|text| text + "\n").map_err(|e| Error::internal("this can't be written as JSON").with_source(e))
}
