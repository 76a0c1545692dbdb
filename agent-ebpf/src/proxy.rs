//! The PROXY protocol (versions 1 and 2), with which a proxy says before anything else who its client is. A
//! header from a trusted proxy is handed to userspace, and taken off the stream for all that comes behind.
//!
//! In flow the first segments of connections from trusted proxies, before anybody else looks at them; out flow
//! the same without the header. It may be cut anywhere: it is read byte by byte, and so far as it has come.
//!
//! Invariant: bytes that are not a header's stay where they are, unless they came in segments that could all have
//! been the begin of one, which is counted.

use core::{cell::UnsafeCell, ops::ControlFlow};

use crate::{
    abi::{Counter, Protocol},
    flow::{ClientHalf, Flow, SYN_SEEN, protocol},
    head::{self, MAX_HEAD},
    packet::{Direction, Packet, Segment, TCP},
    stage::Stage,
    track::{self, Scratch, Step, Tables},
};

/// What a header of version 1 begins with.
const VERSION_1: [u8; 6] = *b"PROXY ";
/// The longest header of version 1, its line's end included.
const MAX_VERSION_1: u32 = 107;
/// What a header of version 2 begins with.
const VERSION_2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of what every header of version 2 has; its last two bytes say how many follow.
const FIXED: u32 = 16;
/// Steps that read a header: a byte each, and all that follows the fixed part of version 2 at once.
const MAX_STEPS: u32 = MAX_VERSION_1 + 1;

/// What is kept of a connection from a trusted proxy. Only ingress touches it.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Proxied(UnsafeCell<State>);

// SAFETY: it is reached only through `state`, whose caller promises that one packet of a direction of a flow is
// handled at a time.
unsafe impl Sync for Proxied {}

const _: () = assert!(size_of::<Proxied>() == 20);

/// How far the header has come, and the head of the newest request (see `head.rs`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// [`crate::flow::Asked::connection`] that this is about.
    connection: u32,
    /// Bytes of the header so far.
    position: u32,
    /// Bytes of it that are still to come, where its fixed part is over.
    remaining: u32,
    /// The request whose head is looked at.
    pub(crate) turn: u32,
    /// 1 or 2; 0 before the first byte.
    version: u8,
    /// The header has ended, or there is none.
    is_over: bool,
    /// The head of the request has ended.
    pub(crate) head_over: bool,
    /// The newest line of the head is empty so far.
    pub(crate) line_empty: bool,
}

/// The state of the segment's connection.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "the implementor of `Tables` promises one packet at a time")]
pub(crate) fn state<'a, T: Tables>(tables: &'a T, flow: &Flow, segment: &Segment) -> Option<&'a mut State> {
    let Some(proxied) = tables.proxied(&segment.key) else {
        tables.count(Counter::ProxyHeader);
        return None;
    };
    // SAFETY: promised by the implementor of `Tables`: only ingress packets of this flow come here.
    let state = unsafe { &mut *proxied.0.get() };
    let connection = flow.asked.connection.get();
    if state.connection != connection {
        *state = State { connection, ..State::default() };
    }
    Some(state)
}

/// Whether a segment may have something of a PROXY header: it is the next of a connection from a trusted proxy
/// on which nothing else has come yet.
#[inline(always)]
pub(crate) fn may_have<T: Tables>(tables: &T, flow: &Flow, half: &ClientHalf, segment: &Segment) -> bool {
    tables.has_proxies()
        && protocol(flow.asked.mode.get()) == Protocol::Unknown
        && segment.transport == TCP
        && segment.payload_len > 0
        && half.flags & SYN_SEEN != 0
        && half.stream.next == segment.seq
        && tables.trusts(&segment.key.client)
}

/// Room to work in while a header is read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Where in the packet.
    at: u32,
    /// Where the payload ends.
    end: u32,
    found: Found,
}

/// What reading has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Found {
    /// The header goes on in the next segment.
    #[default]
    More,
    /// Its end.
    End,
    /// That it is none.
    Other,
}

/// Takes the header off the segment.
#[inline(always)]
pub(crate) fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Stage> {
    let Scratch { segment, proxy: work, .. } = tables.scratch(Direction::Ingress)?;
    let flow = track::lookup(tables, segment)?;
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.client_half() };
    let Some(state) = state(tables, flow, segment) else { return Some(Stage::Turns) };
    if state.is_over {
        return Some(Stage::Turns);
    }
    let begin = state.position;
    *work = Work { at: segment.payload, end: segment.payload + segment.payload_len, found: Found::More };
    tables.repeat(MAX_STEPS, &mut Reader { packet, state, work });
    state.is_over = work.found != Found::More;
    if work.found == Found::Other {
        if begin > 0 || state.position >= MAX_VERSION_1 {
            tables.count(Counter::ProxyHeader);
        }
        return Some(Stage::Turns);
    }
    let taken = work.at - segment.payload;
    if begin < MAX_HEAD {
        let len = taken.min(MAX_HEAD - begin);
        head::hand_out(packet, tables, flow, segment, (0, begin), len, |_| len);
    }
    segment.seq = segment.seq.wrapping_add(taken);
    segment.payload += taken;
    segment.payload_len = segment.payload_len.saturating_sub(taken);
    half.stream.start(segment.seq);
    half.turn_seq = segment.seq;
    Some(Stage::Turns)
}

/// Reads a header, a byte a step.
struct Reader<'a, P> {
    packet: &'a P,
    state: &'a mut State,
    work: &'a mut Work,
}

impl<P: Packet> Step for Reader<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { packet, state, work } = self;
        let left = work.end.saturating_sub(work.at);
        if left == 0 {
            return ControlFlow::Break(());
        }
        if state.version == 2 && state.position >= FIXED {
            let taken = state.remaining.min(left);
            work.at += taken;
            state.position += taken;
            state.remaining -= taken;
            if state.remaining == 0 {
                work.found = Found::End;
            }
            return ControlFlow::Break(());
        }
        let [byte] = packet.load(work.at).unwrap_or_default();
        if state.position == 0 {
            state.version = if byte == VERSION_1[0] { 1 } else { 2 };
        }
        let found = if state.version == 1 { state.version_1(byte) } else { state.version_2(byte) };
        work.at += 1;
        state.position += 1;
        work.found = found;
        if found == Found::More { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

impl State {
    #[inline(always)]
    fn version_1(&self, byte: u8) -> Found {
        match VERSION_1.get(self.position as usize) {
            Some(&expected) if byte == expected => Found::More,
            Some(_) => Found::Other,
            None if byte == b'\n' => Found::End,
            None if self.position + 1 >= MAX_VERSION_1 => Found::Other,
            None => Found::More,
        }
    }

    #[inline(always)]
    fn version_2(&mut self, byte: u8) -> Found {
        match (VERSION_2.get(self.position as usize), self.position) {
            (Some(&expected), _) if byte == expected => Found::More,
            (Some(_), _) => Found::Other,
            // The version, above the command.
            (None, 12) if byte >> 4 != 2 => Found::Other,
            (None, 14) => {
                self.remaining = (byte as u32) << 8;
                Found::More
            }
            (None, 15) => {
                self.remaining += byte as u32;
                if self.remaining == 0 { Found::End } else { Found::More }
            }
            (None, _) => Found::More,
        }
    }
}
