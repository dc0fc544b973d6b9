//! One method for each thing that an operator asks for.
//!
//! Where a method takes an `id_or_name`, it is one or the other.

use std::time::Duration;

use certctl_core::{
    CertificateSpec, IssuerSpec, Result, TargetSpec,
    engine::{ApiKeySpec, HostSpec, ProfileSpec},
    records::AuditEvent,
};
use serde_json::Value;

use crate::{
    Client, Pages,
    transport::Call,
    types::{
        ApiKey, ApiKeyFilter, AuditFilter, Certificate, CertificateDetail, CertificateFilter,
        CertificateVersion, ConnectorFamily, ConnectorKind, CreatedApiKey, Health, Host, Issuer, Job,
        JobDetail, JobFilter, JobWatchRequest, List, NamedFilter, Plans, Profile, RenewRequest,
        RevokeRequest, ServerVersion, Started, Target,
    },
};

/// Certificates.
///
/// # Errors
/// Each method gives what the server answers: `NotFound`, `Invalid` with every violation, `Denied`, `Conflict` where a name
/// is taken or a revision is stale, and `Unavailable` where there is no answer.
impl Client {
    /// Certificates, page by page.
    pub fn certificates(&self, filter: &CertificateFilter) -> Pages<Certificate> {
        Pages::new(self, &["certificates"], filter)
    }

    /// A certificate with its versions, placements and open jobs.
    pub async fn certificate(&self, id_or_name: &str) -> Result<CertificateDetail> {
        self.ask(Call::get(["certificates", id_or_name])).await
    }

    /// Makes a certificate; `Conflict` if the name is taken. It is issued and deployed by jobs: see [`Client::watch_job`].
    pub async fn create_certificate(&self, spec: &CertificateSpec) -> Result<Started> {
        self.ask(Call::post(["certificates"]).body(spec)?).await
    }

    /// Changes a certificate, or makes it; with [`CertificateSpec::expected_version`] only if it has that revision.
    pub async fn put_certificate(&self, id_or_name: &str, spec: &CertificateSpec) -> Result<Started> {
        let call = Call::put(["certificates", id_or_name]).if_match(spec.expected_version);
        self.ask(call.body(spec)?).await
    }

    /// Forgets a certificate and destroys its keys. What is deployed stays where it is.
    pub async fn delete_certificate(&self, id_or_name: &str, revision: Option<u64>) -> Result<()> {
        self.tell(Call::delete(["certificates", id_or_name]).if_match(revision)).await
    }

    /// Its versions, the newest first, each with its chain.
    pub async fn versions(&self, id_or_name: &str) -> Result<Vec<CertificateVersion>> {
        Pages::new(self, &["certificates", id_or_name, "versions"], &NamedFilter::default()).all().await
    }

    /// Renews a certificate now, or joins a renewal that is under way.
    pub async fn renew(&self, id_or_name: &str, request: &RenewRequest) -> Result<Started> {
        self.ask(Call::post(["certificates", id_or_name, "renew"]).body(request)?.repeatable()).await
    }

    /// Brings the newest version to its targets once more.
    pub async fn deploy(&self, id_or_name: &str) -> Result<Started> {
        self.ask(Call::post(["certificates", id_or_name, "deploy"]).repeatable()).await
    }

    /// What [`Client::deploy`] would change; nothing is touched. Agents are asked, which may take half a minute.
    pub async fn plan(&self, id_or_name: &str) -> Result<Plans> {
        let call = Call::get(["certificates", id_or_name, "plan"]);
        self.ask(call.patience(Duration::from_secs(40))).await
    }

    /// The newest version in PEM: the leaf, then each one's issuer.
    pub async fn export(&self, id_or_name: &str) -> Result<String> {
        let call = Call::get(["certificates", id_or_name, "export"]);
        self.answer(call.accept("application/pem-certificate-chain")).await?.text()
    }

    /// Revokes the newest version, or the one that the request names.
    pub async fn revoke(&self, id_or_name: &str, request: &RevokeRequest) -> Result<Started> {
        self.ask(Call::post(["certificates", id_or_name, "revoke"]).body(request)?.repeatable()).await
    }
}

