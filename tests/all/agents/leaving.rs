//! Holders that are wanted no more.

use certctl::{
    ErrorKind, Keys,
    records::DeploymentState,
    worker::{Outcome, Reported, Work, WorkReport, WorkResult},
};

use crate::{
    agents::rig::{Yard, assert_no_open_job, deployments, settle, spec, step, tokens},
    world::{assert_active, me},
};

/// What is half written on a target that is given up comes to its end first; the certificate stands as what is wanted does.
#[tokio::test]
async fn a_holder_that_goes_half_written_is_kept_until_that_has_ended() {
    let yard = Yard::new().await;
    let engine = yard.engine().await;
    let (one, two) = (yard.agent(&engine, "one").await, yard.agent(&engine, "two").await);
    one.target(&engine, "a").await;
    two.target(&engine, "c").await;
    let (on_one, on_two) = (one.start().await, two.start().await);
    let _ = engine.want(&me(), spec(&["a", "c"])).await.unwrap();
    step(&engine).await;
    on_one.drain(&engine).await.unwrap();
    step(&engine).await;
    let given = on_one.lease_one(&engine).await;
    let Work::Deploy(work) = &given.work else { panic!("{given:?}") };
    let key = work.items[0].key.clone();
    let done = on_one.execute(given.work.clone()).await;
    let Outcome::Report(WorkReport::Deployed(mut reports)) = done else { panic!("a deployment") };
    reports[0].outcome = certctl::worker::DeployOutcome::RollbackFailed;
    reports[0].unfinished = true;
    reports[0].error = Some(certctl::Error::new(ErrorKind::Internal, "the way back failed").report());
    let result = WorkResult { jobs: tokens(&given), outcome: Outcome::Report(WorkReport::Deployed(reports)) };
    assert_eq!(on_one.report(&engine, &result).await.unwrap(), Reported::Recorded);

    yard.tick();
    let _ = engine.want(&me(), spec(&["c"])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    let left: Vec<_> = deployments(&engine).await.into_iter().map(|deployment| deployment.state).collect();
    assert!(left.contains(&DeploymentState::RollbackFailed), "{left:?}");
    assert!(one.keys.export(&key).await.is_ok(), "what is there may need it");

    // Somebody has looked, and it comes to an end.
    let _ = engine.retry(&me(), &given.id).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    let _ = engine.want(&me(), spec(&["c"])).await.unwrap();
    assert_active(&settle(&engine, &[&on_one, &on_two]).await);
    assert_eq!(deployments(&engine).await.len(), 1);
    assert!(one.keys.export(&key).await.is_err());
    assert_no_open_job(&engine).await;
}
