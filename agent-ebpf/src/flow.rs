//! The state of one connection, the value of the flow map, and how an exchange ends.
//!
//! Ingress and egress of a flow run at the same time on different cores. Each direction owns a half
//! that nobody else touches, and publishes to the other what it must know: `Asked` is written by
//! ingress, `Answered` by egress, in single stores; the number of the turn is stored last. A turn is
//! one request and its answer.
//!
//! Invariant: whoever ends a turn claims it in `ended` by one atomic exchange, so each is ended once.

use core::cell::UnsafeCell;

use crate::{
    abi::{ABORTED, DERIVED, ExchangeEvent, FlowKey, PIPELINED, Protocol, SIZE_CLASSES},
    cell::{Shared32, Shared64},
    client::size_class,
    http1::Framing,
    packet::Segment,
    stream::Stream,
    tls::OVERHEAD_13,
};

/// How far an estimate is to be believed, of [`crate::abi::CERTAIN`], where one rule found it and there is no
/// other to hold it against: turns of direction were a third too many on recorded traffic.
pub const UNCHECKED: u16 = 300;

/// One connection.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Flow {
    client: UnsafeCell<ClientHalf>,
    /// What ingress publishes.
    pub asked: Asked,
    server: UnsafeCell<ServerHalf>,
    /// What egress publishes.
    pub answered: Answered,
    /// Number of the newest turn that was ended.
    pub ended: Shared32,
    /// Non-zero when the connection is over.
    pub closed: Shared32,
    /// Non-zero once the client has proven that it is there (`admission.rs`).
    pub proven: Shared32,
    /// Turns of earlier connections with the same ports. Published by ingress.
    pub turns_before: Shared32,
    /// First packet, nanoseconds.
    pub first_seen: Shared64,
    /// Application bytes of ended requests.
    pub request_bytes: Shared64,
    /// Application bytes of ended answers.
    pub answer_bytes: Shared64,
}

// SAFETY: the halves are reached only through `client_half` and `server_half`, whose callers promise
// that one packet of a direction is handled at a time; everything else is atomic.
unsafe impl Sync for Flow {}

const _: () = assert!(size_of::<Flow>() == 312);

