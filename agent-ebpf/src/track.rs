//! From a frame to its flow: the two entry points, and the stage behind them that finds where turns begin
//! and end.
//!
//! In flow frames; out flow changes to the maps that [`Tables`] stands for. Nothing here can fail:
//! what cannot be followed is counted and passes.

use core::{hint::black_box, ops::ControlFlow};

use crate::{
    abi::{
        ABORTED, Address, Counter, DERIVED, ExchangeEvent, FlowKey, PIPELINED, Protocol, ServiceKey,
        StreamKey,
    },
    admission,
    answer::{self, Begins},
    client::Client,
    flow::{
        APART, CLIENT_DONE, ClientHalf, Flow, PIPELINE, SENT, SETTLED, SHARED, SYN_DOUBTFUL, SYN_SEEN,
        Unreported, protocol,
    },
    head::{self, HeadEvent},
    hello::HelloEvent,
    http2,
    http2_tls::Estimate,
    packet::{ACK, Direction, FIN, Outer, Packet, RST, SYN, Segment, Skip, UDP, parse},
    proxy, quic,
    request::{self, Work},
    rtt,
    stage::Stage,
    tunnel::{self, Tunnels},
};

/// The maps, the clock and the ring buffer.
///
/// # Safety
/// References that the functions for flows, connections and streams return stay valid while the packet is
/// handled, also when what they refer to is removed; `scratch` hands out its room to one at a time; and
/// packets of one direction of one flow are handled one at a time. (In the kernel the first holds by RCU,
/// the last because a flow's packets of one direction share a queue or their socket's lock.)
pub unsafe trait Tables {
    /// Looks a flow up.
    fn flow(&self, key: &FlowKey) -> Option<&Flow>;
    /// Enters an empty flow.
    fn insert_flow(&self, key: &FlowKey) -> Option<&Flow>;
    /// Removes a flow. `false` when it is not there any more.
    fn remove_flow(&self, key: &FlowKey) -> bool;
    /// Takes a place in the ring of newcomers, and returns who had it before (zeros: nobody).
    fn take_place(&self, key: &FlowKey) -> FlowKey;
    /// Looks an HTTP/2 connection up.
    fn connection(&self, key: &FlowKey) -> Option<&http2::Connection>;
    /// Enters an HTTP/2 connection.
    fn insert_connection(&self, key: &FlowKey) -> Option<&http2::Connection>;
    /// Looks an HTTP/2 stream up, which is kept as a flow.
    fn stream(&self, key: &StreamKey) -> Option<&Flow>;
    /// Enters an HTTP/2 stream.
    fn insert_stream(&self, key: &StreamKey) -> Option<&Flow>;
    /// Removes an HTTP/2 stream.
    fn remove_stream(&self, key: &StreamKey);
    /// Looks up what is estimated of an HTTP/2 connection inside TLS.
    fn estimate(&self, key: &FlowKey) -> Option<&Estimate>;
    /// Enters an HTTP/2 connection inside TLS.
    fn insert_estimate(&self, key: &FlowKey) -> Option<&Estimate>;
    /// Looks a client up, or enters it.
    fn client(&self, key: &Address) -> Option<&Client>;
    /// The bits of an IPv6 address that tell one client from another.
    fn ipv6_mask(&self) -> Address;
    /// The tunnels that are followed.
    fn tunnels(&self) -> Tunnels;
    /// Whether there are trusted proxies at all.
    fn has_proxies(&self) -> bool;
    /// Whether this is the address of one.
    fn trusts(&self, client: &Address) -> bool;
    /// Looks a trusted proxy's connection up, or enters it.
    fn proxied(&self, key: &FlowKey) -> Option<&proxy::Proxied>;
    /// Whether a service uses this port (network order) on any address.
    fn is_port(&self, port: u16) -> bool;
    /// Whether this is a service.
    fn is_service(&self, key: &ServiceKey) -> bool;
    /// Length of the session tickets of the service at this port (network order), 0 where it sends none; `None`
    /// before that is learned.
    fn ticket_len(&self, port: u16) -> Option<u32>;
    /// Learns that length.
    fn learn_ticket_len(&self, port: u16, len: u32);
    /// Whether a service on this port (network order) has answered with TLS.
    fn speaks_tls(&self, port: u16) -> bool;
    /// Learns that it has.
    fn learn_tls(&self, port: u16);
    /// Counts one.
    fn count(&self, counter: Counter);
    /// Monotonic time, nanoseconds.
    fn now(&self) -> u64;
    /// The same as of the last timer tick, at a fraction of the cost.
    fn coarse_now(&self) -> u64;
    /// Room for the packet at hand, one for each direction. Who has asked for it before must have let go of it.
    #[expect(clippy::mut_from_ref, reason = "the library promises to ask for it one at a time")]
    fn scratch(&self, direction: Direction) -> Option<&mut Scratch>;
    /// Takes up to `times` steps.
    fn repeat<S: Step>(&self, times: u32, steps: &mut S);
    /// Hands out a finished exchange, filled in by `fill`. `false` when there is no room.
    fn emit(&self, fill: impl FnOnce(&mut ExchangeEvent)) -> bool;
    /// Hands out `len` (1 to [`MAX_HELLO`](crate::hello::MAX_HELLO)) bytes at `at` of the packet; `fill`
    /// says what they are. Nothing where the packet ends before; `false` when there is no room.
    fn hello<P: Packet>(&self, packet: &P, at: u32, len: u32, fill: impl FnOnce(&mut HelloEvent)) -> bool;
    /// Hands out what `fill` says of the begin of a connection, without bytes.
    fn round_trip(&self, fill: impl FnOnce(&mut HelloEvent)) -> bool;
    /// Like `hello`, with up to [`MAX_HEAD`](head::MAX_HEAD) bytes, which `fill` is shown; it sets how many of them go.
    fn head<P: Packet>(
        &self,
        packet: &P,
        at: u32,
        len: u32,
        fill: impl FnOnce(&mut HeadEvent, &head::Bytes),
    ) -> bool;
}

