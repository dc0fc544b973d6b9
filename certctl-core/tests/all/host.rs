use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use certctl_core::{
    Error, ErrorKind, Result, Secret,
    host::{Command, Endpoint, FileSpec, Host, HostPath, Hosts, Io, Output},
    testkit::host::{FaultHost, MemoryHost, OneHost, When, conformance},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn memory_host_conforms() {
    conformance(Arc::new(connected()), &path("/conformance")).await;
}

#[tokio::test]
async fn fault_host_conforms() {
    let host = Arc::new(FaultHost::new(Arc::new(connected())));
    conformance(host.clone(), &path("/conformance")).await;
    assert!(host.count() > 100, "every operation is counted: {}", host.count());
}

#[tokio::test]
async fn memory_host_has_files_mounts_and_permissions() {
    let host = MemoryHost::default();
    host.put("/tls/web.crt", "old");
    host.set_owner("/tls/web.crt", 0o640, 1, 2);
    host.mount("/tls/web.crt");
    let stat = host.stat(&path("/tls/web.crt")).await.unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid, stat.gid, stat.mount_point), (0o640, 1, 2, true));
    let staged = stage(&host, "/tls/web.crt", "new").await.unwrap();
    let error = host.swap(&staged).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("reason")), (ErrorKind::Precondition, Some("busy")));
    host.overwrite(&path("/tls/web.crt"), &Secret::new(*b"new")).await.unwrap();
    assert_eq!(host.content("/tls/web.crt").unwrap(), b"new");
    host.remove(&staged.path).await.unwrap();

    host.set_owner("/tls", 0o555, 0, 0);
    let error = stage(&host, "/tls/web.key", "key").await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("permission"));
    assert_eq!(host.files(), ["/tls/web.crt"]);

    host.put_dir("/open");
    host.set_owner("/open", 0o777, 0, 0);
    host.symlink("/open/link", "/tls/web.crt");
    let error = host.real_path(&path("/open/link")).await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("untrusted_directory"));
}

