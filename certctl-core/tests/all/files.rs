//! The file engine, on a host in memory.

mod faults;
mod policy;

use std::sync::Arc;

use certctl_core::{
    Bundle, Context, FileTarget, OnHost, SubjectAltName, Target, WriteMode,
    host::{Command, Host, HostPath},
    target::{FileLayout, FileRole, Observed, Pair, TargetFile},
    testkit::{
        clock::TestClock,
        host::MemoryHost,
        target::{bundles, conformance},
    },
};

/// A server with a chain, the issuers and a key in `/tls`.
#[derive(Clone, Debug)]
struct Server {
    layout: FileLayout,
}

impl Default for Server {
    fn default() -> Self {
        Self::with([
            ("/tls/web.crt", FileRole::FullChain),
            ("/tls/chain.pem", FileRole::Issuers),
            ("/tls/web.key", FileRole::Key),
        ])
    }
}

impl Server {
    fn with<const N: usize>(files: [(&str, FileRole); N]) -> Self {
        let file = |(path, role): (&str, FileRole)| TargetFile {
            path: HostPath::parse(path).unwrap(),
            role,
            mode: if role.is_private() { 0o600 } else { 0o644 },
        };
        let command = |argv: &[&str]| Some(Command::new(argv.iter().map(|a| (*a).to_owned()).collect()));
        Self {
            layout: FileLayout {
                files: files.map(file).to_vec(),
                validate: command(&["true"]),
                reload: command(&["env"]),
                start: None,
            },
        }
    }

    fn on(&self, host: Arc<dyn Host>, write: WriteMode) -> OnHost<Self> {
        OnHost::new(self.clone(), host, write)
    }
}

impl FileTarget for Server {
    fn kind(&self) -> &str {
        "server"
    }

    fn layout(&self) -> FileLayout {
        self.layout.clone()
    }
}

fn context() -> Context {
    Context::new(Arc::new(TestClock::default()))
}

async fn two_bundles() -> [Bundle; 2] {
    bundles(&[SubjectAltName::dns("www.example.com").unwrap()]).await
}

fn memory() -> MemoryHost {
    let memory = MemoryHost::default();
    memory.put_dir("/tls");
    memory
}

async fn assert_holds(target: &dyn Target, bundle: &Bundle, when: &str) {
    let observed = target.observe(&context()).await.unwrap();
    let certificate = Some(bundle.chain.leaf().fingerprint());
    assert_eq!(observed, Observed { certificate, pair: Pair::Whole }, "{when}");
}

#[tokio::test]
async fn conforms() {
    let bundles = two_bundles().await;
    let combined = Server::with([("/tls/web.pem", FileRole::Combined)]);
    for server in [Server::default(), combined] {
        for write in [WriteMode::Atomic, WriteMode::InPlace] {
            let memory = memory();
            conformance(&server.on(Arc::new(memory.clone()), write), &bundles).await;
            let paths: Vec<String> = server.layout.files.iter().map(|f| f.path.to_string()).collect();
            let mut expected = paths.clone();
            expected.sort();
            assert_eq!(memory.files(), expected, "nothing else is left");
        }
    }
}

#[tokio::test]
async fn files_hold_what_their_role_says() {
    let [bundle, _] = two_bundles().await;
    let memory = memory();
    let server = Server::with([
        ("/tls/web.crt", FileRole::FullChain),
        ("/tls/chain.pem", FileRole::Issuers),
        ("/tls/web.key", FileRole::Key),
        ("/tls/all.pem", FileRole::Combined),
    ]);
    server.on(Arc::new(memory.clone()), WriteMode::Atomic).apply(&context(), &bundle).await.unwrap();
    let text = |path: &str| String::from_utf8(memory.content(path).unwrap()).unwrap();
    assert_eq!(text("/tls/web.crt"), bundle.chain.to_pem());
    assert_eq!(text("/tls/chain.pem"), bundle.chain.issuers_pem());
    assert!(text("/tls/chain.pem").len() > 100, "the test's chain has an issuer");
    assert_eq!(text("/tls/web.key").as_bytes(), bundle.key.to_pem().expose());
    assert_eq!(text("/tls/all.pem"), text("/tls/web.crt") + &text("/tls/web.key"));
}

#[tokio::test]
async fn observation_tells_whole_from_torn() {
    let [old, new] = two_bundles().await;
    let key_of = |bundle: &Bundle| bundle.key.to_pem().expose().to_vec();
    let cases: [(&str, Option<Vec<u8>>, &str); 5] = [
        ("/tls/web.key", Some(key_of(&new)), "the key in /tls/web.key does not match the certificate"),
        ("/tls/web.key", None, "/tls/web.key is missing"),
        ("/tls/web.crt", None, "/tls/web.crt is missing"),
        ("/tls/web.crt", Some(b"-----BEGIN CERT".to_vec()), "/tls/web.crt is no certificate chain"),
        ("/tls/web.key", Some(b"CANARY".to_vec()), "/tls/web.key has no usable key"),
    ];
    for (path, content, expected) in cases {
        let memory = memory();
        let target = Server::default().on(Arc::new(memory.clone()), WriteMode::Atomic);
        target.apply(&context(), &old).await.unwrap();
        match content {
            Some(content) => memory.put(path, content),
            None => memory.remove(&HostPath::parse(path).unwrap()).await.unwrap(),
        }
        let observed = target.observe(&context()).await.unwrap();
        let Pair::Torn(reason) = observed.pair else { panic!("{path}: {observed:?}") };
        assert!(reason.starts_with(expected), "{reason:?} should start with {expected:?}");
        assert!(!reason.contains("CANARY"), "what is in a key file stays there");
        target.apply(&context(), &old).await.unwrap();
        assert_holds(&target, &old, "a torn pair is mended").await;
    }
}