/// Room for a packet while it is handled: on BPF the stack has none to spare.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    pub(crate) segment: Segment,
    pub(crate) outer: Outer,
    pub(crate) inner: tunnel::Inner,
    pub(crate) proxy: proxy::Work,
    pub(crate) head: head::Work,
    pub(crate) work: Work,
    pub(crate) http2: http2::Work,
    pub(crate) datagram: quic::Walk,
}

/// Something done step by step. In the kernel the verifier then looks at one step instead of all.
pub trait Step {
    /// One step.
    fn step(&mut self) -> ControlFlow<()>;
}

/// A packet from the network. Returns the stage to go on with, if there is one.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Stage> {
    let found = parse(packet, Direction::Ingress, |port| tables.is_port(port));
    enter(packet, tables, found, Direction::Ingress)
}

/// A segment from the network.
#[inline(always)]
fn arrives<P: Packet, T: Tables>(packet: &P, tables: &T, segment: &Segment) -> Option<Stage> {
    let known = lookup(tables, segment);
    let flow = known.or_else(|| insert(tables, segment))?;
    tables.count(Counter::IngressWatched);
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.client_half() };
    half.unreported.add(segment);
    if request::goes_on(packet, tables, flow, half, segment) {
        if half.unreported.is_due() {
            report(tables, flow, segment, &mut half.unreported, Direction::Ingress, tables.coarse_now());
        }
        return None;
    }
    Some(if proxy::may_have(tables, flow, half, segment) { Stage::Proxy } else { Stage::Turns })
}

/// Goes on with a packet from the network that is not just more of what is under way.
#[inline(always)]
pub(crate) fn asks<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Stage> {
    let Scratch { segment, work, .. } = tables.scratch(Direction::Ingress)?;
    let flow = lookup(tables, segment)?;
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.client_half() };
    let now = tables.now();
    if flow.first_seen.get() == 0 {
        flow.first_seen.set(now);
    }
    work.found.begins = false;
    work.http1.at = 0;
    if segment.has(SYN) {
        connect(tables, flow, half, segment, now);
    } else if half.flags & SYN_DOUBTFUL != 0 && flow.answered.accepted.get() == half.doubtful_syn {
        restart(tables, flow, half, segment, half.doubtful_syn, now);
    }
    admission::ingress(tables, flow, half, segment, now);
    rtt::ingress(tables, flow, half, segment, now);
    if segment.payload_len > 0 {
        send(packet, tables, flow, half, segment, work, now);
    }
    if segment.has(FIN | RST) {
        finish(tables, flow, half, segment, now);
    }
    if half.unreported.is_due()
        || may_be_last(segment, flow)
        || work.found.begins
        || segment.has(SYN | FIN | RST)
    {
        report(tables, flow, segment, &mut half.unreported, Direction::Ingress, now);
    }
    // The first request may have come with the end of the handshake.
    request::http2_inside(flow, flow.asked.mode.get());
    if head::may_have(tables, flow, half, segment) {
        Some(Stage::Head)
    } else {
        work.http1.stage().or(stage(flow))
    }
}

