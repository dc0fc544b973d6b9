//! Pages of lists: limits and cursors.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use certctl_client::types::List;
use certctl_core::{
    Error, Result,
    store::{Cursor, Query},
};

/// How many items a page has where nobody says how many.
const LIMIT: u32 = 100;

/// The query with what the filter says about pages.
pub(crate) fn paged(query: Query, limit: Option<u32>, cursor: Option<&str>) -> Result<Query> {
    let limit = limit.unwrap_or(LIMIT) as usize;
    Ok(query.limit(limit).after(cursor.map(read).transpose()?))
}

pub(crate) fn list<T>(data: Vec<T>, next: Option<&Cursor>) -> Result<List<T>> {
    Ok(List { data, next_cursor: next.map(write).transpose()? })
}

/// What is wrong with a cursor is so, whatever the store calls it.
pub(crate) fn explained(error: Error, cursor: Option<&str>) -> Error {
    if error.kind() == certctl_core::ErrorKind::Invalid && cursor.is_some() { unknown() } else { error }
}

fn write(cursor: &Cursor) -> Result<String> {
    let json =
        serde_json::to_vec(cursor).map_err(|e| Error::internal("a cursor has no form").with_source(e))?;
    Ok(BASE64URL.encode(json))
}

fn read(text: &str) -> Result<Cursor> {
    BASE64URL.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(unknown)
}

fn unknown() -> Error {
    Error::invalid_field(
        "/cursor",
        "this is no cursor of this list",
        "give next_cursor as the last page had it, and the same filters",
    )
}
