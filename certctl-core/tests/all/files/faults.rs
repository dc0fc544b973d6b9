//! Every host operation of a deployment fails once, or is the last one before a kill.

use std::sync::Arc;

use certctl_core::{
    Bundle, Error, ErrorKind, OnHost, Target, WriteMode,
    target::{Observed, Pair, Snapshot},
    testkit::host::{FaultHost, MemoryHost, When},
};

use super::{Server, assert_holds, context, memory, two_bundles};

/// A host, with or without the old bundle on it.
struct World {
    memory: MemoryHost,
    host: Arc<FaultHost>,
    target: OnHost<Server>,
    old: Option<Bundle>,
    write: WriteMode,
}

impl World {
    async fn new(old: Option<&Bundle>, write: WriteMode) -> Self {
        let memory = memory();
        let host = Arc::new(FaultHost::new(Arc::new(memory.clone())));
        let target = Server::default().on(host.clone(), write);
        if let Some(old) = old {
            target.apply(&context(), old).await.unwrap();
        }
        if write == WriteMode::InPlace {
            for path in memory.files() {
                memory.mount(&path);
            }
        }
        host.reset();
        Self { memory, host, target, old: old.cloned(), write }
    }

    /// What a process that is started anew has.
    fn restart(&mut self) {
        self.host.reset();
        self.target = Server::default().on(self.host.clone(), self.write);
    }

    async fn assert_old(&self, when: &str) {
        match &self.old {
            Some(old) => assert_holds(&self.target, old, when).await,
            None => {
                let observed = self.target.observe(&context()).await.unwrap();
                assert_eq!(observed, Observed { certificate: None, pair: Pair::Absent }, "{when}");
            }
        }
    }

    fn assert_tidy(&self, when: &str) {
        let expected = ["/tls/chain.pem", "/tls/web.crt", "/tls/web.key"];
        let left: Vec<String> =
            self.memory.files().into_iter().filter(|path| !expected.contains(&path.as_str())).collect();
        assert!(left.is_empty(), "{when}: left behind: {left:?}");
    }

    async fn snapshot(&self) -> Snapshot {
        self.target.snapshot(&context(), "dep-1").await.unwrap()
    }
}

/// The worlds in which faults are tried.
const WORLDS: [(bool, WriteMode); 3] =
    [(true, WriteMode::Atomic), (false, WriteMode::Atomic), (true, WriteMode::InPlace)];

/// How many operations `step` makes.
async fn count<F: AsyncFn(&World)>(world: World, step: F) -> usize {
    world.host.reset();
    step(&world).await;
    world.host.count()
}

#[tokio::test]
async fn an_apply_that_fails_leaves_the_old_pair_or_can_be_restored() {
    let [old, new] = two_bundles().await;
    for (is_there, write) in WORLDS {
        let old = is_there.then_some(&old);
        let world = World::new(old, write).await;
        world.snapshot().await;
        let all = count(world, async |world| world.target.apply(&context(), &new).await.unwrap()).await;
        assert!(all >= 9, "each of three files is looked up and written: {all}");
        for nth in 1..=all {
            for when in [When::Before, When::After] {
                let case = format!("{old:?} {write:?} {nth} {when:?}", old = is_there);
                let world = World::new(old, write).await;
                let snapshot = world.snapshot().await;
                world.host.reset();
                world.host.fail_nth(nth, when, FaultHost::disk_full());
                let Err(error) = world.target.apply(&context(), &new).await else {
                    panic!("{case}: {:?} failed, and apply did not", world.host.operations());
                };
                assert_eq!(error.kind(), ErrorKind::Precondition, "{case}");
                assert!(error.context_value("file").is_some(), "{case}: {error:?}");
                let step = error.context_value("step").unwrap().to_owned();
                if !["swap", "overwrite"].contains(&step.as_str()) {
                    world.assert_old(&format!("{case}: {step} writes nothing")).await;
                }
                if step == "stage" {
                    assert_eq!(error.context_value("written"), Some("0"), "{case}");
                }
                world.target.restore(&context(), &snapshot).await.unwrap();
                world.assert_old(&format!("{case}: restored")).await;
                world.target.discard(&context(), &snapshot).await.unwrap();
                world.assert_tidy(&case);
            }
        }
    }
}

