//! What userspace keeps of each flow: its JA4, the round trips of its handshakes, and which of its exchanges was
//! handed out before the kernel ended it.
//!
//! In flow what the begins of connections tell, what the sweep hands out, and which flows there are; exchanges get
//! what is known of their flow. There may be a million flows, so each takes 20 bytes. Everything else about a flow
//! is read from the kernel's map by whoever wants to know. Invariant: memory is fixed by the number of flows; what
//! is given up is counted.

mod ja4s;
mod table;

use std::{num::NonZeroU16, time::Duration};

use hydrometer_ebpf::{
    abi::{ExchangeEvent, Protocol},
    hello::Tells,
};
use hydrometer_engine::{Exchange, RoundTrips};

use self::ja4s::Ja4s;
pub(crate) use self::table::Table;
use crate::{hello::Ja4, wire};

/// What is known of the flows.
#[derive(Debug)]
pub struct Known {
    flows: Table<Flow>,
    ja4s: Ja4s,
    /// Fingerprints for which there was no room.
    unkept: u64,
}

/// How full a table of the daemon's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// What is in it.
    pub name: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that it can hold.
    pub capacity: u64,
    /// Memory it takes, bytes.
    pub memory_bytes: u64,
}

/// What is known of one flow.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    tcp: Micros,
    tls: Micros,
    /// The newest turn that was handed out before the kernel ended it.
    handed_out: Option<Turn>,
    /// The low bits of its answer bytes by then: enough to tell whether the answer went on.
    answer_bytes: u16,
    ja4: Option<ja4s::Number>,
}

const _: () = assert!(size_of::<Flow>() == 12);

/// A time in microseconds, plus one, in three bytes: 16 seconds and more are 16 seconds. 0 where it is not known.
#[derive(Clone, Copy, Debug, Default)]
struct Micros([u8; 3]);

/// The number of a turn, as far as it tells a turn from those around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn(NonZeroU16);

/// An exchange that the kernel has ended, to who may have handed it out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was not handed out.
    First,
    /// It was, and this is all there is to it.
    Again,
    /// It was, and its answer went on after that.
    Resumed,
}

impl Known {
    /// Keeps what is known of up to `flows` flows.
    pub fn new(flows: usize) -> Self {
        Self { flows: Table::new(flows), ja4s: Ja4s::default(), unkept: 0 }
    }

    /// The client of `flow` has this fingerprint.
    pub fn ja4(&mut self, flow: u64, ja4: Ja4) {
        let mut number = self.ja4s.number(ja4);
        if number.is_none() {
            // Those whose flows have gone make room. That takes a look at every flow, so only now and then.
            if self.unkept.is_multiple_of(ja4s::LIMIT as u64) {
                self.ja4s.keep(self.flows.values().filter_map(|flow| flow.ja4));
                number = self.ja4s.number(ja4);
            }
            self.unkept += u64::from(number.is_none());
        }
        self.flows.entry(flow).ja4 = number;
    }

    /// Whether the fingerprint of `flow`'s client is known.
    pub(crate) fn has_ja4(&mut self, flow: u64) -> bool {
        self.flows.get(flow).is_some_and(|flow| flow.ja4.is_some())
    }

    /// A handshake of `flow` took its client this long. That of TCP begins a connection.
    pub(crate) fn round_trip(&mut self, flow: u64, of: Tells, took: Duration) {
        let flow = self.flows.entry(flow);
        match of {
            Tells::TcpRoundTrip => (flow.tcp, flow.tls) = (took.into(), Micros::default()),
            Tells::TlsRoundTrip => flow.tls = took.into(),
            Tells::Bytes => {}
        }
    }

    /// Gives an exchange the fingerprint and the round trips of its flow.
    pub fn identify(&mut self, exchange: &mut Exchange) {
        let Some(flow) = self.flows.get(exchange.flow) else { return };
        exchange.round_trips = RoundTrips { tcp: flow.tcp.into(), tls: flow.tls.into() };
        let ja4 = flow.ja4.and_then(|number| self.ja4s.get(number));
        exchange.ja4 = ja4.map(ToString::to_string);
    }

    /// Notes that an exchange which the kernel has not ended is handed out; `false` when it was before.
    pub(crate) fn hand_out(&mut self, event: &ExchangeEvent) -> bool {
        let flow = self.flows.entry(wire::event_flow(event));
        if flow.has_handed_out(event) {
            return false;
        }
        (flow.handed_out, flow.answer_bytes) = (Some(Turn::of(event)), event.answer_bytes as u16);
        true
    }

    /// Whether an exchange that the kernel has ended was handed out before. It ends once.
    pub(crate) fn end(&mut self, event: &ExchangeEvent) -> Ending {
        let Some(flow) = self.flows.get(wire::event_flow(event)) else { return Ending::First };
        if !flow.has_handed_out(event) {
            return Ending::First;
        }
        if flow.handed_out != Some(Turn::of(event)) {
            return Ending::Again;
        }
        flow.handed_out = None;
        if event.answer_bytes as u16 == flow.answer_bytes { Ending::Again } else { Ending::Resumed }
    }

    /// The walk that is under way has met `flow`.
    pub(crate) fn see(&mut self, flow: u64) {
        self.flows.see(flow);
    }

    /// `flow` has gone.
    pub(crate) fn forget(&mut self, flow: u64) {
        self.flows.remove(flow);
    }

    /// A walk over all flows has ended: those it did not meet will soon be forgotten.
    pub(crate) fn walked(&mut self) {
        self.flows.walked();
    }

