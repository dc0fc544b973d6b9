//! Recovery, renewal information and revocation, with a server that does not play along.

use certctl::{
    Clock, Context, Effect, ErrorKind, Revocation, RevocationReason, Timestamp,
    records::Placement,
    store::{Query, StoreExt},
};
use serde_json::json;

use super::{ALWAYS, HOUR, Life, Trap, always, edit, instead};
use crate::acme::{
    newest,
    server::{Answer, Manners, Resource, Rule, Twist, Way},
};

/// The answer to the first newOrder is lost.
fn lost() -> Rule {
    (Resource::NewOrder, 0..1, Twist::after(|answer| answer.way = Way::Cut))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_costs_no_second_order_where_orders_are_listed() {
    let life = Life::with(vec![lost()]).await;
    let error = life.fails("the connection broke").await;
    assert_eq!(error.effect, Effect::Unknown);
    life.succeeds().await;
    assert_eq!((life.server.orders(), life.server.count(Resource::NewOrder)), (1, 1));
    assert_eq!(life.server.count(Resource::Orders), 1);

    // And one, where they are not.
    let manners = Manners { rules: vec![lost()], lists_orders: false, ..Manners::default() };
    let life = Life::new(manners, |_| {}).await;
    life.fails("the connection broke").await;
    life.succeeds().await;
    assert_eq!(life.server.orders(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_orders_without_end() {
    let trap = Trap::set().await;
    let elsewhere = trap.url("https");
    let next = |link: String| Twist::after(move |answer: &mut Answer| answer.set("link", link.clone()));
    // To itself: the order is found all the same.
    let life = Life::with(vec![lost(), (Resource::Orders, ALWAYS, next("<>;rel=\"next\"".into()))]).await;
    life.succeeds().await;
    assert_eq!((life.server.orders(), life.server.count(Resource::Orders)), (1, 1));
    // To somebody else.
    let link = format!("<{elsewhere}>;rel=\"next\"");
    let life = Life::with(vec![lost(), (Resource::Orders, ALWAYS, next(link))]).await;
    life.succeeds().await;
    // To ever new pages, of orders that are not ours.
    let pages = |n: usize| {
        let twist = Twist::after(move |answer: &mut Answer| {
            answer.set("link", format!("<?page={n}>;rel=\"next\""));
            answer.edit(|list| {
                let first = list["orders"][0].clone();
                list["orders"] = vec![json!(format!("{}9999{n}", first.as_str().unwrap())); 500].into();
            });
        });
        (Resource::Orders, n..n + 1, twist)
    };
    let mut rules: Vec<Rule> = (0..100).map(pages).collect();
    rules.push(lost());
    let life = Life::with(rules).await;
    life.succeeds().await;
    assert_eq!(life.server.orders(), 2, "it was not found");
    assert!(life.server.count(Resource::Orders) <= 20, "{}", life.server.count(Resource::Orders));
    assert!(life.server.count(Resource::Order) <= 60, "{}", life.server.count(Resource::Order));
    // Orders that are somewhere else are not asked for.
    let url = elsewhere.clone();
    let twist = edit(move |list| list["orders"] = vec![json!(url); 50].into());
    let life = Life::with(vec![lost(), (Resource::Orders, ALWAYS, twist)]).await;
    life.succeeds().await;
    let url = elsewhere.clone();
    let life = Life::with(vec![
        lost(),
        (Resource::Account, ALWAYS, edit(move |a| a["orders"] = url.clone().into())),
    ])
    .await;
    life.fails("the connection broke").await;
    life.until(|job| job.failures == 2).await;
    life.fails("on another host").await;
    trap.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_orders_that_can_not_be_read_leads_to_no_second_order() {
    for resource in [Resource::Account, Resource::Orders] {
        let answers: [fn() -> Answer; 4] = [
            || Answer::new(200, "text/html", "<html>"),
            || Answer::new(200, "application/json", "{\"status"),
            || Answer::problem(500, "serverInternal", "no"),
            || Answer::new(302, "text/html", "").with("location", "/elsewhere"),
        ];
        for answer in answers {
            let life = Life::with(vec![lost(), (resource, ALWAYS, instead(answer()))]).await;
            life.asks_for_attention().await;
            assert_eq!((life.server.orders(), life.server.count(Resource::NewOrder)), (1, 1), "{resource:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_information_that_makes_no_sense() {
    let trap = Trap::set().await;
    let info = |start: &str, end: &str| {
        Answer::json(200, &json!({ "suggestedWindow": { "start": start, "end": end } }))
    };
    let ask = async |answer: Answer| {
        let life = Life::with(always(Resource::RenewalInfo, instead(answer))).await;
        let certificate = life.succeeds().await;
        let chain = newest(&life.engine, &certificate).await.chain.clone();
        let cx = Context::new(std::sync::Arc::new(life.clock.clone()));
        let asked = life.issuer().await.renewal_window(&cx, &chain).await;
        assert_eq!(life.server.wrong(), [""; 0]);
        (life, asked)
    };
    let fine = || info("2027-02-01T00:00:00Z", "2027-02-02T00:00:00Z");
    let mut cut = fine();
    cut.way = Way::Cut;
    let mut huge = fine();
    huge.body = vec![b' '; 1 << 20];
    for (answer, sentence) in [
        (info("2027-02-02T00:00:00Z", "2027-02-01T00:00:00Z"), "the window ends at"),
        (info("2027-02-02T00:00:00Z", "2027-02-02T00:00:00Z"), "the window ends at"),
        (info("9999-12-31T23:59:59Z", "10000-01-01T00:00:00Z"), "is not the renewal information"),
        (info("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59-23:59"), "is not the renewal information"),
        (info("soon", "\u{1b}[31mlater"), "is not the renewal information"),
        (Answer::new(200, "text/html", "<html>"), "instead of the renewal information"),
        (Answer::new(307, "text/html", "").with("location", trap.url("https")), "redirects to"),
        (Answer::problem(503, "serverInternal", "no").with("retry-after", "999999999"), "no"),
        (huge, "more than 512 KiB"),
        (cut, "can't be reached"),
    ] {
        let (_, asked) = ask(answer).await;
        let error = asked.unwrap_err();
        assert!(error.message().contains(sentence), "{error:?} does not say {sentence}");
        assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
    }
    trap.assert_untouched();
    let (_, asked) = ask(Answer::problem(404, "malformed", "no such certificate")).await;
    assert_eq!(asked.unwrap(), None);

    // What can be read is the engine's to judge: it renews within the certificate's lifetime, and asks at most daily.
    for (answer, renews_within) in [
        (info("9999-12-31T00:00:00Z", "9999-12-31T23:59:59Z"), 60 * 24 * HOUR),
        (fine().with("retry-after", "0"), 20 * 24 * HOUR),
        (fine().with("retry-after", "315360000"), 20 * 24 * HOUR),
        (fine().with("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT"), 20 * 24 * HOUR),
    ] {
        let (life, asked) = ask(answer).await;
        asked.unwrap().expect("a window");
        // Nobody waits for anything but answers now.
        life.ticking.abort();
        life.clock.set(life.placement().await.ask_at.unwrap());
        let heard = life.engine.run(async {
            while life.heard().await.is_none() {
                life.clock.pause(HOUR).await;
            }
        });
        tokio::time::timeout(std::time::Duration::from_secs(20), heard)
            .await
            .expect("the engine asks")
            .unwrap();
        let (now, (renew_at, ask_at)) = (life.clock.now(), life.heard().await.unwrap());
        assert!(renew_at.since(now) < renews_within, "{renew_at}");
        assert!(ask_at.since(now) <= 24 * HOUR, "{ask_at}");
    }
}

impl Life {
    async fn placement(&self) -> Placement {
        let placements =
            self.as_store().list::<Placement>(Query::of::<Placement>().limit(2)).await.unwrap().0;
        (*placements[0]).clone()
    }

    /// When the certificate is renewed, and when its CA is asked again; none until it was asked.
    async fn heard(&self) -> Option<(Timestamp, Timestamp)> {
        let heard = self.events().await.iter().any(|event| &*event.action == "renewal_windows.heard");
        let placement = self.placement().await;
        heard.then(|| (placement.renew_at.unwrap(), placement.ask_at.unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_refused() {
    for (answer, kind, sentence) in [
        (
            Answer::new(302, "text/html", "").with("location", "/elsewhere"),
            ErrorKind::BadResponse,
            "redirects",
        ),
        (Answer::problem(403, "unauthorized", "\u{1b}[31mno"), ErrorKind::Denied, "[31mno"),
        (Answer::problem(400, "badRevocationReason", "no"), ErrorKind::Precondition, "badRevocationReason"),
        (Answer::new(500, "text/html", "<html>"), ErrorKind::Unavailable, "status 500"),
    ] {
        let life = Life::with(always(Resource::RevokeCert, instead(answer))).await;
        let certificate = life.succeeds().await;
        let chain = newest(&life.engine, &certificate).await.chain.clone();
        let revocation = Revocation { chain, reason: RevocationReason::Superseded, key: None };
        let cx = Context::new(std::sync::Arc::new(life.clock.clone()));
        let error = life.issuer().await.revoke(&cx, &revocation).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.message().contains(sentence) && !error.to_string().contains('\u{1b}'), "{error:?}");
        assert_eq!(life.server.revoked(), 0);
    }
    let life =
        Life::with(always(Resource::RevokeCert, instead(Answer::problem(400, "alreadyRevoked", "was"))))
            .await;
    let certificate = life.succeeds().await;
    let chain = newest(&life.engine, &certificate).await.chain.clone();
    let revocation = Revocation { chain, reason: RevocationReason::Superseded, key: None };
    let cx = Context::new(std::sync::Arc::new(life.clock.clone()));
    life.issuer().await.revoke(&cx, &revocation).await.unwrap();
}