/// A packet to the network. Returns the stage to go on with, if there is one.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Stage> {
    let found = parse(packet, Direction::Egress, |port| tables.is_port(port));
    enter(packet, tables, found, Direction::Egress)
}

/// A segment to the network.
#[inline(always)]
fn leaves<P: Packet, T: Tables>(packet: &P, tables: &T, segment: &Segment) -> Option<Stage> {
    // Only what the client began is followed.
    let flow = lookup(tables, segment)?;
    tables.count(Counter::EgressWatched);
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.server_half() };
    half.unreported.add(segment);
    if answer::goes_on(packet, tables, flow, half, segment) {
        if half.unreported.is_due() {
            report(tables, flow, segment, &mut half.unreported, Direction::Egress, tables.coarse_now());
        }
        return None;
    }
    Some(Stage::Turns)
}

/// Goes on with a packet to the network that is not just more of what is under way.
#[inline(always)]
pub(crate) fn answers<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Stage> {
    let Scratch { segment, work, .. } = tables.scratch(Direction::Egress)?;
    let flow = lookup(tables, segment)?;
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.server_half() };
    work.http1.at = 0;
    let connection = flow.asked.connection.get();
    if half.connection != connection {
        answer::connect(flow, half, connection);
    }
    rtt::egress(tables, flow, half, segment);
    admission::egress(flow, segment);
    if segment.has(SYN) {
        half.stream.start(segment.seq.wrapping_add(1));
        flow.answered.accepted.set(segment.ack.wrapping_sub(1));
    }
    if segment.payload_len > 0 && segment.transport != UDP {
        if let Some(begins) = answer::begins(packet, tables, flow, half, segment) {
            begin_answer(tables, flow, segment, begins);
            if protocol(flow.asked.mode.get()) == Protocol::Http1 {
                work.http1.read_head(segment);
            }
        }
        answer::segment(packet, tables, flow, half, segment, &mut work.position);
    }
    if segment.has(FIN | RST) {
        close(tables, flow, segment);
    }
    if half.unreported.is_due() || may_be_last(segment, flow) || segment.has(FIN | RST) {
        report(tables, flow, segment, &mut half.unreported, Direction::Egress, tables.now());
    }
    work.http1.stage().or(stage(flow))
}

/// What the flow's protocol needs beyond this.
#[inline(always)]
fn stage(flow: &Flow) -> Option<Stage> {
    match protocol(flow.asked.mode.get()) {
        Protocol::Http2 => Some(Stage::Http2),
        Protocol::TlsHttp2 => Some(Stage::TlsHttp2),
        Protocol::Quic => Some(Stage::Quic),
        _ => None,
    }
}

/// Goes on with what was found in `packet`. A segment of a watched port stays in the scratch room for the stages.
#[inline(always)]
pub(crate) fn enter<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    found: Result<Segment, Skip>,
    direction: Direction,
) -> Option<Stage> {
    match found {
        Ok(segment) => {
            let scratch = tables.scratch(direction)?;
            scratch.segment = segment;
            // From here on nobody knows by which of many paths it was parsed: the verifier, too, goes on
            // once instead of once for each.
            let segment = &black_box(scratch).segment;
            match direction {
                Direction::Ingress => arrives(packet, tables, segment),
                Direction::Egress => leaves(packet, tables, segment),
            }
        }
        Err(Skip::Other(outer)) if tables.tunnels().has(outer) => {
            tables.scratch(direction)?.outer = outer;
            Some(Stage::Tunnel)
        }
        Err(Skip::Lost(counter)) => {
            tables.count(counter);
            None
        }
        // Not even counted: that alone would cost a fifth of what is done for them.
        Err(Skip::Nobody | Skip::Other(_)) => None,
    }
}

#[inline(always)]
pub(crate) fn lookup<'a, T: Tables>(tables: &'a T, segment: &Segment) -> Option<&'a Flow> {
    tables.flow(&segment.key)
}

/// Enters a flow for a segment that begins one: a SYN or data, to a service.
#[inline(always)]
fn insert<'a, T: Tables>(tables: &'a T, segment: &Segment) -> Option<&'a Flow> {
    if segment.payload_len == 0 && !segment.has(SYN) || segment.has(RST) {
        return None;
    }
    let port = segment.key.server_port;
    if !tables.is_service(&ServiceKey { address: [0; 4], port, pad: 0 })
        && !tables.is_service(&ServiceKey { address: segment.key.server, port, pad: 0 })
    {
        return None;
    }
    admission::enter(tables, &segment.key)
}

