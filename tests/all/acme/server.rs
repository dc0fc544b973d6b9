//! An ACME server of the tests' own: honest, unless a rule says otherwise. It checks all that a client sends, and writes down
//! what is wrong with it.

mod ca_leaf;
mod connection;

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use certctl::{
    CertificateAuthority, Chain, Clock, Csr, ExtendedKeyUsage, KeyAlgorithm, LeafRequest, Lifetime,
    PrivateKey, PublicKey, Secret, SubjectAltName, Timestamp, testkit::clock::TestClock,
};
use certctl_protocols::{
    acme::wire::{CertificateId, Finalize},
    jose::{HeaderKey, Jws},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, OnceCell},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::peers::tls::ServerFiles;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Directory,
    NewNonce,
    NewAccount,
    Account,
    Orders,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    RevokeCert,
    /// Those for external account binding, which an email address is enough for.
    Credentials,
    /// What the server does not have.
    Nothing,
}

/// An answer, before it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub way: Way,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Whole,
    /// The connection ends instead.
    Cut,
    /// It ends after half of the body.
    CutHalf,
    /// One byte every five seconds.
    Drip,
    /// The headers drip as well.
    DripHead,
    /// The body again and again, in chunks.
    Endless,
    /// The body so many times, as announced.
    Times(usize),
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.into(), way: Way::Whole }
    }

    pub fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let problem = json!({ "type": kind, "detail": detail, "status": status });
        Self::new(status, "application/problem+json", problem.to_string())
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Replaces the header.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| known != name);
    }

    /// Changes the body's JSON.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut body = serde_json::from_slice(&self.body).expect("the honest answer is JSON");
        edit(&mut body);
        self.body = body.to_string().into_bytes();
    }
}

/// A misbehaviour.
pub enum Twist {
    /// Answers, and does nothing.
    Instead(Answer),
    /// Does what was asked for, and changes the answer.
    After(Box<dyn Fn(&mut Answer) + Send + Sync>),
}

impl Twist {
    pub fn after(change: impl Fn(&mut Answer) + Send + Sync + 'static) -> Self {
        Self::After(Box::new(change))
    }
}

/// A twist for these of the requests for a resource, counted from 0.
pub type Rule = (Resource, Range<usize>, Twist);

/// What is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    Honest,
    OtherKey,
    OtherNames,
    FewerNames,
    Expired,
    NotYet,
    /// A CA's own certificate.
    Ca,
}

/// What a server is like, besides its rules.
pub struct Manners {
    pub rules: Vec<Rule>,
    pub issue: Issue,
    /// Whether accounts have lists of their orders.
    pub lists_orders: bool,
    /// Identifier and HMAC key for external account binding.
    pub eab: Option<(String, Secret)>,
    /// That key in base64url, for who asks with an email address.
    pub hmac_text: &'static str,
    /// What challenges have as their token.
    pub token: String,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            issue: Issue::Honest,
            lists_orders: true,
            eab: None,
            hmac_text: "",
            token: "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA".to_owned(),
        }
    }
}

pub struct Server {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    identity: &'static Identity,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Shared {
    base: String,
    clock: TestClock,
    ca: CertificateAuthority,
    manners: Manners,
    state: Mutex<State>,
    /// Octets of bodies that clients have taken.
    pub taken: AtomicUsize,
    /// The first drop has fallen.
    pub dripping: Notify,
}

#[derive(Default)]
struct State {
    nonces: HashSet<String>,
    given: usize,
    accounts: Vec<PublicKey>,
    orders: Vec<Order>,
    counts: BTreeMap<Resource, usize>,
    wrong: Vec<String>,
    revoked: usize,
    seen: Vec<Seen>,
}

/// A request that came.
#[derive(Clone)]
pub struct Seen {
    pub resource: Resource,
    pub at: Timestamp,
    pub body: Vec<u8>,
}

struct Order {
    account: usize,
    identifiers: Vec<Value>,
    proved: Vec<bool>,
    /// RFC 9773 section 5.
    replaces: Option<String>,
    pem: Option<String>,
}

/// A request, as it came.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// One for all servers of a process.
struct Identity {
    acceptor: TlsAcceptor,
    ca_pem: Vec<u8>,
}

async fn identity() -> &'static Identity {
    static IDENTITY: OnceCell<Identity> = OnceCell::const_new();
    let made = async || {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerFiles::create(dir.path()).await;
        let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
            .unwrap();
        Identity { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem: std::fs::read(&files.ca).unwrap() }
    };
    IDENTITY.get_or_init(made).await
}

