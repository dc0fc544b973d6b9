//! Certificates.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use certctl_client::types::{
    Certificate, CertificateDetail, CertificateFilter, CertificateTarget, CertificateVersion, List,
    NamedFilter, PlacementInfo, Plans, RenewRequest, RevokeRequest, Started,
};
use certctl_core::{
    CertificateSpec, Error, ErrorKind, Id, Result,
    engine::{JobWatch, RevokeOptions},
    records::{self, Deployment, Holder, IssuerRecord, KeyPolicy, Placement, TargetRecord, Version},
    store::{Cursor, Direction, Query, Stored, Test},
};

use super::{
    answer::{Json, Nothing, Pem, Reply, json},
    call::{Call, Condition},
    jobs,
    names::Names,
    page,
    route::{Route, delete, get, post, put},
    stored::{Identity, aim, known, taken},
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/certificates", "listCertificates", "Certificates.").query::<CertificateFilter>().to(list),
        post("/certificates", "createCertificate", "Makes a certificate; jobs issue and deploy it.")
            .created()
            .revised()
            .body::<CertificateSpec>()
            .to(create),
        get(
            "/certificates/{id}",
            "getCertificate",
            "A certificate with its versions, placements and open jobs.",
        )
        .revised()
        .to(read),
        put("/certificates/{id}", "putCertificate", "Changes a certificate, or makes it.")
            .body::<CertificateSpec>()
            .to(replace),
        delete(
            "/certificates/{id}",
            "deleteCertificate",
            "Forgets a certificate and destroys its keys. What is deployed stays where it is.",
        )
        .to(remove),
        get(
            "/certificates/{id}/versions",
            "listVersions",
            "Its versions, the newest first, each with its chain.",
        )
        .query::<NamedFilter>()
        .to(versions),
        post(
            "/certificates/{id}/renew",
            "renewCertificate",
            "Renews it now, or joins a renewal that is under way.",
        )
        .body::<RenewRequest>()
        .to(renew),
        post(
            "/certificates/{id}/deploy",
            "deployCertificate",
            "Brings the newest version to its targets once more.",
        )
        .to(deploy),
        get(
            "/certificates/{id}/plan",
            "planDeployment",
            "Dry run of a deployment: what would be changed on each target.",
        )
        .to(plan),
        get(
            "/certificates/{id}/export",
            "exportCertificate",
            "The newest version in PEM: the leaf, then each one's issuer.",
        )
        .to(export),
        post(
            "/certificates/{id}/revoke",
            "revokeCertificate",
            "Revokes the newest version, or the one that is named.",
        )
        .body::<RevokeRequest>()
        .to(revoke),
    ]
}

async fn list(call: Call, filter: CertificateFilter, (): ()) -> Result<Reply<Json<List<Certificate>>>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let cursor = filter.cursor.as_deref();
    let (certificates, next) = match &filter.target {
        Some(target) => on_target(&call, target, &filter).await?,
        None => {
            let mut query = Query::of::<records::Certificate>();
            if let Some(status) = filter.status {
                // The order of the index, so that nothing has to be sorted.
                query = query
                    .filter("status", Test::Equal, status.as_str())
                    .order("not_after", Direction::Ascending);
            }
            if let Some(issuer) = &filter.issuer {
                let issuer = engine.read::<IssuerRecord>(actor, issuer).await?;
                query = query.filter("issuer", Test::Equal, &issuer.id);
            }
            if let Some(name) = &filter.name {
                query = query.filter("name", Test::Equal, name.as_str());
            }
            if let Some(before) = filter.expires_before {
                query =
                    query.filter("not_after", Test::Less, before).order("not_after", Direction::Ascending);
            }
            let query = page::paged(query, filter.limit, cursor)?;
            engine.list(actor, query).await.map_err(|e| page::explained(e, cursor))?
        }
    };
    Ok(json(page::list(summaries(&call, &certificates).await?, next.as_ref())?))
}

/// Those that go to a target, in the order of their deployments. What the other filters leave out is missing from the page.
async fn on_target(
    call: &Call,
    target: &str,
    filter: &CertificateFilter,
) -> Result<(Vec<Stored<records::Certificate>>, Option<Cursor>)> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let target = engine.read::<TargetRecord>(actor, target).await?;
    let query = Query::of::<Deployment>().filter("target", Test::Equal, &target.id);
    let cursor = filter.cursor.as_deref();
    let query = page::paged(query, filter.limit, cursor)?;
    let (deployments, next): (Vec<Stored<Deployment>>, _) =
        engine.list(actor, query).await.map_err(|e| page::explained(e, cursor))?;
    let ids: Vec<_> = deployments.iter().map(|deployment| deployment.certificate.clone()).collect();
    let mut found: Vec<Stored<records::Certificate>> = engine.read_all(actor, &ids).await?;
    let issuer = match &filter.issuer {
        Some(issuer) => Some(engine.read::<IssuerRecord>(actor, issuer).await?.id.clone()),
        None => None,
    };
    found.retain(|certificate| {
        filter.status.is_none_or(|status| certificate.status == status)
            && issuer.as_ref().is_none_or(|issuer| certificate.issuer == *issuer)
            && filter.name.as_ref().is_none_or(|name| *certificate.name == **name)
            && filter
                .expires_before
                .is_none_or(|before| certificate.not_after.is_some_and(|end| end < before))
    });
    Ok((found, next))
}

