//! Who asks, and for what: what each handler is given.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::http::{HeaderMap, header};
use certctl_core::{Actor, Engine, Error, ErrorKind, Result, Secret, Timestamp, engine::AgentSession};

use super::route::Access;
use crate::app::App;

/// A request that has been let in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    app: Arc<App>,
    parameters: BTreeMap<String, String>,
    peer: Option<SocketAddr>,
    actor: Option<Actor>,
    session: Option<AgentSession>,
    condition: Condition,
}

/// What `If-Match` and `If-None-Match` say (RFC 9110 section 13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It has to be there, at whatever revision.
    Any,
    /// It has to have this revision; zero: it must not be there.
    Revision(u64),
}

/// What stands behind `Authorization`.
pub(crate) enum Credential {
    Missing,
    Bearer(Secret),
    Other,
}

impl Credential {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Self::Missing };
        let bytes = value.as_bytes();
        match bytes.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
                Self::Bearer(Secret::new(token.trim_ascii()))
            }
            _ => Self::Other,
        }
    }
}

impl Call {
    pub(crate) fn new(app: Arc<App>, parameters: BTreeMap<String, String>, peer: Option<SocketAddr>) -> Self {
        Self { app, parameters, peer, actor: None, session: None, condition: Condition::None }
    }

    /// Finds out who asks.
    pub(super) async fn identify(&mut self, access: Access, credential: Credential) -> Result<()> {
        let unauthenticated = |message: &str| Err(Error::new(ErrorKind::Unauthenticated, message));
        let token = match (access, credential) {
            (Access::Open, _) => return Ok(()),
            (_, Credential::Bearer(token)) => token,
            (_, Credential::Missing) => {
                return unauthenticated("there is no credential: send Authorization: Bearer and an API key");
            }
            (_, Credential::Other) => {
                return unauthenticated(
                    "the credential is of another kind: send Authorization: Bearer and an API key",
                );
            }
        };
        if access == Access::Key {
            self.actor = Some(self.app.engine.authenticate(&token).await?);
            return Ok(());
        }
        let session = self.app.engine.agent_session(&token).await?;
        let asked = self.parameter("id")?;
        if asked != session.agent.as_str() && asked != &*session.name {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("this is for the agent {asked}, and the session is that of {}", session.name),
            ));
        }
        self.session = Some(session);
        Ok(())
    }

    pub(super) fn note_conditions(&mut self, headers: &HeaderMap) -> Result<()> {
        let text = |name| {
            headers.get(name).map(|value: &axum::http::HeaderValue| value.to_str().unwrap_or("?").trim())
        };
        self.condition = match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
            (None, None) => Condition::None,
            (Some("*"), None) => Condition::Any,
            (None, Some("*")) => Condition::Revision(0),
            (Some(tag), None) => Condition::Revision(read_tag(tag)?),
            // A client that has a copy: it gets another one.
            (None, Some(_)) => Condition::None,
            (Some(_), Some(_)) => {
                return Err(bad_condition(
                    "If-Match and If-None-Match contradict each other",
                    "send one of them",
                ));
            }
        };
        Ok(())
    }

    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.app.engine
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.app.clock.now()
    }

    /// Who asks.
    ///
    /// # Errors
    /// `Internal` if the row lets everybody in.
    pub(crate) fn actor(&self) -> Result<&Actor> {
        self.actor.as_ref().ok_or_else(|| Error::internal("a row without a credential has no actor"))
    }

    /// The agent that asks.
    ///
    /// # Errors
    /// `Internal` if the row is not for agents.
    pub(crate) fn session(&self) -> Result<&AgentSession> {
        self.session.as_ref().ok_or_else(|| Error::internal("a row that is not for agents has no session"))
    }

    /// A part of the path.
    ///
    /// # Errors
    /// `Internal` if the row has no such part.
    pub(crate) fn parameter(&self, name: &str) -> Result<&str> {
        let found = self.parameters.get(name).map(String::as_str);
        found.ok_or_else(|| Error::internal(format!("the path has no {name}")))
    }

    /// The `id` of the path: an id or a name.
    ///
    /// # Errors
    /// As for [`Call::parameter`].
    pub(crate) fn id(&self) -> Result<&str> {
        self.parameter("id")
    }

    pub(crate) fn condition(&self) -> Condition {
        self.condition
    }

    /// From where it is asked.
    pub(crate) fn address(&self) -> Option<String> {
        self.peer.map(|peer| peer.ip().to_canonical().to_string())
    }
}

fn read_tag(tag: &str) -> Result<u64> {
    tag.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .and_then(|revision| revision.parse().ok())
        .filter(|revision| *revision > 0)
        .ok_or_else(|| {
            bad_condition(
                "the entity tag in If-Match is none of this server's",
                "send the ETag of the last answer as it was, such as \"3\"",
            )
        })
}

fn bad_condition(message: &str, remedy: &str) -> Error {
    Error::invalid_field("", message, remedy)
}
