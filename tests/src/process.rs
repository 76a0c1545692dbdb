//! Child processes that do not outlive their guard, and waiting for a condition with a bound.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);
/// How long a program has to end after SIGTERM when its guard is dropped.
const GRACE: Duration = Duration::from_secs(3);

/// Runs `command` to its end, with `input` on its standard input.
pub fn fed(command: &mut Command, input: &[u8]) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut stdin = child.stdin.take().context("there is no pipe to its standard input")?;
    thread::scope(|scope| {
        // It need not read everything.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().with_context(|| format!("cannot wait for {command:?}"))
    })
}

/// A running program with its output in a file; ended on drop (SIGTERM, then SIGKILL).
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    // Held open: some programs end with their standard input.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `command`; standard output and error go to `FOLDER/NAME.log`.
    pub fn spawn(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone().with_context(|| format!("cannot share {}", log.display()))?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, log, _stdin: stdin })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, output and errors together.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a child has a process id")?;
        kill_process(pid, signal)
            .with_context(|| format!("cannot signal {} (pid {})", self.name, self.child.id()))
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("{name} to end"), limit, || self.ended()).map_err(|error| self.explain(error))
    }

    /// Waits for it to end by itself, with success.
    pub fn succeed(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait(limit)?;
        if !status.success() {
            bail!("{} failed ({status}); it said:\n{}", self.name, self.output());
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(limit)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // An error means that it has ended already; wait() tells either way.
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits until `condition` gives a value; gives up early, with what the program said, when it ends.
    pub fn ready<T>(&mut self, limit: Duration, mut condition: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let name = self.name.clone();
        wait_for(&format!("{name} to be ready"), limit, || {
            if let Some(value) = condition(self) {
                return Ok(Some(value));
            }
            match self.ended()? {
                Some(status) => bail!("{name} ended ({status}) before it was ready"),
                None => Ok(None),
            }
        })
        .map_err(|error| self.explain(error))
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!("{} said:\n{}", self.name, self.output()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also when this run was interrupted: what is running has to clean up, too.
        let _ = self.signal(Signal::TERM);
        if poll("it to end", GRACE, || self.ended()).is_err() {
            let _ = self.kill();
        }
    }
}

/// Set by [`interrupt`].
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every [`wait_for`] of this program fail at once, now and from now on, so that it unwinds and its guards clean
/// up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Looks at `condition` until it gives a value; an error once `limit` is over, or from `condition` itself.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    poll(what, limit, || {
        ensure!(!interrupted(), "interrupted");
        condition()
    })
}

fn poll<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if begun.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(POLL);
    }
}
