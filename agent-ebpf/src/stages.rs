//! The programs of the [`Stage`]s, and the arrays by which the programs before them end with theirs.
//!
//! All let the packet pass, and so does a program that finds no next one in its array.

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, map, xdp},
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use hydrometer_ebpf::stage::Stage;

use crate::{
    tables::Kernel,
    view::{SkbView, XdpView},
};

/// Programs of the stages, by [`Stage`], behind `hyd_ingress`.
#[map]
pub(crate) static INGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::ALL.len() as u32, 0);
/// Behind `hyd_frags`.
#[map]
pub(crate) static FRAGS_STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::ALL.len() as u32, 0);
/// Behind `hyd_tc_ingress`.
#[map]
pub(crate) static TC_INGRESS_STAGES: ProgramArray =
    ProgramArray::with_max_entries(Stage::ALL.len() as u32, 0);
/// Behind `hyd_egress`.
#[map]
pub(crate) static EGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::ALL.len() as u32, 0);

/// Ends this program with that of `stage`, if there is one.
#[inline(always)]
pub(crate) fn go_on<C: EbpfContext>(stage: Option<Stage>, programs: &ProgramArray, context: &C) {
    if let Some(stage) = stage {
        // SAFETY: nothing that this program holds needs to be given back.
        unsafe { programs.tail_call(context, stage as u32) };
    }
}

/// The programs of a stage behind the four hooks: what their names begin with tells the hook, the rest is
/// [`Stage::name`]. The kernel keeps 15 characters.
macro_rules! stage {
    ($stage:ident: $ingress:ident, $frags:ident, $tc_ingress:ident, $egress:ident) => {
        #[xdp]
        #[inline(always)]
        fn $ingress(context: XdpContext) -> u32 {
            let stage = Stage::$stage.ingress(&XdpView::<false>(&context), &Kernel(&context));
            go_on(stage, &INGRESS_STAGES, &context);
            XDP_PASS
        }

        #[xdp(frags)]
        #[inline(always)]
        fn $frags(context: XdpContext) -> u32 {
            let stage = Stage::$stage.ingress(&XdpView::<true>(&context), &Kernel(&context));
            go_on(stage, &FRAGS_STAGES, &context);
            XDP_PASS
        }

        #[classifier]
        #[inline(always)]
        fn $tc_ingress(context: TcContext) -> i32 {
            let stage = Stage::$stage.ingress(&SkbView(&context), &Kernel(&context));
            go_on(stage, &TC_INGRESS_STAGES, &context);
            TC_ACT_UNSPEC
        }

        #[classifier]
        #[inline(always)]
        fn $egress(context: TcContext) -> i32 {
            let stage = Stage::$stage.egress(&SkbView(&context), &Kernel(&context));
            go_on(stage, &EGRESS_STAGES, &context);
            TC_ACT_UNSPEC
        }
    };
}

stage!(Turns: hyd_in_turns, hyd_frags_turns, hyd_tc_in_turns, hyd_out_turns);
stage!(Http2: hyd_in_http2, hyd_frags_http2, hyd_tc_in_http2, hyd_out_http2);
stage!(TlsHttp2: hyd_in_h2tls, hyd_frags_h2tls, hyd_tc_in_h2tls, hyd_out_h2tls);
stage!(Tunnel: hyd_in_inner, hyd_frags_inner, hyd_tc_in_inner, hyd_out_inner);
stage!(Quic: hyd_in_quic, hyd_frags_quic, hyd_tc_in_quic, hyd_out_quic);
stage!(Proxy: hyd_in_proxy, hyd_frags_proxy, hyd_tc_in_proxy, hyd_out_proxy);
stage!(Head: hyd_in_head, hyd_frags_head, hyd_tc_in_head, hyd_out_head);
stage!(Http1: hyd_in_http1, hyd_frags_http1, hyd_tc_in_http1, hyd_out_http1);
