//! A slot of a resolver as a target: every step may run twice.

use std::sync::Arc;

use certctl_connectors::targets::{ResolverTarget, resolver_target};
use certctl_core::{
    Bundle, Chain, Clock, Context, ErrorKind, Fingerprint, Issuer, IssuerCapabilities, KeyAlgorithm,
    Progress, Recovery, Target,
    connectors::TargetDeclaration,
    target::{Pair, Snapshot},
    testkit::{
        clock::TestClock,
        issuer::{ScriptedIssuer, order},
        target::{bundles, conformance},
    },
    tls::TlsResolver,
};

struct World {
    resolver: Arc<TlsResolver>,
    target: ResolverTarget,
    cx: Context,
    bundles: Vec<Bundle>,
}

async fn world() -> World {
    let clock = TestClock::default();
    let cx = Context::new(Arc::new(clock.clone()));
    let issuer = ScriptedIssuer::new(clock.now(), IssuerCapabilities::all(Recovery::Idempotent)).await;
    let mut bundles = Vec::new();
    for _ in 0..3 {
        let (order, key) = order(&clock, KeyAlgorithm::EcdsaP256, &["web.test"], None).await;
        let Progress::Issued { chain } = issuer.submit(&cx, &order).await.unwrap() else {
            panic!("it issues at once");
        };
        bundles.push(Bundle { chain, key });
    }
    let resolver = Arc::new(TlsResolver::new());
    World { target: ResolverTarget::new(resolver.clone(), "web"), resolver, cx, bundles }
}

impl World {
    fn leaf(&self, index: usize) -> Option<Fingerprint> {
        Some(self.bundles[index].chain.leaf().fingerprint())
    }

    async fn at_rest(&self) -> (Option<Fingerprint>, Pair) {
        let observed = self.target.observe(&self.cx).await.unwrap();
        (observed.certificate, observed.pair)
    }
}

#[tokio::test]
async fn conforms() {
    let target = resolver_target(&Arc::new(TlsResolver::new()), "web");
    conformance(&*target, &bundles(&["web.test".parse().unwrap()]).await).await;
}

#[tokio::test]
async fn what_is_applied_is_at_rest_and_twice_is_once() {
    let world = world().await;
    let (target, cx) = (&world.target, &world.cx);
    assert_eq!(world.at_rest().await, (None, Pair::Absent));
    let plan = target.plan(cx, &world.bundles[0]).await.unwrap();
    assert_eq!((plan.old, plan.new, plan.changes.len()), (None, world.leaf(0), 1));
    assert_eq!(plan.changes[0].action, "create");
    assert_eq!(world.at_rest().await, (None, Pair::Absent), "a plan touches nothing");

    for _ in 0..2 {
        target.apply(cx, &world.bundles[0]).await.unwrap();
        target.validate(cx).await.unwrap();
        target.reload(cx).await.unwrap();
        assert_eq!(world.at_rest().await, (world.leaf(0), Pair::Whole));
    }
    assert!(target.plan(cx, &world.bundles[0]).await.unwrap().changes.is_empty());
    let plan = target.plan(cx, &world.bundles[1]).await.unwrap();
    assert_eq!((plan.old, plan.changes[0].action.as_str()), (world.leaf(0), "replace"));
}

#[tokio::test]
async fn a_snapshot_brings_back_what_was_there_also_nothing() {
    let world = world().await;
    let (target, cx) = (&world.target, &world.cx);
    let empty = target.snapshot(cx, "one").await.unwrap();
    target.apply(cx, &world.bundles[0]).await.unwrap();
    let first = target.snapshot(cx, "two").await.unwrap();
    target.apply(cx, &world.bundles[1]).await.unwrap();
    let stored = serde_json::to_string(&first).unwrap();
    assert!(!stored.contains("PRIVATE"), "a snapshot is a reference: {stored}");
    let first: Snapshot = serde_json::from_str(&stored).unwrap();
    for _ in 0..2 {
        target.restore(cx, &first).await.unwrap();
        assert_eq!(world.at_rest().await, (world.leaf(0), Pair::Whole));
    }
    for _ in 0..2 {
        target.restore(cx, &empty).await.unwrap();
        assert_eq!(world.at_rest().await, (None, Pair::Absent));
    }
    for snapshot in [&empty, &first, &first] {
        target.discard(cx, snapshot).await.unwrap();
    }
    target.apply(cx, &world.bundles[2]).await.unwrap();
    let third = target.snapshot(cx, "two").await.unwrap();
    target.apply(cx, &world.bundles[0]).await.unwrap();
    target.restore(cx, &third).await.unwrap();
    assert_eq!(world.at_rest().await, (world.leaf(2), Pair::Whole));
}