#[tokio::test]
async fn a_kill_in_apply_is_mended_either_way() {
    let [old, new] = two_bundles().await;
    for (is_there, write) in WORLDS {
        let old = is_there.then_some(&old);
        let world = World::new(old, write).await;
        world.snapshot().await;
        let all = count(world, async |world| world.target.apply(&context(), &new).await.unwrap()).await;
        for nth in 1..=all {
            for (when, forwards) in
                [(When::Before, true), (When::Before, false), (When::After, true), (When::After, false)]
            {
                let case = format!("{is_there} {write:?} {nth} {when:?} forwards: {forwards}");
                let mut world = World::new(old, write).await;
                let snapshot = world.snapshot().await;
                world.host.reset();
                world.host.kill_nth(nth, when);
                assert!(world.target.apply(&context(), &new).await.is_err(), "{case}");
                world.restart();
                if forwards {
                    world.target.apply(&context(), &new).await.unwrap();
                    assert_holds(&world.target, &new, &case).await;
                } else {
                    world.target.restore(&context(), &snapshot).await.unwrap();
                    world.assert_old(&case).await;
                }
                world.target.discard(&context(), &snapshot).await.unwrap();
                world.assert_tidy(&case);
            }
        }
    }
}

#[tokio::test]
async fn a_restore_that_fails_can_be_repeated() {
    let [old, new] = two_bundles().await;
    for (is_there, write) in WORLDS {
        let old = is_there.then_some(&old);
        let world = World::new(old, write).await;
        let snapshot = world.snapshot().await;
        world.target.apply(&context(), &new).await.unwrap();
        let all =
            count(world, async |world| world.target.restore(&context(), &snapshot).await.unwrap()).await;
        for nth in 1..=all {
            for kill in [true, false] {
                let case = format!("{is_there} {write:?} {nth} kill: {kill}");
                let mut world = World::new(old, write).await;
                let snapshot = world.snapshot().await;
                world.target.apply(&context(), &new).await.unwrap();
                world.host.reset();
                match kill {
                    true => world.host.kill_nth(nth, When::Before),
                    false => world.host.fail_nth(nth, When::Before, FaultHost::read_only()),
                }
                match world.target.restore(&context(), &snapshot).await {
                    Err(error) => {
                        assert!(error.message().contains(&snapshot.place), "{case}: {error} names the place");
                        assert_eq!(error.context_value("step"), Some("restore"), "{case}");
                        assert_eq!(error.context_value("snapshot"), Some(snapshot.place.as_str()), "{case}");
                        assert!(error.context_value("file").is_some(), "{case}");
                    }
                    // Only the look whether it is needed at all.
                    Ok(()) => {
                        let failed = &world.host.operations()[nth - 1];
                        assert!(!kill && ["stat", "read"].contains(&failed.name), "{case}: {failed}");
                        world.assert_old(&case).await;
                    }
                }
                if kill {
                    world.restart();
                }
                world.target.restore(&context(), &snapshot).await.unwrap();
                world.assert_old(&case).await;
                world.target.discard(&context(), &snapshot).await.unwrap();
                world.assert_tidy(&case);
            }
        }
    }
}

#[tokio::test]
async fn one_file_that_cannot_be_restored_does_not_keep_the_others() {
    let [old, new] = two_bundles().await;
    let world = World::new(Some(&old), WriteMode::Atomic).await;
    let snapshot = world.snapshot().await;
    world.target.apply(&context(), &new).await.unwrap();
    let first = |operation: &certctl_core::testkit::host::Operation| {
        operation.name == "rename" && operation.subject == "/tls/web.crt"
    };
    world.host.fail_if(first, When::Before, FaultHost::disk_full());
    let error = world.target.restore(&context(), &snapshot).await.unwrap_err();
    assert!(error.message().contains("1 of 3 files"), "{error}");
    assert_eq!(error.context_value("file"), Some("/tls/web.crt"));
    assert_eq!(world.memory.content("/tls/web.key").unwrap(), old.key.to_pem().expose());
    let beside = |path: &String| path.starts_with("/tls/.") && !path.starts_with(&snapshot.place);
    assert!(
        !world.memory.files().iter().any(beside),
        "no copy of a key lies about: {:?}",
        world.memory.files()
    );
}

#[tokio::test]
async fn what_another_process_left_in_the_way_of_a_restore_is_removed() {
    let [old, new] = two_bundles().await;
    let world = World::new(Some(&old), WriteMode::Atomic).await;
    let snapshot = world.snapshot().await;
    world.target.apply(&context(), &new).await.unwrap();
    world.memory.put("/tls/.web.key.certctl-restore", "half");
    world.target.restore(&context(), &snapshot).await.unwrap();
    world.assert_old("restored").await;
    world.target.discard(&context(), &snapshot).await.unwrap();
    world.assert_tidy("afterwards");
}

