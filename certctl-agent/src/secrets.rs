//! Secrets that configurations refer to, as far as an agent has them.

use std::sync::Arc;

use async_trait::async_trait;
use certctl_core::{Error, ErrorKind, RecipientKey, Result, SealedAt, Secret, SecretRef, Secrets};

use crate::{files::blocking, policy::Guard};

/// The largest secret that is read from a file, in bytes.
const MAX: u64 = 1 << 20;

/// What was sealed for this agent, and, as far as its rules allow, the environment and the files of its machine.
#[derive(Debug)]
pub(crate) struct AgentSecrets {
    pub(crate) key: RecipientKey,
    pub(crate) guard: Arc<Guard>,
}

#[async_trait]
impl Secrets for AgentSecrets {
    async fn resolve(&self, at: &SealedAt<'_>, reference: &SecretRef) -> Result<Secret> {
        self.guard.secret(reference)?;
        let missing = |why: String| {
            let SealedAt { table, id, field } = at;
            let message = format!("the secret {field} of {table} {id} ({reference:?}) can't be read: {why}");
            Error::new(ErrorKind::Precondition, message)
        };
        match reference {
            SecretRef::Sealed(sealed) => self.key.open(at, sealed),
            SecretRef::Value(secret) => Ok(secret.clone()),
            SecretRef::Env(name) => {
                // A program's secrets may be in its environment; this is where an agent looks for them.
                #[allow(clippy::disallowed_methods)]
                let value = std::env::var_os(name)
                    .ok_or_else(|| missing("there is no such environment variable in this process".into()))?;
                Ok(Secret::new(value.into_encoded_bytes()))
            }
            SecretRef::File(path) => {
                let path = path.clone();
                blocking(move || Ok(read(&path))).await?.map_err(|error| missing(error.to_string()))
            }
        }
    }
}

fn read(path: &str) -> std::io::Result<Secret> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MAX).read_to_end(&mut content)?;
    if content.last() == Some(&b'\n') {
        content.pop();
    }
    Ok(Secret::new(content))
}
