//! Attaching to an interface and letting go of it.
//!
//! Invariants: an interface has both programs or none; what somebody else attached stays. What is not
//! pinned belongs to this process: its links end with it, however it ends. (A clsact filter is no link: it
//! is removed on the way out, and a leftover of a killed agent is removed by the next one.)

pub(super) mod pins;
mod tc;
mod way;

use std::{
    io, mem,
    os::{linux::net::SocketAddrExt as _, unix::net::UnixDatagram},
    thread,
    time::{Duration, Instant},
};

pub use self::way::{Neighbour, Position, PositionError, Way};
use super::{AttachMode, Attachment, Direction, Interface, KernelError, error, load};
use aya::{
    Ebpf,
    programs::{
        ProgramError, ProgramInfo, TcAttachType, Xdp, XdpMode,
        links::{FdLink, Link as _},
        loaded_programs,
        tc::SchedClassifierLink,
        xdp::XdpLink,
    },
};

/// The kernel lets go of a link some time after its last pin is removed: waited for up to this long.
const RELEASE: Duration = Duration::from_secs(2);
const RELEASE_POLL: Duration = Duration::from_millis(10);

/// How programs are attached.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// In which mode.
    pub way: Way,
    /// Where among the TC programs of others.
    pub position: Position,
}

/// The two programs on one interface.
#[derive(Debug)]
pub(super) struct Links {
    interface: Interface,
    ingress: Hook,
    egress: Hook,
    /// Held while the interface is ours.
    _claim: UnixDatagram,
}

/// One program on one interface; dropped, it is detached.
#[derive(Debug)]
enum Hook {
    Xdp(XdpLink),
    Tcx(SchedClassifierLink),
    Filter(SchedClassifierLink),
    /// Left where it is when this is dropped.
    Stays,
}

/// Attaches both programs to `interface`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    interface: &Interface,
    options: &AttachOptions,
) -> Result<(Links, [Attachment; 2]), KernelError> {
    let claim = claim(interface)?;
    // Nobody holds the interface: what is pinned for it, or left as a filter, is an earlier agent's.
    let patience = if pins::remove(interface.index) > 0 { RELEASE } else { Duration::ZERO };
    tc::remove_leftovers(&interface.name);
    let mut hooks = Hooks { ebpf, interface, position: &options.position, patience };
    let (ingress, into) = hooks.attach(Direction::Ingress, options.way.ingress())?;
    let (egress, out) = hooks.attach(Direction::Egress, options.way.egress())?;
    Ok((Links { interface: interface.clone(), ingress, egress, _claim: claim }, [into, out]))
}

/// Takes `interface` for this process: an abstract socket is the network namespace's own, and gone with
/// the process.
fn claim(interface: &Interface) -> Result<UnixDatagram, KernelError> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("hydrometer/{}", interface.index));
    match name.and_then(|name| UnixDatagram::bind_addr(&name)) {
        Ok(claim) => Ok(claim),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(KernelError::Watched(interface.name.clone()))
        }
        Err(error) => Err(KernelError::Wait(error)),
    }
}

/// What attaching to one interface takes.
struct Hooks<'a> {
    ebpf: &'a mut Ebpf,
    interface: &'a Interface,
    position: &'a Position,
    /// How long the links of an earlier agent may take to go.
    patience: Duration,
}

