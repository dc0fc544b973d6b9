//! The REST types of a certctl server, and a typed client for Rust programs that talk to one.
//!
//! The types in [`types`] are what goes over the wire under `/api/v1`: the server answers with them, its OpenAPI document is
//! made from them, and [`Client`] gives them back. What somebody asks for are the engine's own specs
//! ([`certctl_core::CertificateSpec`], [`certctl_core::IssuerSpec`], [`certctl_core::TargetSpec`]), so that a program can
//! change between a server and an engine of its own without writing anything anew.
//!
//! ```no_run
//! use certctl_client::{Client, types::CertificateFilter};
//! use certctl_core::{CertificateSpec, Secret};
//!
//! # async fn example() -> certctl_core::Result<()> {
//! let client = Client::builder("https://localhost:8443")
//!     .ca_file("/var/lib/certctl/ca.pem")
//!     .api_key(Secret::new("certctl_…"))
//!     .build()?;
//! let started = client.create_certificate(&CertificateSpec::new("web").dns("web.test").target("nginx-1")).await?;
//! println!("{} is {:?}", started.certificate.name, started.certificate.status);
//!
//! let mut pages = client.certificates(&CertificateFilter::default());
//! while let Some(page) = pages.next().await? {
//!     for certificate in page {
//!         println!("{}", certificate.name);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Errors and retries
//!
//! Each error is a [`certctl_core::Error`]; what the server refuses keeps its kind, its violations with their JSON pointers,
//! and whether and when to try again. A call whose repetition does no harm is tried again by itself, a few times, where the
//! error says that this may help; see [`ClientBuilder::tries`].

mod agents;
mod client;
mod pages;
mod resources;
mod transport;
pub mod types;

pub use client::{Client, ClientBuilder};
pub use pages::Pages;
