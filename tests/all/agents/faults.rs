//! An agent that dies at each of its boundaries, and an engine that is started anew beside it.

use certctl::testkit::host::When;

use crate::{
    agents::rig::{Dead, Machine, Yard, assert_no_open_job, deployments, settle, spec, step, versions},
    world::{assert_active, me},
};

/// Each call of the agent, before and after it, and each write to its journal: the next process ends with one certificate per
/// issuance, brought there once.
#[tokio::test]
async fn a_death_around_any_call_is_mended_by_the_next_start() {
    for at in 1.. {
        let yard = Yard::new().await;
        let mut engine = yard.engine().await;
        let machine = yard.agent(&engine, "one").await;
        machine.target(&engine, "a").await;
        let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
        let first = machine.start().await;
        first.dies_at(at);
        let mut died = false;
        for life in 0..2 {
            loop {
                step(&engine).await;
                match first.drain(&engine).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(Dead) => {
                        died = true;
                        break;
                    }
                }
            }
            if died {
                break;
            }
            if life == 0 {
                yard.tick();
                let _ = engine.renew(&me(), "web").await.unwrap();
            }
        }
        // The engine goes with it.
        drop(engine);
        engine = yard.engine().await;
        let next = machine.start().await;
        let certificate = settle(&engine, &[&next]).await;
        assert_active(&certificate);
        let renewed = versions(&engine).await.len();
        assert_eq!(yard.ca.issued().len(), renewed, "at {at}: what was issued is on record");
        yard.ca.assert_no_second_order();
        assert_eq!(machine.swaps(), 2 * renewed, "at {at}: each was brought there once");
        end(&yard, &engine, &machine, &format!("at {at}")).await;
        if !died {
            assert!(at > 20, "only {at} boundaries");
            assert_eq!(renewed, 2);
            return;
        }
    }
}

/// Each operation on the agent's host, before and after it.
#[tokio::test]
async fn a_death_around_any_write_is_mended_by_the_next_start() {
    for at in 1.. {
        for when in [When::Before, When::After] {
            let yard = Yard::new().await;
            let engine = yard.engine().await;
            let machine = yard.agent(&engine, "one").await;
            machine.target(&engine, "a").await;
            let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
            {
                let first = machine.start().await;
                settle(&engine, &[&first]).await;
                yard.tick();
                let _ = engine.renew(&me(), "web").await.unwrap();
                step(&engine).await;
                first.drain(&engine).await.unwrap();
                step(&engine).await;
                machine.host.reset();
                machine.host.halt_nth(at, when);
                tokio::select! {
                    done = first.drain(&engine) => { done.unwrap(); }
                    () = machine.host.ended() => {}
                }
            }
            let died = machine.host.is_ended();
            machine.host.reset();
            let next = machine.start().await;
            let certificate = settle(&engine, &[&next]).await;
            assert_active(&certificate);
            assert_eq!(versions(&engine).await.len(), 2);
            end(&yard, &engine, &machine, &format!("{when:?} {at}")).await;
            if !died {
                assert!(at > 5, "only {at} operations");
                return;
            }
        }
    }
}

/// One certificate per issuance is in place, nothing is open, and nothing lies about.
async fn end(yard: &Yard, engine: &certctl::Engine, machine: &Machine, at: &str) {
    assert_no_open_job(engine).await;
    let versions = versions(engine).await;
    assert_eq!(machine.at_rest("a").unwrap(), versions[0].chain, "{at}");
    assert_eq!(deployments(engine).await[0].current.as_ref(), Some(&versions[0].id), "{at}");
    assert_eq!(machine.files.files(), ["/tls/a.crt", "/tls/a.key"], "{at}");
    let live: Vec<_> = versions.iter().filter(|version| !version.key_forgotten).collect();
    assert_eq!(live.len(), 1, "{at}");
    machine.assert_no_key_on_the_wire(&versions).await;
    yard.assert_untouched();
}
