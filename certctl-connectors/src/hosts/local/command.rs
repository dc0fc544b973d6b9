//! Commands: no shell, an emptied environment, a deadline for the whole process group.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use certctl_core::{
    Effect, Error, ErrorKind, Result,
    host::{Command, Output},
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, process::Child, time::timeout};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long what a finished command wrote is waited for: a daemon that it left behind may keep the pipe open for ever.
const GRACE: Duration = Duration::from_millis(20);
const GRACE_IN_ALL: Duration = Duration::from_millis(200);

pub(super) async fn run(command: &Command) -> Result<Output> {
    let (mut child, pipe) = spawn(command)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let mut tail = Tail { bytes: Vec::new(), cap: command.output_cap, pipe, open: true };
    let ended = timeout(command.deadline, to_the_end(&mut child, &mut tail)).await;
    let Ok(status) = ended else {
        group.kill();
        // Reaps it; a killed process ends at once, unless the kernel itself hangs.
        let _ = timeout(GRACE_IN_ALL, child.wait()).await;
        tail.drain().await;
        let message = format!(
            "`{command}` was killed after its deadline of {} ms; look why it hangs, or give it more time",
            command.deadline.as_millis()
        );
        return Err(about(command, Error::unavailable(message))
            .with("reason", "deadline")
            .with("output", tail.text())
            .with_effect(Effect::Unknown));
    };
    group.0 = None;
    let status = status.map_err(|error| {
        about(command, Error::internal("waiting for the command failed"))
            .with_effect(Effect::Unknown)
            .with_source(error)
    })?;
    tail.drain().await;
    Ok(Output { code: status.code(), text: tail.text() })
}

fn spawn(command: &Command) -> Result<(Child, Receiver)> {
    let [program, arguments @ ..] = command.argv.as_slice() else {
        return Err(Error::invalid_field(
            "/argv",
            "the command is empty",
            "give a program and its arguments",
        ));
    };
    let broken = |error| about(command, Error::internal("making a pipe failed")).with_source(error);
    // One pipe for both, so that the lines stay in their order.
    let (reader, writer) = io::pipe().map_err(broken)?;
    let pipe = Receiver::from_owned_fd(reader.into()).map_err(broken)?;
    // Everything else runs commands through a `Host`; this is the one.
    #[allow(clippy::disallowed_methods)]
    let mut builder = tokio::process::Command::new(program);
    builder
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .envs(&command.environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(broken)?)
        .stderr(writer)
        .process_group(0);
    // The builder, and our ends of the pipe with it, are gone when this returns: or the end would never be seen.
    let child = builder.spawn().map_err(|error| not_started(command, program, error))?;
    Ok((child, pipe))
}

async fn to_the_end(child: &mut Child, tail: &mut Tail) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            () = tail.more(), if tail.open => {}
        }
    }
}

fn not_started(command: &Command, program: &str, error: io::Error) -> Error {
    let error_kind = error.kind();
    let (kind, message) = match error_kind {
        io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            format!("there is no program {program}; install it, or give its whole path (PATH is {PATH})"),
        ),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Precondition,
            format!("{program} may not be run; make it executable for the user that this program runs as"),
        ),
        io::ErrorKind::InvalidInput => {
            return Error::invalid_field("/argv", "the command has a NUL in it", "remove it");
        }
        io::ErrorKind::ArgumentListTooLong => {
            (ErrorKind::Precondition, format!("the arguments of {program} are too long; shorten them"))
        }
        _ => (ErrorKind::Unavailable, format!("{program} could not be started")),
    };
    about(command, Error::new(kind, message)).with("program", program).with_source(error)
}

fn about(command: &Command, error: Error) -> Error {
    error.with("step", "run").with("command", command)
}

/// A process group that is killed when nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            // Gone already is as good.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what comes out of a pipe.
struct Tail {
    bytes: Vec<u8>,
    cap: usize,
    pipe: Receiver,
    open: bool,
}

impl Tail {
    async fn more(&mut self) {
        let mut block = [0; 8 << 10];
        match self.pipe.read(&mut block).await {
            Ok(0) | Err(_) => self.open = false,
            Ok(count) => {
                self.bytes.extend_from_slice(&block[..count]);
                // Twice the cap, so that not every block moves the rest.
                if self.bytes.len() > self.cap.saturating_mul(2).saturating_add(block.len()) {
                    self.cut();
                }
            }
        }
    }

    async fn drain(&mut self) {
        let _ =
            timeout(GRACE_IN_ALL, async { while self.open && timeout(GRACE, self.more()).await.is_ok() {} })
                .await;
        self.cut();
    }

    fn cut(&mut self) {
        let too_many = self.bytes.len().saturating_sub(self.cap);
        self.bytes.drain(..too_many);
    }

    fn text(&self) -> String {
        // The cut may have gone through a character.
        let from = self.bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        String::from_utf8_lossy(&self.bytes[from..]).into_owned()
    }
}
