//! What is stored under a name and replaced as a whole: the same five rows for each kind of it.

use std::future::Future;

use axum::http::StatusCode;
use certctl_client::types::{List, NamedFilter};
use certctl_core::{
    Actor, Engine, Error, ErrorKind, Id, Result, Retry,
    engine::Readable,
    store::{Query, Stored, Test},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    answer::{Json, Nothing, Reply, json},
    call::{Call, Condition},
    input::Body,
    page,
    route::{Route, delete, get, post, put},
};

/// A kind of record with a spec that makes it.
pub(super) trait Resource: Readable {
    type Spec: Body + Send;
    type View: Serialize + JsonSchema + Send + 'static;
    /// `/issuers` and `/issuers/{id}`.
    const PATHS: (&'static str, &'static str);
    /// Of the five operations, in the order of [`rows`].
    const OPERATIONS: [(&'static str, &'static str); 5];

    fn view(record: &Stored<Self>) -> Self::View
    where
        Self: Sized;
    fn id_of(record: &Self) -> (&Id<Self>, &str)
    where
        Self: Sized;
    fn identity(spec: &mut Self::Spec) -> Identity<'_>;
    fn store(
        engine: &Engine,
        actor: &Actor,
        spec: Self::Spec,
    ) -> impl Future<Output = Result<Stored<Self>>> + Send
    where
        Self: Sized;
    fn forget(engine: &Engine, actor: &Actor, id: &str) -> impl Future<Output = Result<()>> + Send;
}

/// Which record a spec is about.
pub(super) struct Identity<'a> {
    pub(super) id: &'a mut Option<String>,
    pub(super) name: &'a mut String,
    pub(super) expected_version: &'a mut Option<u64>,
}

pub(super) fn rows<R: Resource>() -> Vec<Route> {
    let (all, one) = R::PATHS;
    let [list_of, create_one, read_one, put_one, delete_one] = R::OPERATIONS;
    vec![
        get(all, list_of.0, list_of.1).query::<NamedFilter>().to(list::<R>),
        post(all, create_one.0, create_one.1).created().revised().body::<R::Spec>().to(create::<R>),
        get(one, read_one.0, read_one.1).revised().to(read::<R>),
        put(one, put_one.0, put_one.1).body::<R::Spec>().to(replace::<R>),
        delete(one, delete_one.0, delete_one.1).to(remove::<R>),
    ]
}

async fn list<R: Resource>(call: Call, filter: NamedFilter, (): ()) -> Result<Reply<Json<List<R::View>>>> {
    let mut query = Query::of::<R>();
    if let Some(name) = filter.name {
        query = query.filter("name", Test::Equal, name);
    }
    let cursor = filter.cursor.as_deref();
    let query = page::paged(query, filter.limit, cursor)?;
    let (records, next) =
        call.engine().list(call.actor()?, query).await.map_err(|e| page::explained(e, cursor))?;
    Ok(json(page::list(records.iter().map(R::view).collect(), next.as_ref())?))
}

async fn read<R: Resource>(call: Call, (): (), (): ()) -> Result<Reply<Json<R::View>>> {
    let record = call.engine().read::<R>(call.actor()?, call.id()?).await?;
    Ok(json(R::view(&record)).revision(record.version()))
}

async fn create<R: Resource>(call: Call, (): (), mut spec: R::Spec) -> Result<Reply<Json<R::View>>> {
    let identity = R::identity(&mut spec);
    *identity.expected_version = Some(0);
    let (id, name) = (identity.id.clone(), identity.name.clone());
    let stored = R::store(call.engine(), call.actor()?, spec).await;
    let record = stored.map_err(|e| taken(e, R::NOUN, id.as_deref(), &name))?;
    Ok(made::<R>(&record).status(StatusCode::CREATED))
}

async fn replace<R: Resource>(call: Call, (): (), mut spec: R::Spec) -> Result<Reply<Json<R::View>>> {
    let known = known::<R>(&call).await?;
    aim::<R>(&call, known.as_ref().map(|known| R::id_of(known)), &mut R::identity(&mut spec))?;
    let record = R::store(call.engine(), call.actor()?, spec).await?;
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(made::<R>(&record).status(status))
}

