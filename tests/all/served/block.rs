//! The README's lines for an operator, as they stand there.

use std::process::{Command, Stdio};

use certctl::{Csr, KeyAlgorithm, PrivateKey, SubjectAltName};

use crate::{
    peers::free_port,
    served::site::{nginx_json, programs, served_serial},
    server::{Nginx, has_nginx},
    world::World,
};

/// Ends what a line has started in the background when the shell ends, and waits where a person would have to: the server
/// has written its files, the agent is there.
const BEFORE: &str = "set -e\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n\
    await() { for i in $(seq 1 600); do eval \"$1\" >/dev/null 2>&1 && return; sleep 0.05; done; echo \"no: $1\" >&2; exit 1; }\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_lines_work_as_written() {
    if !has_nginx() {
        return;
    }
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    let old = nginx.put_old_pair("web").await;
    nginx.start();
    std::fs::write(world.path("nginx.json"), nginx_json(&nginx, "web").to_string()).unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let names = [SubjectAltName::dns("api.test").unwrap()];
    let csr = Csr::create(&key, None, &names).await.unwrap();
    std::fs::write(world.path("api.csr"), csr.to_pem()).unwrap();

    let lines = lines(free_port());
    let out = Command::new("bash")
        .args(["-c", &format!("{BEFORE}{lines}")])
        .current_dir(world.dir.path())
        .env("PATH", format!("{}:{}", programs().display(), std::env::var("PATH").unwrap()))
        .env_remove("CERTCTL_TEST_REQUIRE_PEERS")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&out.stdout);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{lines}\n{printed}\n{said}");

    // The one that was renewed is served, and is not what was there before.
    let shown = served_serial(&nginx, "web").await;
    assert_ne!(&shown, old.leaf().serial());
    // `certs get` was before the renewal.
    assert!(printed.contains("\"serial_number\""), "{printed}");
    assert!(printed.contains("-----BEGIN CERTIFICATE-----"), "export prints PEM: {printed}");
    assert!(!printed.contains("PRIVATE KEY"));
}

/// The block, with the port that is free here.
fn lines(port: u16) -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let begin = readme.find("certctl-server --data-dir d").expect("the README shows how to start");
    let block = &readme[begin..];
    let block = &block[..block.find("```").unwrap()];
    assert!(block.lines().count() >= 9, "{block}");
    let mut script = String::new();
    for line in block.lines() {
        script.push_str(&line.replace("8443", &port.to_string()));
        script.push('\n');
        match line {
            line if line.starts_with("certctl-server") => {
                script.push_str("await 'test -s d/admin.key && test -s d/ca.pem'\n");
            }
            line if line.starts_with("export ") => script.push_str("await 'certctl status'\n"),
            _ => {}
        }
    }
    script
}
