//! Lists: pages, filters, orders.

use std::collections::BTreeSet;

use certctl_client::types::{AuditFilter, CertificateFilter, JobFilter, JobWatchRequest, NamedFilter};
use certctl_core::{
    Actor, CertificateSpec, ProfileSpec, Timestamp,
    records::{CertificateStatus, JobState},
};
use futures_util::TryStreamExt;

use crate::running::Running;

#[tokio::test]
async fn a_thousand_are_listed_page_by_page() {
    let server = Running::start().await;
    let process = Actor::process();
    for index in 0..1_005 {
        server.engine.put_profile(&process, ProfileSpec::new(format!("p{index}"))).await.unwrap();
    }
    for limit in [1_000, 400, 1_005_usize.isqrt() as u32] {
        let filter = NamedFilter { limit: Some(limit), ..NamedFilter::default() };
        let all: Vec<_> = server.client().profiles(&filter).into_stream().try_collect().await.unwrap();
        let names: BTreeSet<_> = all.iter().map(|profile| profile.name.clone()).collect();
        assert_eq!((all.len(), names.len()), (1_005, 1_005), "each once, {limit} a page");
        assert!(all.is_sorted_by(|a, b| a.id < b.id));
    }
    let mut pages = server.client().profiles(&NamedFilter::default());
    assert_eq!(pages.next().await.unwrap().unwrap().len(), 100);
    let one = NamedFilter { name: Some("p77".into()), ..NamedFilter::default() };
    assert_eq!(server.client().profiles(&one).all().await.unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn certificates_are_found_by_what_is_known_of_them() {
    let server = Running::start().await;
    for name in ["a", "b", "c"] {
        server.certificate(name).await;
    }
    let spec = CertificateSpec::new("d").dns("d.test").target("a");
    let started = server.client().create_certificate(&spec).await.unwrap();
    server.settle(&started).await;
    let found = async |filter: CertificateFilter| {
        let all = server.client().certificates(&filter).all().await.unwrap();
        all.into_iter()
            .map(|certificate| certificate.name)
            .filter(|name| name.len() == 1)
            .collect::<BTreeSet<_>>()
    };
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let none = CertificateFilter::default;
    let all = set(&["a", "b", "c", "d"]);
    assert_eq!(found(none()).await, all);
    assert_eq!(found(CertificateFilter { limit: Some(1), ..none() }).await, all);
    let active = CertificateFilter { status: Some(CertificateStatus::Active), limit: Some(2), ..none() };
    assert_eq!(found(active.clone()).await, all, "also page by page");
    assert_eq!(
        found(CertificateFilter { status: Some(CertificateStatus::Revoked), ..none() }).await,
        set(&[])
    );
    assert_eq!(found(CertificateFilter { name: Some("b".into()), ..none() }).await, set(&["b"]));
    let on_a = CertificateFilter { target: Some("a".into()), limit: Some(1), ..none() };
    assert_eq!(found(on_a.clone()).await, set(&["a", "d"]));
    assert_eq!(found(CertificateFilter { name: Some("d".into()), ..on_a }).await, set(&["d"]));
    for issuer in ["local", "iss-local"] {
        assert_eq!(found(CertificateFilter { issuer: Some(issuer.into()), ..none() }).await, all);
    }
    let soon = CertificateFilter { expires_before: Some(Timestamp::from_secs(1)), ..none() };
    assert_eq!(found(soon).await, set(&[]));
    let late: Timestamp = "2200-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(found(CertificateFilter { expires_before: Some(late), ..active }).await, all);
    // A cursor is for the list that it came from.
    let first = server.ask("GET", "/api/v1/certificates?status=active&limit=1", None).await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let other = server.ask("GET", &format!("/api/v1/certificates?cursor={cursor}"), None).await;
    other.assert_problem(400, Some("/cursor"));
    server.stop().await;
}

#[tokio::test]
async fn jobs_and_events_are_listed_from_the_newest() {
    let server = Running::start().await;
    let web = server.certificate("web").await;
    let jobs = server
        .client()
        .jobs(&JobFilter { certificate: Some("web".into()), ..JobFilter::default() })
        .all()
        .await
        .unwrap();
    assert!(jobs.len() >= 2, "{jobs:?}");
    assert!(jobs.is_sorted_by(|a, b| a.id > b.id));
    let deploy = jobs.iter().find(|job| job.kind == "deploy").unwrap();
    assert_eq!(deploy.target.as_ref().unwrap().name, "web");
    assert_eq!(deploy.certificate.as_ref().unwrap().name, "web");
    let issue = jobs.iter().find(|job| job.kind == "issue").unwrap();
    let issue = server.client().job(issue.id.as_str()).await.unwrap();
    // What is known already is waited for, and not for ever.
    let same = JobWatchRequest { after: issue.progress, wait: Some(0) };
    assert_eq!(server.client().watch_job(issue.id.as_str(), same).await.unwrap(), issue);
    let done = JobFilter {
        state: Some(JobState::Done),
        place: Some("here".into()),
        limit: Some(1),
        ..JobFilter::default()
    };
    assert!(server.client().jobs(&done).all().await.unwrap().len() >= jobs.len());
    let open = JobFilter { open: Some(true), ..JobFilter::default() };
    assert_eq!(server.client().jobs(&open).all().await.unwrap(), []);
    let finished = JobFilter { open: Some(false), ..JobFilter::default() };
    assert!(server.client().jobs(&finished).all().await.unwrap().len() >= jobs.len());

    let made =
        AuditFilter { action: Some("certificate.created".into()), limit: Some(1), ..AuditFilter::default() };
    let made = server.client().audit(&made).all().await.unwrap();
    assert_eq!(made.len(), 2, "this one and the server's own: {made:?}");
    assert!(made.is_sorted_by(|a, b| a.id > b.id));
    assert_eq!(&*made[0].actor, "admin");
    let id = web.certificate.id.to_string();
    let about = AuditFilter { resource: Some(id.clone()), ..AuditFilter::default() };
    let about = server.client().audit(&about).all().await.unwrap();
    assert!(about.len() >= 3 && about.iter().all(|event| *event.resource == *id), "{about:?}");
    server.stop().await;
}