#[tokio::test]
async fn a_snapshot_of_a_process_that_is_gone_leaves_no_harm() {
    let world = world().await;
    let cx = &world.cx;
    world.target.apply(cx, &world.bundles[0]).await.unwrap();
    let snapshot = world.target.snapshot(cx, "one").await.unwrap();
    // The next process: nothing is installed yet, so that there is nothing to undo.
    let resolver = Arc::new(TlsResolver::new());
    let target = ResolverTarget::new(resolver.clone(), "web");
    target.restore(cx, &snapshot).await.unwrap();
    assert!(resolver.current("web").is_none());
    target.apply(cx, &world.bundles[0]).await.unwrap();
    target.restore(cx, &snapshot).await.unwrap();
    assert_eq!(resolver.current("web"), world.leaf(0));
    // It would have to bring back what it does not have: it says so, and touches nothing.
    target.apply(cx, &world.bundles[1]).await.unwrap();
    let refused = target.restore(cx, &snapshot).await.unwrap_err();
    assert_eq!((refused.kind(), refused.context_value("step")), (ErrorKind::Precondition, Some("restore")));
    assert_eq!(resolver.current("web"), world.leaf(1));
    target.discard(cx, &snapshot).await.unwrap();
}

#[tokio::test]
async fn a_torn_bundle_changes_nothing() {
    let world = world().await;
    let cx = &world.cx;
    world.target.apply(cx, &world.bundles[0]).await.unwrap();
    let torn = Bundle { chain: world.bundles[1].chain.clone(), key: world.bundles[2].key.clone() };
    let refused = world.target.apply(cx, &torn).await.unwrap_err();
    assert_eq!((refused.kind(), refused.context_value("step")), (ErrorKind::Invalid, Some("install")));
    assert_eq!(world.at_rest().await, (world.leaf(0), Pair::Whole));
}

#[tokio::test]
async fn a_chain_that_grew_is_a_change() {
    let world = world().await;
    let cx = &world.cx;
    let whole = &world.bundles[0];
    let alone =
        Bundle { chain: Chain::new(vec![whole.chain.leaf().clone()]).unwrap(), key: whole.key.clone() };
    world.target.apply(cx, &alone).await.unwrap();
    let grown = whole.chain.certificates().len() > 1;
    assert!(grown, "the chain has an issuer to add");
    assert_eq!(world.target.plan(cx, whole).await.unwrap().changes.len(), 1);
    world.target.apply(cx, whole).await.unwrap();
    assert_eq!(world.resolver.bundle("web").unwrap().chain, whole.chain);
}

#[tokio::test]
async fn slots_of_one_resolver_are_targets_of_their_own() {
    let world = world().await;
    let (one, two) = (resolver_target(&world.resolver, "one"), resolver_target(&world.resolver, "two"));
    one.apply(&world.cx, &world.bundles[0]).await.unwrap();
    two.apply(&world.cx, &world.bundles[1]).await.unwrap();
    assert_eq!(world.resolver.current("one"), world.leaf(0));
    assert_eq!(world.resolver.current("two"), world.leaf(1));
    assert_ne!(one.address(), two.address());
    assert_eq!((one.kind(), one.unit(), one.host().is_none()), ("rustls", None, true));
    assert_eq!(format!("{:?}", TargetDeclaration::from(one)), "TargetDeclaration(rustls)");
}
