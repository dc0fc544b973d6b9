//! What agents do, and what they may not.

use std::{collections::BTreeSet, time::Duration};

use certctl::{
    ErrorKind, Id, KeyAlgorithm, Keys, PrivateKey, RecipientKey, TargetSpec,
    engine::{AgentKeys, PlaceSpec, RevokeOptions, SessionRequest},
    records::{CertificateStatus, DeploymentState, Holder, Job, JobState, Placement, TargetRecord},
    store::{Query, StoreExt, Stored},
    worker::{Assignment, JobToken, Outcome, Reported, Work, WorkReport, WorkResult},
};

use serde_json::json;

use crate::{
    agents::rig::{Yard, assert_no_open_job, deployments, jobs, settle, spec, step, tokens, versions},
    world::{assert_active, me},
};

/// One certificate with targets on two agents: two keys, two certificates, and nothing where the engine is.
#[tokio::test]
async fn each_agent_has_a_key_and_a_certificate_of_its_own() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    one.target(&engine, "b").await;
    two.target(&engine, "c").await;
    let (on_one, on_two) = (one.start().await, two.start().await);

    let _ = engine.want(&me(), spec(&["a", "b", "c"])).await.unwrap();
    let certificate = settle(&engine, &[&on_one, &on_two]).await;
    assert_active(&certificate);
    let versions = versions(&engine).await;
    assert_eq!(versions.len(), 2, "one for each agent");
    assert_eq!(yard.ca.issued().len(), 2);
    let keys: BTreeSet<Vec<u8>> = versions
        .iter()
        .map(|version| version.chain.leaf().public_key().unwrap().spki_der().to_vec())
        .collect();
    assert_eq!(keys.len(), 2, "no key is shared");
    assert_eq!(one.at_rest("a"), one.at_rest("b"));
    assert_ne!(one.at_rest("a").unwrap(), two.at_rest("c").unwrap());
    for deployment in deployments(&engine).await {
        let version =
            versions.iter().find(|version| Some(&version.id) == deployment.current.as_ref()).unwrap();
        assert_eq!(version.placement, deployment.placement);
        assert_eq!(deployment.state, DeploymentState::Unproved, "nothing serves it: a warning says so");
    }
    for (machine, process) in [(&one, &on_one), (&two, &on_two)] {
        machine.assert_no_key_on_the_wire(&versions).await;
        assert_eq!(process.lease(&engine).await.len(), 0);
    }
    for version in &versions {
        let key = version.key.as_ref().unwrap();
        assert!(yard.keys.export(key).await.is_err(), "the engine has no key");
        assert_ne!(
            one.keys.export(key).await.is_ok(),
            two.keys.export(key).await.is_ok(),
            "one agent has it"
        );
    }
    yard.assert_untouched();
    assert_no_open_job(&engine).await;
}

#[tokio::test]
async fn each_placement_is_renewed_by_itself_and_forgets_its_old_key() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    two.target(&engine, "b").await;
    let (on_one, on_two) = (one.start().await, two.start().await);
    let _ = engine.want(&me(), spec(&["a", "b"])).await.unwrap();
    settle(&engine, &[&on_one, &on_two]).await;
    let old = versions(&engine).await;
    yard.tick();

    let _ = engine.renew(&me(), "web").await.unwrap();
    // The other agent is away: that is its own affair.
    let certificate = settle(&engine, &[&on_one]).await;
    assert_eq!(versions(&engine).await.len(), 3);
    assert_eq!(certificate.status, CertificateStatus::Active, "what is deployed is the newest there is");
    assert_ne!(one.at_rest("a").unwrap(), two.at_rest("b").unwrap());
    let certificate = settle(&engine, &[&on_two]).await;
    assert_active(&certificate);
    assert_eq!(versions(&engine).await.len(), 4);
    assert_no_open_job(&engine).await;
    for version in &versions(&engine).await {
        let is_old = old.iter().any(|old| old.id == version.id);
        assert_eq!(version.key_forgotten, is_old);
        let key = version.key.as_ref().unwrap();
        let there = one.keys.export(key).await.is_ok() || two.keys.export(key).await.is_ok();
        assert_eq!(there, !is_old, "what nothing needs any more is gone, and nothing else");
    }
}

