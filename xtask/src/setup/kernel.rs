//! The compiler and the linker for the kernel programs.

use std::process::Command;

use anyhow::Result;

use super::packages;
use crate::{
    ebpf::Toolchain,
    shell::{ask, cargo, command, execute},
};

/// rustc with a core library for BPF and its clippy, and what bpf-linker is built with.
const DEBIAN_PACKAGES: &str =
    "rustc-web libstd-rust-web-dev-bpf rust-web-clippy llvm-22-dev libpolly-22-dev g++";
/// Where [`DEBIAN_PACKAGES`] put LLVM.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// The release that is known to work with Debian's compiler and LLVM.
const DEBIAN_LINKER: &str = "0.13.0";
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
    let installed = ask(&mut command("bpf-linker", "--version"));
    match (Toolchain::of_this_machine(), installed) {
        (_, None) => Some("one to two minutes".to_owned()),
        (Toolchain::Debian, Some(version)) if !version.contains(DEBIAN_LINKER) => {
            Some(format!("{DEBIAN_LINKER} in place of {version}, one to two minutes"))
        }
        _ => None,
    }
}

/// Builds and installs it.
pub(super) fn install_linker() -> Result<()> {
    let mut install = match Toolchain::of_this_machine() {
        Toolchain::Debian => {
            let mut install = cargo(&format!(
                "install bpf-linker --version {DEBIAN_LINKER} --locked --force --no-default-features --features llvm-22"
            ));
            install.env("LLVM_PREFIX", DEBIAN_LLVM).env("LLVM_SYS_221_PREFIX", DEBIAN_LLVM);
            install
        }
        Toolchain::Nightly => cargo("install bpf-linker --locked"),
    };
    execute(&mut install)
}

fn rustup(arguments: &str) -> Command {
    command("rustup", arguments)
}
