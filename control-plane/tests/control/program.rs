//! The program under test: started with its own folder, ended on drop.

use std::{
    fs::{self, File},
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// No promise takes longer than this on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(5);

/// A running `hydrometer-control`.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

/// A folder with a store and a unix socket, that outlives the programs started in it.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("control.sock")
    }

    /// Its socket, as `--listen` takes it.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// Starts a control plane on this site's socket and store; returns when it listens.
    pub(crate) fn start(&self) -> Program {
        self.start_on(&[&self.address()], &[])
    }

    /// Starts a control plane with this site's store; returns when it listens.
    pub(crate) fn start_on(&self, addresses: &[&str], flags: &[String]) -> Program {
        let mut command = program();
        command.args(addresses.iter().flat_map(|address| ["--listen", address])).args(flags);
        self.launch(command, addresses.len())
    }

    /// Starts a control plane on this site's socket whose files cannot grow beyond `blocks` of 512
    /// bytes.
    pub(crate) fn start_cramped(&self, blocks: u32) -> Program {
        let mut command = Command::new("sh");
        // Without the trap the signal would kill it; this way writing fails as on a full disk.
        command.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"", &blocks.to_string()]);
        command.arg(program().get_program()).args(["--listen", &self.address()]);
        self.launch(command, 1)
    }

    /// Starts a control plane on this site's socket with these settings; returns when it listens.
    pub(crate) fn start_configured(&self, settings: &str) -> Program {
        let file = self.path("control.toml");
        fs::write(&file, settings).unwrap();
        let mut command = program();
        command.arg("--config").arg(file).args(["--listen", &self.address()]);
        self.launch(command, 1)
    }

    fn launch(&self, mut command: Command, listeners: usize) -> Program {
        let log = self.path("log");
        let output = File::create(&log).unwrap();
        let child = command
            .arg("--store")
            .arg(self.path("control.redb"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut program = Program { child, log };
        poll("it to listen", || {
            if let Some(status) = program.child.try_wait().unwrap() {
                panic!("it ended ({status}): {}", program.output());
            }
            (program.listening().len() == listeners).then_some(())
        });
        program
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("unix://{}", self.socket().display())).unwrap()
    }
}

impl Program {
    /// Everything it printed.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The addresses it says it listens on.
    pub(crate) fn listening(&self) -> Vec<String> {
        let marker = "hydrometer-control listening on ";
        let output = self.output();
        // A line that is still being written has no end yet.
        let lines = output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.filter_map(|line| line.split_once(marker)).map(|(_, address)| address.to_owned()).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it like a power cut and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        poll("it to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, not yet started.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hydrometer-control"))
}

/// What it says when it cannot start: one line, and an exit code other than 0.
pub(crate) fn refusal(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = program().args(arguments).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("hydrometer-control: "), "{said}");
    said
}

/// Looks until there is something.
pub(crate) fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// Fails rather than hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