impl Flow {
    /// Ingress's half.
    ///
    /// # Safety
    /// At most one ingress packet of this flow is handled at a time, and the reference is not kept
    /// beyond it.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises to be the only one")]
    pub(crate) unsafe fn client_half(&self) -> &mut ClientHalf {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.client.get() }
    }

    /// Egress's half.
    ///
    /// # Safety
    /// As for [`Flow::client_half`], with egress packets.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises to be the only one")]
    pub(crate) unsafe fn server_half(&self) -> &mut ServerHalf {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.server.get() }
    }

    /// What the connection speaks, as far as both directions tell.
    #[inline(always)]
    pub fn protocol(&self) -> Protocol {
        if self.answered.tls.get() & TLS_HTTP2 != 0 {
            Protocol::TlsHttp2
        } else {
            protocol(self.asked.mode.get())
        }
    }

    /// Whether the client has proven that it is there.
    #[inline(always)]
    pub fn is_proven(&self) -> bool {
        self.proven.get() != 0
    }

    /// Whether the open turn has been answered.
    #[inline(always)]
    pub fn is_answered(&self) -> bool {
        self.answered.turn.get() == self.asked.turn.get()
            && (self.answered.records.get() > 0 || self.answered.pending.get() != 0)
    }

    /// Requests begun on this connection, for the owner of a copy.
    pub fn requests(&mut self) -> u32 {
        self.client.get_mut().turns.saturating_sub(self.turns_before.get())
    }

    /// The exchange that is open, for a reader that looks at the flow from outside; none before the client has
    /// proven that it is there.
    pub fn open(&self, key: &FlowKey) -> Option<ExchangeEvent> {
        let turn = self.asked.turn.get();
        if turn == 0 || self.ended.get() == turn || !self.is_proven() {
            return None;
        }
        let mut event = ExchangeEvent::of(key);
        self.describe(turn, 0, &mut event);
        Some(event)
    }

    /// Claims the end of the open turn: its number, or `None` when there is none or somebody was first.
    #[inline(always)]
    pub(crate) fn claim(&self) -> Option<u32> {
        let turn = self.asked.turn.get();
        if turn == 0 || self.ended.get() == turn || self.ended.swap(turn) == turn { None } else { Some(turn) }
    }

    /// Application bytes of turn `turn`: asked, answered.
    #[inline(always)]
    pub(crate) fn totals(&self, turn: u32) -> (u64, u64) {
        let (asked, answered) = (&self.asked, &self.answered);
        if answered.turn.get() != turn {
            return (asked.bytes.get(), 0);
        }
        // A lone record that looked as if it might be a session ticket was the whole answer.
        let pending = answered.pending.get().saturating_sub(OVERHEAD_13) as u64;
        let shared = answered.shared.get() == SHARED;
        (if shared { 0 } else { asked.bytes.get() }, answered.bytes.get() + pending)
    }

    /// Turn `turn` as an exchange, as far as it has come; addresses are left to the caller.
    #[inline(always)]
    pub fn describe(&self, turn: u32, flags: u8, event: &mut ExchangeEvent) {
        let (asked, answered) = (&self.asked, &self.answered);
        let modes = asked.mode.get();
        event.protocol = self.protocol() as u8;
        event.confidence = UNCHECKED;
        event.flow_start = self.first_seen.get();
        event.turn = turn;
        event.start = asked.start.get();
        event.request_end = at_least(asked.end.get(), event.start);
        (event.request_bytes, event.answer_bytes) = self.totals(turn);
        event.request_head = asked.head.get();
        let derived = if modes & (REQUEST_DERIVED | ANSWER_DERIVED) != 0 { DERIVED } else { 0 };
        event.flags = flags | derived;
        if answered.turn.get() == turn {
            self.describe_answer(event);
        } else {
            event.flags |= ABORTED;
            (event.records, event.first, event.second, event.last) = (0, 0, 0, 0);
            event.answer_head = 0;
            event.classes = [0; SIZE_CLASSES];
        }
    }

    /// An answer whose request was handed out before, for a reader that looks at the flow from outside.
    pub fn open_apart(&self, key: &FlowKey) -> Option<ExchangeEvent> {
        if self.answered.shared.get() != APART || !self.is_proven() {
            return None;
        }
        let mut event = ExchangeEvent::of(key);
        self.describe_apart(&mut event);
        Some(event)
    }

    /// That answer as an event without a request; addresses are left to the caller.
    #[inline(always)]
    pub(crate) fn describe_apart(&self, event: &mut ExchangeEvent) {
        self.describe(self.answered.turn.get(), PIPELINED, event);
        (event.start, event.request_end) = (0, 0);
        (event.request_bytes, event.request_head) = (0, 0);
    }

    #[inline(always)]
    fn describe_answer(&self, event: &mut ExchangeEvent) {
        let answered = &self.answered;
        event.records = answered.records.get();
        event.answer_head = answered.head.get();
        event.first = answered.first.get();
        event.second = answered.second.get();
        event.last = at_least(answered.last.get(), at_least(event.second, event.first));
        for (word, bytes) in answered.classes.iter().zip(event.classes.as_chunks_mut().0) {
            *bytes = word.get().to_le_bytes();
        }
        if answered.shared.get() == SHARED {
            event.request_head = 0;
            event.flags |= DERIVED;
        }
        if answered.derived.get() != 0 {
            event.flags |= DERIVED;
        }
        if answered.pending.get() != 0 {
            event.records += 1;
            event.last = event.first;
        }
        if event.records == 0 {
            event.flags |= ABORTED;
        }
    }
}

/// `time`, or `floor` where that is later: a coarse clock is behind a precise one.
#[inline(always)]
fn at_least(time: u64, floor: u64) -> u64 {
    if time < floor { floor } else { time }
}

/// What the client asked, published by ingress.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Asked {
    /// Number of the open turn, from 1; 0 before the first.
    pub turn: Shared32,
    /// [`Protocol`] in the low byte, and the flags below.
    pub mode: Shared32,
    /// First byte of the request, nanoseconds.
    pub start: Shared64,
    /// Newest byte of the request, nanoseconds.
    pub end: Shared64,
    /// Application bytes of the request so far.
    pub bytes: Shared64,
    /// Changes with every SYN: the halves begin anew.
    pub connection: Shared32,
    /// Bytes of the request's head (clear text), or of its first record (TLS); 0 where not known.
    pub head: Shared32,
}

/// [`Asked::mode`] of a flow that is in the middle of TLS, without what may come and go meanwhile.
#[inline(always)]
pub(crate) fn is_established(mode: u32) -> bool {
    const ESTABLISHED: u32 = Protocol::Tls as u32 | HANDSHAKE_DONE;
    mode & (0xff | HANDSHAKE_DONE | CLIENT_DONE) == ESTABLISHED
}

