//! The issuers that a program's environment describes, under the names that certctl has always had for them.
//!
//! A program reads its environment once and hands it over: nothing here looks at it.

use std::collections::BTreeMap;

use certctl_core::{Error, IssuerSpec, Result, Violation, connectors::Connectors};
use serde_json::{Map, Value, json};

/// One variable, and the field that it is another name for.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// The configuration's field.
    pub field: &'static str,
    reads: Reads,
}

/// How a variable's text becomes a field's value.
#[derive(Clone, Copy, Debug)]
enum Reads {
    Text,
    Number,
    Flag,
    /// Separated by commas.
    List,
    /// Stays where it is: the configuration holds the variable's name.
    Secret,
}

/// Issuers that are described by variables with a common prefix.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The connector's kind.
    pub kind: &'static str,
    /// What its variables begin with.
    pub prefix: &'static str,
    /// What begins so as well, and belongs to something else.
    pub except: &'static [&'static str],
    /// Its variables.
    pub variables: &'static [Variable],
    /// Ids of the issuers that they make, each with what it has besides.
    issuers: &'static [Described],
}

/// One issuer of a family.
#[derive(Clone, Copy, Debug)]
struct Described {
    id: &'static str,
    name: &'static str,
    /// Fields that are what the variables do not say.
    defaults: &'static [(&'static str, &'static str)],
    /// Fields that are so whatever the variables say.
    fixed: &'static [(&'static str, &'static str)],
    /// Fields that belong to the CA that the variables name, and not to this one if it is another.
    other_ca: &'static [&'static str],
}

const fn variable(name: &'static str, field: &'static str, reads: Reads) -> Variable {
    Variable { name, field, reads }
}

/// Every family that this build has.
pub static FAMILIES: &[Family] = &[Family {
    kind: "acme",
    prefix: "CERTCTL_ACME_",
    except: &["CERTCTL_ACME_SERVER_"],
    variables: &[
        variable("CERTCTL_ACME_DIRECTORY_URL", "directory_url", Reads::Text),
        variable("CERTCTL_ACME_EMAIL", "email", Reads::Text),
        variable("CERTCTL_ACME_TERMS_OF_SERVICE_AGREED", "terms_of_service_agreed", Reads::Flag),
        variable("CERTCTL_ACME_EAB_KID", "eab_kid", Reads::Text),
        variable("CERTCTL_ACME_EAB_HMAC", "eab_hmac", Reads::Secret),
        variable("CERTCTL_ACME_CHALLENGE_TYPE", "challenge_type", Reads::Text),
        variable("CERTCTL_ACME_HTTP_PORT", "http_port", Reads::Number),
        variable("CERTCTL_ACME_TLS_PORT", "tls_port", Reads::Number),
        variable("CERTCTL_ACME_WEBROOT", "webroot", Reads::Text),
        variable("CERTCTL_ACME_DNS_PRESENT_SCRIPT", "dns_present_script", Reads::Text),
        variable("CERTCTL_ACME_DNS_CLEANUP_SCRIPT", "dns_cleanup_script", Reads::Text),
        variable("CERTCTL_ACME_DNS_SCRIPT_ENVIRONMENT", "dns_script_environment", Reads::List),
        variable("CERTCTL_ACME_DNS_PROPAGATION_WAIT", "dns_propagation_wait", Reads::Text),
        variable("CERTCTL_ACME_DNS_RESOLVERS", "dns_resolvers", Reads::List),
        variable("CERTCTL_ACME_DNS_PERSIST_ISSUER_DOMAIN", "dns_persist_issuer_domain", Reads::Text),
        variable("CERTCTL_ACME_PROFILE", "profile", Reads::Text),
        variable("CERTCTL_ACME_PREFERRED_CHAIN", "preferred_chain", Reads::Text),
        variable("CERTCTL_ACME_ARI_ENABLED", "ari_enabled", Reads::Flag),
        variable("CERTCTL_ACME_CA_FILE", "ca_file", Reads::Text),
    ],
    issuers: &[
        Described {
            id: "iss-acme-prod",
            name: "acme-prod",
            defaults: &[("directory_url", crate::issuers::acme::LETS_ENCRYPT)],
            fixed: &[],
            other_ca: &[],
        },
        Described {
            id: "iss-acme-staging",
            name: "acme-staging",
            defaults: &[],
            fixed: &[("directory_url", crate::issuers::acme::LETS_ENCRYPT_STAGING)],
            other_ca: &[
                "eab_kid",
                "eab_hmac",
                "profile",
                "preferred_chain",
                "ca_file",
                "dns_persist_issuer_domain",
            ],
        },
    ],
}];

