//! The heads of requests in clear text from trusted proxies, handed to userspace, which reads there on whose
//! behalf a proxy asks.
//!
//! In flow the first segments of requests in HTTP/1; out flow their bytes up to the empty line that ends the head.
//! Nothing is put together here.
//!
//! Invariant: no byte of a body leaves, as far as a head comes in order, and none beyond [`MAX_HEAD`] of a request.

use core::ops::ControlFlow;

use crate::{
    abi::{Address, Counter, Protocol},
    flow::{ClientHalf, Flow, protocol},
    packet::{Direction, Packet, Segment},
    proxy, request,
    stage::Stage,
    track::{self, Scratch, Step, Tables},
};

/// Bytes of a head, or of a PROXY header, that are looked at.
pub const MAX_HEAD: u32 = 2048;

/// What is said of the bytes that follow in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadEvent {
    /// The proxy's address.
    pub client: Address,
    /// Service address.
    pub server: Address,
    /// First packet of the flow, nanoseconds of the kernel's monotonic clock.
    pub flow_start: u64,
    /// The proxy's port, host order.
    pub client_port: u16,
    /// Service port, host order.
    pub server_port: u16,
    /// Number of the request on its flow, from 1; 0 for the PROXY header.
    pub turn: u32,
    /// Where in the head, or the header, the bytes begin.
    pub position: u32,
    /// How many bytes follow.
    pub len: u32,
}

const _: () = assert!(size_of::<HeadEvent>() == 56);

impl HeadEvent {
    /// The event in these bytes of the ring buffer, and the proxy's bytes behind it; `None` when there are
    /// too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, bytes) = bytes.split_at_checked(size_of::<Self>())?;
        let words: [[u8; 8]; 7] = head.as_chunks().0.first_chunk().copied()?;
        let event = Self::from(words.map(u64::from_ne_bytes));
        Some((event, bytes.get(..event.len as usize)?))
    }
}

/// Bytes of a head.
pub type Bytes = [u8; MAX_HEAD as usize];

/// Room to work in while a head is searched for its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    at: u32,
    len: u32,
    line_empty: bool,
    over: bool,
    pad: [u8; 2],
}

/// Whether a segment may have something of the head of a trusted proxy's request.
#[inline(always)]
pub(crate) fn may_have<T: Tables>(tables: &T, flow: &Flow, half: &ClientHalf, segment: &Segment) -> bool {
    tables.has_proxies()
        && protocol(flow.asked.mode.get()) == Protocol::Http1
        && segment.payload_len > 0
        && segment.seq.wrapping_sub(half.turn_seq) < MAX_HEAD
        && tables.trusts(&segment.key.client)
}

/// Hands out what `segment` has of a head. Returns the stage to go on with, if there is one.
#[inline(always)]
pub(crate) fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Stage> {
    let Scratch { segment, head: work, work: request::Work { http1, .. }, .. } =
        tables.scratch(Direction::Ingress)?;
    let next = http1.stage();
    let Some(flow) = track::lookup(tables, segment) else { return next };
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.client_half() };
    let Some(state) = proxy::state(tables, flow, segment) else { return next };
    let turn = flow.asked.turn.get();
    if state.turn != turn {
        (state.turn, state.head_over, state.line_empty) = (turn, false, false);
    }
    let position = segment.seq.wrapping_sub(half.turn_seq);
    if state.head_over || position >= MAX_HEAD {
        return next;
    }
    let len = segment.payload_len.min(MAX_HEAD - position);
    *work = Work { at: 0, len, line_empty: state.line_empty, over: false, pad: [0; 2] };
    hand_out(packet, tables, flow, segment, (turn, position), len, |bytes| {
        tables.repeat(MAX_HEAD, &mut Search { bytes, work });
        work.at
    });
    state.head_over = work.over;
    state.line_empty = work.line_empty;
    next
}

/// Hands out what `segment` begins with: of its first `len` bytes as many as `part` says. `place` is the request's
/// number and where in it they are.
#[inline(always)]
pub(crate) fn hand_out<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    segment: &Segment,
    place: (u32, u32),
    len: u32,
    part: impl FnOnce(&Bytes) -> u32,
) {
    if len == 0 {
        return;
    }
    let handed_out = tables.head(packet, segment.payload, len, |event, bytes| {
        event.client = segment.key.client;
        event.server = segment.key.server;
        event.flow_start = flow.first_seen.get();
        event.client_port = u16::from_be(segment.key.client_port);
        event.server_port = u16::from_be(segment.key.server_port);
        (event.turn, event.position) = place;
        event.len = part(bytes);
    });
    if !handed_out {
        tables.count(Counter::HeadRingFull);
    }
}

/// Looks for the empty line, a byte a step. A carriage return before a line feed is no matter (RFC 9112
/// section 2.2).
struct Search<'a> {
    bytes: &'a Bytes,
    work: &'a mut Work,
}

impl Step for Search<'_> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { bytes, work } = self;
        if work.over || work.at >= work.len {
            return ControlFlow::Break(());
        }
        let Some(byte) = bytes.get((work.at & (MAX_HEAD - 1)) as usize) else {
            return ControlFlow::Break(());
        };
        work.at += 1;
        match byte {
            b'\n' if work.line_empty => work.over = true,
            b'\n' => work.line_empty = true,
            b'\r' => {}
            _ => work.line_empty = false,
        }
        ControlFlow::Continue(())
    }
}
