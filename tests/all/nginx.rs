//! Life on a real nginx.

use certctl::{connectors::TargetConfigExt, records::DeploymentState};

use crate::{
    server::{Nginx, assert_whole, has_nginx},
    world::{World, assert_active, assert_proved, deployment, me, version_count, web},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ensure_issues_deploys_and_proves() {
    if !has_nginx() {
        return;
    }
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    let old = nginx.put_old_pair("web").await;
    nginx.start();
    let engine = world
        .builder()
        .await
        .target("web", nginx.config("web").probe([nginx.endpoint()]))
        .build()
        .await
        .unwrap();

    let certificate = engine.ensure(&me(), web()).await.unwrap();

    assert_active(&certificate);
    let deployment = deployment(&engine, &certificate).await;
    assert_proved(&deployment);
    let served = nginx.served("web").await.unwrap();
    assert_eq!(Some(served.leaf().serial()), certificate.serial.as_ref());
    assert_ne!(served.leaf().serial(), old.leaf().serial());
    let at_rest = assert_whole(&nginx.cert("web"), &nginx.key("web"));
    assert_eq!(at_rest.certificates().len(), 2, "leaf and issuing CA");
    // Nothing is left beside the pair.
    let left: Vec<_> =
        std::fs::read_dir(world.path("nginx/tls")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");

    // The same again touches nothing, and says so.
    let before = std::fs::metadata(nginx.cert("web")).unwrap();
    let again = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&again);
    assert_eq!(again.serial, certificate.serial);
    let after = std::fs::metadata(nginx.cert("web")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
    assert_eq!(version_count(&engine, &again).await, 1);
    let deployment = crate::world::deployment(&engine, &again).await;
    assert_eq!(deployment.state, DeploymentState::Proved);
    assert!(deployment.changed.as_ref().unwrap().changes.is_empty(), "{:?}", deployment.changed);
}