/// The issuers that these variables describe: of each family of which there is at least one. Empty values count as absent.
///
/// # Errors
/// `Invalid` with everything that is wrong, by the variables' names: those that nobody knows, and what the connectors'
/// configurations refuse.
pub fn issuers(
    connectors: &Connectors,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<IssuerSpec>> {
    let variables: Vec<(String, String)> = variables.into_iter().collect();
    issuers_from(connectors, variables.iter().map(|(name, value)| (name.as_str(), value.as_str(), false)))
}

/// The same for settings that may come from elsewhere (`true`), such as a file, under the variables' names. A secret of the
/// environment stays there, and the configuration holds its name; one from elsewhere becomes part of the configuration, to be
/// sealed.
///
/// # Errors
/// As for [`issuers`].
pub fn issuers_from<'a>(
    connectors: &Connectors,
    settings: impl IntoIterator<Item = (&'a str, &'a str, bool)>,
) -> Result<Vec<IssuerSpec>> {
    let variables: BTreeMap<&str, (&str, bool)> = settings
        .into_iter()
        .filter(|(_, value, _)| !value.trim().is_empty())
        .map(|(name, value, elsewhere)| (name, (value, elsewhere)))
        .collect();
    let mut wrong = Vec::new();
    let mut issuers = Vec::new();
    for family in FAMILIES {
        let own = |name: &str| {
            name.starts_with(family.prefix) && !family.except.iter().any(|other| name.starts_with(other))
        };
        let mut fields = Map::new();
        for (name, (value, elsewhere)) in variables.iter().filter(|(name, _)| own(name)) {
            match family.variables.iter().find(|known| known.name == *name) {
                Some(known) if *elsewhere && known.is_secret() => {
                    fields.insert(known.field.to_owned(), json!(value.trim()));
                }
                Some(known) => match known.read(value) {
                    Ok(value) => drop(fields.insert(known.field.to_owned(), value)),
                    Err(violation) => wrong.push(violation),
                },
                None => wrong.push(family.unknown(name)),
            }
        }
        if fields.is_empty() {
            continue;
        }
        for issuer in family.issuers {
            let config = Value::Object(issuer.config(&fields));
            let checked = connectors.issuer(family.kind).and_then(|kind| kind.check(&config));
            for violation in checked.err().iter().flat_map(Error::violations) {
                let violation = family.renamed(violation);
                if !wrong.contains(&violation) {
                    wrong.push(violation);
                }
            }
            issuers.push(IssuerSpec {
                id: Some(issuer.id.to_owned()),
                ..IssuerSpec::new(issuer.name, family.kind, config)
            });
        }
    }
    if wrong.is_empty() { Ok(issuers) } else { Err(Error::invalid(wrong)) }
}

impl Variable {
    /// Whether its value is a secret.
    pub fn is_secret(&self) -> bool {
        matches!(self.reads, Reads::Secret)
    }

    fn read(&self, value: &str) -> Result<Value, Violation> {
        let value = value.trim();
        let bad = |message: &str, remedy: &str| Violation::new(self.name, message, remedy);
        match self.reads {
            Reads::Text => Ok(json!(value)),
            Reads::Number => value
                .parse::<u64>()
                .map(|n| json!(n))
                .map_err(|_| bad("this is no number", "write digits alone")),
            Reads::Flag => match value.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(json!(true)),
                "false" | "0" | "no" | "off" => Ok(json!(false)),
                _ => Err(bad("this is neither true nor false", "write true or false")),
            },
            Reads::List => Ok(value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()),
            Reads::Secret => Ok(json!({ "env": self.name })),
        }
    }
}

impl Described {
    fn config(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        let mut config = fields.clone();
        for (field, value) in self.defaults {
            config.entry(*field).or_insert_with(|| json!(value));
        }
        for (field, value) in self.fixed {
            let before = config.insert((*field).to_owned(), json!(value));
            // Named by the variables, and not this one: what was said for it is not for this one.
            if before.is_some_and(|before| before != json!(value)) {
                for field in self.other_ca {
                    config.remove(*field);
                }
            }
        }
        config
    }
}

impl Family {
    fn unknown(&self, name: &str) -> Violation {
        let known: Vec<&str> = self.variables.iter().map(|variable| variable.name).collect();
        Violation::new(
            name,
            "there is no such setting",
            format!("remove it, or use one of: {}", known.join(", ")),
        )
    }

    /// A violation of the configuration, as one of the variable that says it.
    fn renamed(&self, violation: &Violation) -> Violation {
        let field = violation.pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
        match self.variables.iter().find(|variable| variable.field == field) {
            Some(variable) => Violation { pointer: variable.name.to_owned(), ..violation.clone() },
            None => {
                Violation { pointer: format!("{}: {}", self.prefix, violation.pointer), ..violation.clone() }
            }
        }
    }
}
