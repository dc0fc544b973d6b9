//! Tokens that are handed out once, and of which the store keeps a hash.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

use crate::{Error, ErrorKind, Id, Identified, Secret, random, records::TokenHash};

/// What the tokens begin with, so that a person who finds one, or a scanner, knows what it is.
pub(super) const API_KEY: &str = "certctl";
pub(super) const ENROLL: &str = "enroll";
pub(super) const SESSION: &str = "session";

/// A new token: what it is, whose it is, and 256 random bits. The id must be a minted one: it has no `_`.
pub(super) fn make<R: Identified>(what: &str, id: &Id<R>) -> Secret {
    let secret = BASE64URL.encode(random::bytes::<32>());
    Secret::new(format!("{what}_{}_{secret}", id.suffix()))
}

/// The id in a token. It proves nothing.
pub(super) fn id_of<R: Identified>(what: &str, token: &Secret) -> Option<Id<R>> {
    let rest = token.expose_str().ok()?.strip_prefix(what)?.strip_prefix('_')?;
    let (suffix, _) = rest.split_once('_')?;
    Id::parse(&format!("{}-{suffix}", R::PREFIX)).ok()
}

/// Whether the token is the one that was hashed. Without a hash it takes as long, and it is not.
pub(super) fn is_right(hash: Option<&TokenHash>, token: &Secret) -> bool {
    match hash {
        Some(hash) => hash.is_of(token),
        None => {
            let _ = TokenHash::of(&Secret::new("nobody's")).is_of(token);
            false
        }
    }
}

/// `Unauthenticated`, in the same words for every cause.
pub(super) fn refused(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}