    /// Flows that were forgotten to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.flows.forgotten()
    }

    /// Fingerprints for which there was no room.
    pub(crate) fn unkept(&self) -> u64 {
        self.unkept
    }

    /// The tables.
    pub fn tables(&self) -> [TableStatus; 2] {
        [
            self.flows.status("flows"),
            TableStatus {
                name: "ja4s",
                entries: self.ja4s.len() as u64,
                capacity: ja4s::LIMIT as u64,
                memory_bytes: self.ja4s.bytes() as u64,
            },
        ]
    }
}

impl Flow {
    /// Whether an exchange was handed out. Exchanges of an HTTP/2 connection in TLS go out together; the newest
    /// stands for those before it.
    fn has_handed_out(&self, event: &ExchangeEvent) -> bool {
        let Some(handed_out) = self.handed_out else { return false };
        match handed_out.after(Turn::of(event)) {
            0 => true,
            distance => event.protocol == Protocol::TlsHttp2 as u8 && distance < Turn::COUNT / 2,
        }
    }
}

impl Turn {
    /// As many are told apart.
    const COUNT: u32 = u16::MAX as u32;

    fn of(event: &ExchangeEvent) -> Self {
        Self(NonZeroU16::MIN.saturating_add((event.turn % Self::COUNT) as u16))
    }

    /// Turns from `earlier` on to this one.
    fn after(self, earlier: Self) -> u32 {
        (u32::from(self.0.get()) + Self::COUNT - u32::from(earlier.0.get())) % Self::COUNT
    }
}

impl From<Duration> for Micros {
    fn from(time: Duration) -> Self {
        const MOST: u32 = (1 << 24) - 1;
        let [low, middle, high, _] = u32::try_from(time.as_micros())
            .map_or(MOST, |micros| micros.saturating_add(1).min(MOST))
            .to_le_bytes();
        Self([low, middle, high])
    }
}

impl From<Micros> for Option<Duration> {
    fn from(Micros([low, middle, high]): Micros) -> Self {
        let micros = u32::from_le_bytes([low, middle, high, 0]).checked_sub(1)?;
        Some(Duration::from_micros(micros.into()))
    }
}

#[cfg(test)]
mod tests {
    use hydrometer_ebpf::abi;
    use proptest::prelude::*;

    use super::*;

    fn ja4(number: u64) -> Ja4 {
        Ja4::numbered(number)
    }

    fn event(protocol: Protocol, turn: u32, answer_bytes: u64) -> ExchangeEvent {
        let client = abi::address([10, 0, 0, 1].into());
        ExchangeEvent { client, protocol: protocol as u8, turn, answer_bytes, ..ExchangeEvent::default() }
    }

    fn exchange(flow: u64) -> Exchange {
        let event = event(Protocol::Tls, 1, 1);
        Exchange {
            flow,
            ..wire::exchange(&event, hydrometer_engine::Nanos(0), hydrometer_engine::Ipv6Prefix::default())
        }
    }

    #[test]
    fn an_exchange_that_was_handed_out_ends_once_more_and_the_next_is_another() {
        let mut known = Known::new(8);
        let first = event(Protocol::Tls, 1, 70_000);
        assert_eq!(known.end(&first), Ending::First);
        assert!(known.hand_out(&first));
        assert!(!known.hand_out(&first));
        assert_eq!(known.end(&first), Ending::Again);
        assert_eq!(known.end(&event(Protocol::Tls, 2, 5)), Ending::First);
        assert!(known.hand_out(&event(Protocol::Tls, 3, 70_000)));
        assert_eq!(known.end(&event(Protocol::Tls, 2, 5)), Ending::First);
        assert_eq!(known.end(&event(Protocol::Tls, 3, 80_000)), Ending::Resumed);
    }

    #[test]
    fn exchanges_of_http2_in_tls_that_go_out_together_end_once_more_each() {
        let mut known = Known::new(8);
        // Also where their numbers, as they are kept, come round.
        for first in [3, 65_534] {
            let turns = || (first..first + 3).map(|turn| event(Protocol::TlsHttp2, turn, 10));
            assert!(turns().all(|event| known.hand_out(&event)));
            assert!(turns().all(|event| !known.hand_out(&event)));
            assert!(turns().all(|event| known.end(&event) == Ending::Again));
            assert_eq!(known.end(&event(Protocol::TlsHttp2, first + 3, 10)), Ending::First);
        }
    }

    #[test]
    fn fingerprints_of_flows_that_are_gone_make_room_and_what_has_none_is_counted() {
        let mut known = Known::new(2 * ja4s::LIMIT);
        for number in 0..ja4s::LIMIT as u64 {
            known.ja4(number, ja4(number));
        }
        known.forget(5);
        known.ja4(1 << 20, ja4(1 << 20));
        assert_eq!(known.unkept(), 0);
        known.ja4(1 << 21, ja4(1 << 21));
        assert_eq!(known.unkept(), 1);
        for (flow, expected) in [(4, Some(ja4(4))), (5, None), (1 << 20, Some(ja4(1 << 20))), (1 << 21, None)]
        {
            let mut exchange = exchange(flow);
            known.identify(&mut exchange);
            assert_eq!(exchange.ja4, expected.map(|ja4| ja4.to_string()), "{flow}");
        }
    }

    proptest! {
        #[test]
        fn round_trips_of_less_than_16_seconds_come_out_as_they_went_in(micros in prop_oneof![0_u64..10, 0_u64..16_000_000]) {
            let mut known = Known::new(8);
            let took = Duration::from_micros(micros);
            let mut exchange = exchange(1);
            known.round_trip(1, Tells::TlsRoundTrip, took);
            known.identify(&mut exchange);
            prop_assert_eq!(exchange.round_trips, RoundTrips { tcp: None, tls: Some(took) });
            known.round_trip(1, Tells::TcpRoundTrip, took);
            known.identify(&mut exchange);
            prop_assert_eq!(exchange.round_trips, RoundTrips { tcp: Some(took), tls: None });
        }
    }
}