async fn create(call: Call, (): (), mut spec: CertificateSpec) -> Result<Reply<Json<Started>>> {
    spec.expected_version = Some(0);
    let (id, name) = (spec.id.clone(), spec.name.clone());
    let watch = call.engine().want(call.actor()?, spec).await;
    let watch = watch.map_err(|e| taken(e, "certificate", id.as_deref(), &name))?;
    let reply = started(&call, id.as_deref().unwrap_or(&name), &watch, Vec::new()).await?;
    Ok(reply.status(StatusCode::CREATED))
}

async fn replace(call: Call, (): (), mut spec: CertificateSpec) -> Result<Reply<Json<Started>>> {
    let known = known::<records::Certificate>(&call).await?;
    let mut identity =
        Identity { id: &mut spec.id, name: &mut spec.name, expected_version: &mut spec.expected_version };
    aim::<records::Certificate>(&call, known.as_ref().map(|known| (&known.id, &*known.name)), &mut identity)?;
    let what = spec.id.clone().unwrap_or_else(|| spec.name.clone());
    let watch = call.engine().want(call.actor()?, spec).await?;
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(started(&call, &what, &watch, Vec::new()).await?.status(status))
}

async fn read(call: Call, (): (), (): ()) -> Result<Reply<Json<CertificateDetail>>> {
    let certificate = call.engine().read::<records::Certificate>(call.actor()?, call.id()?).await?;
    let revision = certificate.version();
    Ok(json(detail(&call, certificate).await?).revision(revision))
}

async fn versions(call: Call, filter: NamedFilter, (): ()) -> Result<Reply<Json<List<CertificateVersion>>>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let certificate = engine.read::<records::Certificate>(actor, call.id()?).await?;
    if filter.name.is_some() {
        return Err(Error::invalid_field("/name", "versions have no names", "leave it out"));
    }
    let cursor = filter.cursor.as_deref();
    let (versions, next) = engine
        .list(actor, page::paged(versions_of(&certificate.id), filter.limit, cursor)?)
        .await
        .map_err(|e| page::explained(e, cursor))?;
    let placements = placements(&call, &certificate.id).await?;
    let issuers =
        Names::of(engine, actor, versions.iter().map(|version: &Stored<Version>| &version.issuer)).await?;
    let views = versions.iter().map(|version| {
        let mut view = version_view(version, &placements, &issuers);
        view.chain = Some(version.chain.clone());
        view
    });
    Ok(json(page::list(views.collect(), next.as_ref())?))
}

async fn remove(call: Call, (): (), (): ()) -> Result<Reply<Nothing>> {
    let expected = match call.condition() {
        Condition::Revision(revision) => Some(revision),
        Condition::None | Condition::Any => None,
    };
    call.engine().delete_certificate(call.actor()?, call.id()?, expected).await?;
    Ok(Reply::new(Nothing))
}

async fn renew(call: Call, (): (), request: RenewRequest) -> Result<Reply<Json<Started>>> {
    let (engine, actor, id) = (call.engine(), call.actor()?, call.id()?);
    let mut warnings = Vec::new();
    let watch = match &request.csr {
        Some(csr) => engine.renew_from(actor, id, csr).await?,
        None => {
            let watch = engine.renew(actor, id).await?;
            let certificate = engine.read::<records::Certificate>(actor, id).await?;
            if matches!(certificate.key, KeyPolicy::External { .. }) {
                warnings.push(
                    "the key is elsewhere: the same request was sent again, for the same key; give a new csr for another key"
                        .to_owned(),
                );
            }
            watch
        }
    };
    started(&call, id, &watch, warnings).await
}

async fn deploy(call: Call, (): (), (): ()) -> Result<Reply<Json<Started>>> {
    let watch = call.engine().deploy(call.actor()?, call.id()?).await?;
    started(&call, call.id()?, &watch, Vec::new()).await
}

async fn plan(call: Call, (): (), (): ()) -> Result<Reply<Json<Plans>>> {
    Ok(json(Plans { data: call.engine().plan(call.actor()?, call.id()?).await? }))
}

async fn export(call: Call, (): (), (): ()) -> Result<Reply<Pem>> {
    Ok(Reply::new(Pem(call.engine().export(call.actor()?, call.id()?).await?.to_pem())))
}