/// The answer to the report is lost: it is told again, and not done again.
#[tokio::test]
async fn a_report_that_is_repeated_is_already_known() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;

    for kind in ["csr", "deploy"] {
        let given = process.lease_one(&engine).await;
        let outcome = process.execute(given.work.clone()).await;
        let result = WorkResult { jobs: tokens(&given), outcome };
        assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded, "{kind}");
        assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Already, "{kind}");
        // By a later process as well.
        let later = machine.start().await;
        assert_eq!(later.report(&engine, &result).await.unwrap(), Reported::Already, "{kind}");
        step(&engine).await;
        assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Already, "{kind}");
    }
    assert_active(&engine.certificate("web").await.unwrap());
    assert_eq!(machine.swaps(), 2, "certificate and key, once");
    assert_eq!(versions(&engine).await.len(), 1);
}

/// A new process takes the old one's leases at once; the old one's report is a fact that moves no job.
#[tokio::test]
async fn what_a_later_process_has_taken_is_superseded() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    process.drain(&engine).await.unwrap();
    step(&engine).await;

    let old = process.lease_one(&engine).await;
    let later = machine.start().await;
    let new = later.lease_one(&engine).await;
    assert_eq!(old.id, new.id);
    assert_ne!(tokens(&old), tokens(&new));
    let outcome = process.execute(old.work.clone()).await;
    let late = WorkResult { jobs: tokens(&old), outcome };
    assert_eq!(process.report(&engine, &late).await.unwrap(), Reported::Superseded);
    // The fact is known, the job is still the other's.
    assert_eq!(deployments(&engine).await[0].state, DeploymentState::Unproved);
    assert!(jobs(&engine).await.iter().any(|job| &*job.kind == "deploy" && !job.state.is_finished()));
    assert_eq!(engine.extend_work(&process.session, &late.jobs).await.unwrap(), []);
    assert_eq!(engine.extend_work(&later.session, &tokens(&new)).await.unwrap().len(), 1);

    let outcome = later.execute(new.work.clone()).await;
    let result = WorkResult { jobs: tokens(&new), outcome };
    assert_eq!(later.report(&engine, &result).await.unwrap(), Reported::Recorded);
    assert_active(&step(&engine).await);
    assert_eq!(machine.swaps(), 2, "the second found everything in place");
    assert_eq!(process.report(&engine, &late).await.unwrap(), Reported::Superseded);
    assert_no_open_job(&engine).await;
}

/// The answer that gave the work is lost: nobody else can have it, and it comes again once the lease is over.
#[tokio::test]
async fn a_lost_assignment_comes_again() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    let lost = process.lease_one(&engine).await;
    assert_eq!(process.lease(&engine).await.len(), 0, "it is leased");
    yard.clock.advance(Duration::from_secs(59));
    assert_eq!(process.lease(&engine).await.len(), 0);
    // Whoever extends keeps it.
    assert_eq!(engine.extend_work(&process.session, &tokens(&lost)).await.unwrap().len(), 1);
    yard.clock.advance(Duration::from_secs(59));
    assert_eq!(process.lease(&engine).await.len(), 0);
    yard.clock.advance(Duration::from_secs(2));
    let again = process.lease_one(&engine).await;
    assert_eq!(again.id, lost.id);
    assert!(again.jobs[0].token > lost.jobs[0].token);
    let outcome = process.execute(again.work.clone()).await;
    let result = WorkResult { jobs: tokens(&again), outcome };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    assert_active(&settle(&engine, &[&process]).await);
}

