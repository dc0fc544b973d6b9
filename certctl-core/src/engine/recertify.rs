//! Renewal with a new request, for a certificate whose key is elsewhere.

use crate::{
    Actor, Csr, Error, Permission, Result, SubjectAltName,
    engine::{CertificateSpec, Engine, JobWatch, WantedName},
    records::{Certificate, KeyPolicy},
    store::{StoreExt, Stored},
};

impl Engine {
    /// Renews a certificate whose key is elsewhere, now, for the key of a new request (PEM). Later renewals use that request
    /// as well. The names stay those of the certificate.
    ///
    /// # Errors
    /// `Invalid` if it is no request, or the certificate's key is made here; as for [`Engine::renew`].
    pub async fn renew_from(&self, actor: &Actor, id_or_name: &str, csr: &str) -> Result<JobWatch> {
        actor.require(Permission::ManageCertificates)?;
        let certificate: Stored<Certificate> = self.inner.store.resolve(id_or_name).await?;
        let KeyPolicy::External { csr: known } = &certificate.key else {
            return Err(Error::invalid_field(
                "/csr",
                format!("the keys of the certificate {} are made where it is deployed", certificate.name),
                "leave it out: a renewal makes a new key by itself",
            ));
        };
        let fresh = Csr::parse(csr.as_bytes()).map_err(|e| e.below("/csr"))?;
        if fresh != *known {
            let mut spec = CertificateSpec::of(&certificate).expect_version(certificate.version());
            spec.csr = Some(csr.to_owned());
            let _ = self.want(actor, spec).await?;
        }
        self.renew(actor, certificate.id.as_str()).await
    }
}

impl CertificateSpec {
    /// What would make a certificate as it is wanted now: to be changed, and wanted again.
    pub fn of(certificate: &Certificate) -> Self {
        let names = certificate.names.iter().map(|name| match name {
            SubjectAltName::Dns(dns) => WantedName::Dns { dns: dns.clone() },
            SubjectAltName::Ip(ip) => WantedName::Ip { ip: ip.to_string() },
            other => WantedName::Any(other.to_string()),
        });
        let (key_algorithm, reuse_key, csr) = match &certificate.key {
            KeyPolicy::Made { algorithm, reuse_key } => (Some(*algorithm), *reuse_key, None),
            KeyPolicy::External { csr } => (None, false, Some(csr.to_pem())),
        };
        Self {
            id: Some(certificate.id.to_string()),
            name: certificate.name.to_string(),
            names: names.collect(),
            common_name: certificate.common_name.clone(),
            issuer: Some(certificate.issuer.to_string()),
            targets: certificate.targets.iter().map(ToString::to_string).collect(),
            profile: certificate.profile_id.as_ref().map(ToString::to_string),
            lifetime: certificate.profile.lifetime,
            key_algorithm,
            reuse_key,
            csr,
            renew_at_share: Some(certificate.renewal.at_share),
            expected_version: None,
        }
    }
}
