//! Flags before environment before file, and what is wrong with them, all at once.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use certctl_connectors::environment;
use certctl_core::{Error, Lifetime, Result, SubjectAltName, Violation, connectors::Connectors};

use super::{
    Config,
    table::{OTHERS, Setting, SettingKind, settings},
};

/// What was set, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, Given>,
}

#[derive(Clone, PartialEq, Eq)]
struct Given {
    text: String,
    origin: Origin,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `certctl.toml`.
    File(PathBuf),
    /// The environment.
    Environment,
    /// A flag.
    Flag,
}

impl Settings {
    /// Puts together what flags (by the setting's key), environment and file say: the first of them that says something
    /// counts. Variables whose names do not begin with `CERTCTL_` are passed over, and empty values count as absent. The file
    /// is TOML; tables are another way to write prefixes, so that `[acme]` with `email` is `acme_email`.
    ///
    /// # Errors
    /// `Invalid` with each setting that nobody knows; `Precondition` if the file can't be read.
    pub fn gather(
        connectors: &Connectors,
        flags: impl IntoIterator<Item = (String, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self> {
        let known = settings(connectors);
        let mut gathered = Self::default();
        let mut wrong = Vec::new();
        let mut from_environment = BTreeMap::new();
        for (name, value) in environment {
            if !name.starts_with("CERTCTL_") || value.trim().is_empty() {
                continue;
            }
            match known.iter().find(|setting| setting.variable == name) {
                Some(setting) => drop(from_environment.insert(setting.key.clone(), value)),
                None if OTHERS
                    .iter()
                    .any(|other| name == *other || other.ends_with('_') && name.starts_with(other)) => {}
                None => wrong.push(unknown(&name, known.iter().map(|setting| setting.variable.as_str()))),
            }
        }
        let flags: BTreeMap<String, String> = flags.into_iter().collect();
        let named = flags.get("config").or_else(|| from_environment.get("config")).map(PathBuf::from);
        if let Some(path) = file.map(Path::to_path_buf).or(named) {
            gathered.read_file(&path, &known, &mut wrong)?;
        }
        gathered.add(from_environment, &Origin::Environment);
        gathered.add(flags, &Origin::Flag);
        if wrong.is_empty() { Ok(gathered) } else { Err(Error::invalid(wrong)) }
    }

    /// The configuration that they make.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong or contradictory, each by the name under which it was given.
    pub fn config(&self, connectors: &Connectors) -> Result<Config> {
        let mut reading = Reading { settings: self, wrong: Vec::new() };
        let mut config = Config::default();
        if let Some(directory) = self.text("data_dir") {
            config.data_dir = directory.into();
        }
        if let Some(listen) = reading.parse(
            "listen",
            "this is no address with a port",
            "write it like 0.0.0.0:8443 or [::]:8443",
        ) {
            config.listen = listen;
        }
        config.database = self.text("database_url").and_then(|url| reading.database(url));
        config.server_names = reading.names();
        if let Some(level) = self.text("log_level") {
            level.clone_into(&mut config.log_level);
            if let Err(e) = tracing_subscriber::EnvFilter::try_new(level) {
                reading.refuse(
                    "log_level",
                    format!("this is no log level or filter: {e}"),
                    "write it like info, or info,certctl_core=debug",
                );
            }
        }
        if let Some(max) = reading.number("max_connections", 1..=1_000_000) {
            config.max_connections = max;
        }
        if let Some(at_once) = reading.number("renewal_concurrency", 1..=10_000) {
            config.renewal_concurrency = at_once;
        }
        if let Some(timeout) =
            reading.parse::<Lifetime>("shutdown_timeout", "this is no duration", "write it like 10s or 1m")
        {
            config.shutdown_timeout = timeout.as_duration();
        }
        config.issuers = reading.issuers(connectors);
        if reading.wrong.is_empty() { Ok(config) } else { Err(Error::invalid(reading.wrong)) }
    }

    /// Keys whose values are others than in `before`, each with whether `SIGHUP` is enough for it.
    pub fn changed(&self, before: &Self, connectors: &Connectors) -> Vec<(String, bool)> {
        let text = |settings: &Self, key: &str| settings.values.get(key).map(|given| given.text.clone());
        settings(connectors)
            .into_iter()
            .filter(|setting| text(self, &setting.key) != text(before, &setting.key))
            .map(|setting| (setting.key, setting.reloads))
            .collect()
    }

    /// Whether this was said at all.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|given| given.text.trim())
    }

    /// Under which name it was given.
    fn place(&self, key: &str) -> String {
        match self.values.get(key).map(|given| &given.origin) {
            Some(Origin::Flag) => format!("--{}", key.replace('_', "-")),
            Some(Origin::File(path)) => format!("{key} in {}", path.display()),
            Some(Origin::Environment) | None => format!("CERTCTL_{}", key.to_ascii_uppercase()),
        }
    }

    fn add(&mut self, values: BTreeMap<String, String>, origin: &Origin) {
        for (key, text) in values {
            self.values.insert(key, Given { text, origin: origin.clone() });
        }
    }

    fn read_file(&mut self, path: &Path, known: &[Setting], wrong: &mut Vec<Violation>) -> Result<()> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::new(
                certctl_core::ErrorKind::Precondition,
                format!("the settings' file {shown} can't be read"),
            )
            .with("file", &shown)
            .with_source(e)
        })?;
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            // The parser quotes the line, and there may be a secret in it.
            let message = format!("line {line} is no TOML: {}", e.message());
            Error::invalid_field(shown.to_string(), message, "write key = \"value\"")
        })?;
        let mut flat = BTreeMap::new();
        flatten("", table, &mut flat);
        let origin = Origin::File(path.to_path_buf());
        let mut values = BTreeMap::new();
        for (key, value) in flat {
            let place = format!("{key} in {shown}");
            let setting = known.iter().find(|setting| setting.key == key && setting.key != "config");
            match (setting, value_text(&value)) {
                (None, _) => {
                    let keys =
                        known.iter().map(|setting| setting.key.as_str()).filter(|key| *key != "config");
                    wrong.push(unknown(&place, keys));
                }
                (Some(_), Some(text)) if text.trim().is_empty() => {}
                (Some(_), Some(text)) => drop(values.insert(key, text)),
                (Some(_), None) => {
                    let message = "this is neither text nor a number, a truth value or a list of texts";
                    wrong.push(Violation::new(place, message, "write key = \"value\""));
                }
            }
        }
        self.add(values, &origin);
        Ok(())
    }
}