#[tokio::test]
async fn no_agent_gets_or_reports_what_is_another_ones() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    let (process, other) = (one.start().await, two.start().await);
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    assert_eq!(other.lease(&engine).await.len(), 0);
    let given = process.lease_one(&engine).await;
    assert_eq!(engine.extend_work(&other.session, &tokens(&given)).await.unwrap(), []);
    let outcome = process.execute(given.work.clone()).await;
    let result = WorkResult { jobs: tokens(&given), outcome };
    let denied = other.report(&engine, &result).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied:?}");
    // Nothing was recorded, and the right one's report still counts.
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    assert_active(&settle(&engine, &[&process]).await);

    let nothing = WorkResult { jobs: Vec::new(), outcome: result.outcome.clone() };
    assert_eq!(process.report(&engine, &nothing).await.unwrap_err().kind(), ErrorKind::Invalid);
    let unknown = JobToken { id: Id::<Job>::with_suffix("gone"), token: 1 };
    let unknown = WorkResult { jobs: vec![unknown], outcome: result.outcome };
    assert_eq!(process.report(&engine, &unknown).await.unwrap(), Reported::Superseded);
}

/// A request that is not what was asked for is nobody's certificate: a person has to look.
#[tokio::test]
async fn a_wrong_request_is_refused() {
    for way in ["names", "common name", "algorithm", "another's key", "another kind of report"] {
        let yard = Yard::new().await;
        let engine = yard.engine().await;
        let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
        one.target(&engine, "a").await;
        two.target(&engine, "b").await;
        let (process, other) = (one.start().await, two.start().await);
        let _ = engine.want(&me(), spec(&["a", "b"])).await.unwrap();
        step(&engine).await;
        other.drain(&engine).await.unwrap();
        step(&engine).await;
        other.drain(&engine).await.unwrap();
        step(&engine).await;

        let given = process.lease_one(&engine).await;
        let Work::MakeCsr(mut work) = given.work.clone() else { panic!("{given:?}") };
        let refused = work.key.clone();
        let theirs = versions(&engine).await.remove(0);
        match way {
            "names" => work.names.push("evil.test".parse().unwrap()),
            "common name" => work.common_name = Some("evil".into()),
            "algorithm" => work.algorithm = KeyAlgorithm::EcdsaP384,
            "another's key" => {
                // As if one machine's disk had been copied.
                let key = two.keys.export(theirs.key.as_ref().unwrap()).await.unwrap();
                let csr = certctl::Csr::create(&key, work.common_name.as_deref(), &work.names).await.unwrap();
                let outcome = Outcome::Report(WorkReport::Csr(csr));
                let result = WorkResult { jobs: tokens(&given), outcome };
                assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
            }
            _ => {
                let result = WorkResult { jobs: tokens(&given), outcome: Outcome::Report(WorkReport::Done) };
                assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
            }
        }
        if matches!(way, "names" | "common name" | "algorithm") {
            let outcome = process.execute(Work::MakeCsr(work)).await;
            let result = WorkResult { jobs: tokens(&given), outcome };
            assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
        }
        let certificate = step(&engine).await;
        assert_eq!(certificate.status, CertificateStatus::Attention, "{way}");
        let reason = certificate.reason.clone().unwrap();
        assert_eq!(reason.kind, ErrorKind::BadResponse, "{way}: {reason:?}");
        assert_eq!(versions(&engine).await.len(), 1, "{way}: only the other's");
        assert_eq!(yard.ca.issued().len(), 1, "{way}");
        assert_eq!(
            process.drain(&engine).await.unwrap(),
            1,
            "{way}: its key goes, and nobody tries in a circle"
        );
        step(&engine).await;
        assert_eq!(process.drain(&engine).await.unwrap(), 0, "{way}");

        // Somebody has looked.
        let job = jobs(&engine).await.into_iter().find(|job| job.state == JobState::Attention).unwrap();
        let _ = engine.retry(&me(), &job.id).await.unwrap();
        let certificate = settle(&engine, &[&process, &other]).await;
        assert_active(&certificate);
        assert_eq!(versions(&engine).await.len(), 2, "{way}");
        assert!(one.keys.export(&refused).await.is_err(), "{way}: the refused one's key is gone");
    }
}

