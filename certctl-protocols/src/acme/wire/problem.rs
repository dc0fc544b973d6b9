//! Problems: what went wrong on the server (RFC 7807; RFC 8555 section 6.7).

use serde::{Deserialize, Serialize};

use super::{
    Identifier,
    text::{lenient, lenient_list, text_enum},
};
use crate::shown::shown;

/// What went wrong on the server. Every object can be read as one: a member of another type than it should be is passed
/// over, for the rest of what the server says is needed all the more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The class of the problem.
    #[serde(rename = "type", default, deserialize_with = "lenient")]
    pub kind: ProblemType,
    /// A short name for it.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A sentence for a person.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The HTTP status.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// A URL; of `userActionRequired`, where the user has to go.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Of a subproblem, which identifier it is about.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub identifier: Option<Identifier>,
    /// One for each identifier, where there are several (RFC 8555 section 6.7.1).
    #[serde(default, deserialize_with = "lenient_list", skip_serializing_if = "Vec::is_empty")]
    pub subproblems: Vec<Problem>,
    /// Of `badSignatureAlgorithm`, those that the server takes (RFC 8555 section 6.2).
    #[serde(default, deserialize_with = "lenient_list", skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
}

text_enum! {
    /// The class of a problem: the `urn:ietf:params:acme:error:` names of RFC 8555 section 6.7, RFC 9773 section 7.4 and
    /// draft-ietf-acme-profiles.
    ProblemType, prefix "urn:ietf:params:acme:error:", other "One that is not known here, with its whole URI.",
    /// No account has this key.
    AccountDoesNotExist = "accountDoesNotExist",
    /// The certificate that the order says to replace was already replaced (RFC 9773).
    AlreadyReplaced = "alreadyReplaced",
    /// The certificate was revoked before.
    AlreadyRevoked = "alreadyRevoked",
    /// The request for the certificate can't be accepted.
    BadCsr = "badCSR",
    /// The nonce is unknown or used up: the same request with a new one may succeed.
    BadNonce = "badNonce",
    /// The key is weak, or of a kind that the server doesn't take.
    BadPublicKey = "badPublicKey",
    /// The reason for revoking is not allowed.
    BadRevocationReason = "badRevocationReason",
    /// The signature's algorithm is not one that the server takes.
    BadSignatureAlgorithm = "badSignatureAlgorithm",
    /// CAA records forbid this CA (RFC 8659).
    Caa = "caa",
    /// Several problems, which the subproblems say.
    Compound = "compound",
    /// The server could not connect to where the challenge's answer is.
    Connection = "connection",
    /// A DNS query failed.
    Dns = "dns",
    /// An account of the CA's own is needed (RFC 8555 section 7.3.4).
    ExternalAccountRequired = "externalAccountRequired",
    /// The challenge's answer was not the right one.
    IncorrectResponse = "incorrectResponse",
    /// A contact's URL is malformed.
    InvalidContact = "invalidContact",
    /// The profile is not one that the server has, or not for this order.
    InvalidProfile = "invalidProfile",
    /// The request is malformed.
    Malformed = "malformed",
    /// The order is not ready to be finalized.
    OrderNotReady = "orderNotReady",
    /// Asked too often; `Retry-After` may say when again.
    RateLimited = "rateLimited",
    /// The server won't issue for this identifier.
    RejectedIdentifier = "rejectedIdentifier",
    /// The server failed.
    ServerInternal = "serverInternal",
    /// The TLS handshake of the validation failed.
    Tls = "tls",
    /// The account may not.
    Unauthorized = "unauthorized",
    /// The contact's kind is not one that the server takes.
    UnsupportedContact = "unsupportedContact",
    /// The identifier's type is not one that the server takes.
    UnsupportedIdentifier = "unsupportedIdentifier",
    /// The user has to go to [`Problem::instance`] and do something.
    UserActionRequired = "userActionRequired",
}

impl Default for ProblemType {
    /// `about:blank` (RFC 7807 section 4.2): what the HTTP status says.
    fn default() -> Self {
        Self::Other("about:blank".to_owned())
    }
}

impl Problem {
    /// The longest [`Problem::sentence`], in characters.
    pub const MAX_SENTENCE: usize = 1_000;
    const MAX_DETAIL: usize = 500;
    const MAX_SUBPROBLEMS: usize = 20;

    /// One of this class, with a sentence for a person.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self { kind, detail: Some(detail.into()), ..Self::default() }
    }

    /// What the server says, for people: its sentence with the class of the problem, then those of the subproblems. It
    /// has no control characters and at most [`Problem::MAX_SENTENCE`] characters.
    pub fn sentence(&self) -> String {
        let mut out = self.one();
        for problem in self.subproblems.iter().take(Self::MAX_SUBPROBLEMS) {
            out.push_str("; ");
            if let Some(identifier) = &problem.identifier {
                out.push_str(&format!("{identifier}: "));
            }
            out.push_str(&problem.one());
        }
        if self.subproblems.len() > Self::MAX_SUBPROBLEMS {
            out.push_str(&format!("; and {} more", self.subproblems.len() - Self::MAX_SUBPROBLEMS));
        }
        shown(&out, Self::MAX_SENTENCE - 1)
    }

    fn one(&self) -> String {
        let kind = self.kind.as_str();
        let kind = shown(kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind), 80);
        let texts = [&self.detail, &self.title].into_iter().flatten();
        let text = texts.map(|text| shown(text, Self::MAX_DETAIL)).find(|text| !text.is_empty());
        match (text, self.status) {
            (Some(text), _) => format!("{text} ({kind})"),
            (None, Some(status)) => format!("{kind}, HTTP status {status}"),
            (None, None) => kind,
        }
    }
}
