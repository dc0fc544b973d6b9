//! Issuers, targets, hosts, profiles, and the connectors that there are.

use certctl_client::types::{Checked, ConnectorFamily, ConnectorKind, Host, Issuer, List, Profile, Target};
use certctl_core::{
    Actor, Engine, Error, HostSpec, Id, IssuerSpec, ProfileSpec, Result, TargetSpec,
    connectors::Connectors,
    records::{HostRecord, IssuerRecord, ProfileRecord, TargetRecord},
    store::Stored,
};
use schemars::Schema;
use serde_json::Value;

use super::{
    answer::{Json, Reply, json},
    call::Call,
    route::{Route, get},
    stored::{Identity, Resource, rows},
};

pub(super) fn routes() -> Vec<Route> {
    let mut all = rows::<IssuerRecord>();
    all.extend(rows::<TargetRecord>());
    all.extend(rows::<HostRecord>());
    all.extend(rows::<ProfileRecord>());
    all.push(
        get("/connectors", "listConnectors", "The connectors that the server knows, without their schemas.")
            .to(list),
    );
    all.push(
        get(
            "/connectors/{family}/{kind}",
            "getConnector",
            "A connector, with the schema of its configuration.",
        )
        .to(read),
    );
    all
}

impl Resource for IssuerRecord {
    type Spec = IssuerSpec;
    type View = Issuer;
    const PATHS: (&'static str, &'static str) = ("/issuers", "/issuers/{id}");
    const OPERATIONS: [(&'static str, &'static str); 5] = [
        ("listIssuers", "Issuers, in the order of their ids."),
        ("createIssuer", "Stores an issuer."),
        ("getIssuer", "An issuer."),
        ("putIssuer", "Changes an issuer, or stores it. In use from the next step of any job on."),
        ("deleteIssuer", "Forgets an issuer that no certificate uses."),
    ];

    fn view(record: &Stored<Self>) -> Issuer {
        Issuer {
            id: record.id.clone(),
            name: record.name.to_string(),
            kind: record.kind.to_string(),
            config: record.config.clone(),
            revision: record.version(),
        }
    }

    fn id_of(record: &Self) -> (&Id<Self>, &str) {
        (&record.id, &record.name)
    }

    fn identity(spec: &mut IssuerSpec) -> Identity<'_> {
        Identity { id: &mut spec.id, name: &mut spec.name, expected_version: &mut spec.expected_version }
    }

    async fn store(engine: &Engine, actor: &Actor, spec: IssuerSpec) -> Result<Stored<Self>> {
        engine.put_issuer(actor, spec).await
    }

    async fn forget(engine: &Engine, actor: &Actor, id: &str) -> Result<()> {
        engine.delete_issuer(actor, id).await
    }
}

impl Resource for TargetRecord {
    type Spec = TargetSpec;
    type View = Target;
    const PATHS: (&'static str, &'static str) = ("/targets", "/targets/{id}");
    const OPERATIONS: [(&'static str, &'static str); 5] = [
        ("listTargets", "Targets, in the order of their ids."),
        ("createTarget", "Stores a target. `place.agent` is the agent's id or name."),
        ("getTarget", "A target."),
        ("putTarget", "Changes a target, or stores it."),
        ("deleteTarget", "Forgets a target that no certificate goes to."),
    ];

    fn view(record: &Stored<Self>) -> Target {
        Target {
            id: record.id.clone(),
            name: record.name.to_string(),
            kind: record.kind.to_string(),
            config: record.config.clone(),
            place: record.place.clone(),
            probe: record.probe.clone(),
            write: record.write,
            checked: record
                .checked
                .as_ref()
                .map(|checked| Checked { at: checked.at, error: checked.error.clone() }),
            revision: record.version(),
        }
    }

    fn id_of(record: &Self) -> (&Id<Self>, &str) {
        (&record.id, &record.name)
    }

    fn identity(spec: &mut TargetSpec) -> Identity<'_> {
        Identity { id: &mut spec.id, name: &mut spec.name, expected_version: &mut spec.expected_version }
    }

    async fn store(engine: &Engine, actor: &Actor, spec: TargetSpec) -> Result<Stored<Self>> {
        engine.put_target(actor, spec).await
    }

    async fn forget(engine: &Engine, actor: &Actor, id: &str) -> Result<()> {
        engine.delete_target(actor, id).await
    }
}