/// In [`Asked::mode`]: the TLS handshake is over.
pub(crate) const HANDSHAKE_DONE: u32 = 1 << 8;
/// In [`Asked::mode`]: the open turn came as TLS 1.3 early data.
pub(crate) const EARLY: u32 = 1 << 9;
/// In [`Asked::mode`]: the client has said that it sends no more.
pub(crate) const CLIENT_DONE: u32 = 1 << 10;
/// In [`Asked::mode`]: bytes of the request were missed.
pub(crate) const REQUEST_DERIVED: u32 = 1 << 11;
/// In [`Asked::mode`]: record overhead is a guess, the handshake was not seen.
pub(crate) const ANSWER_DERIVED: u32 = 1 << 12;
/// In [`Asked::mode`]: the request came before the one before it was answered.
pub(crate) const PIPELINE: u32 = 1 << 13;

/// What the server answered, published by egress. Everything is about turn `turn`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Answered {
    /// The turn; 0 before the first answer.
    pub turn: Shared32,
    /// Server records (segments, in clear text).
    pub records: Shared32,
    /// Length of a first record that may be a session ticket instead of the answer; 0 when there is none.
    pub pending: Shared32,
    /// Non-zero when bytes of the answer were missed.
    pub derived: Shared32,
    /// First record, or the pending one, nanoseconds.
    pub first: Shared64,
    /// Second record, nanoseconds.
    pub second: Shared64,
    /// Newest byte, nanoseconds.
    pub last: Shared64,
    /// Application bytes.
    pub bytes: Shared64,
    /// Records by size class, eight one-byte counts a word.
    pub classes: [Shared64; SIZE_CLASSES / 8],
    /// What the ServerHello said: 0 before it, else [`TLS_KNOWN`], [`TLS_13`], and the overhead in the low byte.
    pub tls: Shared32,
    /// The client's number in the newest SYN that the server accepted.
    pub accepted: Shared32,
    /// What acknowledges the server's newest SYN-ACK; over UDP non-zero once the server has spoken.
    pub greeting: Shared32,
    /// [`SHARED`], [`APART`], or 0 where the answer is alone with its turn.
    pub shared: Shared32,
    /// As [`Asked::head`], of the answer.
    pub head: Shared32,
    /// When the server's newest words of a handshake left, microseconds, wrapping around; 0 where that is not known.
    pub(crate) greeted: Shared32,
}

/// In [`Answered::shared`]: an earlier answer to this turn has been handed out with the request's bytes.
pub(crate) const SHARED: u32 = 1;
/// In [`Answered::shared`]: the request was handed out before, since the client went on to ask.
pub(crate) const APART: u32 = 2;

/// In [`Answered::tls`]: the ServerHello was seen.
pub(crate) const TLS_KNOWN: u32 = 1 << 8;
/// In [`Answered::tls`]: it is TLS 1.3.
pub(crate) const TLS_13: u32 = 1 << 9;

/// In [`Answered::tls`]: the server speaks HTTP/2.
pub(crate) const TLS_HTTP2: u32 = 1 << 10;
/// In [`Answered::tls`]: its settings have gone by, in a record of their own.
pub(crate) const TLS_SETTINGS: u32 = 1 << 11;

impl Answered {
    /// Bytes that encryption adds to a record.
    #[inline(always)]
    pub(crate) fn overhead(&self) -> u32 {
        let tls = self.tls.get();
        if tls == 0 { OVERHEAD_13 } else { tls & 0xff }
    }

    /// A new turn begins: nothing is answered yet.
    #[inline(always)]
    pub(crate) fn begin(&self, turn: u32) {
        self.records.set(0);
        self.pending.set(0);
        self.derived.set(0);
        self.shared.set(0);
        self.head.set(0);
        self.first.set(0);
        self.second.set(0);
        self.last.set(0);
        self.bytes.set(0);
        for word in &self.classes {
            word.set(0);
        }
        self.turn.set(turn);
    }

    /// Adds a record of this many application bytes.
    #[inline(always)]
    pub(crate) fn add(&self, bytes: u32, now: u64) {
        let records = self.records.get();
        if records == 0 {
            self.first.set(now);
        } else if records == 1 {
            self.second.set(now);
        }
        self.last.set(now);
        self.count(bytes);
    }

    /// Adds the record that the answer begins with.
    #[inline(always)]
    pub(crate) fn add_first(&self, bytes: u32, now: u64) {
        self.head.set(bytes);
        self.add(bytes, now);
    }

