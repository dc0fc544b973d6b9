//! What every target must do alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::clock::TestClock;
use crate::{
    Bundle, CertificateAuthority, Clock, Context, KeyAlgorithm, LeafRequest, Lifetime, PrivateKey,
    SubjectAltName, Target,
    target::{Observed, Pair, Snapshot},
};

/// Two bundles for the same names, an older and a newer one, with a leaf, an issuing CA and keys of their own. They are
/// valid at [`TestClock::default`]'s time.
///
/// # Panics
/// If the names can't be certified.
pub async fn bundles(names: &[SubjectAltName]) -> [Bundle; 2] {
    let now = TestClock::default().now();
    let key = || PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let life = Lifetime::secs(90 * 24 * 3600);
    let root =
        CertificateAuthority::create_root(Arc::new(key()), "Test root", now, life, [1; 20]).await.unwrap();
    let issuing = CertificateAuthority::create_issuing(&root, Arc::new(key()), "Test CA", now, life, [2; 20]);
    let issuing = issuing.await.unwrap();
    let mut bundles = Vec::new();
    for number in 0..2 {
        let key = key();
        let request = LeafRequest {
            public_key: key.public_key().clone(),
            names: names.to_vec(),
            common_name: None,
            not_before: now,
            not_after: now + Lifetime::secs(24 * 3600).as_duration(),
            serial_seed: [3 + number; 20],
            usages: Vec::new(),
        };
        bundles.push(Bundle { chain: issuing.sign(&request).await.unwrap(), key });
    }
    bundles.try_into().expect("two bundles")
}

/// Checks that a target keeps the contract of [`Target`]. It must hold no certificate yet, and its server must take what
/// it is given; `bundles` are two different ones that it can take. The newer one is in place afterwards.
///
/// # Panics
/// At the first thing that is not as it should be.
pub async fn conformance(target: &dyn Target, bundles: &[Bundle; 2]) {
    let suite = Suite { target, cx: Context::new(Arc::new(TestClock::default())) };
    let [old, new] = bundles;
    suite.a_plan_touches_nothing(old).await;
    suite.absence_is_restored(old).await;
    suite.a_bundle_is_put_in_place(old).await;
    suite.applying_again_changes_nothing(old).await;
    suite.the_old_bundle_is_restored(old, new).await;
    suite.a_leftover_snapshot_is_replaced(old, new).await;
}

struct Suite<'a> {
    target: &'a dyn Target,
    cx: Context,
}

impl Suite<'_> {
    async fn a_plan_touches_nothing(&self, bundle: &Bundle) {
        self.assert_absent("a fresh target").await;
        let plan = self.target.plan(&self.cx, bundle).await.unwrap();
        assert!(!plan.changes.is_empty(), "there is something to do on a fresh target");
        assert_eq!(plan.old, None, "nothing is there");
        assert_eq!(plan.new, Some(bundle.chain.leaf().fingerprint()), "the plan names the new leaf");
        assert_eq!(self.target.plan(&self.cx, bundle).await.unwrap(), plan, "planning changes nothing");
        self.assert_absent("a target that was only planned for").await;
        assert!(!self.target.kind().is_empty(), "a target has a kind");
        assert!(!self.target.address().is_empty(), "a target has an address");
    }

    async fn absence_is_restored(&self, bundle: &Bundle) {
        let snapshot = self.target.snapshot(&self.cx, "conformance-1").await.unwrap();
        self.assert_absent("a target after a snapshot").await;
        assert!(!snapshot.place.is_empty(), "a person can find the snapshot");
        self.apply(bundle).await;
        for time in ["once", "twice"] {
            self.target.restore(&self.cx, &snapshot).await.unwrap();
            self.assert_absent(&format!("a target that was restored {time} to absence")).await;
        }
        self.discard_twice(&snapshot).await;
        self.assert_absent("a target whose snapshot was discarded").await;
    }

    async fn a_bundle_is_put_in_place(&self, bundle: &Bundle) {
        let snapshot = self.target.snapshot(&self.cx, "conformance-2").await.unwrap();
        self.apply(bundle).await;
        self.discard_twice(&snapshot).await;
        self.assert_holds(bundle, "after its snapshot is gone").await;
        self.assert_nothing_to_do(bundle).await;
    }

    async fn applying_again_changes_nothing(&self, bundle: &Bundle) {
        self.apply(bundle).await;
        self.apply(bundle).await;
        self.assert_nothing_to_do(bundle).await;
    }

    async fn the_old_bundle_is_restored(&self, old: &Bundle, new: &Bundle) {
        let plan = self.target.plan(&self.cx, new).await.unwrap();
        assert!(!plan.changes.is_empty(), "another bundle is something to do");
        assert_eq!(plan.old, Some(old.chain.leaf().fingerprint()), "the plan names the old leaf");
        let snapshot = self.target.snapshot(&self.cx, "conformance-3").await.unwrap();
        self.apply(new).await;
        for time in ["once", "twice"] {
            self.target.restore(&self.cx, &snapshot).await.unwrap();
            self.assert_holds(old, &format!("restored {time}")).await;
        }
        self.target.validate(&self.cx).await.unwrap();
        self.target.reload(&self.cx).await.unwrap();
        self.assert_nothing_to_do(old).await;
        // It is a value: a successor in another process has it from a journal.
        let journaled = serde_json::from_value(serde_json::to_value(&snapshot).unwrap()).unwrap();
        self.apply(new).await;
        self.target.restore(&self.cx, &journaled).await.unwrap();
        self.assert_holds(old, "restored from a journal").await;
        self.discard_twice(&journaled).await;
        self.assert_holds(old, "after its snapshot is gone").await;
    }

    async fn a_leftover_snapshot_is_replaced(&self, old: &Bundle, new: &Bundle) {
        self.target.snapshot(&self.cx, "conformance-4").await.unwrap();
        self.apply(new).await;
        let snapshot = self.target.snapshot(&self.cx, "conformance-4").await.unwrap();
        self.apply(old).await;
        self.target.restore(&self.cx, &snapshot).await.unwrap();
        self.assert_holds(new, "the snapshot that was taken last").await;
        self.discard_twice(&snapshot).await;
    }

    async fn apply(&self, bundle: &Bundle) {
        self.target.apply(&self.cx, bundle).await.unwrap();
        self.target.validate(&self.cx).await.unwrap();
        self.target.reload(&self.cx).await.unwrap();
        self.assert_holds(bundle, "after it was applied").await;
    }

    async fn discard_twice(&self, snapshot: &Snapshot) {
        self.target.discard(&self.cx, snapshot).await.unwrap();
        self.target.discard(&self.cx, snapshot).await.expect("what is not there can be discarded");
    }

    async fn assert_absent(&self, what: &str) {
        let observed = self.target.observe(&self.cx).await.unwrap();
        assert_eq!(observed, Observed { certificate: None, pair: Pair::Absent }, "{what} holds nothing");
    }

    async fn assert_holds(&self, bundle: &Bundle, when: &str) {
        let certificate = Some(bundle.chain.leaf().fingerprint());
        let observed = self.target.observe(&self.cx).await.unwrap();
        assert_eq!(observed, Observed { certificate, pair: Pair::Whole }, "{when}");
    }

    async fn assert_nothing_to_do(&self, bundle: &Bundle) {
        let plan = self.target.plan(&self.cx, bundle).await.unwrap();
        assert!(plan.changes.is_empty(), "there is nothing left to do: {plan:?}");
        assert!(plan.commands.is_empty(), "so there is nothing to run: {plan:?}");
        assert_eq!(plan.old, plan.new, "old and new are the same");
    }
}
