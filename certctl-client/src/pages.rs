use std::marker::PhantomData;

use certctl_core::Result;
use futures_util::{Stream, stream};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Client, transport::Call, types::List};

/// A list that the server gives page by page. Nothing is asked before the first [`Pages::next`].
#[derive(Debug)]
#[must_use]
pub struct Pages<T> {
    client: Client,
    path: Vec<String>,
    filter: Result<Map<String, Value>>,
    over: bool,
    items: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Pages<T> {
    pub(crate) fn new(client: &Client, path: &[&str], filter: &impl Serialize) -> Self {
        let filter = match serde_json::to_value(filter) {
            Ok(Value::Object(fields)) => Ok(fields),
            _ => Err(certctl_core::Error::internal("a filter has fields")),
        };
        Self {
            client: client.clone(),
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            filter,
            over: false,
            items: PhantomData,
        }
    }

    /// The next page; none at the end. A page that failed is asked for again by the next call.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn next(&mut self) -> Result<Option<Vec<T>>> {
        Ok(self.next_list().await?.map(|page| page.data))
    }

    /// The next page with the cursor behind it, for those who go on another time; none at the end.
    ///
    /// # Errors
    /// As for [`Pages::next`].
    pub async fn next_list(&mut self) -> Result<Option<List<T>>> {
        if self.over {
            return Ok(None);
        }
        let filter = self.filter.as_mut().map_err(|e| e.clone())?;
        let call = Call::get(self.path.iter().map(String::as_str)).query(filter)?;
        let page: List<T> = self.client.ask(call).await?;
        match &page.next_cursor {
            Some(cursor) => drop(filter.insert("cursor".to_owned(), cursor.as_str().into())),
            None => self.over = true,
        }
        Ok(Some(page))
    }

    /// Every item, one after the other, fetched page by page.
    pub fn into_stream(self) -> impl Stream<Item = Result<T>> + Send
    where
        T: Send,
    {
        let state = (self, Vec::new().into_iter());
        stream::try_unfold(state, |(mut pages, mut items): (Self, std::vec::IntoIter<T>)| async move {
            loop {
                if let Some(item) = items.next() {
                    return Ok(Some((item, (pages, items))));
                }
                match pages.next().await? {
                    Some(page) => items = page.into_iter(),
                    None => return Ok(None),
                }
            }
        })
    }

    /// All items: for lists that are known to be short.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn all(mut self) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while let Some(mut page) = self.next().await? {
            all.append(&mut page);
        }
        Ok(all)
    }
}