/// A SYN: counts it and begins the connection. On one that is in use, anybody may have sent it: it waits
/// for the server's word.
#[inline(always)]
fn connect<T: Tables>(tables: &T, flow: &Flow, half: &mut ClientHalf, segment: &Segment, now: u64) {
    if segment.has(ACK) {
        return;
    }
    tables.count(Counter::Syns);
    match admission::settled(tables, half, segment) {
        Some(client) => {
            client.seen(now);
            client.syns.add(1);
        }
        None => half.owed_syns = half.owed_syns.saturating_add(1),
    }
    if half.flags & SYN_SEEN != 0 && half.syn == segment.seq {
        return;
    }
    if half.flags & SENT != 0 && flow.closed.get() == 0 {
        half.flags |= SYN_DOUBTFUL;
        half.doubtful_syn = segment.seq;
    } else {
        restart(tables, flow, half, segment, segment.seq, now);
    }
}

/// The connection begins (anew, when the ports are used again) with this SYN.
#[inline(always)]
fn restart<T: Tables>(tables: &T, flow: &Flow, half: &mut ClientHalf, segment: &Segment, syn: u32, now: u64) {
    if half.turns > 0 {
        end(tables, flow, segment, 0);
        flow.first_seen.set(now);
        flow.request_bytes.set(0);
        flow.answer_bytes.set(0);
    }
    let turn_seq = syn.wrapping_add(1);
    *half = ClientHalf {
        unreported: half.unreported,
        syn,
        flags: SYN_SEEN | half.flags & SETTLED,
        turns: half.turns,
        owed_syns: half.owed_syns,
        turn_seq,
        ..ClientHalf::default()
    };
    half.stream.start(turn_seq);
    flow.closed.set(0);
    flow.asked.turn.set(0);
    flow.asked.mode.set(0);
    flow.turns_before.set(half.turns);
    flow.asked.connection.set(flow.asked.connection.get().wrapping_add(1));
}

/// The client sends no more, or cuts the connection.
#[inline(always)]
fn finish<T: Tables>(tables: &T, flow: &Flow, half: &mut ClientHalf, segment: &Segment, now: u64) {
    let reset = segment.has(RST);
    if reset && !half.stream.is_near(segment.seq) {
        return;
    }
    request::finish(flow, half);
    let mode = flow.asked.mode.get();
    if mode & CLIENT_DONE == 0 {
        half.done_at = now;
        flow.asked.mode.set(mode | CLIENT_DONE);
    }
    if reset {
        // After an orderly end the server's last words, an alert, draw a reset, too.
        let cut = !flow.is_answered() || mode & CLIENT_DONE == 0 || flow.answered.last.get() > half.done_at;
        hand_out_apart(tables, flow, segment);
        end(tables, flow, segment, if cut { ABORTED } else { 0 });
        flow.closed.set(1);
    }
}

/// Data from the client.
#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    work: &mut Work,
    now: u64,
) {
    if half.flags & SENT == 0 {
        half.flags |= SENT;
        if let Some(client) = admission::settled(tables, half, segment) {
            client.seen(now);
            client.connections.add(1);
        }
    }
    if segment.transport == UDP {
        flow.asked.mode.set(Protocol::Quic as u32);
    } else if let Some(begun) = request::segment(packet, tables, flow, half, segment, work, now) {
        end(tables, flow, segment, if begun.mode & PIPELINE != 0 { PIPELINED } else { 0 });
        begin(tables, flow, half, segment, &begun, now);
    }
}

/// A turn begins.
#[inline(always)]
pub(crate) fn begin<T: Tables>(
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    begun: &request::Begun,
    now: u64,
) {
    half.turns += 1;
    half.bytes = begun.bytes;
    flow.asked.mode.set(begun.mode);
    flow.asked.start.set(now);
    flow.asked.end.set(now);
    flow.asked.bytes.set(begun.bytes);
    flow.asked.head.set(begun.head);
    flow.asked.turn.set(half.turns);
    if !begun.early
        && let Some(client) = admission::settled(tables, half, segment)
    {
        client.requests.add(1);
    }
}

