//! Attaching to an interface and letting go of it.
//!
//! Invariant: an interface has both programs or none. What is not pinned belongs to this process: its
//! links end with it, however it ends. (A clsact filter, on kernels before 6.6, is no link: it is removed
//! on the way out, and a leftover of a killed agent is replaced by the next one.)

use std::{fs, path::PathBuf};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, Link},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use rustix::io::Errno;

use super::{AttachMode, Attachment, Direction, KernelError, error, load};

/// Where links are pinned.
const PINS: &str = "/sys/fs/bpf/hydrometer";

/// The two links of one interface.
#[derive(Debug)]
pub(super) struct Links {
    interface: String,
    // `None` once pinned: the pins hold them.
    xdp: Option<XdpLink>,
    tc: Option<SchedClassifierLink>,
}

/// Attaches both programs to `interface`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    interface: &str,
    pin: bool,
) -> Result<(Links, [Attachment; 2]), KernelError> {
    if rustix::net::netdevice::name_to_index(rustix_socket()?, interface).is_err() {
        return Err(KernelError::NoInterface(interface.to_owned()));
    }
    unpin(interface);
    let (xdp, ingress) = attach_ingress(ebpf, interface)?;
    let (tc, egress) = attach_egress(ebpf, interface)?;
    let mut links = Links { interface: interface.to_owned(), xdp: Some(xdp), tc: Some(tc) };
    if pin {
        links.pin()?;
    }
    let attachment = |direction, mode| Attachment { interface: interface.to_owned(), direction, mode };
    Ok((links, [attachment(Direction::Ingress, ingress), attachment(Direction::Egress, egress)]))
}

fn rustix_socket() -> Result<rustix::fd::OwnedFd, KernelError> {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(|error| KernelError::Wait(error.into()))
}

/// XDP in the best mode that the driver takes.
fn attach_ingress(ebpf: &mut Ebpf, interface: &str) -> Result<(XdpLink, AttachMode), KernelError> {
    let ways = [
        (load::FRAGS, XdpMode::Driver, AttachMode::XdpNativeFrags),
        (load::INGRESS, XdpMode::Driver, AttachMode::XdpNative),
        (load::INGRESS, XdpMode::Skb, AttachMode::XdpSkb),
    ];
    let mut reasons = Vec::new();
    for (name, mode, got) in ways {
        // A kernel that cannot load the program for packets in pieces may load the other one.
        let program = match load::xdp(ebpf, name) {
            Ok(program) => program,
            Err(error @ KernelError::NotPermitted(_)) => return Err(error),
            Err(error) => {
                reasons.push(error.to_string());
                continue;
            }
        };
        match attach_xdp(program, interface, mode) {
            Ok(link) => return Ok((link, got)),
            Err(error) => {
                if let Some(error) = hopeless(&error, interface) {
                    return Err(error);
                }
                reasons.push(error::error_chain(&error));
            }
        }
    }
    Err(KernelError::Attach {
        program: load::INGRESS,
        interface: interface.to_owned(),
        why: reasons.pop().unwrap_or_default(),
    })
}

fn attach_xdp(program: &mut Xdp, interface: &str, mode: XdpMode) -> Result<XdpLink, ProgramError> {
    let id = program.attach(interface, mode)?;
    program.take_link(id)
}

/// An error that another mode would not mend.
fn hopeless(error: &ProgramError, interface: &str) -> Option<KernelError> {
    match error::os_error(error).map(Errno::from_raw_os_error) {
        Some(Errno::BUSY | Errno::EXIST) => Some(KernelError::Busy(interface.to_owned())),
        Some(Errno::PERM | Errno::ACCESS) => Some(KernelError::NotPermitted("attach BPF programs")),
        _ if error::error_chain(error).contains("busy") => Some(KernelError::Busy(interface.to_owned())),
        _ => None,
    }
}

/// TC by a link, where the kernel has them, else by a filter.
fn attach_egress(ebpf: &mut Ebpf, interface: &str) -> Result<(SchedClassifierLink, AttachMode), KernelError> {
    let program = load::egress(ebpf)?;
    // First in line: others may send the packet elsewhere.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    if let Ok(link) = attach_tc(program, interface, order) {
        return Ok((link, AttachMode::Tcx));
    }
    // The qdisc may be there already; a filter of that name is a killed agent's.
    let _ = tc::qdisc_add_clsact(interface);
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Egress, load::EGRESS);
    match attach_tc(program, interface, TcAttachOptions::Netlink(NlOptions::default())) {
        Ok(link) => Ok((link, AttachMode::Clsact)),
        Err(error) => Err(hopeless(&error, interface).unwrap_or_else(|| KernelError::Attach {
            program: load::EGRESS,
            interface: interface.to_owned(),
            why: error::error_chain(&error),
        })),
    }
}

fn attach_tc(
    program: &mut SchedClassifier,
    interface: &str,
    options: TcAttachOptions,
) -> Result<SchedClassifierLink, ProgramError> {
    let id = program.attach_with_options(interface, TcAttachType::Egress, options)?;
    program.take_link(id)
}

impl Links {
    /// Pins both links, so that they outlive this process.
    fn pin(&mut self) -> Result<(), KernelError> {
        let path = PathBuf::from(PINS);
        let failed = |why: String| KernelError::Pin { path: PathBuf::from(PINS), why };
        fs::create_dir_all(&path).map_err(|error| failed(error.to_string()))?;
        if let Some(link) = self.xdp.take() {
            let link = FdLink::try_from(link).map_err(|error| failed(error::error_chain(&error)))?;
            link.pin(pin_path(&self.interface, "ingress"))
                .map_err(|error| failed(error::error_chain(&error)))?;
        }
        if let Some(link) = self.tc.take() {
            let link = FdLink::try_from(link).map_err(|error| failed(error::error_chain(&error)))?;
            link.pin(pin_path(&self.interface, "egress"))
                .map_err(|error| failed(error::error_chain(&error)))?;
        }
        Ok(())
    }

    /// Lets go of the interface, unless pinned.
    pub(super) fn detach(self) -> Result<(), KernelError> {
        let tc = self.tc.map_or(Ok(()), Link::detach);
        // One that fails must not keep the other attached.
        tc.and(self.xdp.map_or(Ok(()), Link::detach)).map_err(|error| KernelError::Detach {
            interface: self.interface,
            why: error::error_chain(&error),
        })
    }
}

/// Removes what an earlier agent pinned for this interface; if that still runs, its links stay.
fn unpin(interface: &str) {
    for direction in ["ingress", "egress"] {
        // Nothing pinned is the usual case.
        let _ = fs::remove_file(pin_path(interface, direction));
    }
}

fn pin_path(interface: &str, direction: &str) -> PathBuf {
    PathBuf::from(PINS).join(format!("{interface}-{direction}"))
}
