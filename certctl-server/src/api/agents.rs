//! Agents: what an operator does with them, and what they ask themselves.

use std::time::Duration;

use certctl_client::types::{
    Agent, AgentFilter, EnrollRequest, EnrollToken, EnrollTokenRequest, Enrolled, ExtendRequest, Extended,
    List, Reference, ReportAnswer, ResolveRequest, Session, WorkList, WorkRequest,
};
use certctl_core::{
    Error, Id, Result, Violation,
    engine::{SessionChallenge, SessionRequest},
    records::{self, AgentPresence, ConnectorInfo},
    store::{Query, Stored},
    worker::WorkResult,
};

use super::{
    answer::{Json, Nothing, Reply, json},
    call::Call,
    page,
    route::{Route, delete, get, post},
    stored::check_revision,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/agents", "listAgents", "Agents, in the order of their ids.").query::<AgentFilter>().to(list),
        get("/agents/{id}", "getAgent", "An agent, with what it can do.").revised().to(read),
        delete("/agents/{id}", "deleteAgent", "Forgets an agent that nothing is deployed by.").to(remove),
        post("/agents/{id}/revoke", "revokeAgent", "Turns an agent away, until it enrols anew.").to(revoke),
        post(
            "/agents/{id}/resolve",
            "resolveAgent",
            "Decides which of two processes keeps an agent's identity.",
        )
        .body::<ResolveRequest>()
        .to(resolve),
        post("/agents/enroll-tokens", "createEnrollToken", "A token with which an agent enrols, once.")
            .created()
            .body::<EnrollTokenRequest>()
            .to(create_token),
        post("/agents/enroll", "enrollAgent", "Admits the agent that a token is for, with its public keys.")
            .open()
            .body::<EnrollRequest>()
            .to(enroll),
        post("/agents/session-challenge", "createSessionChallenge", "What an agent signs to open a session.")
            .open()
            .to(challenge),
        post(
            "/agents/sessions",
            "openSession",
            "Opens a session of ten minutes for an agent that has signed a challenge.",
        )
        .open()
        .created()
        .body::<SessionRequest>()
        .to(open_session),
        post("/agents/{id}/heartbeat", "heartbeat", "A sign of life.").agent().silent().to(heartbeat),
        post("/agents/{id}/work", "leaseWork", "Leases work for the agent; waits for it, if there is none.")
            .agent()
            .body::<WorkRequest>()
            .to(lease),
        post(
            concat!("/agents/{id}/work", "/extend"),
            "extendWork",
            "More time for work; says which of it shall stop.",
        )
        .agent()
        .body::<ExtendRequest>()
        .to(extend),
        post(
            "/agents/{id}/reports",
            "reportWork",
            "What became of work. Saying it twice is as good as once.",
        )
        .agent()
        .body::<WorkResult>()
        .to(report),
    ]
}

async fn list(call: Call, filter: AgentFilter, (): ()) -> Result<Reply<Json<List<Agent>>>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let cursor = filter.cursor.as_deref();
    let query = page::paged(Query::of::<records::Agent>(), filter.limit, cursor)?;
    let (agents, next): (Vec<Stored<records::Agent>>, _) =
        engine.list(actor, query).await.map_err(|e| page::explained(e, cursor))?;
    let ids: Vec<Id<records::Agent>> = agents.iter().map(|agent| agent.id.clone()).collect();
    let presences = engine.agent_presences(actor, &ids).await?;
    let views = agents.iter().map(|agent| {
        let presence = presences.iter().find(|presence| presence.agent == agent.id);
        view(agent, presence, Vec::new())
    });
    Ok(json(page::list(views.collect(), next.as_ref())?))
}

async fn read(call: Call, (): (), (): ()) -> Result<Reply<Json<Agent>>> {
    let agent = call.engine().read::<records::Agent>(call.actor()?, call.id()?).await?;
    shown(&call, &agent).await
}

async fn remove(call: Call, (): (), (): ()) -> Result<Reply<Nothing>> {
    check_revision::<records::Agent>(&call).await?;
    call.engine().delete_agent(call.actor()?, call.id()?).await?;
    Ok(Reply::new(Nothing))
}

async fn revoke(call: Call, (): (), (): ()) -> Result<Reply<Json<Agent>>> {
    let agent = call.engine().revoke_agent(call.actor()?, call.id()?).await?;
    shown(&call, &agent).await
}

async fn resolve(call: Call, (): (), request: ResolveRequest) -> Result<Reply<Json<Agent>>> {
    let agent = call.engine().resolve_agent(call.actor()?, call.id()?, &request.keep).await?;
    shown(&call, &agent).await
}

