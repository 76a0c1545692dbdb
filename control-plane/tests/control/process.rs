//! Programs of others that receive: ended on drop.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running receiver, and what it prints.
pub(crate) struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    pub(crate) fn start(mut command: Command, output: PathBuf) -> Self {
        let file = File::create(&output).unwrap();
        command.stdin(Stdio::null()).stderr(file.try_clone().unwrap()).stdout(file);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
        Self { child, output }
    }

    /// The whole lines that it printed.
    pub(crate) fn lines(&self) -> Vec<String> {
        lines(&self.output)
    }

    /// Fails when it has ended.
    pub(crate) fn alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("it ended ({status}): {:?}", self.lines());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole lines of a file; none when it is not there.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

/// A program in Python, by its path in the repository, in the environment that `cargo xtask setup` makes.
pub(crate) fn python(script: &str) -> Command {
    let mut command = Command::new(root().join(".venv/bin/python"));
    command.arg(root().join(script));
    command
}

/// Where the repository is.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