async fn revoke(call: Call, (): (), request: RevokeRequest) -> Result<Reply<Json<Started>>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let certificate = engine.read::<records::Certificate>(actor, call.id()?).await?;
    let mut jobs = Vec::new();
    let of_it = newest_or_named(&call, &certificate, request.version.as_deref()).await?;
    for version in of_it {
        let options = RevokeOptions { reason: request.reason, key: None };
        let watch = engine.revoke(actor, version.as_str(), options).await?;
        jobs.extend_from_slice(watch.jobs());
    }
    let fresh = engine.read::<records::Certificate>(actor, certificate.id.as_str()).await?;
    let revision = fresh.version();
    let certificate = detail(&call, fresh).await?;
    Ok(json(Started { certificate, jobs, warnings: Vec::new() }).revision(revision))
}

async fn newest_or_named(
    call: &Call,
    certificate: &Stored<records::Certificate>,
    named: Option<&str>,
) -> Result<Vec<Id<Version>>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let Some(named) = named else {
        let placements = placements(call, &certificate.id).await?;
        let newest: Vec<_> = placements.values().filter_map(|placement| placement.version.clone()).collect();
        return if newest.is_empty() { Err(no_version(certificate)) } else { Ok(newest) };
    };
    let mut next = None;
    loop {
        let query = versions_of(&certificate.id).limit(500).after(next);
        let (versions, more): (Vec<Stored<Version>>, _) = engine.list(actor, query).await?;
        let plain = named.replace(':', "").to_ascii_lowercase();
        let found = versions.iter().find(|version| {
            version.id.as_str() == named
                || version.serial.to_string() == plain
                || version.fingerprint.to_string() == plain
        });
        match (found, more) {
            (Some(version), _) => return Ok(vec![version.id.clone()]),
            (None, Some(more)) => next = Some(more),
            (None, None) => {
                return Err(Error::invalid_field(
                    "/version",
                    format!("the certificate {} has no version {named:?}", certificate.name),
                    "give the id, the serial number or the SHA-256 fingerprint of one of its versions",
                ));
            }
        }
    }
}

/// What a command has begun.
async fn started(
    call: &Call,
    id_or_name: &str,
    watch: &JobWatch,
    warnings: Vec<String>,
) -> Result<Reply<Json<Started>>> {
    let certificate = call.engine().read::<records::Certificate>(call.actor()?, id_or_name).await?;
    let (revision, location) = (certificate.version(), format!("/certificates/{}", certificate.id));
    let certificate = detail(call, certificate).await?;
    let started = Started { certificate, jobs: watch.jobs().to_vec(), warnings };
    Ok(json(started).revision(revision).location(location))
}

async fn detail(call: &Call, certificate: Stored<records::Certificate>) -> Result<CertificateDetail> {
    const VERSIONS: usize = 100;
    let (engine, actor) = (call.engine(), call.actor()?);
    let id = &certificate.id;
    let (versions, _) = engine.list::<Version>(actor, versions_of(id).limit(VERSIONS)).await?;
    let placements = placements(call, id).await?;
    let deployments: Vec<Stored<Deployment>> =
        all(call, Query::of::<Deployment>().filter("certificate", Test::Equal, id)).await?;
    let jobs: Vec<Stored<records::Job>> = all(
        call,
        Query::of::<records::Job>().filter("certificate", Test::Equal, id).order("id", Direction::Descending),
    )
    .await?;
    let open: Vec<_> = jobs.into_iter().filter(|job| !job.state.is_finished()).collect();
    let issuers = versions.iter().map(|version| &version.issuer).chain([&certificate.issuer]);
    let issuers = Names::of(engine, actor, issuers).await?;
    let targets = certificate.targets.iter().chain(deployments.iter().map(|deployment| &deployment.target));
    let targets = Names::of(engine, actor, targets).await?;

    let mut view = summary(&certificate, &issuers, &targets);
    // A deployment that is on its way out is shown as well.
    view.targets = deployments.iter().map(|deployment| target_view(deployment, &targets)).collect();
    Ok(CertificateDetail {
        certificate: view,
        versions: versions.iter().map(|version| version_view(version, &placements, &issuers)).collect(),
        placements: placements.iter().map(placement_view).collect(),
        jobs: jobs::views(call, &open).await?,
    })
}

async fn summaries(call: &Call, certificates: &[Stored<records::Certificate>]) -> Result<Vec<Certificate>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let issuers =
        Names::of(engine, actor, certificates.iter().map(|certificate| &certificate.issuer)).await?;
    let targets =
        Names::of(engine, actor, certificates.iter().flat_map(|certificate| &certificate.targets)).await?;
    Ok(certificates.iter().map(|certificate| summary(certificate, &issuers, &targets)).collect())
}