impl Resource for HostRecord {
    type Spec = HostSpec;
    type View = Host;
    const PATHS: (&'static str, &'static str) = ("/hosts", "/hosts/{id}");
    const OPERATIONS: [(&'static str, &'static str); 5] = [
        ("listHosts", "Hosts, in the order of their ids."),
        ("createHost", "Stores a host."),
        ("getHost", "A host."),
        ("putHost", "Changes a host, or stores it."),
        ("deleteHost", "Forgets a host that no target is on."),
    ];

    fn view(record: &Stored<Self>) -> Host {
        Host {
            id: record.id.clone(),
            name: record.name.to_string(),
            kind: record.kind.to_string(),
            config: record.config.clone(),
            revision: record.version(),
        }
    }

    fn id_of(record: &Self) -> (&Id<Self>, &str) {
        (&record.id, &record.name)
    }

    fn identity(spec: &mut HostSpec) -> Identity<'_> {
        Identity { id: &mut spec.id, name: &mut spec.name, expected_version: &mut spec.expected_version }
    }

    async fn store(engine: &Engine, actor: &Actor, spec: HostSpec) -> Result<Stored<Self>> {
        engine.put_host(actor, spec).await
    }

    async fn forget(engine: &Engine, actor: &Actor, id: &str) -> Result<()> {
        engine.delete_host(actor, id).await
    }
}

impl Resource for ProfileRecord {
    type Spec = ProfileSpec;
    type View = Profile;
    const PATHS: (&'static str, &'static str) = ("/profiles", "/profiles/{id}");
    const OPERATIONS: [(&'static str, &'static str); 5] = [
        ("listProfiles", "Profiles, in the order of their ids."),
        ("createProfile", "Stores a profile."),
        ("getProfile", "A profile."),
        ("putProfile", "Changes a profile, or stores it."),
        ("deleteProfile", "Forgets a profile that no certificate uses."),
    ];

    fn view(record: &Stored<Self>) -> Profile {
        Profile {
            id: record.id.clone(),
            name: record.name.to_string(),
            profile: record.profile.clone(),
            revision: record.version(),
        }
    }

    fn id_of(record: &Self) -> (&Id<Self>, &str) {
        (&record.id, &record.name)
    }

    fn identity(spec: &mut ProfileSpec) -> Identity<'_> {
        Identity { id: &mut spec.id, name: &mut spec.name, expected_version: &mut spec.expected_version }
    }

    async fn store(engine: &Engine, actor: &Actor, spec: ProfileSpec) -> Result<Stored<Self>> {
        engine.put_profile(actor, spec).await
    }

    async fn forget(engine: &Engine, actor: &Actor, id: &str) -> Result<()> {
        engine.delete_profile(actor, id).await
    }
}

async fn list(call: Call, (): (), (): ()) -> Result<Reply<Json<List<ConnectorKind>>>> {
    let mut data = kinds(call.engine().catalog().connectors());
    for kind in &mut data {
        kind.schema = None;
    }
    Ok(json(List { data, next_cursor: None }))
}

async fn read(call: Call, (): (), (): ()) -> Result<Reply<Json<ConnectorKind>>> {
    let (family, name) = (call.parameter("family")?, call.parameter("kind")?);
    let all = kinds(call.engine().catalog().connectors());
    let named = |kind: &ConnectorKind| kind.kind == name || kind.aliases.iter().any(|alias| alias == name);
    let found = all.into_iter().find(|kind| kind.family.as_str() == family && named(kind));
    found.map(json).ok_or_else(|| Error::not_found("connector", format!("{family}/{name}")))
}

fn kinds(connectors: &Connectors) -> Vec<ConnectorKind> {
    let mut all = Vec::new();
    let mut add = |family, kind: &str, aliases: &[&str], schema: Schema| {
        let schema = Value::from(schema);
        let description = schema.get("description").and_then(Value::as_str).map(str::to_owned);
        all.push(ConnectorKind {
            family,
            kind: kind.to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            description,
            schema: Some(schema),
        });
    };
    for kind in connectors.issuers() {
        add(ConnectorFamily::Issuer, kind.name, kind.aliases, kind.schema());
    }
    for kind in connectors.targets() {
        add(ConnectorFamily::Target, kind.name, kind.aliases, kind.schema());
    }
    for kind in connectors.notifiers() {
        add(ConnectorFamily::Notifier, kind.name, kind.aliases, kind.schema());
    }
    for kind in connectors.solvers() {
        add(ConnectorFamily::Solver, kind.name, kind.aliases, kind.schema());
    }
    all
}
