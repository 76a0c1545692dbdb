//! `cargo xtask deb`: the Debian packages `hydrometer` and `hydrometer-control`, by dpkg-deb.
//!
//! A package is a folder laid out as on the machine, with its control files from `deploy/debian` beside. Its files have
//! the times of the last commit, so that the same sources give the same package.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    build, man,
    shell::{Profile, ask, command, execute, programs, root, say},
};

/// What distinguishes the two packages, beside their control files.
struct Package {
    /// Of the package and of its program.
    name: &'static str,
    unit: &'static str,
    settings: &'static str,
}

const PACKAGES: [Package; 2] = [
    Package { name: "hydrometer", unit: "hydrometer-agent.service", settings: "agent.toml" },
    Package { name: "hydrometer-control", unit: "hydrometer-control.service", settings: "control.toml" },
];

/// Scripts that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The verb. Programs that are given are packed as they are; others are built for release first.
pub(crate) fn run(given: Option<PathBuf>, output: Option<PathBuf>) -> Result<()> {
    let programs = if let Some(programs) = given {
        programs
    } else {
        build::release()?.result()?;
        programs(Profile::Release)?
    };
    let output = output.unwrap_or_else(|| root().join("target/debian"));
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    for package in &PACKAGES {
        let packed = package.pack(&programs, &output)?;
        say(&format!("packed {}", packed.display()));
    }
    Ok(())
}

impl Package {
    fn pack(&self, programs: &Path, output: &Path) -> Result<PathBuf> {
        let folder = output.join(self.name);
        // What an earlier run left.
        let _ = fs::remove_dir_all(&folder);
        self.lay_out(&programs.join(self.name), &folder)?;
        let architecture = answer("dpkg", "--print-architecture")?;
        self.control(&folder, &architecture)?;
        let package = output.join(format!("{}_{}_{architecture}.deb", self.name, version()));
        let mut pack = command("dpkg-deb", "--root-owner-group --build");
        if let Some(time) = ask(command("git", "log -1 --format=%ct").current_dir(root())) {
            pack.env("SOURCE_DATE_EPOCH", time);
        }
        execute(pack.arg(&folder).arg(&package))?;
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        Ok(package)
    }

    /// The files as on the machine.
    fn lay_out(&self, program: &Path, folder: &Path) -> Result<()> {
        let deploy = root().join("deploy");
        let share = folder.join("usr/share");
        let packed = folder.join("usr/bin").join(self.name);
        copy(program, &packed, 0o755)?;
        // What a debugger reads is ten times the program.
        execute(command("strip", "--strip-unneeded").arg(&packed))?;
        copy(&deploy.join(self.unit), &folder.join("usr/lib/systemd/system").join(self.unit), 0o644)?;
        copy(&deploy.join(self.settings), &folder.join("etc/hydrometer").join(self.settings), 0o644)?;
        let documents = share.join("doc").join(self.name);
        for (from, to) in [
            ("LICENSE-MIT", "LICENSE-MIT"),
            ("LICENSE-APACHE", "LICENSE-APACHE"),
            ("CHANGELOG.md", "changelog"),
        ] {
            copy(&root().join(from), &documents.join(to), 0o644)?;
        }
        if self.name == "hydrometer" {
            copy(&root().join("LICENSE-GPL-2.0"), &documents.join("LICENSE-GPL-2.0"), 0o644)?;
        }
        fs::write(documents.join("copyright"), COPYRIGHT).context("cannot write the copyright file")?;
        man::write(program, &share)?;
        let pages = share.join("man/man1");
        let pages = fs::read_dir(&pages).with_context(|| format!("cannot read {}", pages.display()))?;
        for page in pages {
            execute(command("gzip", "-9n").arg(page.context("cannot list the manual pages")?.path()))?;
        }
        Ok(())
    }

    /// What dpkg has to know about it.
    fn control(&self, folder: &Path, architecture: &str) -> Result<()> {
        let (from, to) = (root().join("deploy/debian").join(self.name), folder.join("DEBIAN"));
        let size = answer("du", &format!("-sk --apparent-size {}", folder.display()))?;
        let size = size.split_whitespace().next().context("du tells no size")?;
        // Programs need the C library that they were linked with, or a newer one.
        let libc = answer("dpkg-query", "--show --showformat ${Version} libc6")?;
        let libc = libc.split('-').next().unwrap_or_default();
        let control = from.join("control");
        let control =
            fs::read_to_string(&control).with_context(|| format!("cannot read {}", control.display()))?;
        let control = control
            .replace("@VERSION@", version())
            .replace("@ARCHITECTURE@", architecture)
            .replace("@SIZE@", size)
            .replace("@LIBC@", libc);
        man::create(&to.join("control"))?;
        fs::write(to.join("control"), control).context("cannot write the control file")?;
        fs::write(to.join("conffiles"), format!("/etc/hydrometer/{}\n", self.settings))
            .context("cannot write the list of settings")?;
        SCRIPTS.iter().try_for_each(|script| copy(&from.join(script), &to.join(script), 0o755))
    }
}

/// As Debian's policy asks for it.
const COPYRIGHT: &str = "\
Hydrometer is licensed under Apache-2.0 OR MIT, at your choice; its kernel programs also under GPL-2.0.
The texts of the licences lie beside this file.
";

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    man::create(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", to.display()))
}

/// What a program answers.
fn answer(program: &str, arguments: &str) -> Result<String> {
    ask(&mut command(program, arguments))
        .with_context(|| format!("`{program} {arguments}` fails; install {program}"))
}
