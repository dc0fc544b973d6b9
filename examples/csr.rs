//! A certificate from a request, in five lines: no store, no loop.
//!
//! `cargo run --example csr -- request.pem` prints the chain; without an argument a request is made first.

use std::error::Error;

use certctl::{
    Context, Csr, Env, KeyAlgorithm, PrivateKey, SubjectAltName, SystemClock, issuers::LocalCa, prelude::*,
};

#[tokio::main]
#[allow(clippy::print_stdout)] // A program talks to its operator.
async fn main() -> Result<(), Box<dyn Error>> {
    let request = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => make_request().await?.into_bytes(),
    };

    let csr = Csr::parse(&request)?;
    let issuer = LocalCa::default().connect(Env::in_memory()).await?;
    let cx = Context::new(std::sync::Arc::new(SystemClock));
    let chain = certctl::issue(&*issuer, &cx, csr, Default::default()).await?;
    print!("{}", chain.to_pem());
    Ok(())
}

async fn make_request() -> certctl::Result<String> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    Ok(Csr::create(&key, None, &[SubjectAltName::dns("api.example.com")?]).await?.to_pem())
}
