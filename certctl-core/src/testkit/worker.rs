//! A worker behind a wire: everything goes to JSON and back, and no private key may be in it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Context, Id, Key, Keys, Result,
    worker::{Journal, Work, WorkReport, Worker},
};

/// Does what an agent over a network would: the work goes to JSON text and back before the inner worker sees it, so does the
/// report, and so does what goes into the journal. Each text is searched for every private key that the work has named.
///
/// ```
/// # use std::sync::Arc;
/// use certctl_core::{Engine, Home, testkit::worker::JsonWorker};
/// let home = Home::in_memory();
/// let keys = home.keys.clone();
/// let builder = Engine::builder(home).worker(|local| Arc::new(JsonWorker::new(Arc::new(local), keys)));
/// ```
///
/// # Panics
/// While it works, if a private key is in a text.
#[derive(Debug)]
pub struct JsonWorker {
    inner: Arc<dyn Worker>,
    keys: Arc<dyn Keys>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ids: BTreeSet<Id<Key>>,
    kinds: Vec<String>,
}

impl JsonWorker {
    /// In front of `inner`, whose keys are in `keys`.
    pub fn new(inner: Arc<dyn Worker>, keys: Arc<dyn Keys>) -> Self {
        Self { inner, keys, state: Mutex::default() }
    }

    /// The kinds of work that went through, such as `deploy`, in that order.
    pub fn kinds(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).kinds.clone()
    }

    fn note(&self, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        let kind = match &value {
            Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
            other => other.to_string(),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.kinds.push(kind);
        collect_ids(&value, &mut state.ids);
    }

    /// Goes to JSON and back, and looks for keys in between.
    async fn wire<T: Serialize + DeserializeOwned>(&self, what: &str, value: &T) -> T {
        let text = serde_json::to_string(value).expect("it has a JSON form");
        self.search(what, &text).await;
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{what} does not come back from JSON: {e}\n{text}"))
    }

    async fn search(&self, what: &str, text: &str) {
        assert!(!text.contains("PRIVATE KEY"), "a private key in PEM is in {what}");
        let ids: Vec<Id<Key>> =
            self.state.lock().unwrap_or_else(PoisonError::into_inner).ids.iter().cloned().collect();
        let lower = text.to_ascii_lowercase();
        for id in ids {
            // One that was forgotten, or has not been made yet, can't be there.
            let Ok(key) = self.keys.export(&id).await else { continue };
            let pem = key.to_pem();
            for secret in secrets(pem.expose(), key.public_key().spki_der()) {
                assert!(!lower.contains(&hex(secret)), "the key {id} is in {what}, in hex");
                assert!(!text.contains(&numbers(secret)), "the key {id} is in {what}, as numbers");
                for part in base64_parts(secret) {
                    assert!(!text.contains(&part), "the key {id} is in {what}, in Base64");
                }
            }
        }
    }
}

#[async_trait]
impl Worker for JsonWorker {
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> Result<WorkReport> {
        self.note(&serde_json::to_string(&work).expect("work has a JSON form"));
        let work = self.wire("a work", &work).await;
        let journal = JsonJournal { worker: self, inner: journal };
        match self.inner.execute(cx, work, &journal).await {
            Ok(report) => Ok(self.wire("a report", &report).await),
            Err(error) => {
                self.search("an error", &format!("{error:?} {error}")).await;
                self.wire("an error", &error.report()).await;
                Err(error)
            }
        }
    }
}

#[derive(Debug)]
struct JsonJournal<'a> {
    worker: &'a JsonWorker,
    inner: &'a dyn Journal,
}

#[async_trait]
impl Journal for JsonJournal<'_> {
    async fn load(&self) -> Result<Option<Value>> {
        let entry = self.inner.load().await?;
        Ok(self.worker.wire("a journal's entry", &entry).await)
    }

    async fn save(&self, entry: &Value) -> Result<()> {
        self.inner.save(&self.worker.wire("a journal's entry", entry).await).await
    }
}

fn collect_ids(value: &Value, ids: &mut BTreeSet<Id<Key>>) {
    match value {
        Value::String(text) => ids.extend(Id::parse(text)),
        Value::Array(values) => values.iter().for_each(|value| collect_ids(value, ids)),
        Value::Object(map) => map.values().for_each(|value| collect_ids(value, ids)),
        _ => {}
    }
}

/// The parts of a PKCS#8 key in PEM that are not public: windows of 16 bytes, but for those of the public key.
fn secrets(pem: &[u8], spki: &[u8]) -> Vec<[u8; 16]> {
    let body: String =
        String::from_utf8_lossy(pem).lines().filter(|line| !line.starts_with("-----")).collect();
    let der = general_purpose::STANDARD.decode(body).expect("PEM is Base64");
    let windows = der.windows(16).step_by(8).map(|window| <[u8; 16]>::try_from(window).unwrap());
    windows.filter(|window| !spki.windows(16).any(|public| public == window)).collect()
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As serde writes bytes.
fn numbers(bytes: [u8; 16]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    numbers.join(",")
}

/// What the bytes become in the middle of a Base64 text, whatever comes before and after them.
fn base64_parts(bytes: [u8; 16]) -> Vec<String> {
    let mut parts = Vec::new();
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(&bytes);
        // Only whole groups of three bytes that are all ours.
        let from = if before == 0 { 0 } else { 4 };
        let to = padded.len() / 3 * 4;
        for alphabet in [&general_purpose::STANDARD, &general_purpose::URL_SAFE] {
            parts.push(alphabet.encode(&padded)[from..to].to_owned());
        }
    }
    parts
}
