//! A CA of one's own as an issuer: a configuration, a constructor and a trait. It is registered at run time, so that a program
//! can declare it and an operator can store it, and it passes the suite that every issuer has to pass.
//!
//! `cargo run --example custom_issuer`

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use certctl::{
    Actor, CertificateAuthority, CertificateSpec, Chain, Context, Engine, Env, Home, Issuer,
    IssuerCapabilities, IssuerSpec, KeyAlgorithm, LeafRequest, Lifetime, Order, PrivateKey, Progress,
    Recovery, Result, Secret, Violation, X509Certificate,
    connectors::{IssuerConfig, IssuerKind},
    random_bytes,
    testkit::{clock::TestClock, issuer::conformance},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What a program writes as a struct, and an operator as JSON.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct HouseCa {
    /// The root's common name.
    common_name: String,
    /// How many days a certificate is valid whose profile does not say.
    validity_days: u32,
}

impl Default for HouseCa {
    fn default() -> Self {
        Self { common_name: "House CA".to_owned(), validity_days: 30 }
    }
}

#[async_trait]
impl IssuerConfig for HouseCa {
    const KIND: &'static str = "house";

    fn check(&self) -> Vec<Violation> {
        if (1..=398).contains(&self.validity_days) {
            return Vec::new();
        }
        let message = format!("certificates can't be valid for {} days", self.validity_days);
        vec![Violation::new("/validity_days", message, "give 1 to 398")]
    }

    async fn connect(self, env: Env) -> Result<Arc<dyn Issuer>> {
        // The CA is made on first use, and kept, sealed, where the engine keeps what connectors have to remember.
        let key = match env.state.load("root").await? {
            Some((pem, _)) => PrivateKey::from_pem(&pem)?,
            None => {
                let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
                env.state.save("root", &key.to_pem(), None).await?;
                key
            }
        };
        let certificate = match env.state.load("certificate").await? {
            Some((pem, _)) => Chain::from_pem(pem.expose())?,
            None => {
                let (now, life) = (env.clock.now(), Lifetime::days(3_650));
                let root = CertificateAuthority::create_root(
                    Arc::new(key.clone()),
                    &self.common_name,
                    now,
                    life,
                    random_bytes(),
                );
                let chain = root.await?.chain().clone();
                env.state.save("certificate", &Secret::new(chain.to_pem()), None).await?;
                chain
            }
        };
        Ok(Arc::new(House { ca: CertificateAuthority::new(certificate, Arc::new(key))?, config: self }))
    }
}

#[derive(Debug)]
struct House {
    config: HouseCa,
    ca: CertificateAuthority,
}

#[async_trait]
impl Issuer for House {
    fn kind(&self) -> &str {
        HouseCa::KIND
    }

    fn capabilities(&self) -> IssuerCapabilities {
        // The same order gives the same certificate, so that an answer that was lost is simply asked for again.
        IssuerCapabilities::all(Recovery::Idempotent)
    }

    async fn submit(&self, _: &Context, order: &Order) -> Result<Progress> {
        let lifetime = order.profile.lifetime.unwrap_or(Lifetime::days(self.config.validity_days));
        let request = LeafRequest {
            public_key: order.csr.public_key().clone(),
            names: order.names.clone(),
            common_name: order.common_name.clone(),
            not_before: order.created,
            not_after: order.created + lifetime.as_duration(),
            serial_seed: order.seed,
            usages: order.profile.extended_key_usages.clone(),
        };
        Ok(Progress::Issued { chain: self.ca.sign(&request).await? })
    }

    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        self.submit(cx, order).await.map(Some)
    }

    async fn trust_anchors(&self, _: &Context) -> Result<Vec<X509Certificate>> {
        Ok(vec![self.ca.certificate().clone()])
    }
}

#[tokio::main]
#[allow(clippy::print_stdout)] // A program talks to its operator.
async fn main() -> Result<(), Box<dyn Error>> {
    // What every issuer has to do: names, keys, lifetimes, serial numbers, lost answers.
    let clock = TestClock::default();
    let mut env = Env::in_memory();
    env.clock = Arc::new(clock.clone());
    conformance(HouseCa::default().connect(env).await?, &clock, &|_| {}).await;
    println!("the suite for issuers passes");

    let mut home = Home::in_memory();
    home.connectors.register_issuer(IssuerKind::of::<HouseCa>());
    let engine = Engine::builder(home).issuer("declared", HouseCa::default()).build().await?;
    let me = Actor::process();

    // Stored by an operator: what is wrong is refused with its place, what is right is in use at once.
    let wrong = IssuerSpec::new("stored", "house", json!({ "validity_days": 0, "comon_name": "x" }));
    if let Err(refused) = engine.put_issuer(&me, wrong).await {
        println!("refused: {refused}");
    }
    engine.put_issuer(&me, IssuerSpec::new("stored", "house", json!({ "validity_days": 7 }))).await?;

    for issuer in ["declared", "stored"] {
        let spec = CertificateSpec::new(issuer).dns(format!("{issuer}.test")).issuer(issuer);
        let certificate = engine.ensure(&me, spec).await?;
        let until = certificate.not_after.map(|end| end.to_string()).unwrap_or_default();
        println!("{} is {}, good until {until}", certificate.name, certificate.status.as_str());
    }
    Ok(())
}
