//! At TC: by a link of the kernel's multi-program hook (tcx), else by a filter of a clsact qdisc.
#![expect(unsafe_code, reason = "aya wants to be promised that a program id is one")]

use aya::programs::{
    LinkOrder, ProgramError, ProgramId, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
};

use super::{
    super::load,
    way::{Neighbour, Position},
};

/// Names of programs are cut to this many bytes by the kernel (`BPF_OBJ_NAME_LEN`).
const NAME_LEN: usize = 15;

/// By a link, at `position`. The second value says why not there.
pub(super) fn by_link(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    position: &Position,
) -> Result<(SchedClassifierLink, Option<String>), ProgramError> {
    let (neighbour, end) = match position {
        Position::First => (None, LinkOrder::first()),
        Position::Last => (None, LinkOrder::last()),
        Position::Before(neighbour) => (Some(neighbour), LinkOrder::first()),
        Position::After(neighbour) => (Some(neighbour), LinkOrder::last()),
    };
    let mut at = |order| attach(program, interface, direction, TcAttachOptions::TcxOrder(order));
    let Some(neighbour) = neighbour else { return Ok((at(end)?, None)) };
    if let Some(id) = id(neighbour, interface, direction) {
        // SAFETY: the kernel looks the number up, and refuses one that no program here has.
        let id = unsafe { ProgramId::new(id) };
        let beside = match position {
            Position::After(_) => LinkOrder::after_program_id(id),
            _ => LinkOrder::before_program_id(id),
        };
        if let Ok(link) = at(beside) {
            return Ok((link, None));
        }
    }
    let place = if matches!(position, Position::After(_)) { "last" } else { "first" };
    Ok((at(end)?, Some(format!("{neighbour} is not found here, so {place}"))))
}

/// The id of `neighbour` on `interface`. Names take CAP_SYS_ADMIN to read.
fn id(neighbour: &Neighbour, interface: &str, direction: TcAttachType) -> Option<u32> {
    match neighbour {
        Neighbour::Id(id) => Some(*id),
        Neighbour::Name(name) => {
            let (_, programs) = SchedClassifier::query_tcx(interface, direction).ok()?;
            let name = &name.as_bytes()[..name.len().min(NAME_LEN)];
            programs.iter().find(|program| program.name() == name).map(aya::programs::ProgramInfo::id)
        }
    }
}

/// By a filter: one of the first priority, or the last. Filters know no other neighbourhood.
pub(super) fn by_filter(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    position: &Position,
) -> Result<SchedClassifierLink, ProgramError> {
    let priority = match position {
        Position::First | Position::Before(_) => 1,
        Position::Last | Position::After(_) => u16::MAX,
    };
    // The qdisc may be there already; if it cannot be made, attaching says why.
    let _ = tc::qdisc_add_clsact(interface);
    let filter = NlOptions { priority, ..NlOptions::default() };
    attach(program, interface, direction, TcAttachOptions::Netlink(filter))
}

fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    options: TcAttachOptions,
) -> Result<SchedClassifierLink, ProgramError> {
    let id = program.attach_with_options(interface, direction, options)?;
    program.take_link(id)
}

/// Removes the filters that a killed agent has left on `interface`; links have gone with it.
pub(super) fn remove_leftovers(interface: &str) {
    for (direction, name) in [(TcAttachType::Ingress, load::TC_INGRESS), (TcAttachType::Egress, load::EGRESS)]
    {
        // None, and no qdisc to have one, are the usual cases.
        let _ = tc::qdisc_detach_program(interface, direction, name);
    }
}
