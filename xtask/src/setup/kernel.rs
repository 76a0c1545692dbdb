//! The compiler and the linker for the kernel programs.

use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::{
    ebpf::Toolchain,
    shell::{ask, cargo, command, execute},
};

/// rustc with a core library for BPF and its clippy, and what bpf-linker is built with.
const DEBIAN_PACKAGES: &str =
    "rustc-web libstd-rust-web-dev-bpf rust-web-clippy llvm-22-dev libpolly-22-dev g++";
/// The LLVM in [`DEBIAN_PACKAGES`], the same as their compiler's.
const DEBIAN_LLVM: u32 = 22;
/// The release that is known to work with [`DEBIAN_LLVM`].
const LINKER: &str = "0.13.0";
/// Of rustup's nightly.
const NIGHTLY_COMPONENTS: [&str; 2] = ["rust-src", "clippy"];

/// What the compiler lacks.
pub(super) fn compiler_missing() -> Option<String> {
    match Toolchain::of_this_machine() {
        Toolchain::Debian => packages::not_installed(DEBIAN_PACKAGES),
        Toolchain::Nightly => {
            let installed = ask(&mut rustup("component list --toolchain nightly --installed"));
            let missing = |component: &&str| !installed.iter().any(|list| list.contains(*component));
            let missing: Vec<_> = NIGHTLY_COMPONENTS.into_iter().filter(missing).collect();
            (!missing.is_empty()).then(|| format!("nightly with {}", missing.join(" and ")))
        }
    }
}

/// Installs it.
pub(super) fn install_compiler() -> Result<()> {
    match Toolchain::of_this_machine() {
        Toolchain::Debian => packages::apt_install(&compiler_missing().unwrap_or_default()),
        Toolchain::Nightly => {
            execute(&mut rustup("toolchain install nightly --profile minimal --component rust-src,clippy"))
        }
    }
}

/// The linker, when it is not there or of another release than it should be.
pub(super) fn linker_missing() -> Option<String> {
    match ask(&mut command("bpf-linker", "--version")) {
        None => Some("one to two minutes".to_owned()),
        Some(version) if Toolchain::of_this_machine() == Toolchain::Debian && !version.contains(LINKER) => {
            Some(format!("{LINKER} in place of {version}, one to two minutes"))
        }
        Some(_) => None,
    }
}

/// Builds and installs it, with the LLVM that its compiler has.
pub(super) fn install_linker() -> Result<()> {
    let major = match Toolchain::of_this_machine() {
        Toolchain::Debian => DEBIAN_LLVM,
        Toolchain::Nightly => nightly_llvm()?,
    };
    if llvm_prefix(major).is_none() {
        packages::apt_install(&format!("llvm-{major}-dev libpolly-{major}-dev g++")).with_context(|| {
            format!(
                "it has to be built with the development files of LLVM {major}; install those, or a ready-made \
                 bpf-linker from https://github.com/aya-rs/bpf-linker/releases"
            )
        })?;
    }
    let prefix = llvm_prefix(major).with_context(|| format!("there is no llvm-config of LLVM {major}"))?;
    let mut install = cargo(&format!(
        "install bpf-linker --version {LINKER} --locked --force --no-default-features --features llvm-{major}"
    ));
    execute(install.env("LLVM_PREFIX", &prefix).env(format!("LLVM_SYS_{major}1_PREFIX"), &prefix))
}

/// Where LLVM `major` is, if it is.
fn llvm_prefix(major: u32) -> Option<String> {
    let is_it = |config: &String| {
        ask(&mut command(config, "--version"))
            .is_some_and(|version| version.starts_with(&format!("{major}.")))
    };
    let config = [format!("llvm-config-{major}"), "llvm-config".to_owned()].into_iter().find(is_it)?;
    ask(&mut command(config, "--prefix"))
}

/// Major version of the LLVM in rustup's nightly.
fn nightly_llvm() -> Result<u32> {
    let version = ask(&mut rustup("run nightly rustc --version --verbose")).context("there is no nightly")?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
        .with_context(|| format!("nightly does not tell its LLVM version: {version}"))
}

fn rustup(arguments: &str) -> Command {
    command("rustup", arguments)
}