/// A report about deployments that were not part of the work changes nothing there.
#[tokio::test]
async fn a_report_about_other_deployments_is_not_believed() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    two.target(&engine, "b").await;
    let (process, other) = (one.start().await, two.start().await);
    let _ = engine.want(&me(), spec(&["a", "b"])).await.unwrap();
    step(&engine).await;
    for agent in [&process, &other] {
        agent.drain(&engine).await.unwrap();
    }
    step(&engine).await;
    let given = process.lease_one(&engine).await;
    let theirs = other.lease_one(&engine).await;
    let Outcome::Report(WorkReport::Deployed(mut reports)) = process.execute(given.work.clone()).await else {
        panic!("a deployment")
    };
    let Work::Deploy(their_work) = &theirs.work else { panic!("a deployment") };
    // It claims to have brought its own version to the other's target; of its own it says nothing.
    reports[0].deployment = their_work.items[0].deployment.clone();
    let outcome = Outcome::Report(WorkReport::Deployed(reports.clone()));
    let result = WorkResult { jobs: tokens(&given), outcome };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    for deployment in deployments(&engine).await {
        assert_eq!(deployment.current, None, "{deployment:#?}");
    }
    let failed = jobs(&engine).await.into_iter().find(|job| job.id == given.id).unwrap();
    assert_eq!(failed.last_error.as_ref().unwrap().kind, ErrorKind::BadResponse);

    // Its own deployment, and another's version.
    let _ = engine.retry(&me(), &failed.id).await.unwrap();
    let again = process.lease_one(&engine).await;
    let Work::Deploy(work) = &again.work else { panic!("a deployment") };
    reports[0].deployment = work.items[0].deployment.clone();
    reports[0].version = their_work.items[0].version.clone();
    let outcome = Outcome::Report(WorkReport::Deployed(reports));
    let result = WorkResult { jobs: tokens(&again), outcome };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    for deployment in deployments(&engine).await {
        assert_eq!(deployment.current, None, "{deployment:#?}");
    }
}