    /// Counts a record of this many application bytes.
    #[inline(always)]
    pub(crate) fn count(&self, bytes: u32) {
        self.records.set(self.records.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.classify(bytes);
    }

    #[inline(always)]
    fn classify(&self, bytes: u32) {
        let class = size_class(bytes);
        let shift = (class % 8) * 8;
        let Some(word) = self.classes.get(class / 8) else { return };
        let counts = word.get();
        if (counts >> shift) & 0xff == 0xff {
            for word in &self.classes {
                // Halves eight counts at once: each shifted by one, without its neighbour's bit.
                word.set((word.get() >> 1) & 0x7f7f_7f7f_7f7f_7f7f);
            }
        }
        word.set(word.get() + (1 << shift));
    }
}

/// Packets of one direction that the client's entry has not been told of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unreported {
    pub(crate) packets: u32,
    pub(crate) bytes: u32,
}

/// Packets after which the client's entry is told: its counters lag by fewer than this a direction and flow.
const REPORT_EVERY: u32 = 16;

impl Unreported {
    /// One more packet.
    #[inline(always)]
    pub(crate) fn add(&mut self, segment: &Segment) {
        self.packets += 1;
        self.bytes += segment.ip_bytes;
    }

    /// Whether it is time to tell.
    #[inline(always)]
    pub(crate) fn is_due(self) -> bool {
        self.packets >= REPORT_EVERY
    }
}

/// Ingress's own state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientHalf {
    pub(crate) stream: Stream,
    /// Sequence number of the SYN.
    pub(crate) syn: u32,
    pub(crate) unreported: Unreported,
    /// Application bytes of the open turn.
    pub(crate) bytes: u64,
    /// When the client said that it sends no more, nanoseconds.
    pub(crate) done_at: u64,
    /// Turns begun.
    pub(crate) turns: u32,
    /// Sequence number at which the open turn began (clear text), or the connection, behind a PROXY header
    /// (before the first turn, and in TLS); the client's longest datagram (QUIC).
    pub(crate) turn_seq: u32,
    pub(crate) flags: u8,
    /// Encrypted handshake records skipped so far; over UDP, datagrams handed out.
    pub(crate) skipped: u8,
    /// Length of the connection ids that the client sends (QUIC).
    pub(crate) id_len: u8,
    /// SYNs that the client's entry has not been told of.
    pub(crate) owed_syns: u8,
    /// Sequence number of a SYN on a connection that is in use; the server has the last word on it.
    pub(crate) doubtful_syn: u32,
    /// Where in a request the stream is (HTTP/1 in clear text).
    pub(crate) framing: Framing,
}

/// In [`ClientHalf::flags`]: the client has sent data on this connection.
pub(crate) const SENT: u8 = 1;
/// In [`ClientHalf::flags`]: EndOfEarlyData was seen.
pub(crate) const EARLY_ENDED: u8 = 2;
/// In [`ClientHalf::flags`]: the SYN was seen, or the first Initial packet.
pub(crate) const SYN_SEEN: u8 = 4;
/// In [`ClientHalf::flags`]: there is a [`ClientHalf::doubtful_syn`].
pub(crate) const SYN_DOUBTFUL: u8 = 8;
/// In [`ClientHalf::flags`]: the client's newest datagram with data was a full one (QUIC).
pub(crate) const UPLOADS: u8 = 16;
/// In [`ClientHalf::flags`]: the bytes of the open turn may be padding (QUIC).
pub(crate) const GUESSED: u8 = 32;

/// In [`ClientHalf::flags`]: the client's entry knows of the flow.
pub(crate) const SETTLED: u8 = 64;
/// In [`ClientHalf::flags`]: the acknowledgement that completes the handshake was seen (TCP).
pub(crate) const CONNECTED: u8 = 128;
/// In [`ClientHalf::flags`]: the client's answer to the ServerHello was seen (TCP, where [`UPLOADS`] is nothing).
pub(crate) const TURNED: u8 = 16;

/// Egress's own state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerHalf {
    pub(crate) stream: Stream,
    pub(crate) unreported: Unreported,
    /// [`Asked::connection`] that this half belongs to.
    pub(crate) connection: u32,
    /// Length of the session tickets seen on this connection; of the connection ids that the server sends (QUIC).
    pub(crate) ticket_len: u16,
    /// How many.
    pub(crate) tickets: u8,
    /// The server's own encrypted Finished was seen (only followed with early data), or its first words after
    /// the handshake (QUIC).
    pub(crate) finished: u8,
    /// Answers begun to requests that were seen (clear text); the server's longest datagram (QUIC).
    pub(crate) answers: u32,
}

/// The protocol in a mode word.
#[inline(always)]
pub(crate) fn protocol(mode: u32) -> Protocol {
    Protocol::from_number(mode as u8)
}