#[tokio::test]
async fn a_kill_without_a_journal_leaves_nothing_behind_after_the_next_deployment() {
    let [old, new] = two_bundles().await;
    for nth in 1.. {
        let mut world = World::new(Some(&old), WriteMode::Atomic).await;
        world.snapshot().await;
        world.host.reset();
        world.host.kill_nth(nth, When::After);
        let ended = world.target.apply(&context(), &new).await.is_ok();
        world.restart();
        let snapshot = world.snapshot().await;
        world.target.apply(&context(), &new).await.unwrap();
        world.target.discard(&context(), &snapshot).await.unwrap();
        assert_holds(&world.target, &new, "deployed").await;
        world.assert_tidy(&format!("killed at {nth}"));
        if ended {
            break;
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_nothing_and_a_killed_one_is_replaced() {
    let [old, new] = two_bundles().await;
    let all = count(World::new(Some(&old), WriteMode::Atomic).await, async |world| {
        world.snapshot().await;
    })
    .await;
    for nth in 1..=all {
        for when in [When::Before, When::After] {
            let world = World::new(Some(&old), WriteMode::Atomic).await;
            world.host.fail_nth(nth, when, FaultHost::disk_full());
            assert!(world.target.snapshot(&context(), "dep-1").await.is_err(), "{nth} {when:?}");
            world.assert_old("a snapshot touches nothing").await;
            world.assert_tidy(&format!("{nth} {when:?}"));

            let mut world = World::new(Some(&old), WriteMode::Atomic).await;
            world.host.kill_nth(nth, when);
            assert!(world.target.snapshot(&context(), "dep-1").await.is_err(), "{nth} {when:?}");
            world.restart();
            let snapshot = world.snapshot().await;
            world.target.apply(&context(), &new).await.unwrap();
            world.target.restore(&context(), &snapshot).await.unwrap();
            world.assert_old("the second snapshot is whole").await;
            world.target.discard(&context(), &snapshot).await.unwrap();
            world.assert_tidy(&format!("{nth} {when:?}, killed"));
        }
    }
}

#[tokio::test]
async fn a_discard_that_is_cut_off_can_be_repeated() {
    let [old, new] = two_bundles().await;
    // Staged files of a killed predecessor are about, and a successor has to find them although it wrote nothing itself.
    let prepare = async || {
        let mut world = World::new(Some(&old), WriteMode::Atomic).await;
        let snapshot = world.snapshot().await;
        world.host.fail_if(|operation| operation.name == "swap", When::Before, FaultHost::read_only());
        world.host.fail_if(|operation| operation.name == "remove", When::Before, FaultHost::read_only());
        assert!(world.target.apply(&context(), &new).await.is_err());
        world.restart();
        assert_eq!(world.memory.files().len(), 8, "three files, their copies, and two staged");
        (world, snapshot)
    };
    let (world, snapshot) = prepare().await;
    let all = count(world, async |world| world.target.discard(&context(), &snapshot).await.unwrap()).await;
    for nth in 1..=all {
        for kill in [true, false] {
            let (mut world, snapshot) = prepare().await;
            match kill {
                true => world.host.kill_nth(nth, When::Before),
                false => world.host.fail_nth(nth, When::Before, FaultHost::read_only()),
            }
            // A directory that can't be removed at first is listed, and removed then.
            let first = world.target.discard(&context(), &snapshot).await;
            assert!(first.is_err() || (nth == all && !kill), "{nth} kill: {kill}");
            world.restart();
            world.target.discard(&context(), &snapshot).await.unwrap();
            world.assert_old("discarding touches nothing").await;
            world.assert_tidy(&format!("{nth} kill: {kill}"));
        }
    }
}

#[tokio::test]
async fn secrets_stay_out_of_errors_and_snapshots() {
    let [old, new] = two_bundles().await;
    let world = World::new(Some(&old), WriteMode::Atomic).await;
    let snapshot = world.snapshot().await;
    world.host.fail_if(|operation| operation.name == "stage", When::Before, Error::internal("broken"));
    let error = world.target.apply(&context(), &new).await.unwrap_err();
    let said = format!("{snapshot:?} {error:?} {:?} {:?}", error.report(), world.target);
    for bundle in [&old, &new] {
        let key = bundle.key.to_pem();
        let line = key.expose_str().unwrap().lines().nth(1).unwrap();
        assert!(!said.contains(line), "{said}");
    }
}
