//! The hooks: XDP on ingress, or TC where XDP is taken; TC on egress. Behind each the programs of the stages.
//!
//! All always let the packet pass, also where a stage's program is missing.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_pass_by_value, reason = "the hooks' macros hand the context over")]

mod tables;
mod view;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, map, xdp},
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use hydrometer_ebpf::{
    stage::{STAGES, Stage},
    track,
};

use self::{
    tables::Kernel,
    view::{SkbView, XdpView},
};

/// Programs of the stages, by [`Stage`], behind [`hyd_ingress`].
#[map]
static INGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
/// Behind [`hyd_frags`].
#[map]
static FRAGS_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
/// Behind [`hyd_tc_ingress`].
#[map]
static TC_INGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
/// Behind [`hyd_egress`].
#[map]
static EGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);

/// From the network, in drivers that hand out packets in one piece.
#[xdp]
#[inline(always)]
fn hyd_ingress(context: XdpContext) -> u32 {
    go_on(track::ingress(&XdpView::<false>(&context), &Kernel(&context)), &INGRESS_STAGES, &context);
    XDP_PASS
}

/// From the network, where packets may come in several pieces.
#[xdp(frags)]
#[inline(always)]
fn hyd_frags(context: XdpContext) -> u32 {
    go_on(track::ingress(&XdpView::<true>(&context), &Kernel(&context)), &FRAGS_STAGES, &context);
    XDP_PASS
}

/// From the network, where XDP is taken or refused. Leaves the verdict to the programs behind this one.
#[classifier]
fn hyd_tc_ingress(context: TcContext) -> i32 {
    go_on(track::ingress(&SkbView(&context), &Kernel(&context)), &TC_INGRESS_STAGES, &context);
    TC_ACT_UNSPEC
}

/// To the network. Leaves the verdict to the programs behind this one.
#[classifier]
#[inline(always)]
fn hyd_egress(context: TcContext) -> i32 {
    go_on(track::egress(&SkbView(&context), &Kernel(&context)), &EGRESS_STAGES, &context);
    TC_ACT_UNSPEC
}

/// Ends this program with that of `stage`, if there is one.
#[inline(always)]
fn go_on<C: EbpfContext>(stage: Option<Stage>, programs: &ProgramArray, context: &C) {
    if let Some(stage) = stage {
        // SAFETY: nothing that this program holds needs to be given back.
        unsafe { programs.tail_call(context, stage as u32) };
    }
}

/// HTTP/2 in clear text, behind [`hyd_ingress`].
#[xdp]
fn hyd_in_http2(context: XdpContext) -> u32 {
    Stage::Http2.ingress(&XdpView::<false>(&context), &Kernel(&context));
    XDP_PASS
}

/// HTTP/2 in clear text, behind [`hyd_frags`].
#[xdp(frags)]
fn hyd_frags_http2(context: XdpContext) -> u32 {
    Stage::Http2.ingress(&XdpView::<true>(&context), &Kernel(&context));
    XDP_PASS
}

/// HTTP/2 in clear text, behind [`hyd_tc_ingress`].
#[classifier]
fn hyd_tc_in_http2(context: TcContext) -> i32 {
    Stage::Http2.ingress(&SkbView(&context), &Kernel(&context));
    TC_ACT_UNSPEC
}

/// HTTP/2 in clear text, behind [`hyd_egress`].
#[classifier]
fn hyd_out_http2(context: TcContext) -> i32 {
    Stage::Http2.egress(&SkbView(&context), &Kernel(&context));
    TC_ACT_UNSPEC
}

/// HTTP/3, behind [`hyd_ingress`].
#[xdp]
fn hyd_in_quic(context: XdpContext) -> u32 {
    Stage::Quic.ingress(&XdpView::<false>(&context), &Kernel(&context));
    XDP_PASS
}

/// HTTP/3, behind [`hyd_frags`].
#[xdp(frags)]
fn hyd_frags_quic(context: XdpContext) -> u32 {
    Stage::Quic.ingress(&XdpView::<true>(&context), &Kernel(&context));
    XDP_PASS
}

/// HTTP/3, behind [`hyd_tc_ingress`].
#[classifier]
fn hyd_tc_in_quic(context: TcContext) -> i32 {
    Stage::Quic.ingress(&SkbView(&context), &Kernel(&context));
    TC_ACT_UNSPEC
}

/// HTTP/3, behind [`hyd_egress`].
#[classifier]
fn hyd_out_quic(context: TcContext) -> i32 {
    Stage::Quic.egress(&SkbView(&context), &Kernel(&context));
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
