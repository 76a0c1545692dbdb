//! Who may claim an entry: a client that has shown that it is there.
//!
//! Anybody can send a SYN, or a datagram, under any address. So a new flow is a newcomer until its client has
//! proven that it reads what the server sends: by the acknowledgement that completes the handshake, whose
//! number only who has read the server's can know; by what the server says to it once the connection stands;
//! over UDP by three packets of a conversation with the server. Until then the flow touches no client's entry
//! and hands out no exchange; what it owes its client is told once it is proven.
//!
//! Invariant: newcomers take at most as many places of the flow map as their ring has. One more takes the
//! place of the oldest, so a flood displaces newcomers, and nobody who is proven.

use crate::{
    abi::{Counter, FlowKey, client_key},
    client::Client,
    flow::{ClientHalf, EARLY, Flow, SENT, SETTLED, SYN_SEEN},
    packet::{ACK, FIN, RST, SYN, Segment, UDP},
    track::Tables,
};

/// Packets of a client over UDP that are a conversation.
const UDP_PACKETS: u32 = 3;

/// Enters a new flow, in the place of the oldest newcomer if that is one still.
#[inline(always)]
pub(crate) fn enter<'a, T: Tables>(tables: &'a T, key: &FlowKey) -> Option<&'a Flow> {
    let oldest = tables.take_place(key);
    if tables.flow(&oldest).is_some_and(|flow| !flow.is_proven()) && tables.remove_flow(&oldest) {
        tables.count(Counter::NewcomerDisplaced);
    }
    let flow = tables.insert_flow(key);
    if flow.is_none() {
        tables.count(Counter::FlowInsert);
    }
    flow
}

/// Looks for a proof in a packet from the client; the first time that there is one, its entry is told of
/// what the flow owes it.
#[inline(always)]
pub(crate) fn ingress<T: Tables>(
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    now: u64,
) {
    if half.flags & SETTLED != 0 {
        return;
    }
    if is_proof(flow, half, segment) {
        flow.proven.set(1);
    }
    let Some(client) = client(tables, flow, segment) else { return };
    client.seen(flow.first_seen.get());
    client.seen(now);
    client.syns.add(half.owed_syns as u64);
    let requests = half.turns - flow.turns_before.get();
    // Early data counts once the server has accepted it.
    let early = flow.asked.mode.get() & EARLY != 0;
    client.requests.add(requests.saturating_sub(u32::from(early)) as u64);
    client.connections.add(u64::from(half.flags & SENT != 0));
    half.owed_syns = 0;
    half.flags |= SETTLED;
}

/// The entry of a client that knows of the flow, for what is told as it happens; before that it is owed.
#[inline(always)]
pub(crate) fn settled<'a, T: Tables>(
    tables: &'a T,
    half: &ClientHalf,
    segment: &Segment,
) -> Option<&'a Client> {
    if half.flags & SETTLED == 0 { None } else { entry(tables, segment) }
}

/// The entry of a client that has proven that it is there.
#[inline(always)]
pub(crate) fn client<'a, T: Tables>(tables: &'a T, flow: &Flow, segment: &Segment) -> Option<&'a Client> {
    if flow.is_proven() { entry(tables, segment) } else { None }
}

#[inline(always)]
fn entry<'a, T: Tables>(tables: &'a T, segment: &Segment) -> Option<&'a Client> {
    let client = tables.client(&client_key(&segment.key.client, &tables.ipv6_mask()));
    if client.is_none() {
        tables.count(Counter::ClientInsert);
    }
    client
}

/// Whether a packet from the client shows that it reads what the server sends.
#[inline(always)]
fn is_proof(flow: &Flow, half: &ClientHalf, segment: &Segment) -> bool {
    if flow.answered.greeting.get() == 0 {
        return false;
    }
    if segment.transport == UDP {
        return half.unreported.packets >= UDP_PACKETS;
    }
    half.flags & SYN_SEEN != 0 && completes_handshake(flow, half, segment)
}

/// Whether a packet acknowledges the server's newest SYN-ACK, and nothing behind it.
#[inline(always)]
pub(crate) fn completes_handshake(flow: &Flow, half: &ClientHalf, segment: &Segment) -> bool {
    segment.has(ACK)
        && !segment.has(SYN | RST)
        && half.syn == flow.answered.accepted.get()
        && segment.ack == flow.answered.greeting.get()
}

/// Looks for a proof in a packet from the server. A host that has no connection with the client, or half a
/// one, sends SYN-ACKs, resets and bare acknowledgements.
#[inline(always)]
pub(crate) fn egress(flow: &Flow, segment: &Segment) {
    if segment.transport == UDP {
        flow.answered.greeting.set(1);
    } else if segment.has(SYN) {
        flow.answered.greeting.set(segment.seq.wrapping_add(1));
    } else if !flow.is_proven() && !segment.has(RST) && (segment.payload_len > 0 || segment.has(FIN)) {
        flow.proven.set(1);
    }
}