/// Issuers, targets, hosts, profiles and the connectors that there are.
///
/// # Errors
/// As for certificates. What is wrong in a configuration is below `/config`.
impl Client {
    /// Issuers, page by page.
    pub fn issuers(&self, filter: &NamedFilter) -> Pages<Issuer> {
        Pages::new(self, &["issuers"], filter)
    }

    /// An issuer.
    pub async fn issuer(&self, id_or_name: &str) -> Result<Issuer> {
        self.ask(Call::get(["issuers", id_or_name])).await
    }

    /// Stores an issuer; `Conflict` if the name is taken.
    pub async fn create_issuer(&self, spec: &IssuerSpec) -> Result<Issuer> {
        self.ask(Call::post(["issuers"]).body(spec)?).await
    }

    /// Changes an issuer, or stores it; with [`IssuerSpec::expected_version`] only if it has that revision.
    pub async fn put_issuer(&self, id_or_name: &str, spec: &IssuerSpec) -> Result<Issuer> {
        self.ask(Call::put(["issuers", id_or_name]).if_match(spec.expected_version).body(spec)?).await
    }

    /// Forgets an issuer that no certificate uses.
    pub async fn delete_issuer(&self, id_or_name: &str, revision: Option<u64>) -> Result<()> {
        self.tell(Call::delete(["issuers", id_or_name]).if_match(revision)).await
    }

    /// Targets, page by page.
    pub fn targets(&self, filter: &NamedFilter) -> Pages<Target> {
        Pages::new(self, &["targets"], filter)
    }

    /// A target.
    pub async fn target(&self, id_or_name: &str) -> Result<Target> {
        self.ask(Call::get(["targets", id_or_name])).await
    }

    /// Stores a target; `Conflict` if the name is taken. `place.agent` may be the agent's name.
    pub async fn create_target(&self, spec: &TargetSpec) -> Result<Target> {
        self.ask(Call::post(["targets"]).body(spec)?).await
    }

    /// Changes a target, or stores it; with [`TargetSpec::expected_version`] only if it has that revision.
    pub async fn put_target(&self, id_or_name: &str, spec: &TargetSpec) -> Result<Target> {
        self.ask(Call::put(["targets", id_or_name]).if_match(spec.expected_version).body(spec)?).await
    }

    /// Forgets a target that no certificate goes to.
    pub async fn delete_target(&self, id_or_name: &str, revision: Option<u64>) -> Result<()> {
        self.tell(Call::delete(["targets", id_or_name]).if_match(revision)).await
    }

    /// Hosts, page by page.
    pub fn hosts(&self, filter: &NamedFilter) -> Pages<Host> {
        Pages::new(self, &["hosts"], filter)
    }

    /// A host.
    pub async fn host(&self, id_or_name: &str) -> Result<Host> {
        self.ask(Call::get(["hosts", id_or_name])).await
    }

    /// Stores a host; `Conflict` if the name is taken.
    pub async fn create_host(&self, spec: &HostSpec) -> Result<Host> {
        self.ask(Call::post(["hosts"]).body(spec)?).await
    }

    /// Changes a host, or stores it; with [`HostSpec::expected_version`] only if it has that revision.
    pub async fn put_host(&self, id_or_name: &str, spec: &HostSpec) -> Result<Host> {
        self.ask(Call::put(["hosts", id_or_name]).if_match(spec.expected_version).body(spec)?).await
    }

    /// Forgets a host that no target is on.
    pub async fn delete_host(&self, id_or_name: &str, revision: Option<u64>) -> Result<()> {
        self.tell(Call::delete(["hosts", id_or_name]).if_match(revision)).await
    }

    /// Profiles, page by page.
    pub fn profiles(&self, filter: &NamedFilter) -> Pages<Profile> {
        Pages::new(self, &["profiles"], filter)
    }

    /// A profile.
    pub async fn profile(&self, id_or_name: &str) -> Result<Profile> {
        self.ask(Call::get(["profiles", id_or_name])).await
    }

    /// Stores a profile; `Conflict` if the name is taken.
    pub async fn create_profile(&self, spec: &ProfileSpec) -> Result<Profile> {
        self.ask(Call::post(["profiles"]).body(spec)?).await
    }

