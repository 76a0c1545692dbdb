//! The hooks: XDP on ingress, or TC where XDP is taken; TC on egress. Behind each are the programs of
//! `stages.rs`.
//!
//! All always let the packet pass.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_pass_by_value, reason = "the hooks' macros hand the context over")]

mod stages;
mod tables;
mod view;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use hydrometer_ebpf::track;

use self::{
    stages::go_on,
    tables::Kernel,
    view::{SkbView, XdpView},
};

/// From the network, in drivers that hand out packets in one piece.
#[xdp]
#[inline(always)]
fn hyd_ingress(context: XdpContext) -> u32 {
    go_on(track::ingress(&XdpView::<false>(&context), &Kernel(&context)), &stages::INGRESS_STAGES, &context);
    XDP_PASS
}

/// From the network, where packets may come in several pieces.
#[xdp(frags)]
#[inline(always)]
fn hyd_frags(context: XdpContext) -> u32 {
    go_on(track::ingress(&XdpView::<true>(&context), &Kernel(&context)), &stages::FRAGS_STAGES, &context);
    XDP_PASS
}

/// From the network, where XDP is taken or refused. Leaves the verdict to the programs behind this one.
#[classifier]
#[inline(always)]
fn hyd_tc_ingress(context: TcContext) -> i32 {
    go_on(track::ingress(&SkbView(&context), &Kernel(&context)), &stages::TC_INGRESS_STAGES, &context);
    TC_ACT_UNSPEC
}

/// To the network. Leaves the verdict to the programs behind this one.
#[classifier]
#[inline(always)]
fn hyd_egress(context: TcContext) -> i32 {
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
