//! No private key is in what a worker gets or answers: here for work of every kind; the lives in `issuers` go the same way.

use std::sync::{Arc, Mutex};

use certctl::{
    Challenge, Context, Keys, Recovery, Result, Solver, Worker,
    testkit::{issuer::Script, worker::JsonWorker},
    worker::{Journal, Work, WorkReport},
};
use serde_json::Value;

use crate::rig::{Rig, actor, spec};

/// Keeps the worker, to ask it afterwards.
type Slot = Arc<Mutex<Option<Arc<JsonWorker>>>>;

#[tokio::test]
async fn every_kind_of_work_goes_to_json_and_back() {
    let rig = Rig::new(Recovery::Searchable, false).await;
    let slot = Slot::default();
    let (keys, keep) = (rig.keys.clone(), slot.clone());
    let engine = rig
        .builder()
        .solver(Arc::new(Yes(rig.clone())))
        .worker(move |local| {
            let json = Arc::new(JsonWorker::new(Arc::new(local), keys));
            *keep.lock().unwrap() = Some(json.clone());
            json
        })
        .build()
        .await
        .unwrap();
    rig.ca.script(Script::Challenge);
    engine.ensure(&actor(), spec()).await.unwrap();
    rig.renew(&engine).await;
    engine.plan(&actor(), "web").await.unwrap();

    let json = slot.lock().unwrap().clone().unwrap();
    let mut kinds = json.kinds();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, ["deploy", "forget_key", "make_csr", "plan", "present", "retract"]);
}

#[derive(Debug)]
struct Yes(Rig);

#[async_trait::async_trait]
impl Solver for Yes {
    fn solves(&self, _: &Challenge) -> bool {
        true
    }
    async fn present(&self, _: &Context, _: &Challenge) -> Result<()> {
        self.0.ca.set_presented(true);
        Ok(())
    }
    async fn retract(&self, _: &Context, _: &Challenge) -> Result<()> {
        self.0.ca.set_presented(false);
        Ok(())
    }
}

/// The search finds what it is there to find.
#[tokio::test]
async fn a_worker_that_gives_a_key_away_is_caught() {
    for way in [Way::Pem, Way::Bytes, Way::Hex, Way::Base64] {
        let rig = Rig::new(Recovery::Idempotent, false).await;
        let keys = rig.keys.clone();
        let engine = rig
            .builder()
            .worker(move |local| {
                let leaky = Leaky { inner: Arc::new(local), keys: keys.clone(), way };
                Arc::new(JsonWorker::new(Arc::new(leaky), keys))
            })
            .build()
            .await
            .unwrap();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let jobs = engine.jobs(&certificate.id).await.unwrap();
        let caught = jobs.iter().any(|job| {
            job.last_error.as_ref().is_some_and(|error| {
                error.message.contains("panicked") || error.message.contains("is in a journal")
            })
        });
        assert!(caught, "{way:?} went through");
        assert_eq!(rig.files.files(), Vec::<String>::new(), "and nothing was written");
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Pem,
    Bytes,
    Hex,
    Base64,
}

/// Puts the key into the journal.
#[derive(Debug)]
struct Leaky {
    inner: Arc<dyn Worker>,
    keys: Arc<dyn Keys>,
    way: Way,
}

#[async_trait::async_trait]
impl Worker for Leaky {
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> Result<WorkReport> {
        if let Work::Deploy(work) = &work {
            let pem = self.keys.export(&work.items[0].key).await?.to_pem();
            let text = pem.expose_str()?.to_owned();
            let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            let der = decode(&body);
            let leak = match self.way {
                Way::Pem => Value::from(text),
                // What stands before it shifts it against the groups of three.
                Way::Base64 => Value::from(encode(&[b"x", &*der].concat())),
                Way::Bytes => Value::from(der),
                Way::Hex => Value::from(der.iter().map(|byte| format!("{byte:02X}")).collect::<String>()),
            };
            journal.save(&serde_json::json!({ "something": leak })).await?;
        }
        self.inner.execute(cx, work, journal).await
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn decode(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|c| ALPHABET.iter().position(|a| *a == c).map(|digit| u32::try_from(digit).unwrap()))
        .collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        text.extend((0..=group.len()).map(|i| char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize])));
    }
    text
}