#[tokio::test]
async fn targets_come_and_go_with_their_placements_and_keys() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    one.target(&engine, "b").await;
    two.target(&engine, "c").await;
    let (on_one, on_two) = (one.start().await, two.start().await);
    let holders = async || {
        let id = engine.certificate("web").await.unwrap().id.clone();
        let placements: Vec<Stored<Placement>> =
            engine.store().list_by("certificate", (&id).into()).await.unwrap();
        let mut holders: Vec<String> = placements
            .iter()
            .map(|placement| match &placement.holder {
                Holder::Agent(agent) => agent.to_string(),
                other => other.as_column().to_owned(),
            })
            .collect();
        holders.sort();
        holders
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let both = || sorted(vec![one.id.to_string(), two.id.to_string()]);

    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    assert_eq!(holders().await, [one.id.to_string()]);
    let first = versions(&engine).await.remove(0);

    // One on the same agent gets the same version, one on another agent a version of its own.
    yard.tick();
    let _ = engine.want(&me(), spec(&["a", "b", "c"])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    assert_eq!(holders().await, both());
    assert_eq!(versions(&engine).await.len(), 2);
    assert_eq!(one.at_rest("b").unwrap(), first.chain);

    // The first agent goes, with its key.
    yard.tick();
    let _ = engine.want(&me(), spec(&["c"])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    assert_eq!(holders().await, [two.id.to_string()]);
    assert!(one.keys.export(first.key.as_ref().unwrap()).await.is_err(), "its key is gone");
    assert_eq!(one.at_rest("a").unwrap(), first.chain, "what is deployed stays");
    assert_eq!(versions(&engine).await.len(), 2);
    assert!(versions(&engine).await.iter().any(|version| version.id == first.id && version.key_forgotten));
    assert_no_open_job(&engine).await;

    // And comes back: a new key, a new version.
    yard.tick();
    let _ = engine.want(&me(), spec(&["a", "c"])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    assert_eq!(holders().await, both());
    assert_eq!(versions(&engine).await.len(), 3);
    assert_ne!(one.at_rest("a").unwrap(), first.chain);

    // None at all: this process holds the key from now on.
    yard.tick();
    let _ = engine.want(&me(), spec(&[])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    assert_eq!(holders().await, ["here"]);
    let newest = versions(&engine).await.remove(0);
    assert!(yard.keys.export(newest.key.as_ref().unwrap()).await.is_ok());
    let left: Vec<_> = versions(&engine).await.into_iter().filter(|version| !version.key_forgotten).collect();
    assert_eq!(left.len(), 1);
    assert_no_open_job(&engine).await;
}

/// A target does not change its agent while certificates go there.
#[tokio::test]
async fn a_target_that_is_used_stays_with_its_agent() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    let mut target = one.target(&engine, "a").await;
    let process = one.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    settle(&engine, &[&process]).await;
    target.place.agent = Some(two.id.to_string());
    let refused = engine.put_target(&me(), target.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused:?}");
    // By name or by id, it is the same agent.
    target.place.agent = Some(one.id.to_string());
    engine.put_target(&me(), target.clone()).await.unwrap();
    target.place.agent = Some("nobody".into());
    let unknown = engine.put_target(&me(), target.clone()).await.unwrap_err();
    assert_eq!(&*unknown.violations()[0].pointer, "/place/agent");
    // Once nothing goes there, it may.
    yard.tick();
    let _ = engine.want(&me(), spec(&[])).await.unwrap();
    settle(&engine, &[&process]).await;
    target.place.agent = Some("two".into());
    engine.put_target(&me(), target).await.unwrap();
}

/// Removed while the agent has not even made a key: the order is stopped, and nothing is left of it.
#[tokio::test]
async fn a_target_that_goes_before_its_agent_came_leaves_nothing() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    two.target(&engine, "b").await;
    let process = one.start().await;
    let _ = engine.want(&me(), spec(&["a", "b"])).await.unwrap();
    let certificate = settle(&engine, &[&process]).await;
    assert_eq!(certificate.status, CertificateStatus::Pending, "the other is awaited");
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    assert_active(&settle(&engine, &[&process]).await);
    assert_no_open_job(&engine).await;
    assert_eq!(versions(&engine).await.len(), 1);
}

/// An agent that is away is waited for, with a reason that names it; when it comes, all goes on.
#[tokio::test]
async fn a_day_of_absence_is_waited_for() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    let running = crate::world::Running::start(&engine);
    let before = jobs(&engine).await.len();
    yard.clock.advance(Duration::from_secs(120));
    crate::world::eventually(&engine, "the reason", async || {
        engine.certificate("web").await.unwrap().reason.is_some()
    })
    .await;
    let certificate = engine.certificate("web").await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Pending);
    let reason = certificate.reason.clone().unwrap();
    assert!(reason.message.contains("waits for the agent one"), "{reason:?}");
    assert!(reason.message.contains("has not enrolled yet"), "{reason:?}");
    for _ in 0..24 {
        yard.clock.advance(Duration::from_secs(3_600));
        tokio::task::yield_now().await;
    }
    running.stop().await;
    assert_eq!(jobs(&engine).await.len(), before, "nothing was tried meanwhile");
    for job in jobs(&engine).await {
        assert_eq!((job.failures, &job.last_error), (0, &None), "{job:#?}");
    }
    let process = machine.start().await;
    let certificate = settle(&engine, &[&process]).await;
    assert_active(&certificate);
    assert_eq!(certificate.reason, None);
    assert_eq!(versions(&engine).await.len(), 1);
}

#[tokio::test]
async fn a_job_that_nobody_holds_is_cancelled_at_once() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    let issue = jobs(&engine).await.into_iter().find(|job| &*job.kind == "issue").unwrap();
    engine.cancel(&me(), &issue.id).await.unwrap();
    let certificate = step(&engine).await;
    assert_eq!(certificate.status, CertificateStatus::Pending);
    for job in jobs(&engine).await {
        assert_eq!(job.state, JobState::Cancelled, "{job:#?}");
    }
    assert_eq!(process.drain(&engine).await.unwrap(), 0);
    assert_eq!(yard.ca.issued().len(), 0);
    // Wanted again, it comes.
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    assert_active(&settle(&engine, &[&process]).await);
}

