//! What the bench runs: the programs, on packets that differ from run to run, and two yardsticks.
//!
//! Under BPF_PROG_TEST_RUN the same packet comes again and again and would be a retransmission; each
//! entry point here moves a field of the packet on before it hands it over, which costs under 1 ns.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_pass_by_value, reason = "the hooks' macros hand the context over")]

mod floor;
mod stages;
mod tables;
mod view;

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_PASS},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use hydrometer_ebpf::{packet::Direction, track};

use self::{
    stages::go_on,
    tables::Kernel,
    view::{SkbView, XdpView},
};

/// Of an Ethernet frame with IPv4 without options and TCP: source address.
const SOURCE: usize = 26;
/// Destination address.
const DESTINATION: usize = 30;
/// Source port.
const SOURCE_PORT: usize = 34;
/// Sequence number.
const SEQUENCE: usize = 38;
/// Headers of such a frame.
const HEADERS: usize = 54;

/// Adds `by` to the big-endian number at `at`, if the packet is that long.
#[inline(always)]
fn advance(data: usize, data_end: usize, at: usize, by: u32) {
    if data + at + 4 <= data_end {
        let field = (data + at) as *mut u32;
        // SAFETY: the field lies inside the packet, by the comparison above.
        unsafe { field.write_unaligned(u32::from_be(field.read_unaligned()).wrapping_add(by).to_be()) };
    }
}

/// The least that an XDP program costs.
#[xdp]
#[inline(always)]
fn empty_xdp(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The same, for drivers with packets in several pieces.
#[xdp(frags)]
#[inline(always)]
fn empty_frags(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The least that a TC program costs.
#[classifier]
#[inline(always)]
fn empty_tc(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// What every program must do before it knows that a packet is not its own. The verdict depends on it, so
/// that none of it is left out.
#[xdp]
#[inline(always)]
fn port_xdp(context: XdpContext) -> u32 {
    advance(
        context.data(),
        context.data_end(),
        SEQUENCE,
        (context.data_end() - context.data() - HEADERS) as u32,
    );
    floor::port(&XdpView::<false>(&context), Direction::Ingress).map_or(XDP_PASS, |_| XDP_ABORTED)
}

/// The same, at TC.
#[classifier]
#[inline(always)]
fn port_tc(context: TcContext) -> i32 {
    advance(context.data(), context.data_end(), SEQUENCE, context.len() - HEADERS as u32);
    floor::port(&SkbView(&context), Direction::Egress).map_or(TC_ACT_UNSPEC, |_| TC_ACT_SHOT)
}

/// The plain design.
#[xdp]
#[inline(always)]
fn floor_xdp(context: XdpContext) -> u32 {
    advance(
        context.data(),
        context.data_end(),
        SEQUENCE,
        (context.data_end() - context.data() - HEADERS) as u32,
    );
    floor::count(&XdpView::<false>(&context));
    XDP_PASS
}

/// The plain design, at TC.
#[classifier]
#[inline(always)]
fn floor_tc(context: TcContext) -> i32 {
    advance(context.data(), context.data_end(), SEQUENCE, context.len() - HEADERS as u32);
    floor::count(&SkbView(&context));
    TC_ACT_UNSPEC
}

/// The next segment of the same flow.
#[xdp]
#[inline(always)]
fn ingress_next(context: XdpContext) -> u32 {
    advance(
        context.data(),
        context.data_end(),
        SEQUENCE,
        (context.data_end() - context.data() - HEADERS) as u32,
    );
    go_on(track::ingress(&XdpView::<false>(&context), &Kernel(&context)), &stages::INGRESS_STAGES, &context);
    XDP_PASS
}

/// The next segment of the same flow, for drivers with packets in several pieces.
#[xdp(frags)]
#[inline(always)]
fn frags_next(context: XdpContext) -> u32 {
    advance(
        context.data(),
        context.data_end(),
        SEQUENCE,
        (context.data_end() - context.data() - HEADERS) as u32,
    );
    go_on(track::ingress(&XdpView::<true>(&context), &Kernel(&context)), &stages::FRAGS_STAGES, &context);
    XDP_PASS
}

/// The same packet from the next port (and, where ports run out, to the next).
#[xdp]
#[inline(always)]
fn ingress_new(context: XdpContext) -> u32 {
    advance(context.data(), context.data_end(), SOURCE_PORT - 2, 1);
    go_on(track::ingress(&XdpView::<false>(&context), &Kernel(&context)), &stages::INGRESS_STAGES, &context);
    XDP_PASS
}

/// The same packet from the next address.
#[xdp]
#[inline(always)]
fn ingress_client(context: XdpContext) -> u32 {
    advance(context.data(), context.data_end(), SOURCE, 1);
    go_on(track::ingress(&XdpView::<false>(&context), &Kernel(&context)), &stages::INGRESS_STAGES, &context);
    XDP_PASS
}

/// The same packet to the next address.
#[classifier]
#[inline(always)]
fn egress_client(context: TcContext) -> i32 {
    advance(context.data(), context.data_end(), DESTINATION, 1);
    go_on(track::egress(&SkbView(&context), &Kernel(&context)), &stages::EGRESS_STAGES, &context);
    TC_ACT_UNSPEC
}

/// The next segment of the same flow.
#[classifier]
#[inline(always)]
fn egress_next(context: TcContext) -> i32 {
    advance(context.data(), context.data_end(), SEQUENCE, context.len() - HEADERS as u32);
    go_on(track::egress(&SkbView(&context), &Kernel(&context)), &stages::EGRESS_STAGES, &context);
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could come here.
    loop {}
}

/// The kernel offers some of its helpers to GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
