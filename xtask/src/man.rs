//! `cargo xtask man`: manual pages and shell completions, from the command lines themselves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    setup,
    shell::{Profile, ask, cargo, command, execute, programs, root, say},
};

/// The shells that are told, and where Debian's look for it under /usr/share: `{}` is the program.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/{}"),
    ("zsh", "zsh/vendor-completions/_{}"),
    ("fish", "fish/vendor_completions.d/{}.fish"),
];

/// The verb.
pub(crate) fn run() -> Result<()> {
    setup::ensure();
    execute(&mut cargo("build --workspace --bin hydrometer --bin hydrometer-control"))?;
    let share = root().join("target/share");
    for program in ["hydrometer", "hydrometer-control"] {
        write(&programs(Profile::Debug)?.join(program), &share)?;
    }
    say(&format!("manual pages and completions are in {}", share.display()));
    Ok(())
}

/// Writes what there is about `program` into `share`, laid out like /usr/share.
pub(crate) fn write(program: &Path, share: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let pages = share.join("man/man1");
    execute(command(program, "man").arg(&pages))?;
    for (shell, place) in SHELLS {
        let script = ask(&mut command(program, &format!("completions {shell}")))
            .with_context(|| format!("{} has no completions for {shell}", program.display()))?;
        let path = share.join(place.replace("{}", &name));
        create(&path)?;
        fs::write(&path, script + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Makes the folder that `path` is to be in.
pub(crate) fn create(path: &Path) -> Result<()> {
    let folder: PathBuf = path.parent().unwrap_or(path).into();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))
}
