//! Which compiler makes the kernel programs: Debian 12 has one with a ready-made core library for BPF; elsewhere it is
//! rustup's nightly, which builds the core library from its source.

use std::{fs, process::Command};

use crate::shell::{command, root};

/// A way to compile for BPF.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The packages of Debian 12.
    Debian,
    /// rustup's nightly with rust-src.
    Nightly,
}

impl Toolchain {
    /// The one for this machine, there already or not.
    pub(crate) fn of_this_machine() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let says = |line: &str| release.lines().any(|other| other.replace('"', "") == line);
        if says("ID=debian") && says("VERSION_ID=12") { Self::Debian } else { Self::Nightly }
    }
}

/// Lints the kernel programs for the target they run on.
pub(crate) fn clippy() -> Command {
    const LINT: &str = "clippy --package hydrometer-ebpf --features program --lib --bins --release \
                        --target bpfel-unknown-none --target-dir target/ebpf-clippy";
    const DENY: &str = "-- -D warnings";
    match Toolchain::of_this_machine() {
        Toolchain::Debian => {
            // Of the compiler's own release: another could not read its core library.
            let mut clippy = command("/usr/bin/cargo-clippy", &format!("{LINT} {DENY}"));
            clippy.current_dir(root()).env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
            clippy
        }
        Toolchain::Nightly => {
            let mut clippy = command("rustup", &format!("run nightly cargo {LINT} -Z build-std=core {DENY}"));
            clippy.current_dir(root());
            clippy
        }
    }
}
