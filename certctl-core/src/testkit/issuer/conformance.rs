use std::{sync::Arc, time::Duration};

use crate::{
    Chain, Challenge, Clock, Context, Csr, ErrorKind, Handle, Id, Issuer, KeyAlgorithm, Lifetime, Order,
    PrivateKey, Progress, Recovery, Revocation, RevocationReason, SubjectAltName, X509Certificate, random,
    records::Profile, testkit::clock::TestClock,
};

/// An order that an issuer can be asked for, made at `clock`'s time, with its key.
///
/// # Panics
/// If the names can't stand in a request.
pub async fn order(
    clock: &TestClock,
    algorithm: KeyAlgorithm,
    names: &[&str],
    lifetime: Option<Lifetime>,
) -> (Order, PrivateKey) {
    let key = PrivateKey::generate(algorithm).expect("a key can be made");
    let names: Vec<SubjectAltName> =
        names.iter().map(|name| name.parse().expect("a test's names are names")).collect();
    let csr = Csr::create(&key, None, &names).await.expect("a request can be made");
    let order = Order {
        attempt: Id::mint_at(clock.now()),
        seed: random::bytes(),
        created: clock.now(),
        csr,
        common_name: None,
        names,
        profile: Profile { lifetime, ..Profile::default() },
        replaces: None,
    };
    (order, key)
}

/// What every issuer must do. The issuer uses `clock`, which is moved on while it lets an order wait; `present` shows
/// challenges where the CA looks for them.
///
/// # Panics
/// If it does not.
pub async fn conformance(
    issuer: Arc<dyn Issuer>,
    clock: &TestClock,
    present: &(dyn Fn(&[Challenge]) + Sync),
) {
    let suite = Suite { issuer: &*issuer, clock, cx: Context::new(Arc::new(clock.clone())), present };
    suite.names().await;
    suite.keys().await;
    suite.lifetime().await;
    suite.serials().await;
    suite.recovery().await;
    suite.unknown_handles().await;
    suite.revocation().await;
    assert!(!issuer.kind().is_empty() && !issuer.kind().contains(char::is_whitespace), "a kind is one word");
    assert!(!format!("{issuer:?}").contains("PRIVATE KEY"), "no key is printed");
}

struct Suite<'a> {
    issuer: &'a dyn Issuer,
    clock: &'a TestClock,
    cx: Context,
    present: &'a (dyn Fn(&[Challenge]) + Sync),
}