/// A job that is held is cancelled when its agent hears of it: it has written nothing then.
#[tokio::test]
async fn a_job_that_is_held_is_cancelled_by_its_agent() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    process.drain(&engine).await.unwrap();
    step(&engine).await;
    let given = process.lease_one(&engine).await;
    engine.cancel(&me(), &given.id).await.unwrap();
    let state = async || jobs(&engine).await.into_iter().find(|job| job.id == given.id).unwrap().state;
    assert_eq!(state().await, JobState::Ready, "the agent has it");
    let held = engine.extend_work(&process.session, &tokens(&given)).await.unwrap();
    assert!(held[0].cancel);
    let stopped = certctl::Error::new(ErrorKind::Cancelled, "stopped as asked").report();
    let result = WorkResult { jobs: tokens(&given), outcome: Outcome::Failed(stopped) };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    assert_eq!(state().await, JobState::Cancelled);
    let certificate = settle(&engine, &[&process]).await;
    assert_eq!(certificate.status, CertificateStatus::Partial, "{:?}", certificate.reason);
    assert_eq!(machine.swaps(), 0);
    assert_no_open_job(&engine).await;
}

/// An agent that was asked to stop, and is gone: its job ends once the lease is over. What it says later is a fact all the same.
#[tokio::test]
async fn a_cancelled_job_of_a_dead_agent_ends_with_its_lease() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    process.drain(&engine).await.unwrap();
    step(&engine).await;
    let given = process.lease_one(&engine).await;
    engine.cancel(&me(), &given.id).await.unwrap();
    yard.clock.advance(Duration::from_secs(180));
    let running = crate::world::Running::start(&engine);
    crate::world::eventually(&engine, "the end", async || {
        jobs(&engine).await.iter().all(|job| job.state.is_finished())
    })
    .await;
    running.stop().await;
    assert_eq!(engine.certificate("web").await.unwrap().status, CertificateStatus::Partial);

    let outcome = process.execute(given.work.clone()).await;
    let result = WorkResult { jobs: tokens(&given), outcome };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Superseded);
    assert_eq!(deployments(&engine).await[0].state, DeploymentState::Unproved);
    assert_active(&engine.certificate("web").await.unwrap());
}

/// A deployment that fails is tried again later, by the agent, when it is due and not before.
#[tokio::test]
async fn a_failed_deployment_is_due_again_later() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    process.drain(&engine).await.unwrap();
    step(&engine).await;
    machine.host.fail_if(
        |operation| operation.name == "swap",
        certctl::testkit::host::When::Before,
        certctl::testkit::host::FaultHost::disk_full(),
    );
    assert_eq!(process.drain(&engine).await.unwrap(), 1);
    let certificate = step(&engine).await;
    assert_eq!(certificate.status, CertificateStatus::Partial);
    assert!(certificate.reason.clone().unwrap().message.contains("space"), "{:?}", certificate.reason);
    assert_eq!(deployments(&engine).await[0].state, DeploymentState::Failed);
    machine.host.reset();
    assert_eq!(process.drain(&engine).await.unwrap(), 0, "not yet");

    // It waits for its work, and gets it when it is due.
    let until = certctl::Clock::now(&yard.clock) + Duration::from_secs(3_600);
    let waiting = engine.lease_work(&process.session, 1, until);
    let (given, ()) = tokio::join!(waiting, async {
        for _ in 0..10 {
            yard.clock.advance(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
    });
    let given = given.unwrap().remove(0);
    let outcome = process.execute(given.work.clone()).await;
    let result = WorkResult { jobs: tokens(&given), outcome };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    assert_active(&step(&engine).await);
}

/// A dry run asks the agent, and touches nothing; without an answer it says who was asked.
#[tokio::test]
async fn a_dry_run_asks_the_agent() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    settle(&engine, &[&process]).await;
    machine.files.put(&machine.cert("a"), "something else");
    machine.host.reset();

    let actor = me();
    let asking = engine.plan(&actor, "web");
    let answering = async {
        while process.drain(&engine).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (plans, ()) = tokio::join!(asking, answering);
    let plans = plans.unwrap();
    assert_eq!((plans.len(), &*plans[0].target), (1, "a"));
    assert_eq!(plans[0].plan.changes[0].what, machine.cert("a"));
    assert_eq!(machine.swaps(), 0);

    let asking = engine.plan(&actor, "web");
    let (plans, ()) = tokio::join!(asking, async {
        while jobs(&engine).await.iter().all(|job| job.state.is_finished()) {
            tokio::task::yield_now().await;
        }
        yard.clock.advance(Duration::from_secs(31));
    });
    let error = plans.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("agent one"), "{error}");
    assert_no_open_job(&engine).await;
    assert_eq!(process.drain(&engine).await.unwrap(), 0);
}