#[tokio::test]
async fn memory_host_runs_and_connects_as_the_test_says() {
    let host = MemoryHost::default();
    host.put("/tls/web.crt", "good");
    host.on_run(|host, command| {
        (command.argv == ["nginx", "-t"]).then(|| {
            let good = host.content("/tls/web.crt").as_deref() == Some(b"good");
            Ok(Output { code: Some(i32::from(!good)), text: "checked".into() })
        })
    });
    let check = command(&["nginx", "-t"]);
    assert!(host.run(&check).await.unwrap().ok());
    host.put("/tls/web.crt", "bad");
    assert_eq!(host.run(&check).await.unwrap().code, Some(1));

    let endpoint: Endpoint = "127.0.0.1:443".parse().unwrap();
    let refused = host.connect(&endpoint, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    host.on_connect(|_| async {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(b"hi").await.map_err(|error| Error::internal("write").with_source(error))?;
        Ok(Box::new(near) as Box<dyn Io>)
    });
    let mut text = String::new();
    let mut io = host.connect(&endpoint, Duration::from_secs(1)).await.unwrap();
    io.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hi");
    host.on_connect(|_| std::future::pending());
    let slow = host.connect(&endpoint, Duration::from_millis(5)).await.unwrap_err();
    assert_eq!(slow.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_fault_comes_before_or_after_the_operation() {
    for (when, content) in [(When::Before, b"old"), (When::After, b"new")] {
        let (memory, host) = faulty();
        host.fail_nth(2, when, FaultHost::disk_full());
        let staged = stage(&host, "/tls/web.crt", "new").await.unwrap();
        let error = host.swap(&staged).await.unwrap_err();
        assert_eq!(error.context_value("reason"), Some("disk_full"));
        assert_eq!(error.context_value("step"), Some("swap"));
        assert_eq!(error.context_value("file"), Some("/tls/web.crt"));
        assert_eq!(memory.content("/tls/web.crt").unwrap(), content);
        host.stat(&path("/tls/web.crt")).await.expect("only that one fails");
        let operations: Vec<_> = host.operations().iter().map(ToString::to_string).collect();
        assert_eq!(operations, ["stage /tls/web.crt", "swap /tls/web.crt", "stat /tls/web.crt"]);
    }
}

#[tokio::test]
async fn faults_can_be_chosen_by_operation() {
    let (_, host) = faulty();
    host.fail_if(|operation| operation.name == "remove", When::Before, FaultHost::read_only());
    for _ in 0..2 {
        let error = host.remove(&path("/tls/web.crt")).await.unwrap_err();
        assert_eq!(error.context_value("reason"), Some("read_only"));
    }
    assert!(host.stat(&path("/tls/web.crt")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_killed_process_never_hears_of_a_success() {
    for (when, content) in [(When::Before, b"old"), (When::After, b"new")] {
        let (memory, host) = faulty();
        let kills = Arc::new(AtomicUsize::new(0));
        host.on_kill({
            let kills = kills.clone();
            move || {
                kills.fetch_add(1, Ordering::Relaxed);
            }
        });
        host.kill_nth(2, when);
        let staged = stage(&host, "/tls/web.crt", "new").await.unwrap();
        assert!(!host.is_ended());
        host.swap(&staged).await.unwrap_err();
        host.ended().await;
        host.remove(&path("/tls/web.crt")).await.unwrap_err();
        host.run(&command(&["true"])).await.unwrap_err();
        assert_eq!(memory.content("/tls/web.crt").unwrap(), content);
        assert_eq!(kills.load(Ordering::Relaxed), 1);
        assert_eq!(host.count(), 2, "a dead process does nothing more");
        host.reset();
        assert!(!host.is_ended());
        assert_eq!(host.read(&path("/tls/web.crt"), 10).await.unwrap().expose(), content);
    }
}

#[tokio::test]
async fn a_halted_process_never_returns() {
    let (memory, host) = faulty();
    let host = Arc::new(host);
    host.halt_nth(1, When::After);
    let task = tokio::spawn({
        let host = host.clone();
        async move { host.overwrite(&path("/tls/web.crt"), &Secret::new(*b"new")).await }
    });
    host.ended().await;
    assert!(!task.is_finished());
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(memory.content("/tls/web.crt").unwrap(), b"new");
}

#[tokio::test]
async fn answers_can_be_changed() {
    let (_, host) = faulty();
    host.map_run(|command, output| match command.argv[0].as_str() {
        "true" => Ok(Output { code: Some(1), text: "no".into() }),
        _ => output,
    });
    assert_eq!(host.run(&command(&["true"])).await.unwrap().code, Some(1));
    assert_eq!(host.run(&command(&["seq", "1"])).await.unwrap().text, "1\n");
    host.map_connect(|_, _| Ok(Box::new(tokio::io::duplex(1).0)));
    host.connect(&"127.0.0.1:1".parse().unwrap(), Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn one_host_is_the_only_one() {
    let hosts = OneHost(Arc::new(MemoryHost::default()));
    hosts.host(None).await.unwrap();
    assert_eq!(hosts.host(Some("host-a")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

fn faulty() -> (MemoryHost, FaultHost) {
    let memory = MemoryHost::default();
    memory.put("/tls/web.crt", "old");
    (memory.clone(), FaultHost::new(Arc::new(memory)))
}

/// In memory, with real connections.
fn connected() -> MemoryHost {
    let host = MemoryHost::default();
    host.put_dir("/conformance");
    host.on_connect(|endpoint| async move {
        let stream = TcpStream::connect((&*endpoint.host, endpoint.port)).await;
        let stream = stream.map_err(|error| Error::unavailable("refused").with_source(error))?;
        Ok(Box::new(stream) as Box<dyn Io>)
    });
    host
}

async fn stage(host: &dyn Host, to: &str, text: &str) -> Result<certctl_core::host::Staged> {
    host.stage(&path(to), &FileSpec { mode: 0o644, owner: None }, &Secret::new(text)).await
}

fn command(argv: &[&str]) -> Command {
    Command::new(argv.iter().map(|&word| word.to_owned()).collect())
}

fn path(text: &str) -> HostPath {
    HostPath::parse(text).unwrap()
}
