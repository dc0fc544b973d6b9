//! Where private keys live. A key is made where it is used, and stays there.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;

            let kind = key.public_key().kind();
            if kind != algorithm.kind() {
                let message = format!("the key {id} exists and is of kind {kind}, not {algorithm}");
                return Err(Error::new(ErrorKind::Conflict, message).with_retry(Retry::Never).with("id", id));
            }