impl Server {
    pub async fn start(clock: &TestClock, manners: Manners) -> Self {
        let identity = identity().await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = || Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let now = clock.now();
        let root = CertificateAuthority::create_root(key(), "Root", now, Lifetime::days(3_650), [3; 20]);
        let root = root.await.unwrap();
        let ca =
            CertificateAuthority::create_issuing(&root, key(), "R1", now, Lifetime::days(3_000), [4; 20]);
        let shared = Arc::new(Shared {
            base: format!("https://localhost:{port}"),
            clock: clock.clone(),
            ca: ca.await.unwrap(),
            manners,
            state: Mutex::default(),
            taken: AtomicUsize::new(0),
            dripping: Notify::new(),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let (acceptor, shared) = (identity.acceptor.clone(), serving.clone());
                connections.spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        connection::serve(tls, &shared).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { shared, task, identity }
    }

    pub fn directory_url(&self) -> String {
        self.shared.url("/directory")
    }

    pub fn ca_pem(&self) -> &[u8] {
        &self.identity.ca_pem
    }

    /// What was wrong with requests.
    pub fn wrong(&self) -> Vec<String> {
        self.shared.state().wrong.clone()
    }

    pub fn orders(&self) -> usize {
        self.shared.state().orders.len()
    }

    pub fn revoked(&self) -> usize {
        self.shared.state().revoked
    }

    /// How often this was asked for.
    pub fn count(&self, resource: Resource) -> usize {
        self.shared.state().counts.get(&resource).copied().unwrap_or_default()
    }

    pub fn requests(&self) -> usize {
        self.shared.state().counts.values().sum()
    }

    /// Each request for this.
    pub fn seen(&self, resource: Resource) -> Vec<Seen> {
        self.shared.state().seen.iter().filter(|seen| seen.resource == resource).cloned().collect()
    }

    /// What each order replaces.
    pub fn replaced(&self) -> Vec<Option<String>> {
        self.shared.state().orders.iter().map(|order| order.replaces.clone()).collect()
    }

    /// Octets of bodies that were taken.
    pub fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::SeqCst)
    }