impl Suite<'_> {
    /// Every type of name that it says it can certify, alone and together.
    async fn names(&self) {
        let can = self.issuer.capabilities();
        let mut all = Vec::new();
        for (able, name) in [
            (can.dns, "www.conformance.test"),
            (can.dns && can.wildcard, "*.conformance.test"),
            (can.ip, "192.0.2.7"),
            (can.ip, "2001:db8::7"),
            (can.email, "admin@conformance.test"),
            (can.uri, "spiffe://conformance.test/web"),
        ] {
            if able {
                self.issued(KeyAlgorithm::EcdsaP256, &[name], None).await;
                all.push(name);
            }
        }
        assert!(!all.is_empty(), "an issuer certifies some type of name");
        self.issued(KeyAlgorithm::EcdsaP256, &all, None).await;
    }

    async fn keys(&self) {
        let can = self.issuer.capabilities();
        let algorithms = match can.key_algorithms.as_slice() {
            [] => vec![KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519],
            some => some.to_vec(),
        };
        for algorithm in algorithms {
            self.issued(algorithm, &[self.a_name()], None).await;
        }
    }

    /// What was asked for is not exceeded, and begins no later than it was asked for.
    async fn lifetime(&self) {
        if !self.issuer.capabilities().lifetime {
            return;
        }
        for lifetime in [Lifetime::hours(6), Lifetime::days(30)] {
            let (order, chain) = self.issued(KeyAlgorithm::EcdsaP256, &[self.a_name()], Some(lifetime)).await;
            let leaf = chain.leaf();
            let span = leaf.not_after().since(leaf.not_before());
            let asked = lifetime.as_duration();
            assert!(
                span <= asked + asked / 20 + Duration::from_secs(1),
                "{lifetime} was asked for: {leaf:?}"
            );
            assert!(span >= asked / 2, "{lifetime} was asked for: {leaf:?}");
            assert!(leaf.not_before() <= order.created + Duration::from_secs(1), "valid at once: {leaf:?}");
        }
    }

    async fn serials(&self) {
        let (first, one) = self.issued(KeyAlgorithm::EcdsaP256, &[self.a_name()], None).await;
        let (_, two) = self.issued(KeyAlgorithm::EcdsaP256, &[self.a_name()], None).await;
        assert_ne!(one.leaf().serial(), two.leaf().serial(), "two orders have two serial numbers");
        // A renewal with the same key as well.
        let again = Order { attempt: Id::mint_at(self.clock.now()), seed: random::bytes(), ..first };
        let three = self.finish(&again).await;
        assert_ne!(one.leaf().serial(), three.leaf().serial(), "a renewal has a serial number of its own");
    }

    /// What became of an order is found out as the capabilities say.
    async fn recovery(&self) {
        let recovery = self.issuer.capabilities().recovery;
        if recovery == Recovery::None {
            return;
        }
        let (asked, chain) = self.issued(KeyAlgorithm::EcdsaP256, &[self.a_name()], None).await;
        let found = self.issuer.recover(&self.cx, &asked).await.expect("an order can be looked for");
        let found = self.through(&asked, found.expect("an order that was made is found")).await;
        assert_eq!(found.leaf().serial(), chain.leaf().serial(), "recover gives the same certificate");
        if recovery == Recovery::Idempotent {
            // As a repeated call does, after some time.
            self.clock.advance(Duration::from_secs(600));
            let again = self.finish(&asked).await;
            assert_eq!(
                again.leaf().tbs_der(),
                chain.leaf().tbs_der(),
                "the same order, the same certificate"
            );
        }
        let (unknown, key) = order(self.clock, KeyAlgorithm::EcdsaP256, &[self.a_name()], None).await;
        match self.issuer.recover(&self.cx, &unknown).await.expect("an order can be looked for") {
            None => {}
            Some(progress) => {
                assert_eq!(recovery, Recovery::Idempotent, "an order that was never made is found");
                let chain = self.through(&unknown, progress).await;
                chain
                    .check(key.public_key(), &unknown.names, self.clock.now())
                    .expect("the certificate is right");
            }
        }
    }

    async fn unknown_handles(&self) {
        let (order, _) = order(self.clock, KeyAlgorithm::EcdsaP256, &[self.a_name()], None).await;
        for state in [serde_json::Value::Null, serde_json::json!("x"), serde_json::json!({ "order": 7 })] {
            for version in [0, 1, u16::MAX] {
                let handle = Handle { version, state: state.clone() };
                let answer = self.issuer.poll(&self.cx, &order, handle).await;
                assert!(answer.is_err(), "a handle that it never gave ({version}, {state}): {answer:?}");
            }
        }
    }

    async fn revocation(&self) {
        let (_, chain) = self.issued(KeyAlgorithm::EcdsaP256, &[self.a_name()], None).await;
        let revocation = Revocation { chain, reason: RevocationReason::Superseded, key: None };
        let answer = self.issuer.revoke(&self.cx, &revocation).await;
        if self.issuer.capabilities().revoke {
            answer.expect("it says that it revokes");
        } else {
            let refusal = answer.expect_err("it says that it does not revoke");
            assert_eq!(refusal.kind(), ErrorKind::Unsupported, "{refusal:?}");
        }
    }

    fn a_name(&self) -> &'static str {
        let can = self.issuer.capabilities();
        match (can.dns, can.ip, can.email) {
            (true, ..) => "host.conformance.test",
            (_, true, _) => "192.0.2.8",
            (_, _, true) => "user@conformance.test",
            _ => "spiffe://conformance.test/host",
        }
    }

    /// A certificate, and everything that must be true of it.
    async fn issued(
        &self,
        algorithm: KeyAlgorithm,
        names: &[&str],
        lifetime: Option<Lifetime>,
    ) -> (Order, Chain) {
        let (order, key) = order(self.clock, algorithm, names, lifetime).await;
        self.issuer
            .capabilities()
            .check(self.issuer.kind(), &order.names, Some(algorithm), lifetime)
            .expect("what is asked for is among the capabilities");
        let chain = self.finish(&order).await;
        chain
            .check(key.public_key(), &order.names, self.clock.now())
            .unwrap_or_else(|e| panic!("{names:?} with {algorithm}: {e:?}"));
        let leaf = chain.leaf();
        assert!(!leaf.is_ca(), "no CA is issued: {leaf:?}");
        for name in leaf.names() {
            assert!(order.names.contains(name), "{name} was not asked for: {leaf:?}");
        }
        let anchors = self.issuer.trust_anchors(&self.cx).await.expect("it says what to trust");
        if !anchors.is_empty() {
            let last = chain.certificates().last().expect("a chain is never empty");
            let under = |anchor: &X509Certificate| anchor == last || last.verify_signed_by(anchor).is_ok();
            assert!(anchors.iter().any(under), "the chain leads to none of the trust anchors: {chain:?}");
        }
        (order, chain)
    }

    async fn finish(&self, order: &Order) -> Chain {
        let progress = self.issuer.submit(&self.cx, order).await;
        let progress = progress.unwrap_or_else(|e| panic!("submitting {:?}: {e:?}", order.names));
        self.through(order, progress).await
    }

    /// Polls to the end, letting the clock run to when it wants to be asked.
    async fn through(&self, order: &Order, mut progress: Progress) -> Chain {
        for _ in 0..1_000 {
            let handle = match progress {
                Progress::Issued { chain } => return chain,
                Progress::Failed { error } => panic!("the order of {:?} has ended: {error:?}", order.names),
                Progress::Waiting { handle, at } => {
                    self.clock.advance(at.since(self.clock.now()));
                    handle
                }
                Progress::Challenges { handle, present } => {
                    assert!(!present.is_empty(), "challenges are there to be presented");
                    (self.present)(&present);
                    handle
                }
            };
            // A handle survives a restart.
            let stored = serde_json::to_string(&handle).expect("a handle has a JSON form");
            let handle = serde_json::from_str(&stored).expect("a handle reads back");
            progress = match self.issuer.poll(&self.cx, order, handle).await {
                Ok(progress) => progress,
                Err(e) => panic!("polling {:?}: {e:?}", order.names),
            };
        }
        panic!("{:?} was not issued in 1,000 polls", order.names)
    }
}
