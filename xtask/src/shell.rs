//! Running other programs: shown with their output, or asked quietly.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// `cargo`, in the repository, with `arguments` (separated by blanks).
pub(crate) fn cargo(arguments: &str) -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments);
    cargo.current_dir(root());
    cargo
}

/// `program` with `arguments` (separated by blanks).
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace());
    command
}

/// Shows `command`, executes it with its output visible, and fails when it does.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let shown = show(command);
    say(&format!("$ {shown}"));
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// What `command` prints, without its last line end; none when it cannot be run or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// One line about what goes on; bold on a terminal.
pub(crate) fn say(line: &str) {
    let plain = !io::stderr().is_terminal() || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { eprintln!("{line}") } else { eprintln!("\x1b[1m{line}\x1b[0m") }
}

/// Fails unless run as root.
pub(crate) fn need_root(verb: &str) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "`cargo xtask {verb}` makes network namespaces and loads kernel programs, which needs root; run it as root"
    );
    Ok(())
}

/// The folder of this build's programs in `profile`'s form, beside the one this very program is in.
pub(crate) fn programs(profile: Profile) -> Result<PathBuf> {
    let running = env::current_exe().context("cannot tell the path of the running program")?;
    let target = running.ancestors().nth(2).context("this program is not in a target folder")?;
    Ok(target.join(match profile {
        Profile::Debug => "debug",
        Profile::Release => "release",
    }))
}

/// How programs are built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Quickly built.
    Debug,
    /// Quick to run.
    Release,
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
