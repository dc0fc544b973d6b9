//! One row for each thing that can be asked: the router and the OpenAPI document are made from the same rows, and what a
//! handler takes and gives is what its row says.

use std::{future::Future, marker::PhantomData, sync::Arc};

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use certctl_core::Result;
use futures_util::future::BoxFuture;
use schemars::{Schema, SchemaGenerator};

use super::{
    answer::{Answer, Reply},
    call::{Call, Credential},
    input::{Body, Filter},
};

/// Who may knock; what they may do is the engine's to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Open,
    /// Whoever has an API key.
    Key,
    /// The agent itself, with its session: the `id` of the path is its own.
    Agent,
}

/// What is in a request before anybody has looked at it.
pub(crate) struct Asked {
    pub(crate) call: Call,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A row.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// Below `/api/v1`.
    pub(crate) path: &'static str,
    /// The OpenAPI operation.
    pub(crate) operation: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) access: Access,
    /// Whether the answer has an `ETag`, or the request may have `If-Match`.
    pub(crate) revised: bool,
    /// Whether it answers 201 where something was made.
    pub(crate) creates: bool,
    pub(crate) status: StatusCode,
    pub(crate) query: fn(&mut SchemaGenerator) -> Option<Schema>,
    pub(crate) body: fn(&mut SchemaGenerator) -> Option<Schema>,
    pub(crate) body_optional: bool,
    pub(crate) answer: fn(&mut SchemaGenerator) -> Option<Schema>,
    pub(crate) media_type: Option<&'static str>,
    pub(crate) handler: Arc<dyn Fn(Asked) -> BoxFuture<'static, Result<Response>> + Send + Sync>,
}

/// A row that has no handler yet.
pub(crate) struct Unhandled<Q = (), B = ()> {
    method: Method,
    path: &'static str,
    operation: &'static str,
    summary: &'static str,
    access: Access,
    revised: bool,
    creates: bool,
    status: StatusCode,
    takes: PhantomData<fn(Q, B)>,
}

pub(crate) fn get(path: &'static str, operation: &'static str, summary: &'static str) -> Unhandled {
    Unhandled::new(Method::GET, path, operation, summary)
}

pub(crate) fn post(path: &'static str, operation: &'static str, summary: &'static str) -> Unhandled {
    Unhandled::new(Method::POST, path, operation, summary)
}

pub(crate) fn put(path: &'static str, operation: &'static str, summary: &'static str) -> Unhandled {
    let mut row = Unhandled::new(Method::PUT, path, operation, summary);
    (row.revised, row.creates) = (true, true);
    row
}

pub(crate) fn delete(path: &'static str, operation: &'static str, summary: &'static str) -> Unhandled {
    let mut row = Unhandled::new(Method::DELETE, path, operation, summary);
    (row.revised, row.status) = (true, StatusCode::NO_CONTENT);
    row
}

impl Unhandled {
    fn new(method: Method, path: &'static str, operation: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            operation,
            summary,
            access: Access::Key,
            revised: false,
            creates: false,
            status: StatusCode::OK,
            takes: PhantomData,
        }
    }
}

impl<Q: Filter, B: Body> Unhandled<Q, B> {
    /// Needs no credential.
    pub(crate) fn open(mut self) -> Self {
        self.access = Access::Open;
        self
    }

    /// Is for agents.
    pub(crate) fn agent(mut self) -> Self {
        self.access = Access::Agent;
        self
    }

    /// Makes something, and answers 201.
    pub(crate) fn created(mut self) -> Self {
        self.status = StatusCode::CREATED;
        self
    }

    /// Answers with nothing.
    pub(crate) fn silent(mut self) -> Self {
        self.status = StatusCode::NO_CONTENT;
        self
    }

    /// The answer has an `ETag`.
    pub(crate) fn revised(mut self) -> Self {
        self.revised = true;
        self
    }

    /// What is in the query.
    pub(crate) fn query<Other: Filter>(self) -> Unhandled<Other, B> {
        self.takes()
    }

    /// What is in the body.
    pub(crate) fn body<Other: Body>(self) -> Unhandled<Q, Other> {
        self.takes()
    }

    fn takes<Q2, B2>(self) -> Unhandled<Q2, B2> {
        Unhandled {
            method: self.method,
            path: self.path,
            operation: self.operation,
            summary: self.summary,
            access: self.access,
            revised: self.revised,
            creates: self.creates,
            status: self.status,
            takes: PhantomData,
        }
    }

    /// The row, with who answers.
    pub(crate) fn to<T, F, Fut>(self, handler: F) -> Route
    where
        T: Answer,
        F: Fn(Call, Q, B) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply<T>>> + Send + 'static,
    {
        let (access, status) = (self.access, self.status);
        let handler = move |asked: Asked| -> BoxFuture<'static, Result<Response>> {
            let handler = handler.clone();
            Box::pin(async move {
                let Asked { mut call, query, headers, body } = asked;
                call.identify(access, Credential::of(&headers)).await?;
                call.note_conditions(&headers)?;
                let query = Q::read(query.as_deref())?;
                let body = B::read(&headers, &body)?;
                Ok(handler(call, query, body).await?.into_response(status))
            })
        };
        Route {
            method: self.method,
            path: self.path,
            operation: self.operation,
            summary: self.summary,
            access,
            revised: self.revised,
            creates: self.creates,
            status,
            query: Q::schema,
            body: B::schema,
            body_optional: B::OPTIONAL,
            answer: T::schema,
            media_type: T::MEDIA_TYPE,
            handler: Arc::new(handler),
        }
    }
}