/// The server closes.
#[inline(always)]
fn close<T: Tables>(tables: &T, flow: &Flow, segment: &Segment) {
    let reset = segment.has(RST);
    let cut = reset && !flow.is_answered();
    hand_out_apart(tables, flow, segment);
    end(tables, flow, segment, if cut { ABORTED } else { 0 });
    if reset || flow.asked.mode.get() & CLIENT_DONE != 0 {
        flow.closed.set(1);
    }
}

/// Ends the open turn, if nobody has.
#[inline(always)]
pub(crate) fn end<T: Tables>(tables: &T, flow: &Flow, segment: &Segment, flags: u8) {
    if let Some(turn) = flow.claim() {
        hand_out(tables, flow, segment, turn, flags);
    }
}

/// An answer begins. One that is apart from its request ends with the next.
#[inline(always)]
fn begin_answer<T: Tables>(tables: &T, flow: &Flow, segment: &Segment, begins: Begins) {
    hand_out_apart(tables, flow, segment);
    let asked = flow.asked.turn.get();
    match begins {
        Begins::To(turn) if turn != asked => {
            flow.answered.begin(turn);
            flow.answered.shared.set(APART);
        }
        Begins::To(_) => {}
        Begins::Unasked => {
            // Within the open turn: what came so far was an exchange of its own.
            hand_out(tables, flow, segment, asked, DERIVED);
            flow.answered.begin(asked);
            flow.answered.shared.set(SHARED);
            if let Some(client) = admission::client(tables, flow, segment) {
                client.requests.add(1);
            }
        }
    }
}

/// Hands out the answer that is apart from its request, if there is one. The request counts as the exchange.
#[inline(always)]
fn hand_out_apart<T: Tables>(tables: &T, flow: &Flow, segment: &Segment) {
    let answered = &flow.answered;
    if answered.shared.get() != APART || answered.shared.swap(0) != APART || !flow.is_proven() {
        return;
    }
    emit(tables, segment, |event| flow.describe_apart(event));
    flow.answer_bytes.add(answered.bytes.get());
    if let Some(client) = admission::client(tables, flow, segment) {
        client.answer_bytes.add(answered.bytes.get());
    }
}

/// An exchange is over: the client's counters, and a record for userspace.
#[inline(always)]
pub(crate) fn hand_out<T: Tables>(tables: &T, flow: &Flow, segment: &Segment, turn: u32, flags: u8) {
    deliver(tables, flow, segment, flow.totals(turn), |event| flow.describe(turn, flags, event));
}

/// Counts an exchange of this many bytes, and hands out what `describe` makes of it.
#[inline(always)]
pub(crate) fn deliver<T: Tables>(
    tables: &T,
    flow: &Flow,
    segment: &Segment,
    (asked, answered): (u64, u64),
    describe: impl FnOnce(&mut ExchangeEvent),
) {
    if !flow.is_proven() {
        tables.count(Counter::Unproven);
        return;
    }
    emit(tables, segment, describe);
    flow.request_bytes.add(asked);
    flow.answer_bytes.add(answered);
    if let Some(client) = admission::client(tables, flow, segment) {
        client.ended(asked, answered);
    }
}

/// Hands out what `describe` makes of an event of this flow.
#[inline(always)]
fn emit<T: Tables>(tables: &T, segment: &Segment, describe: impl FnOnce(&mut ExchangeEvent)) {
    let emitted = tables.emit(|event| {
        event.client = segment.key.client;
        event.server = segment.key.server;
        event.client_port = u16::from_be(segment.key.client_port);
        event.server_port = u16::from_be(segment.key.server_port);
        describe(event);
    });
    if !emitted {
        tables.count(Counter::RingFull);
    }
}

/// Whether any packet may be the flow's last: once the client sends no more, and over UDP, where nothing
/// says when a flow ends.
#[inline(always)]
fn may_be_last(segment: &Segment, flow: &Flow) -> bool {
    segment.transport == UDP || flow.asked.mode.get() & CLIENT_DONE != 0
}

/// Tells the client's entry of the packets since the last time.
#[inline(always)]
fn report<T: Tables>(
    tables: &T,
    flow: &Flow,
    segment: &Segment,
    unreported: &mut Unreported,
    direction: Direction,
    now: u64,
) {
    let Some(client) = admission::client(tables, flow, segment) else { return };
    client.seen(now);
    let (packets, bytes) = match direction {
        Direction::Ingress => (&client.ingress_packets, &client.ingress_bytes),
        Direction::Egress => (&client.egress_packets, &client.egress_bytes),
    };
    packets.add(unreported.packets as u64);
    bytes.add(unreported.bytes as u64);
    *unreported = Unreported::default();
}