/// A key that an agent holds signs nothing here: the account's word has to do.
#[tokio::test]
async fn a_version_is_revoked_without_its_key() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    let certificate = settle(&engine, &[&process]).await;
    let serial = certificate.serial.clone().unwrap().to_string();
    let refused = engine.bundle(&me(), "web").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    assert!(refused.to_string().contains("agent one"), "{refused}");
    let revoked =
        engine.revoke(&me(), &serial, RevokeOptions::default()).await.unwrap().step().await.unwrap();
    assert_eq!(revoked.status, CertificateStatus::Revoked);
}

/// A clock that was wrong keeps no agent waiting.
#[tokio::test]
async fn a_clock_that_is_set_back_delays_no_agent() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let start = certctl::Clock::now(&yard.clock);
    yard.clock.set(start + Duration::from_secs(10 * 86_400));
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    yard.clock.set(start);
    assert_eq!(process.drain(&engine).await.unwrap(), 0);
    // Whoever looks at the clock next puts it right.
    step(&engine).await;
    assert_active(&settle(&engine, &[&process]).await);
}

/// A target is built where it will be deployed to, as soon as it is stored: what is wrong there is known before any deployment.
#[tokio::test]
async fn an_agent_looks_at_a_target_when_it_is_stored() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    let process = machine.start().await;
    let spec = |path: &str| TargetSpec {
        place: PlaceSpec { agent: Some("one".into()), host: None },
        ..TargetSpec::new("a", "files", json!({ "combined_path": path }))
    };
    let checked = async || {
        let target: Stored<TargetRecord> = engine.store().resolve("a").await.unwrap();
        target.checked.clone()
    };
    let put = async |path: &str| engine.put_target(&me(), spec(path)).await.unwrap();
    let say = async |given: &Assignment, outcome| {
        let result = WorkResult { jobs: tokens(given), outcome };
        assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    };
    put("/tls/a.pem").await;
    assert_eq!(checked().await, None);
    let given = process.lease_one(&engine).await;
    assert!(matches!(&given.work, Work::Check(target) if &*target.name == "a"), "{given:?}");
    let outcome = process.execute(given.work.clone()).await;
    say(&given, outcome).await;
    assert_eq!(checked().await.unwrap().error, None);
    // As it is, it is not asked about again.
    put("/tls/a.pem").await;
    assert!(checked().await.is_some());
    assert_eq!(process.drain(&engine).await.unwrap(), 0);

    // Another configuration is another question; an answer about the one before it is none about this one.
    put("/tls/b.pem").await;
    assert_eq!(checked().await, None);
    let old = process.lease_one(&engine).await;
    put("/tls/c.pem").await;
    let refused = certctl::Error::new(ErrorKind::Denied, "agent.toml does not allow it").report();
    say(&old, Outcome::Failed(refused.clone())).await;
    assert_eq!(checked().await, None);
    let new = process.lease_one(&engine).await;
    say(&new, Outcome::Failed(refused.clone())).await;
    assert_eq!(checked().await.unwrap().error, Some(refused));
    // What it did not like is asked again when somebody stores it again.
    assert_eq!(process.drain(&engine).await.unwrap(), 0);
    put("/tls/c.pem").await;
    assert_eq!(process.drain(&engine).await.unwrap(), 1);
    assert_eq!(checked().await.unwrap().error, None);
    // A question about what has changed since needs no answer.
    put("/tls/d.pem").await;
    put("/tls/e.pem").await;
    assert_eq!(process.drain(&engine).await.unwrap(), 1);
    engine.delete_target(&me(), "a").await.unwrap();
    for job in engine.store().list::<Job>(Query::of::<Job>()).await.unwrap().0 {
        assert!(job.state.is_finished(), "{job:#?}");
    }
}

