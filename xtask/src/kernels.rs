//! `cargo xtask kernels`: whether the kernel of this machine and the older ones that are supported take the programs.
//!
//! On each, `tests/src/bin/verify.rs` loads every program, runs an exchange through it and prints what the verifier
//! processed. An older kernel runs in an emulated guest, whose only process `verify` is.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    initramfs,
    setup::{self, GUEST_KERNELS, GuestKernel},
    shell::{Profile, cargo, command, execute, need_root, programs, root, say},
};

/// What a guest may take. It needs about half a minute, most of which is the verifier's.
const LIMIT_SECONDS: u32 = 300;
/// How the last line of `verify` begins when everything was right.
const HELD: &str = "held on ";

/// The verb.
pub(crate) fn run() -> Result<()> {
    need_root("kernels")?;
    setup::ensure();
    execute(&mut cargo("build --workspace --bins"))?;
    let verify = programs(Profile::Debug)?.join("verify");
    execute(&mut command(&verify, ""))?;
    if !cfg!(target_arch = "x86_64") {
        say("older kernels: skipped, since their guests are x86-64 machines and this one is not");
        return Ok(());
    }
    let initramfs = root().join("target/kernels/initramfs");
    fs::create_dir_all(root().join("target/kernels")).context("cannot make target/kernels")?;
    fs::write(&initramfs, initramfs::with_init(&verify)?)
        .with_context(|| format!("cannot write {}", initramfs.display()))?;
    let refused: Vec<_> = GUEST_KERNELS
        .iter()
        .filter_map(|kernel| {
            guest(kernel, &initramfs).err().map(|error| format!("{}: {error:#}", kernel.release))
        })
        .collect();
    ensure!(refused.is_empty(), "these kernels failed: {}", refused.join("\n"));
    Ok(())
}

/// The verb as a step of `cargo xtask test`.
pub(crate) fn step() -> Result<Command> {
    Ok(command(env::current_exe().context("cannot tell the path of the running program")?, "kernels"))
}

/// Boots `kernel`, shows what `verify` says there, and fails unless it ends with [`HELD`].
fn guest(kernel: &GuestKernel, initramfs: &Path) -> Result<()> {
    let image = kernel.image();
    ensure!(image.exists(), "there is no {}; run `cargo xtask setup`", image.display());
    say(&format!("kernel {} in an emulated guest", kernel.release));
    let output = emulator(&image, initramfs)
        .stdin(Stdio::null())
        .output()
        .context("cannot run `timeout qemu-system-x86_64`; run `cargo xtask setup`")?;
    let console = String::from_utf8_lossy(&output.stdout);
    print!("{console}");
    if !output.status.success() {
        const TIMED_OUT: i32 = 124;
        if output.status.code() == Some(TIMED_OUT) {
            bail!("the guest did not end within {LIMIT_SECONDS} s; what it said until then is above");
        }
        bail!("the emulator failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    ensure!(
        console.lines().any(|line| line.starts_with(HELD)),
        "the guest ended without saying that everything held; what it said is above"
    );
    Ok(())
}

/// A machine with nothing but memory and a serial line. Emulated, not virtualised: the same everywhere, whether this
/// machine can nest guests or not.
fn emulator(image: &Path, initramfs: &Path) -> Command {
    let mut emulator = command(
        "timeout",
        &format!(
            "{LIMIT_SECONDS} qemu-system-x86_64 -accel tcg -cpu max -m 1G -nodefaults -no-user-config -no-reboot \
             -display none -vga none -serial stdio"
        ),
    );
    emulator.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    // A guest that panics ends, too.
    emulator.args(["-append", "console=ttyS0 quiet panic=-1"]);
    emulator
}