async fn remove<R: Resource>(call: Call, (): (), (): ()) -> Result<Reply<Nothing>> {
    check_revision::<R>(&call).await?;
    R::forget(call.engine(), call.actor()?, call.id()?).await?;
    Ok(Reply::new(Nothing))
}

fn made<R: Resource>(record: &Stored<R>) -> Reply<Json<R::View>> {
    let (id, _) = R::id_of(record);
    json(R::view(record)).revision(record.version()).location(format!("{}/{id}", R::PATHS.0))
}

/// What the path names, if it is there.
pub(super) async fn known<R: Readable>(call: &Call) -> Result<Option<Stored<R>>> {
    match call.engine().read::<R>(call.actor()?, call.id()?).await {
        Ok(record) => Ok(Some(record)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes a spec one for what the path names, under the conditions of the request.
///
/// # Errors
/// `Invalid` if path and spec name two things; what a stale revision gives.
pub(super) fn aim<R: Readable>(
    call: &Call,
    known: Option<(&Id<R>, &str)>,
    identity: &mut Identity<'_>,
) -> Result<()> {
    let path = call.id()?;
    let expected = match (call.condition(), known) {
        (Condition::None, _) => None,
        (Condition::Any, Some(_)) => None,
        (Condition::Any, None) => return Err(stale(R::NOUN, path, "*", 0)),
        (Condition::Revision(revision), _) => Some(revision),
    };
    *identity.expected_version = expected;
    let other = |field: &str, meant: &str| {
        let message = format!("the path means {meant:?}, and this is another one");
        Err(Error::invalid_field(field, message, "leave it out, or give what the path means"))
    };
    match known {
        Some((id, name)) => {
            if identity.id.as_ref().is_some_and(|given| given != id.as_str()) {
                return other("/id", id.as_str());
            }
            *identity.id = Some(id.to_string());
            if identity.name.is_empty() {
                name.clone_into(identity.name);
            }
        }
        None if Id::<R>::looks_like(path) => {
            if identity.id.as_ref().is_some_and(|given| given != path) {
                return other("/id", path);
            }
            *identity.id = Some(path.to_owned());
        }
        None => {
            if identity.name.is_empty() {
                path.clone_into(identity.name);
            } else if *identity.name != path {
                return other("/name", path);
            }
        }
    }
    Ok(())
}

/// That what shall be deleted has the revision that the request says.
///
/// # Errors
/// `NotFound`, or what a stale revision gives.
pub(super) async fn check_revision<R: Readable>(call: &Call) -> Result<()> {
    let Condition::Revision(expected) = call.condition() else { return Ok(()) };
    let record = call.engine().read::<R>(call.actor()?, call.id()?).await?;
    if record.version() == expected {
        return Ok(());
    }
    Err(stale(R::NOUN, call.id()?, &expected.to_string(), record.version()))
}

/// The error of something that shall be made, and is there.
pub(super) fn taken(error: Error, noun: &str, id: Option<&str>, name: &str) -> Error {
    if error.context_value("expected") != Some("0") {
        return error;
    }
    let remedy = format!("choose another one, or change what is there with PUT /…/{}", id.unwrap_or(name));
    match id {
        Some(id) => Error::taken(
            "/id",
            format!("there is a {noun} {id} already, or one of the name {name:?}"),
            remedy,
        ),
        None => Error::taken("/name", format!("there is a {noun} {name:?} already"), remedy),
    }
}

fn stale(noun: &str, what: &str, expected: &str, version: u64) -> Error {
    let message = match version {
        0 => format!("there is no {noun} {what}"),
        version => format!("the {noun} {what} has the revision {version} and not {expected}: read it again"),
    };
    Error::new(ErrorKind::Conflict, message)
        .with("reason", "version")
        .with("expected", expected)
        .with("version", version)
        .with_retry(Retry::Never)
}
