//! Challenges in the DNS by programs: one creates the record, one removes it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use certctl_core::{
    Challenge, CommandLine, Context, DnsProvider, DnsSolver, Env, Error, ErrorKind, Lifetime, Result, Secret,
    SecretRef, Solver, TxtRecord, Violation,
    connectors::SolverConfig,
    host::{Command, Host, Output},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dns;

/// How many variables may be passed on.
const MAX_VARIABLES: usize = 64;
/// How much of a program's output is kept, and how much of that an error has, in bytes.
const KEPT: usize = 16 << 10;
const SHOWN: usize = 2 << 10;
/// Shorter values, such as `1` or `yes`, are no secrets, and covering them would make the output unreadable.
const SHORTEST_SECRET: usize = 4;

/// Shows dns-01 and dns-persist-01 challenges by running programs.
///
/// Each gets `CERTCTL_DNS_DOMAIN` (the domain that is validated), `CERTCTL_DNS_FQDN` (the record's full name, without a dot
/// at its end; where that is an alias, the name that it stands for), `CERTCTL_DNS_VALUE` (the TXT value) and
/// `CERTCTL_DNS_TOKEN` (the challenge's token), and of the environment only what is listed. No shell is involved. A name can
/// have several values at a time: each run is about one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsScript {
    /// The program that creates the record. It has to exit with 0 when the record is there, also if it was there before.
    pub present: CommandLine,
    /// The program that removes the record; without one it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<CommandLine>,
    /// How long a program may take; then it is killed with all that it has started.
    pub timeout: Lifetime,
    /// The variables of the environment of the process that does the work which the programs get. One that is not set there
    /// is not set for them either.
    pub environment: Vec<String>,
    /// The id of the host that they run on; by default the machine that the work is done on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Default for DnsScript {
    fn default() -> Self {
        Self {
            present: CommandLine::from(""),
            cleanup: None,
            timeout: Lifetime::secs(60),
            environment: Vec::new(),
            host: None,
        }
    }
}

#[async_trait]
impl SolverConfig for DnsScript {
    const KIND: &'static str = "dns_script";

    fn check(&self) -> Vec<Violation> {
        let mut wrong = self.present.check("/present");
        wrong.extend(self.cleanup.iter().flat_map(|cleanup| cleanup.check("/cleanup")));
        if self.timeout < Lifetime::secs(1) || self.timeout > Lifetime::hours(1) {
            let message = format!("a program can't have {} to show a record", self.timeout);
            wrong.push(Violation::new("/timeout", message, "give 1s to 1h; 60s is usual"));
        }
        if self.environment.len() > MAX_VARIABLES {
            let message = format!("{} variables are listed", self.environment.len());
            wrong.push(Violation::new("/environment", message, format!("list at most {MAX_VARIABLES}")));
        }
        let variables = self.environment.iter().enumerate();
        wrong.extend(variables.filter_map(|(index, name)| {
            let (message, remedy) = wrong_with_variable(name)?;
            Some(Violation::new(format!("/environment/{index}"), message, remedy))
        }));
        wrong
    }

    async fn connect(self, env: Env) -> Result<Arc<dyn Solver>> {
        let host = env.hosts.host(self.host.as_deref()).await?;
        if !host.capabilities().exec {
            return Err(Error::unsupported(
                "the host of the DNS programs runs no commands; name another host",
            ));
        }
        Ok(Arc::new(DnsSolver(Programs { config: self, host, env })))
    }
}

fn wrong_with_variable(name: &str) -> Option<(String, &'static str)> {
    let is_name = name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        let shown: String = name.chars().take(128).collect();
        return Some((
            format!("{shown:?} is no name of a variable"),
            "list names such as AWS_PROFILE, without values",
        ));
    }
    if name.starts_with("CERTCTL_") {
        let remedy =
            "leave it out: CERTCTL_DNS_* are set for each challenge, the others are this program's own";
        return Some((format!("{name} can't be passed on"), remedy));
    }
    None
}

#[derive(Debug)]
struct Programs {
    config: DnsScript,
    host: Arc<dyn Host>,
    env: Env,
}

#[async_trait]
impl DnsProvider for Programs {
    async fn add(&self, cx: &Context, record: &TxtRecord, challenge: &Challenge) -> Result<()> {
        cx.check_cancelled()?;
        self.run("present", &self.config.present, record, challenge).await
    }

    async fn remove(&self, _: &Context, record: &TxtRecord, challenge: &Challenge) -> Result<()> {
        match &self.config.cleanup {
            Some(cleanup) => self.run("cleanup", cleanup, record, challenge).await,
            None => Ok(()),
        }
    }
}

impl Programs {
    async fn run(
        &self,
        step: &str,
        line: &CommandLine,
        record: &TxtRecord,
        challenge: &Challenge,
    ) -> Result<()> {
        let variables = about(record, challenge)?;
        let passed = self.passed_on().await?;
        let mut command = Command::new(line.argv()?);
        command.deadline = self.config.timeout.as_duration();
        command.output_cap = KEPT;
        for (name, value) in &passed.values {
            command.environment.insert(name.clone(), value.expose_str()?.to_owned());
        }
        command.environment.extend(variables);
        let outcome = self.host.run(&command).await;
        let error = match outcome {
            Ok(output) if output.ok() => return Ok(()),
            Ok(output) => exited(&output, line, &passed),
            Err(error) => passed.cover_error(&error),
        };
        let error = error.during(format!("the program that shows {} ({step})", record.name));
        Err(error.with("step", step).with("name", &record.name).with("command", line))
    }

