//! Older kernels, and the emulator that `cargo xtask kernels` boots them in. The kernels are Debian's, taken out of
//! their packages; nothing of them is installed.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::packages;
use crate::shell::{ask, command, execute, root};

/// A kernel for guests.
pub(crate) struct GuestKernel {
    /// Major and minor version.
    pub(crate) release: &'static str,
    /// The Debian package that depends on the newest package of this release.
    package: &'static str,
}

/// Every release is one that a supported distribution ships.
pub(crate) const GUEST_KERNELS: &[GuestKernel] = &[
    GuestKernel { release: "6.1", package: "linux-image-cloud-amd64" },
    GuestKernel { release: "6.12", package: "linux-image-6.12-cloud-amd64" },
];

impl GuestKernel {
    fn folder(&self) -> PathBuf {
        root().join("target/kernels").join(self.release)
    }

    /// Where its image is.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder().join("vmlinuz")
    }

    /// Downloads its package, and keeps the image.
    fn fetch(&self) -> Result<()> {
        let folder = self.folder();
        // What an earlier attempt left.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let depends = ask(command("apt-cache", "depends").arg(self.package))
            .with_context(|| format!("apt does not know {}", self.package))?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
            .with_context(|| format!("{} depends on no kernel", self.package))?;
        let mut download = command("apt-get", "-o APT::Sandbox::User=root download");
        execute(download.arg(format!("linux-image-{package}")).current_dir(&folder))?;
        let archive = only(&folder, "linux-image-")?;
        execute(command("dpkg-deb", "--extract").arg(&archive).arg(folder.join("content")))?;
        let image = only(&folder.join("content/boot"), "vmlinuz-")?;
        fs::rename(&image, self.image()).with_context(|| format!("cannot move {}", image.display()))?;
        fs::remove_dir_all(folder.join("content")).context("cannot remove the package's content")?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
    }
}

/// The file in `folder` whose name begins with `prefix`.
fn only(folder: &PathBuf, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("there is no {prefix}* in {}", folder.display()))
}

/// What is not there.
pub(super) fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let emulator = (!has_emulator()).then_some("qemu-system-x86");
    let kernels = GUEST_KERNELS.iter().filter(|kernel| !kernel.image().exists()).map(|kernel| kernel.package);
    let missing: Vec<_> = emulator.into_iter().chain(kernels).collect();
    (!missing.is_empty()).then(|| missing.join(" "))
}

/// Installs the emulator and fetches the kernels.
pub(super) fn install() -> Result<()> {
    if has_emulator() {
        packages::apt_update();
    } else {
        packages::apt_install("qemu-system-x86")?;
    }
    GUEST_KERNELS.iter().filter(|kernel| !kernel.image().exists()).try_for_each(GuestKernel::fetch)
}

fn has_emulator() -> bool {
    ask(&mut command("qemu-system-x86_64", "--version")).is_some()
}