    /// Waits until an answer drips.
    pub async fn dripping(&self) {
        self.shared.dripping.notified().await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub async fn answer(&self, request: &Request) -> Answer {
        let resource = resource(&request.path);
        let nth = {
            let mut state = self.state();
            state.seen.push(Seen { resource, at: self.clock.now(), body: request.body.clone() });
            let count = state.counts.entry(resource).or_default();
            *count += 1;
            *count - 1
        };
        let twist = self.manners.rules.iter().find(|(of, nths, _)| *of == resource && nths.contains(&nth));
        let mut answer = match twist {
            Some((_, _, Twist::Instead(answer))) => {
                // The nonce is spent all the same.
                if let Ok(header) = Jws::from_json(&request.body).and_then(|jws| jws.header()) {
                    self.state().nonces.remove(header.nonce.as_deref().unwrap_or_default());
                }
                answer.clone()
            }
            _ => self.honest(resource, request).await.unwrap_or_else(|problem| problem),
        };
        if resource != Resource::Directory && !answer.headers.iter().any(|(name, _)| name == "replay-nonce") {
            let nonce = self.nonce();
            answer.set("replay-nonce", nonce);
        }
        if let Some((_, _, Twist::After(change))) = twist {
            change(&mut answer);
        }
        answer
    }

    fn nonce(&self) -> String {
        let mut state = self.state();
        state.given += 1;
        let nonce = format!("nonce-{}", state.given);
        state.nonces.insert(nonce.clone());
        nonce
    }

    async fn honest(&self, resource: Resource, request: &Request) -> Result<Answer, Answer> {
        if request.header("user-agent").is_empty() {
            self.is_wrong("there is no user agent (RFC 8555 section 6.1)");
        }
        let number = |from: usize| {
            request.path.split('/').nth(from).and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX)
        };
        match resource {
            Resource::Directory => return Ok(self.directory()),
            Resource::NewNonce => return Ok(Answer::new(200, "text/plain", "")),
            Resource::RenewalInfo => {
                let start = self.clock.now() + Lifetime::days(50).as_duration();
                let end = start + Lifetime::days(2).as_duration();
                return Ok(Answer::json(200, &json!({ "suggestedWindow": { "start": start, "end": end } }))
                    .with("retry-after", "21600"));
            }
            Resource::Credentials => return self.credentials(request),
            _ => {}
        }
        let (account, key, payload) = self.verified(resource, request)?;
        let reads = matches!(
            resource,
            Resource::Order | Resource::Authorization | Resource::Certificate | Resource::Orders
        );
        if reads && !payload.is_empty() {
            return Err(self.is_wrong("what is only read has an empty payload (RFC 8555 section 6.3)"));
        }
        let json: Value = match payload.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&payload).unwrap(),
        };
        match resource {
            Resource::NewAccount => self.new_account(&key, &json),
            Resource::Account => Ok(Answer::json(200, &self.account(account))),
            Resource::Orders => {
                let state = self.state();
                let own = state.orders.iter().enumerate().filter(|(_, order)| order.account == account);
                let urls: Vec<String> = own.map(|(n, _)| self.url(&format!("/order/{n}"))).collect();
                Ok(Answer::json(200, &json!({ "orders": urls })))
            }
            Resource::NewOrder => self.new_order(account, &json),
            Resource::Order => Ok(Answer::json(200, &self.order(number(2))?)),
            Resource::Authorization => Ok(Answer::json(200, &self.authorization(number(2), number(3))?)),
            Resource::Challenge => {
                if json != json!({}) {
                    return Err(self.is_wrong("a challenge is answered with {} (RFC 8555 section 7.5.1)"));
                }
                let (order, n) = (number(2), number(3));
                if let Some(proved) = self.state().orders.get_mut(order).and_then(|o| o.proved.get_mut(n)) {
                    *proved = true;
                }
                Ok(Answer::json(200, &self.authorization(order, n)?["challenges"][0]))
            }
            Resource::Finalize => self.finalize(number(2), json).await,
            Resource::Certificate => {
                let pem = self.state().orders.get(number(2)).and_then(|order| order.pem.clone());
                let pem = pem.ok_or_else(|| Answer::problem(404, "malformed", "no such certificate"))?;
                Ok(Answer::new(200, "application/pem-certificate-chain", pem))
            }
            Resource::RevokeCert => {
                self.state().revoked += 1;
                Ok(Answer::new(200, "text/plain", ""))
            }
            _ => Err(Answer::problem(404, "malformed", "nothing is here")),
        }
    }

    /// The account's number, the key that has signed, and what it has signed (RFC 8555 section 6).
    fn verified(&self, resource: Resource, request: &Request) -> Result<(usize, PublicKey, Vec<u8>), Answer> {
        let wrong = |why: &str| Err(self.is_wrong(&format!("{resource:?}: {why}")));
        if request.method != "POST" || request.header("content-type") != "application/jose+json" {
            return wrong("it is no POST of application/jose+json");
        }
        let Ok(jws) = Jws::from_json(&request.body) else { return wrong("it is no JWS") };
        let Ok(header) = jws.header() else { return wrong("its header can't be read") };
        if header.url != self.url(&request.path) {
            return wrong("it is signed for another URL");
        }
        let known = header.nonce.as_deref().is_some_and(|nonce| self.state().nonces.remove(nonce));
        if !known {
            self.is_wrong("the nonce was not given, or used before");
            return Err(Answer::problem(400, "badNonce", "that nonce is not known"));
        }
        let (account, key) = match header.key {
            HeaderKey::Jwk(jwk) if matches!(resource, Resource::NewAccount | Resource::RevokeCert) => {
                (usize::MAX, jwk.public_key().unwrap())
            }
            HeaderKey::Kid(kid) if resource != Resource::NewAccount => {
                let number = kid.strip_prefix(&self.url("/account/")).and_then(|n| n.parse::<usize>().ok());
                let Some(number) = number else { return wrong("its kid is no account's URL") };
                match self.state().accounts.get(number) {
                    Some(key) => (number, key.clone()),
                    None => return Err(Answer::problem(400, "accountDoesNotExist", "nobody knows it")),
                }
            }
            _ => return wrong("it has a jwk where a kid belongs, or the other way round"),
        };
        match jws.verify(&key) {
            Ok(payload) => Ok((account, key, payload)),
            Err(_) => wrong("its signature is another key's"),
        }
    }

    fn is_wrong(&self, why: &str) -> Answer {
        self.state().wrong.push(why.to_owned());
        Answer::problem(400, "malformed", why)
    }

    fn directory(&self) -> Answer {
        Answer::json(
            200,
            &json!({
                "newNonce": self.url("/new-nonce"),
                "newAccount": self.url("/new-account"),
                "newOrder": self.url("/new-order"),
                "revokeCert": self.url("/revoke"),
                "keyChange": self.url("/key-change"),
                "renewalInfo": self.url("/renewal-info"),
                "meta": {
                    "termsOfService": self.url("/terms"),
                    "externalAccountRequired": self.manners.eab.is_some(),
                },
            }),
        )
    }

    fn new_account(&self, key: &PublicKey, json: &Value) -> Result<Answer, Answer> {
        if let Some((kid, hmac)) = &self.manners.eab {
            let bound = Jws::from_json(json["externalAccountBinding"].to_string().as_bytes());
            let fine = bound.is_ok_and(|bound| {
                let header = bound.header().unwrap();
                header.key == HeaderKey::Kid(kid.clone())
                    && header.url == self.url("/new-account")
                    && bound.verify_hmac(hmac).is_ok()
            });
            if !fine {
                return Err(self.is_wrong("the external account binding does not verify"));
            }
        }
        let mut state = self.state();
        let known = state.accounts.iter().position(|known| known == key);
        let number = known.unwrap_or(state.accounts.len());
        if known.is_none() {
            state.accounts.push(key.clone());
        }
        drop(state);
        let status = if known.is_some() { 200 } else { 201 };
        Ok(Answer::json(status, &self.account(number))
            .with("location", self.url(&format!("/account/{number}"))))
    }

    fn account(&self, number: usize) -> Value {
        let mut account = json!({ "status": "valid", "contact": [] });
        if self.manners.lists_orders {
            account["orders"] = self.url(&format!("/orders/{number}")).into();
        }
        account
    }

    fn new_order(&self, account: usize, json: &Value) -> Result<Answer, Answer> {
        let identifiers = json["identifiers"].as_array().unwrap().clone();
        let proved = vec![false; identifiers.len()];
        let replaces = json["replaces"].as_str().map(str::to_owned);
        if let Some(replaces) = &replaces {
            self.check_replaced(account, replaces)?;
        }
        let number = {
            let mut state = self.state();
            state.orders.push(Order { account, identifiers, proved, replaces, pem: None });
            state.orders.len() - 1
        };
        let order = self.order(number).unwrap();
        Ok(Answer::json(201, &order).with("location", self.url(&format!("/order/{number}"))))
    }

    /// RFC 9773 section 5: one of the account's own certificates, and not replaced already.
    fn check_replaced(&self, account: usize, id: &str) -> Result<(), Answer> {
        let (known, replaced) = {
            let state = self.state();
            let is_it = |order: &&Order| {
                let chain = order.pem.as_ref().map(|pem| Chain::from_pem(pem.as_bytes()).unwrap());
                chain.is_some_and(|chain| CertificateId::of(chain.leaf()).unwrap().as_str() == id)
            };
            let mut own = state.orders.iter().filter(|order| order.account == account);
            (own.any(|order| is_it(&order)), state.orders.iter().any(|o| o.replaces.as_deref() == Some(id)))
        };
        match (known, replaced) {
            (false, _) => Err(self.is_wrong("it replaces a certificate that is none of the account's")),
            (true, true) => Err(Answer::problem(409, "alreadyReplaced", "another order replaces it")),
            (true, false) => Ok(()),
        }
    }

    /// As ZeroSSL gives them.
    fn credentials(&self, request: &Request) -> Result<Answer, Answer> {
        let form = request.header("content-type") == "application/x-www-form-urlencoded";
        if request.method != "POST" || !form || request.body != b"email=admin%40example.com" {
            return Err(self.is_wrong("it is no form with the email"));
        }
        let (kid, _) = self.manners.eab.as_ref().unwrap();
        let answer = json!({ "success": true, "eab_kid": kid, "eab_hmac_key": self.manners.hmac_text });
        Ok(Answer::json(200, &answer))
    }

    fn order(&self, number: usize) -> Result<Value, Answer> {
        let state = self.state();
        let order =
            state.orders.get(number).ok_or_else(|| Answer::problem(404, "malformed", "no such order"))?;
        let status = match &order.pem {
            Some(_) => "valid",
            None if order.proved.iter().all(|proved| *proved) => "ready",
            None => "pending",
        };
        let authorizations: Vec<String> =
            (0..order.proved.len()).map(|n| self.url(&format!("/authorization/{number}/{n}"))).collect();
        let mut out = json!({
            "status": status,
            "identifiers": order.identifiers,
            "authorizations": authorizations,
            "finalize": self.url(&format!("/finalize/{number}")),
        });
        if let Some(replaces) = &order.replaces {
            out["replaces"] = replaces.as_str().into();
        }
        if order.pem.is_some() {
            out["certificate"] = self.url(&format!("/certificate/{number}")).into();
        }
        Ok(out)
    }

    fn authorization(&self, order: usize, number: usize) -> Result<Value, Answer> {
        let state = self.state();
        let found = state
            .orders
            .get(order)
            .and_then(|order| Some((order.identifiers.get(number)?.clone(), *order.proved.get(number)?)));
        let (identifier, proved) = found.ok_or_else(|| Answer::problem(404, "malformed", "no such name"))?;
        let status = if proved { "valid" } else { "pending" };
        Ok(json!({
            "status": status,
            "identifier": identifier,
            "challenges": [{
                "type": "http-01",
                "status": status,
                "url": self.url(&format!("/challenge/{order}/{number}")),
                "token": self.manners.token,
            }],
        }))
    }

    async fn finalize(&self, number: usize, json: Value) -> Result<Answer, Answer> {
        let order = self.order(number)?;
        if order["status"] != "ready" {
            return Err(Answer::problem(403, "orderNotReady", "it is not ready"));
        }
        let request: Finalize = serde_json::from_value(json).unwrap();
        let csr = Csr::from_der(&request.csr).unwrap();
        let asked: Vec<&str> =
            order["identifiers"].as_array().unwrap().iter().map(|i| i["value"].as_str().unwrap()).collect();
        if csr.names().iter().map(ToString::to_string).collect::<Vec<_>>() != asked {
            return Err(self.is_wrong("the request is not for the names of the order"));
        }
        let chain = self.issue(&csr).await;
        self.state().orders[number].pem = Some(chain.to_pem());
        let location = self.url(&format!("/order/{number}"));
        Ok(Answer::json(200, &self.order(number)?).with("location", location))
    }

    async fn issue(&self, csr: &Csr) -> Chain {
        let (now, day) = (self.clock.now(), Lifetime::days(1).as_duration());
        let mut request = LeafRequest {
            public_key: csr.public_key().clone(),
            names: csr.names().to_vec(),
            common_name: None,
            not_before: now,
            not_after: now + 60 * day,
            serial_seed: certctl::random_bytes(),
            usages: vec![ExtendedKeyUsage::ServerAuth],
        };
        let dates = |from: Timestamp, until: Timestamp| (from, until);
        match self.manners.issue {
            Issue::Honest | Issue::Ca => {}
            Issue::OtherKey => {
                let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
                request.public_key = other.public_key().clone();
            }
            Issue::OtherNames => request.names = vec![SubjectAltName::dns("evil.test").unwrap()],
            Issue::FewerNames => drop(request.names.pop()),
            Issue::Expired => {
                (request.not_before, request.not_after) = dates(now - 2 * day, now - day);
            }
            Issue::NotYet => (request.not_before, request.not_after) = dates(now + day, now + 9 * day),
        }
        if self.manners.issue != Issue::Ca {
            return self.ca.sign(&request).await.unwrap();
        }
        let tbs = ca_leaf::with_ca(&self.ca.to_be_signed(&request).unwrap());
        let signer = self.ca.signer();
        let signature = signer.sign(signer.algorithm(), &tbs).await.unwrap();
        let leaf = ca_leaf::certificate(&tbs, &signature);
        Chain::from_ders([leaf, self.ca.certificate().der().to_vec()]).unwrap()
    }
}

fn resource(path: &str) -> Resource {
    match path.split('/').nth(1).unwrap_or_default() {
        "directory" => Resource::Directory,
        "new-nonce" => Resource::NewNonce,
        "new-account" => Resource::NewAccount,
        "account" => Resource::Account,
        "orders" => Resource::Orders,
        "new-order" => Resource::NewOrder,
        "order" => Resource::Order,
        "authorization" => Resource::Authorization,
        "challenge" => Resource::Challenge,
        "finalize" => Resource::Finalize,
        "certificate" => Resource::Certificate,
        "renewal-info" => Resource::RenewalInfo,
        "revoke" => Resource::RevokeCert,
        "credentials" => Resource::Credentials,
        _ => Resource::Nothing,
    }
}