fn summary(certificate: &Stored<records::Certificate>, issuers: &Names, targets: &Names) -> Certificate {
    let (key_algorithm, reuse_key, csr) = match &certificate.key {
        KeyPolicy::Made { algorithm, reuse_key } => (Some(*algorithm), *reuse_key, None),
        KeyPolicy::External { csr } => (None, false, Some(csr.to_pem())),
    };
    let target = |id: &Id<TargetRecord>| CertificateTarget {
        id: id.to_string(),
        name: targets.name(id.as_str()),
        state: None,
        deployment: None,
        version: None,
        wanted: None,
        error: None,
        warnings: Vec::new(),
        address: None,
        deployed: None,
        duration_ms: None,
    };
    Certificate {
        id: certificate.id.clone(),
        name: certificate.name.to_string(),
        names: certificate.names.clone(),
        common_name: certificate.common_name.clone(),
        issuer: issuers.reference(&certificate.issuer),
        profile: certificate.profile_id.clone(),
        requested: certificate.profile.clone(),
        key_algorithm,
        reuse_key,
        csr,
        renew_at_share: certificate.renewal.at_share,
        status: certificate.status,
        reason: certificate.reason.clone(),
        targets: certificate.targets.iter().map(target).collect(),
        not_after: certificate.not_after,
        serial_number: certificate.serial.clone(),
        created: certificate.created,
        updated: certificate.updated,
        revision: certificate.version(),
    }
}

fn target_view(deployment: &Deployment, targets: &Names) -> CertificateTarget {
    CertificateTarget {
        id: deployment.target.to_string(),
        name: targets.name(deployment.target.as_str()),
        state: Some(deployment.state),
        deployment: Some(deployment.id.clone()),
        version: deployment.current.clone(),
        wanted: deployment.wanted.clone(),
        error: deployment.error.clone(),
        warnings: deployment.warnings.clone(),
        address: deployment.address.clone(),
        deployed: deployment.at,
        duration_ms: deployment.duration_ms,
    }
}

fn version_view(
    version: &Version,
    placements: &BTreeMap<Id<Placement>, Stored<Placement>>,
    issuers: &Names,
) -> CertificateVersion {
    // Of a placement that is gone, nobody holds the key any more.
    let holder = placements
        .get(&version.placement)
        .map_or_else(|| "nobody".to_owned(), |placement| holder(&placement.holder));
    CertificateVersion {
        id: version.id.clone(),
        serial_number: version.serial.clone(),
        fingerprint_sha256: version.fingerprint,
        not_before: version.not_before,
        not_after: version.not_after,
        holder,
        placement: version.placement.clone(),
        issuer: issuers.reference(&version.issuer),
        created: version.created,
        revoked: version.revocation.and_then(|revocation| revocation.done),
        revocation_reason: version.revocation.map(|revocation| revocation.reason),
        key_forgotten: version.key_forgotten,
        chain: None,
    }
}

fn placement_view((_, placement): (&Id<Placement>, &Stored<Placement>)) -> PlacementInfo {
    PlacementInfo {
        id: placement.id.clone(),
        holder: holder(&placement.holder),
        version: placement.version.clone(),
        job: placement.job.clone(),
        renew_at: placement.renew_at,
        revoked: placement.revoked,
    }
}

fn holder(holder: &Holder) -> String {
    match holder {
        Holder::Process => "process".to_owned(),
        Holder::External => "external".to_owned(),
        Holder::Agent(agent) => agent.to_string(),
    }
}

fn versions_of(certificate: &Id<records::Certificate>) -> Query {
    Query::of::<Version>().filter("certificate", Test::Equal, certificate).order("id", Direction::Descending)
}

async fn placements(
    call: &Call,
    certificate: &Id<records::Certificate>,
) -> Result<BTreeMap<Id<Placement>, Stored<Placement>>> {
    let query = Query::of::<Placement>().filter("certificate", Test::Equal, certificate);
    let placements: Vec<Stored<Placement>> = all(call, query).await?;
    Ok(placements.into_iter().map(|placement| (placement.id.clone(), placement)).collect())
}

/// Every record of a query, however many pages that takes.
async fn all<R: certctl_core::engine::Readable>(call: &Call, query: Query) -> Result<Vec<Stored<R>>> {
    let mut all = Vec::new();
    let mut next = None;
    loop {
        let (mut page, more) =
            call.engine().list(call.actor()?, query.clone().limit(500).after(next)).await?;
        all.append(&mut page);
        match more {
            Some(more) => next = Some(more),
            None => return Ok(all),
        }
    }
}

fn no_version(certificate: &records::Certificate) -> Error {
    Error::new(ErrorKind::Precondition, format!("the certificate {} has no version yet", certificate.name))
}
