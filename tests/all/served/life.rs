//! Certificates from their making to their renewal, also where everybody is killed in between.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use certctl::Chain;
use tokio::task::JoinHandle;

use crate::{
    nginx::Client,
    served::site::{Site, served_serial},
    server::{Nginx, assert_whole, has_nginx},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_request_during_a_renewal_is_answered() {
    if !has_nginx() {
        return;
    }
    let (site, nginx) = with_web().await;
    site.ok(&["certs", "create", "web", "--san", "web.test", "--target", "nginx-web", "--wait"]);
    assert_eq!(site.json(&["certs", "get", "web"])["status"], "active");
    let first = site.serial("web");
    assert_eq!(served_serial(&nginx, "web").await, first);

    let load = Load::start(&site, &nginx);
    site.ok(&["certs", "renew", "web", "--wait"]);
    let second = site.serial("web");
    assert_eq!(served_serial(&nginx, "web").await, second);
    assert_ne!(first, second);
    assert_eq!(load.end().await, BTreeSet::from([first.to_string(), second.to_string()]));
    assert_whole(&nginx.cert("web"), &nginx.key("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_have_two_keys_and_two_certificates() {
    if !has_nginx() {
        return;
    }
    let (mut site, nginx) = with_web().await;
    let other = Nginx::new(&site.world.path("other"), &["web"]);
    other.put_old_pair("web").await;
    other.start();
    site.start_agent("web-2").await;
    let file = site.world.path("second.json");
    std::fs::write(&file, super::site::nginx_json(&other, "web").to_string()).unwrap();
    let file = file.to_str().unwrap();
    site.ok(&["targets", "create", "second", "--kind", "nginx", "--agent", "web-2", "--config", file]);

    site.ok(&[
        "certs",
        "create",
        "web",
        "--san",
        "web.test",
        "--target",
        "nginx-web",
        "--target",
        "second",
        "--wait",
    ]);

    assert_eq!(site.json(&["certs", "get", "web"])["status"], "active");
    assert_eq!(site.versions("web"), 2);
    assert_ne!(served_serial(&nginx, "web").await, served_serial(&other, "web").await);
    let keys = [&nginx, &other].map(|nginx| std::fs::read(nginx.key("web")).unwrap());
    assert_ne!(keys[0], keys[1]);
    // The server has seen neither.
    let state = site.world.path("d");
    for entry in std::fs::read_dir(&state).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap();
        for key in &keys {
            let text = String::from_utf8_lossy(key);
            let line = text.lines().nth(1).unwrap().as_bytes();
            assert!(!bytes.windows(line.len()).any(|window| window == line), "{:?}", entry.path());
        }
    }
}

/// Both programs are killed again and again, at moments that nobody chose, while certificates are issued and renewed.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_at_any_moment_carries_on() {
    if !has_nginx() {
        return;
    }
    const ROUNDS: u64 = 6;
    let (mut site, nginx) = with_web().await;
    site.ok(&["certs", "create", "web", "--san", "web.test", "--target", "nginx-web", "--wait"]);
    for round in 1..=ROUNDS {
        site.ok(&["certs", "renew", "web"]);
        // From at once to well behind the end of a renewal, which takes about a quarter of a second.
        tokio::time::sleep(std::time::Duration::from_millis(round * 60)).await;
        if round % 3 != 1 {
            site.kill_agent("web-1");
        }
        if round % 3 != 2 {
            site.kill_server();
            assert!(site.start_server().await.is_ok(), "the port was taken");
        }
        if round % 3 != 1 {
            site.start_agent("web-1").await;
        }
        site.until("the job ends", |site| {
            site.json(&["jobs", "list", "--state", "open"])["data"] == serde_json::json!([])
        })
        .await;
        let shown = site.json(&["certs", "get", "web"]);
        assert_eq!(shown["status"], "active", "{shown:#}");
        assert_eq!(site.versions("web") as u64, round + 1, "one version for each issuance: {shown:#}");
        assert_eq!(served_serial(&nginx, "web").await, site.serial("web"));
        assert_whole(&nginx.cert("web"), &nginx.key("web"));
        assert_eq!(nginx.listing(), ["web.crt", "web.key"], "nothing is left beside the pair");
    }
}

/// A server, an agent `web-1`, a running nginx and the target `nginx-web` on it.
async fn with_web() -> (Site, Nginx) {
    let mut site = Site::new().await;
    let nginx = Nginx::new(&site.world.path("nginx"), &["web"]);
    nginx.put_old_pair("web").await;
    nginx.start();
    site.start_agent("web-1").await;
    site.nginx_target(&nginx, "web", "web-1");
    (site, nginx)
}

/// Requests in parallel; each has to be answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Load {
    fn start(site: &Site, nginx: &Nginx) -> Self {
        let anchors = std::fs::read(site.world.path("d/ca.pem")).unwrap();
        let client = Client::trusting(Chain::from_pem(&anchors).unwrap().certificates(), nginx);
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..16)
            .map(|_| {
                let (stop, answered, client) = (stop.clone(), answered.clone(), client.clone());
                tokio::spawn(async move {
                    let mut seen = BTreeSet::new();
                    while !stop.load(Ordering::Acquire) || answered.load(Ordering::Relaxed) < 400 {
                        seen.insert(client.request().await.to_string());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    seen
                })
            })
            .collect();
        Self { stop, answered, tasks }
    }

    /// The serial numbers that were seen until now, over 400 requests or more.
    async fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Release);
        let mut seen = BTreeSet::new();
        for task in self.tasks {
            seen.append(&mut task.await.expect("every request is answered"));
        }
        assert!(self.answered.load(Ordering::Relaxed) >= 400);
        seen
    }
}
