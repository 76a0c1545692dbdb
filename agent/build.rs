//! Builds the kernel programs and hands their path to the crate.
//!
//! They are for another target and another compiler: Debian's, whose packages bring a core library for
//! BPF, or else rustup's nightly, which builds one. `cargo xtask setup` installs either.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: &str = "hydrometer-programs";
/// What the bench measures them with; not in the product.
const BENCH: &str = "hydrometer-bench-programs";
/// Debian's compiler and its core library for BPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // Cargo runs this in the crate's folder. The path stays relative: a target folder that was copied along
    // with its sources must not look for changes where it came from.
    let source = Path::new("../agent-ebpf");
    for path in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", source.join(path).display());
    }
    let target = out.join("ebpf");
    let status = cargo(source, &target).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "building the kernel programs failed ({status}); `cargo xtask setup` installs what it takes"
        ),
        Err(error) => panic!("cannot run cargo for the kernel programs: {error}"),
    }
    for name in [PROGRAMS, BENCH] {
        let built = target.join(TARGET).join("release").join(name);
        fs::copy(&built, out.join(name))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", built.display()));
    }
    // For the tests' build script, as DEP_HYDROMETER_PROGRAMS_FOLDER.
    println!("cargo::metadata=folder={}", out.display());
}

fn cargo(source: &Path, target: &Path) -> Command {
    let debian = Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_CORE).exists();
    let mut command = if debian {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The core library is there; what is unstable in it is behind a feature gate all the same.
        command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        command
    } else {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo"]).env_remove("RUSTC").env_remove("CARGO");
        command
    };
    command.current_dir(source).args(["build", "--release", "--target", TARGET, "--bins"]);
    command.args(["--features", "program", "--target-dir"]).arg(target);
    if !debian {
        command.args(["-Z", "build-std=core"]);
    }
    // What cargo set for this crate must not reach the other target.
    for variable in
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(variable);
    }
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"].join("\x1f");
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker");
    command
}
