//! What can go wrong with the kernel side, each with its remedy.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, tc::TcError, xdp::XdpError},
};
use rustix::io::Errno;

use super::Direction;
use crate::identity::SecretError;

/// Why the kernel side failed. Every message names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// API keys cannot be hashed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The process may not use BPF.
    #[error("not permitted to {0}; run as root or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    NotPermitted(&'static str),
    /// The kernel lacks something.
    #[error(
        "kernel {release} cannot run the programs ({what}); Linux 5.18 or newer with CONFIG_DEBUG_INFO_BTF is needed"
    )]
    TooOld {
        /// Release of the running kernel.
        release: String,
        /// What it lacks.
        what: String,
    },
    /// A map or a program could not be made.
    #[error("cannot load the programs: {0}")]
    Load(String),
    /// No such interface.
    #[error("there is no network interface {0}; `ip link` lists those that are there")]
    NoInterface(String),
    /// XDP is taken, and no other mode is allowed.
    #[error(
        "XDP on {interface} is taken by {holder}; stop it, choose another interface, or let `attach` be auto or tc to \
         watch at TC instead"
    )]
    Busy {
        /// Where.
        interface: String,
        /// By whom.
        holder: String,
    },
    /// An agent is attached.
    #[error(
        "another agent watches {0}; stop that one first (`hydrometer status` asks it), or choose another interface"
    )]
    Watched(String),
    /// Attaching failed otherwise.
    #[error("cannot attach to {interface} for {direction}: {why}")]
    Attach {
        /// Which program.
        direction: Direction,
        /// Where.
        interface: String,
        /// Why not.
        why: String,
    },
    /// Detaching failed.
    #[error("cannot detach from {interface}: {why}; `bpftool net show` lists what is attached")]
    Detach {
        /// Where.
        interface: String,
        /// Why not.
        why: String,
    },
    /// A map could not be read or written.
    #[error("cannot access the kernel map {map}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// A map could not be walked over.
    #[error("cannot walk over the kernel map {map}")]
    Walk {
        /// Which.
        map: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A pin could not be made or removed.
    #[error(
        "cannot pin to {path}: {why}; mount bpffs there (`mount -t bpf bpf /sys/fs/bpf`) or turn pinning off"
    )]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The interfaces cannot be listed.
    #[error("cannot ask the kernel for its network interfaces: {0}")]
    Interfaces(String),
    /// The ring buffer cannot be waited for.
    #[error("cannot wait for the kernel's ring buffer")]
    Wait(#[source] io::Error),
}

/// The error number behind an error of aya's, if there is one.
fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error))
        | ProgramError::TcError(TcError::NetlinkError(error))
        | ProgramError::NetlinkError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// Whether what was wanted is somebody else's.
pub(super) fn is_busy(error: &ProgramError) -> bool {
    matches!(os_error(error).map(Errno::from_raw_os_error), Some(Errno::BUSY | Errno::EXIST))
}

/// Whether this process may not do it.
pub(super) fn is_not_permitted(error: &ProgramError) -> bool {
    matches!(os_error(error).map(Errno::from_raw_os_error), Some(Errno::PERM | Errno::ACCESS))
}

/// An error of loading, in our words.
pub(super) fn load(error: &EbpfError) -> KernelError {
    let number = match error {
        EbpfError::ProgramError(error) => os_error(error),
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => io_error.raw_os_error(),
        EbpfError::MapError(MapError::SyscallError(error)) => error.io_error.raw_os_error(),
        _ => None,
    };
    let text = error_chain(error);
    match number.map(Errno::from_raw_os_error) {
        Some(Errno::NOMEM | Errno::TOOBIG) => {
            KernelError::Load(format!("{text}; lower max_flows, max_clients or ring_bytes"))
        }
        _ => explain(number, &text),
    }
}

/// An error of loading a program, in our words.
pub(super) fn load_program(error: &ProgramError) -> KernelError {
    let (number, text) = (os_error(error), error_chain(error));
    match number.map(Errno::from_raw_os_error) {
        // The verifier gave up.
        Some(Errno::TOOBIG) => too_old("its verifier finds the programs too large"),
        _ => explain(number, &text),
    }
}

fn explain(number: Option<i32>, text: &str) -> KernelError {
    match number.map(Errno::from_raw_os_error) {
        // The verifier's refusals have the same number.
        Some(Errno::PERM | Errno::ACCESS) if is_unprivileged() => {
            KernelError::NotPermitted("load BPF programs")
        }
        Some(Errno::INVAL) if text.contains("unknown func") => too_old("a helper function is missing"),
        _ => KernelError::Load(text.to_owned()),
    }
}

/// Whether this process lacks what loading takes: two capabilities and, for the verifier to let pointers
/// into packets be compared, a third; or the one that came before them.
fn is_unprivileged() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| {
        use rustix::thread::CapabilitySet as Set;
        !sets.effective.contains(Set::SYS_ADMIN)
            && !sets.effective.contains(Set::BPF | Set::NET_ADMIN | Set::PERFMON)
    })
}

pub(super) fn too_old(what: &str) -> KernelError {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    KernelError::TooOld { release, what: what.to_owned() }
}

/// An error with its causes in one line; of a verifier's log only the end, which has the reason.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let mut lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > 6 {
        let tail = lines.split_off(lines.len() - 5);
        lines.truncate(1);
        lines.extend(tail);
    }
    lines.join(" | ")
}