impl Hooks<'_> {
    /// Attaches in the first of `modes` that the interface takes.
    fn attach(
        &mut self,
        direction: Direction,
        modes: &[AttachMode],
    ) -> Result<(Hook, Attachment), KernelError> {
        let mut refusals: Vec<String> = Vec::new();
        let mut holder = None;
        for &mode in modes {
            // XDP has room for one program, in whichever mode.
            if holder.is_some() && mode.is_xdp() {
                continue;
            }
            match self.try_attach(direction, mode) {
                Ok((hook, beside)) => {
                    // What kept it from the first choice, and from its place.
                    let note: Vec<_> = refusals.into_iter().take(1).chain(beside).collect();
                    let attachment = Attachment {
                        interface: self.interface.name.clone(),
                        direction,
                        mode,
                        note: note.join("; "),
                    };
                    return Ok((hook, attachment));
                }
                Err(error) if error::is_not_permitted(&error) => {
                    return Err(KernelError::NotPermitted("attach BPF programs"));
                }
                Err(error) if mode.is_xdp() && error::is_busy(&error) => {
                    let who = self.holder();
                    refusals.push(format!("XDP is taken by {who}"));
                    holder = Some(who);
                }
                Err(error) => refusals.push(format!("{mode}: {}", error::error_chain(&error))),
            }
        }
        let interface = self.interface.name.clone();
        Err(match holder {
            Some(holder) => KernelError::Busy { interface, holder },
            None => KernelError::Attach { direction, interface, why: refusals.join("; ") },
        })
    }

    /// Attaches in one mode; the second value says why not at the place that was asked for.
    fn try_attach(
        &mut self,
        direction: Direction,
        mode: AttachMode,
    ) -> Result<(Hook, Option<String>), ProgramError> {
        let way = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let name = load::program_for(direction, mode);
        let interface = self.interface.name.as_str();
        match mode {
            AttachMode::XdpNativeFrags | AttachMode::XdpNative => {
                Ok((Hook::Xdp(self.xdp(name, XdpMode::Driver)?), None))
            }
            AttachMode::XdpSkb => Ok((Hook::Xdp(self.xdp(name, XdpMode::Skb)?), None)),
            AttachMode::Tcx => {
                let program = load::loaded(self.ebpf, name)?;
                let (link, beside) = tc::by_link(program, interface, way, self.position)?;
                Ok((Hook::Tcx(link), beside))
            }
            AttachMode::Clsact => {
                let program = load::loaded(self.ebpf, name)?;
                Ok((Hook::Filter(tc::by_filter(program, interface, way, self.position)?), None))
            }
        }
    }

    /// XDP, as soon as what was pinned is gone.
    fn xdp(&mut self, name: &'static str, mode: XdpMode) -> Result<XdpLink, ProgramError> {
        let program: &mut Xdp = load::loaded(self.ebpf, name)?;
        let begun = Instant::now();
        loop {
            match program.attach_to_if_index(self.interface.index, mode) {
                Err(error) if error::is_busy(&error) && begun.elapsed() < self.patience => {
                    thread::sleep(RELEASE_POLL);
                }
                result => return program.take_link(result?),
            }
        }
    }

    /// Who has XDP here. A program's name takes CAP_SYS_ADMIN to read.
    fn holder(&self) -> String {
        let Some(&id) = self.interface.xdp.first() else { return "another program".to_owned() };
        let program = loaded_programs().map_while(Result::ok).find(|program| program.id() == id);
        match program.as_ref().and_then(ProgramInfo::name_as_str) {
            Some(name) => format!("program {name} (id {id})"),
            None => format!("program {id}"),
        }
    }
}

impl Links {
    /// Leaves both programs attached when this is dropped; one that cannot be pinned is detached.
    pub(super) fn pin(&mut self) -> Result<(), KernelError> {
        let index = self.interface.index;
        for (hook, direction) in
            [(&mut self.ingress, Direction::Ingress), (&mut self.egress, Direction::Egress)]
        {
            let link = match mem::replace(hook, Hook::Stays) {
                Hook::Xdp(link) => FdLink::try_from(link),
                Hook::Tcx(link) => FdLink::try_from(link),
                Hook::Filter(link) => {
                    // Nothing but its owner's drop removes a filter.
                    mem::forget(link);
                    continue;
                }
                Hook::Stays => continue,
            };
            let pinned =
                link.map_err(|error| pins::failed(&error)).and_then(|link| pins::pin(link, index, direction));
            if let Err(error) = pinned {
                pins::remove(index);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets go of the interface, unless pinned.
    pub(super) fn detach(self) -> Result<(), KernelError> {
        // One that fails must not keep the other attached.
        self.egress.detach().and(self.ingress.detach()).map_err(|error| KernelError::Detach {
            interface: self.interface.name,
            why: error::error_chain(&error),
        })
    }
}

impl Hook {
    fn detach(self) -> Result<(), ProgramError> {
        match self {
            Self::Xdp(link) => link.detach(),
            Self::Tcx(link) | Self::Filter(link) => link.detach(),
            Self::Stays => Ok(()),
        }
    }
}
