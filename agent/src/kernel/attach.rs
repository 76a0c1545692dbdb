//! Attaching to an interface and letting go of it.
//!
//! Invariant: an interface has both programs or none. What is not pinned belongs to this process: its
//! links end with it, however it ends. (A clsact filter, on kernels before 6.6, is no link: it is removed
//! on the way out, and a leftover of a killed agent is replaced by the next one.)

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram},
    },
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, Link, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
};

use super::{AttachMode, Attachment, Direction, KernelError, error, load};

/// Where links are pinned.
const PINS: &str = "/sys/fs/bpf/hydrometer";
/// Last parts of the pins' names.
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];
/// Before filters of others, which may send the packet elsewhere.
const FIRST_PRIORITY: u16 = 1;

/// The kernel lets go of a link some time after its last pin is removed: waited for up to this long.
const RELEASE: Duration = Duration::from_secs(2);
const RELEASE_POLL: Duration = Duration::from_millis(10);

/// The two links of one interface.
#[derive(Debug)]
pub(super) struct Links {
    interface: String,
    xdp: Option<XdpLink>,
    tc: Option<SchedClassifierLink>,
    pinned: Vec<PinnedLink>,
    /// Held while the interface is ours.
    _claim: UnixDatagram,
}

/// Attaches both programs to `interface`.
pub(super) fn attach(ebpf: &mut Ebpf, interface: &str) -> Result<(Links, [Attachment; 2]), KernelError> {
    let probe = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .map_err(|error| KernelError::Wait(error.into()))?;
    if name_to_index(&probe, interface).is_err() {
        return Err(KernelError::NoInterface(interface.to_owned()));
    }
    let claim = claim(interface)?;
    // Nobody holds the interface: what is pinned for it an earlier agent has left.
    let mut unpinned = 0;
    for direction in DIRECTIONS {
        // Nothing pinned is the usual case.
        unpinned += u32::from(fs::remove_file(pin_path(interface, direction)).is_ok());
    }
    let patience = if unpinned > 0 { RELEASE } else { Duration::ZERO };
    let (xdp, ingress) = attach_ingress_within(patience, ebpf, interface)?;
    let (tc, egress) = attach_egress(ebpf, interface)?;
    let attachment = |direction, mode| Attachment { interface: interface.to_owned(), direction, mode };
    let attachments = [attachment(Direction::Ingress, ingress), attachment(Direction::Egress, egress)];
    let interface = interface.to_owned();
    Ok((Links { interface, xdp: Some(xdp), tc: Some(tc), pinned: Vec::new(), _claim: claim }, attachments))
}

/// Takes `interface` for this process: an abstract socket is the network namespace's own, and gone with
/// the process.
fn claim(interface: &str) -> Result<UnixDatagram, KernelError> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("hydrometer/{interface}"));
    match name.and_then(|name| UnixDatagram::bind_addr(&name)) {
        Ok(claim) => Ok(claim),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(KernelError::Watched(interface.to_owned()))
        }
        Err(error) => Err(KernelError::Wait(error)),
    }
}

/// XDP, as soon as what was pinned is gone.
fn attach_ingress_within(
    patience: Duration,
    ebpf: &mut Ebpf,
    interface: &str,
) -> Result<(XdpLink, AttachMode), KernelError> {
    let begun = Instant::now();
    loop {
        match attach_ingress(ebpf, interface) {
            Err(KernelError::Busy(_)) if begun.elapsed() < patience => thread::sleep(RELEASE_POLL),
            outcome => return outcome,
        }
    }
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
        match attach_xdp(load::xdp(ebpf, name)?, interface, mode) {
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
    let filter = NlOptions { priority: FIRST_PRIORITY, ..NlOptions::default() };
    match attach_tc(program, interface, TcAttachOptions::Netlink(filter)) {
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
    pub(super) fn pin(&mut self) -> Result<(), KernelError> {
        let result = self.try_pin();
        if result.is_err() {
            for pinned in self.pinned.drain(..) {
                // The first error is the one to tell.
                let _ = pinned.unpin();
            }
        }
        result.map_err(|why| KernelError::Pin { path: PathBuf::from(PINS), why })
    }

    fn try_pin(&mut self) -> Result<(), String> {
        fs::create_dir_all(PINS).map_err(|error| error.to_string())?;
        let text = |error: LinkError| error::error_chain(&error);
        if let Some(link) = self.xdp.take() {
            let link = FdLink::try_from(link).map_err(text)?;
            self.pinned
                .push(link.pin(pin_path(&self.interface, DIRECTIONS[0])).map_err(|error| error.to_string())?);
        }
        if let Some(link) = self.tc.take() {
            let link = FdLink::try_from(link)
                .map_err(|error| format!("{}: a filter has no link; that takes Linux 6.6", text(error)))?;
            self.pinned
                .push(link.pin(pin_path(&self.interface, DIRECTIONS[1])).map_err(|error| error.to_string())?);
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

/// Where a link is pinned: interfaces of other network namespaces may have the same name.
fn pin_path(interface: &str, direction: &str) -> PathBuf {
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino());
    PathBuf::from(PINS).join(format!("{namespace}-{interface}-{direction}"))
}