    async fn passed_on(&self) -> Result<Passed> {
        let mut passed = Passed::default();
        for name in &self.config.environment {
            match self.env.secret("environment", &SecretRef::env(name)).await {
                Ok(value) if value.expose_str().is_ok() => passed.values.push((name.clone(), value)),
                Ok(_) => {
                    let message = format!("the environment variable {name} is not text; set it to UTF-8");
                    return Err(Error::new(ErrorKind::Precondition, message));
                }
                // Most often one that only some machines have, such as HTTPS_PROXY. If the program fails, it is named.
                Err(error) if error.kind() == ErrorKind::Precondition => passed.absent.push(name.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(passed)
    }
}

/// The variables of the contract. What is in them comes from a CA: a program may hand it to a shell, whatever it should do.
fn about(record: &TxtRecord, challenge: &Challenge) -> Result<BTreeMap<String, String>> {
    dns::parse(&record.name)?;
    let name = challenge.name.to_string();
    let domain = name.strip_prefix("*.").unwrap_or(&name);
    let variables = [
        ("CERTCTL_DNS_DOMAIN", domain),
        ("CERTCTL_DNS_FQDN", record.name.strip_suffix('.').unwrap_or(&record.name)),
        ("CERTCTL_DNS_VALUE", record.value.as_str()),
        ("CERTCTL_DNS_TOKEN", challenge.token.as_str()),
    ];
    for (variable, value) in variables {
        if value.len() > 4_096 || value.chars().any(char::is_control) {
            let message = format!("what the CA gave for {variable} has control characters, or is too long");
            return Err(Error::new(ErrorKind::BadResponse, message));
        }
    }
    Ok(variables.map(|(variable, value)| (variable.to_owned(), value.to_owned())).into())
}

fn exited(output: &Output, line: &CommandLine, passed: &Passed) -> Error {
    let how = match output.code {
        Some(code) => format!("exited with {code}"),
        None => "was ended by a signal".to_owned(),
    };
    let text = passed.cover_output(&output.text);
    let said = if text.trim().is_empty() {
        "it wrote nothing".to_owned()
    } else {
        format!("it wrote: {}", text.trim())
    };
    let absent = match passed.absent.as_slice() {
        [] => String::new(),
        absent => format!(" (not set in the environment: {})", absent.join(", ")),
    };
    // Whoever wrote the program knows whether it can help to run it again; most failures are of a service that it asks.
    Error::unavailable(format!("`{line}` {how}{absent}; {said}")).with("output", text)
}

/// What of the environment is passed on.
#[derive(Default)]
struct Passed {
    values: Vec<(String, Secret)>,
    absent: Vec<String>,
}

impl Passed {
    /// The end of the output, without the values.
    fn cover_output(&self, output: &str) -> String {
        // Where the beginning was cut off, that may have gone through a value.
        let begin = if output.len() + 8 >= KEPT { self.rest_of_a_secret(output) } else { 0 };
        let output = self.cover_from(begin, output);
        let from = output.ceil_char_boundary(output.len().saturating_sub(SHOWN));
        output[from..].to_owned()
    }

    /// How many bytes at the beginning are the end of a value.
    fn rest_of_a_secret(&self, output: &str) -> usize {
        let rest_of = |secret: &str| {
            let from = secret.len().saturating_sub(output.len());
            let rests = (from..secret.len()).filter_map(|at| secret.get(at..));
            rests.filter(|rest| output.starts_with(rest)).map(str::len).next()
        };
        self.secrets().into_iter().filter_map(rest_of).max().unwrap_or(0)
    }

    fn cover(&self, text: &str) -> String {
        self.cover_from(0, text)
    }

    /// Covers the first bytes and every value, also where one overlaps with another, or with itself.
    fn cover_from(&self, begin: usize, text: &str) -> String {
        let mut is_covered = vec![false; text.len()];
        is_covered[..begin].fill(true);
        for secret in self.secrets() {
            let (mut at, mut done) = (0, 0);
            while let Some(found) = text[at..].find(secret) {
                let end = at + found + secret.len();
                is_covered[done.max(at + found)..end].fill(true);
                done = end;
                at = text.ceil_char_boundary(at + found + 1);
            }
        }
        let mut covered = String::with_capacity(text.len());
        for (index, c) in text.char_indices() {
            if !is_covered[index] {
                covered.push(c);
            } else if index == 0 || !is_covered[index - 1] {
                covered.push_str("***");
            }
        }
        covered
    }

    fn cover_error(&self, error: &Error) -> Error {
        // Without its source, whose words nobody has looked through.
        let covered = Error::new(error.kind(), self.cover(error.message()))
            .with_retry(error.retry())
            .with_effect(error.effect());
        error.context().iter().fold(covered, |covered, (key, value)| match key.as_str() {
            "output" => covered.with(key, self.cover_output(value)),
            _ => covered.with(key, self.cover(value)),
        })
    }

    /// The values, and the lines of those that have several.
    fn secrets(&self) -> Vec<&str> {
        let values = self.values.iter().filter_map(|(_, value)| value.expose_str().ok());
        let lines = values.flat_map(|value| std::iter::once(value).chain(value.lines().map(str::trim)));
        lines.filter(|secret| secret.len() >= SHORTEST_SECRET).collect()
    }
}