async fn create_token(call: Call, (): (), request: EnrollTokenRequest) -> Result<Reply<Json<EnrollToken>>> {
    let (agent, token, expires_at) =
        call.engine().create_enroll_token(call.actor()?, &request.name, request.valid).await?;
    let agent = Reference { id: agent.id.to_string(), name: agent.name.to_string() };
    Ok(json(EnrollToken { agent, token: token.into(), expires_at }))
}

async fn enroll(call: Call, (): (), request: EnrollRequest) -> Result<Reply<Json<Enrolled>>> {
    let token = request.token.into_secret();
    let agent = call.engine().enroll(&token, &request.keys).await.map_err(|e| e.below("/keys"))?;
    Ok(json(Enrolled { id: agent.id.clone(), name: agent.name.to_string() }))
}

async fn challenge(call: Call, (): (), (): ()) -> Result<Reply<Json<SessionChallenge>>> {
    Ok(json(call.engine().session_challenge()))
}

async fn open_session(call: Call, (): (), request: SessionRequest) -> Result<Reply<Json<Session>>> {
    let session = call.engine().open_session(&request, call.address().as_deref()).await?;
    Ok(json(Session {
        token: session.token.into(),
        agent: session.agent,
        name: session.name.to_string(),
        expires: session.expires,
    }))
}

async fn heartbeat(call: Call, (): (), (): ()) -> Result<Reply<Nothing>> {
    call.engine().heartbeat(call.session()?, call.address().as_deref()).await?;
    Ok(Reply::new(Nothing))
}

async fn lease(call: Call, (): (), request: WorkRequest) -> Result<Reply<Json<WorkList>>> {
    let mut wrong = Vec::new();
    if !(1..=100).contains(&request.limit) {
        let message = format!("{} assignments are none or too many", request.limit);
        wrong.push(Violation::new("/limit", message, "give 1 to 100"));
    }
    if request.wait_seconds > 60 {
        let message = format!("{} seconds are long", request.wait_seconds);
        wrong.push(Violation::new("/wait_seconds", message, "give at most 60, and ask again"));
    }
    if !wrong.is_empty() {
        return Err(Error::invalid(wrong));
    }
    let (engine, session) = (call.engine(), call.session()?);
    engine.heartbeat(session, call.address().as_deref()).await?;
    // A server that is stopping does not wait, and what it has leased it still gives.
    let wait = if call.app().is_stopping() { 0 } else { request.wait_seconds };
    let until = call.now() + Duration::from_secs(wait.into());
    let limit = usize::try_from(request.limit).unwrap_or(1);
    Ok(json(WorkList { data: engine.lease_work(session, limit, until).await? }))
}

async fn extend(call: Call, (): (), request: ExtendRequest) -> Result<Reply<Json<Extended>>> {
    Ok(json(Extended { jobs: call.engine().extend_work(call.session()?, &request.jobs).await? }))
}

async fn report(call: Call, (): (), result: WorkResult) -> Result<Reply<Json<ReportAnswer>>> {
    Ok(json(ReportAnswer { outcome: call.engine().report_work(call.session()?, result).await? }))
}

async fn shown(call: &Call, agent: &Stored<records::Agent>) -> Result<Reply<Json<Agent>>> {
    let (engine, actor, id) = (call.engine(), call.actor()?, agent.id.as_str());
    let presence = engine.agent_presence(actor, id).await?;
    let connectors = engine.agent_connectors(actor, id).await?;
    Ok(json(view(agent, presence.as_ref(), connectors)).revision(agent.version()))
}

fn view(
    agent: &Stored<records::Agent>,
    presence: Option<&AgentPresence>,
    connectors: Vec<ConnectorInfo>,
) -> Agent {
    Agent {
        id: agent.id.clone(),
        name: agent.name.to_string(),
        state: agent.state().to_owned(),
        created: agent.created,
        enrolled: agent.enrolled,
        revoked: agent.revoked,
        last_seen: presence.map(|presence| presence.now.last_seen),
        address: presence.and_then(|presence| presence.now.address.as_ref().map(ToString::to_string)),
        version: presence.map(|presence| presence.version.to_string()),
        instance: presence.map(|presence| presence.now.instance.to_string()),
        connectors,
        trusts: presence.map(|presence| presence.trusts.clone()).unwrap_or_default(),
        clash: agent.clash.clone(),
        revision: agent.version(),
    }
}
