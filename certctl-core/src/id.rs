//! Ids are text with a prefix; names are unique per kind and never look like an id.

use std::{fmt, hash, marker::PhantomData};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Timestamp, random};

/// What has ids: each record type, and a few things that are not records (keys).
pub trait Identified {
    /// The prefix without the dash, such as `mc`.
    const PREFIX: &'static str;
    /// What a person calls it, such as `certificate`.
    const NOUN: &'static str;
}

/// The id of an `R`: its prefix, a dash, then letters, digits and dashes.
pub struct Id<R>(Box<str>, PhantomData<fn() -> R>);

impl<R: Identified> Id<R> {
    /// A new id: the time, so that ids sort as they were made and indexes grow at their end, then 70 random bits.
    pub fn mint_at(now: Timestamp) -> Self {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        Self::with_suffix(&format!("{}{}", random::ordered(millis), random::text(14)))
    }

    /// The id with this suffix; the caller vouches that it is made of letters, digits and dashes.
    pub fn with_suffix(suffix: &str) -> Self {
        Self(format!("{}-{suffix}", R::PREFIX).into(), PhantomData)
    }

    /// Reads an id that somebody chose.
    ///
    /// # Errors
    /// `Invalid` if the prefix is another kind's, or the rest has other characters than letters, digits and `-_.`.
    pub fn parse(text: &str) -> Result<Self> {
        let suffix = text.strip_prefix(R::PREFIX).and_then(|rest| rest.strip_prefix('-'));
        match suffix {
            Some(rest) if !rest.is_empty() && rest.len() <= 100 && rest.chars().all(is_id_char) => {
                Ok(Self(text.into(), PhantomData))
            }
            _ => Err(Error::invalid_field(
                "",
                format!("{text:?} is not the id of a {}", R::NOUN),
                format!("an id is {}- followed by up to 100 letters, digits, '-', '_' or '.'", R::PREFIX),
            )),
        }
    }

    /// Whether this text looks like an id of this kind (and so can't be a name).
    pub fn looks_like(text: &str) -> bool {
        text.strip_prefix(R::PREFIX).is_some_and(|rest| rest.starts_with('-'))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the prefix and the dash.
    pub fn suffix(&self) -> &str {
        &self.0[R::PREFIX.len() + 1..]
    }
}

/// Checks a name: 1 to 200 printable characters, none of them a control character, and not of the form of an id.
///
/// # Errors
/// `Invalid`, with `pointer` as the place.
pub fn check_name<R: Identified>(name: &str, pointer: &str) -> Result<()> {
    let (message, remedy) = if name.is_empty() {
        ("the name is empty".to_owned(), "give a name".to_owned())
    } else if name.len() > 200 {
        (format!("the name has {} bytes", name.len()), "use at most 200".to_owned())
    } else if name.chars().any(char::is_control) || name.trim() != name {
        (
            "the name has control characters, or blanks at an end".to_owned(),
            "use printable characters".to_owned(),
        )
    } else if Id::<R>::looks_like(name) {
        (
            format!("the name {name:?} looks like the id of a {}", R::NOUN),
            format!("a name may not start with {}-", R::PREFIX),
        )
    } else {
        return Ok(());
    };
    Err(Error::invalid_field(pointer, message, remedy))
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

// Derives would ask for `R: Clone` and so on.
impl<R> Clone for Id<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}
impl<R> PartialEq for Id<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<R> Eq for Id<R> {}
impl<R> PartialOrd for Id<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Id<R> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<R> hash::Hash for Id<R> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<R> fmt::Display for Id<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<R> fmt::Debug for Id<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<R> Serialize for Id<R> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de, R: Identified> Deserialize<'de> for Id<R> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
impl<R: Identified> JsonSchema for Id<R> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        // A name in `#/components/schemas/`, where blanks are not allowed.
        let words = R::NOUN.split(' ').map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect::<String>()
        });
        format!("{}Id", words.collect::<String>()).into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": format!("^{}-[A-Za-z0-9._-]+$", R::PREFIX) })
    }
}