impl fmt::Debug for Given {
    /// Some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*** from {:?}", self.origin)
    }
}

struct Reading<'a> {
    settings: &'a Settings,
    wrong: Vec<Violation>,
}

impl Reading<'_> {
    fn refuse(&mut self, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.wrong.push(Violation::new(self.settings.place(key), message, remedy));
    }

    fn parse<T: std::str::FromStr>(&mut self, key: &str, message: &str, remedy: &str) -> Option<T> {
        let parsed = self.settings.text(key)?.parse().ok();
        if parsed.is_none() {
            self.refuse(key, message, remedy);
        }
        parsed
    }

    fn number(&mut self, key: &str, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        let number = self.parse::<usize>(key, "this is no number", &remedy)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.refuse(key, format!("{number} is out of range"), remedy);
        None
    }

    fn database(&mut self, url: &str) -> Option<PathBuf> {
        let scheme = url.split(':').next().unwrap_or_default();
        match (scheme, url.strip_prefix("sqlite:")) {
            (_, Some(path)) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.is_empty() || path.contains('?') || path == ":memory:" {
                    self.refuse(
                        "database_url",
                        "this names no file",
                        "write it like sqlite:/var/lib/certctl/certctl.db",
                    );
                    return None;
                }
                Some(path.into())
            }
            ("postgres" | "postgresql", _) => {
                let message = "PostgreSQL is not supported by this version";
                self.refuse("database_url", message, "use sqlite:PATH, or leave it out");
                None
            }
            _ => {
                // Not repeated: such URLs have passwords in them.
                let message = "this is no database that is supported";
                self.refuse("database_url", message, "use sqlite:PATH, or leave it out");
                None
            }
        }
    }

    fn names(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        for name in self.settings.text("server_names").unwrap_or_default().split(',').map(str::trim) {
            if name.is_empty() {
                continue;
            }
            match name.parse::<SubjectAltName>() {
                Ok(SubjectAltName::Dns(_) | SubjectAltName::Ip(_)) => names.push(name.to_owned()),
                Ok(_) | Err(_) => {
                    let message = format!("{name:?} is neither a DNS name nor an address");
                    self.refuse("server_names", message, "write them like certctl.example.com,192.0.2.7");
                }
            }
        }
        names
    }

    fn issuers(&mut self, connectors: &Connectors) -> Vec<certctl_core::IssuerSpec> {
        let given = settings(connectors).into_iter().filter(|setting| setting.kind != SettingKind::Own);
        let given = given.filter_map(|setting| {
            let given = self.settings.values.get(&setting.key)?;
            let elsewhere = given.origin != Origin::Environment;
            Some((setting.variable, given.text.clone(), elsewhere))
        });
        // A secret of the environment stays there; one of the file is sealed.
        let given: Vec<_> = given.collect();
        let described = environment::issuers_from(
            connectors,
            given.iter().map(|(name, text, elsewhere)| (name.as_str(), text.as_str(), *elsewhere)),
        );
        match described {
            Ok(issuers) => issuers,
            Err(e) => {
                for violation in e.violations() {
                    let key = violation.pointer.trim_start_matches("CERTCTL_").to_ascii_lowercase();
                    let place = match self.settings.has(&key) {
                        true => self.settings.place(&key),
                        false => violation.pointer.clone(),
                    };
                    self.wrong.push(Violation { pointer: place, ..violation.clone() });
                }
                Vec::new()
            }
        }
    }
}

fn flatten(prefix: &str, table: toml::Table, flat: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}_{key}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, flat),
            value => drop(flat.insert(key, value)),
        }
    }
}

fn value_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Violation {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "");
    let wanted = plain(name.split(' ').next().unwrap_or_default());
    let near = known
        .map(|known| (distance(&plain(known), &wanted), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known);
    let remedy = match near {
        Some(near) => format!("remove it, or did you mean {near}?"),
        None => "remove it; certctl-server --help lists what there is".to_owned(),
    };
    Violation::new(name, "there is no such setting", remedy)
}

/// How many letters have to be changed, added or removed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