    /// Changes a profile, or stores it; with [`ProfileSpec::expected_version`] only if it has that revision.
    pub async fn put_profile(&self, id_or_name: &str, spec: &ProfileSpec) -> Result<Profile> {
        self.ask(Call::put(["profiles", id_or_name]).if_match(spec.expected_version).body(spec)?).await
    }

    /// Forgets a profile that no certificate uses.
    pub async fn delete_profile(&self, id_or_name: &str, revision: Option<u64>) -> Result<()> {
        self.tell(Call::delete(["profiles", id_or_name]).if_match(revision)).await
    }

    /// The connectors that the server knows, without their schemas.
    pub async fn connectors(&self) -> Result<Vec<ConnectorKind>> {
        Ok(self.ask::<List<ConnectorKind>>(Call::get(["connectors"])).await?.data)
    }

    /// A connector with the schema of its configuration.
    pub async fn connector(&self, family: ConnectorFamily, kind: &str) -> Result<ConnectorKind> {
        self.ask(Call::get(["connectors", family.as_str(), kind])).await
    }
}

/// Jobs.
///
/// # Errors
/// As for certificates.
impl Client {
    /// Jobs, page by page, the newest first.
    pub fn jobs(&self, filter: &JobFilter) -> Pages<Job> {
        Pages::new(self, &["jobs"], filter)
    }

    /// A job, with those that it waits for.
    pub async fn job(&self, id: &str) -> Result<JobDetail> {
        self.ask(Call::get(["jobs", id])).await
    }

    /// The job as soon as it, or one that it waits for, has changed since `after` ([`JobDetail::progress`]), or when the time
    /// is over.
    pub async fn watch_job(&self, id: &str, request: JobWatchRequest) -> Result<JobDetail> {
        let wait = Duration::from_secs(request.wait.unwrap_or(25).into());
        self.ask(Call::get(["jobs", id, "watch"]).query(&request)?.patience(wait)).await
    }

    /// Asks a job to stop; obeyed before the first write.
    pub async fn cancel_job(&self, id: &str) -> Result<JobDetail> {
        self.ask(Call::post(["jobs", id, "cancel"]).repeatable()).await
    }

    /// Takes up a job that asks for attention, or waits for a later try.
    pub async fn retry_job(&self, id: &str) -> Result<JobDetail> {
        self.ask(Call::post(["jobs", id, "retry"])).await
    }
}

/// Who may ask, what was done, and the server itself.
///
/// # Errors
/// As for certificates.
impl Client {
    /// API keys, page by page.
    pub fn api_keys(&self, filter: &ApiKeyFilter) -> Pages<ApiKey> {
        Pages::new(self, &["api-keys"], filter)
    }

    /// Makes an API key; this answer is the only place where it stands.
    pub async fn create_api_key(&self, spec: &ApiKeySpec) -> Result<CreatedApiKey> {
        self.ask(Call::post(["api-keys"]).body(spec)?).await
    }

    /// Ends an API key.
    pub async fn revoke_api_key(&self, id_or_name: &str) -> Result<ApiKey> {
        self.ask(Call::post(["api-keys", id_or_name, "revoke"]).repeatable()).await
    }

    /// The audit trail, page by page, the newest event first.
    pub fn audit(&self, filter: &AuditFilter) -> Pages<AuditEvent> {
        Pages::new(self, &["audit"], filter)
    }

    /// Whether the server lives. Needs no credential.
    pub async fn health(&self) -> Result<Health> {
        self.ask(Call::get(["health"])).await
    }

    /// Whether the server is ready to work: `Unavailable` if it is not. Needs no credential.
    pub async fn ready(&self) -> Result<Health> {
        self.ask(Call::get(["ready"])).await
    }

    /// Which server this is.
    pub async fn version(&self) -> Result<ServerVersion> {
        self.ask(Call::get(["version"])).await
    }

    /// The OpenAPI document.
    pub async fn openapi(&self) -> Result<Value> {
        self.ask(Call::get(["openapi.json"])).await
    }
}