/// What reloads together is handed out together; a report about all of it moves each of its jobs.
#[tokio::test]
async fn a_unit_is_one_assignment() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    machine.files.on_run(|_, _| Some(Ok(certctl::host::Output { code: Some(0), text: String::new() })));
    for name in ["a", "b"] {
        let config = json!({ "cert_path": machine.cert(name), "key_path": format!("/tls/{name}.key") });
        let place = PlaceSpec { agent: Some("one".into()), host: None };
        let probe = certctl::records::Probe { endpoints: Some(Vec::new()), ..Default::default() };
        let target = TargetSpec { place, probe: Some(probe), ..TargetSpec::new(name, "nginx", config) };
        engine.put_target(&me(), target).await.unwrap();
    }
    let process = machine.start().await;
    process.drain(&engine).await.unwrap();
    let _ = engine.want(&me(), spec(&["a", "b"])).await.unwrap();
    step(&engine).await;
    process.drain(&engine).await.unwrap();
    step(&engine).await;
    let given = process.lease_one(&engine).await;
    assert_eq!(given.jobs.len(), 2, "{given:#?}");
    let outcome = process.execute(given.work.clone()).await;
    // The lease on one of them is lost on the way: the other's report counts all the same, and the fact about both.
    let [first, second] = [&given.jobs[0], &given.jobs[1]];
    let stale = JobToken { token: second.token + 1, ..second.token() };
    let result = WorkResult { jobs: vec![first.token(), stale], outcome: outcome.clone() };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    let open: Vec<_> = jobs(&engine)
        .await
        .into_iter()
        .filter(|job| &*job.kind == "deploy" && !job.state.is_finished())
        .collect();
    assert_eq!(open.iter().map(|job| &job.id).collect::<Vec<_>>(), [&second.id]);
    assert!(deployments(&engine).await.iter().all(|deployment| deployment.current.is_some()));
    let result = WorkResult { jobs: tokens(&given), outcome };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);
    assert_active(&step(&engine).await);
    // Both at once.
    yard.tick();
    let _ = engine.renew(&me(), "web").await.unwrap();
    assert_active(&settle(&engine, &[&process]).await);
    let addresses: BTreeSet<_> =
        deployments(&engine).await.iter().map(|deployment| deployment.address.clone()).collect();
    assert_eq!(addresses.len(), 2, "each has its own report: {addresses:?}");
    assert_no_open_job(&engine).await;
}

/// An agent that is there and takes its time is not said to be away; one that is gone is, with the time when it was seen.
#[tokio::test]
async fn an_agent_that_takes_its_time_is_not_away() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    let signer = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let (_, token, _) = engine.create_enroll_token(&me(), "one", None).await.unwrap();
    let key = RecipientKey::generate().unwrap();
    let keys = AgentKeys::sign(&token, &signer, key.recipient()).await.unwrap();
    engine.enroll(&token, &keys).await.unwrap();
    let process = machine.start().await;
    let request = SessionRequest::new("one", process.session.instance.clone());
    let request = request.sign(&engine.session_challenge(), &signer).await.unwrap();
    engine.open_session(&request, None).await.unwrap();
    machine.target(&engine, "a").await;
    let process = machine.start().await;
    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    let given = process.lease_one(&engine).await;
    let reason = async || engine.certificate("web").await.unwrap().reason.clone();

    let running = crate::world::Running::start(&engine);
    yard.clock.advance(Duration::from_secs(40));
    assert_eq!(engine.extend_work(&process.session, &tokens(&given)).await.unwrap().len(), 1);
    yard.clock.advance(Duration::from_secs(45));
    yard.clock.asleep().await;
    assert_eq!(reason().await, None);
    yard.clock.advance(Duration::from_secs(120));
    crate::world::eventually(&engine, "the reason", async || reason().await.is_some()).await;
    running.stop().await;
    let message = reason().await.unwrap().message;
    assert!(message.contains("the agent one: it was seen last at 2027-01-15T12:00:00Z"), "{message}");
}
