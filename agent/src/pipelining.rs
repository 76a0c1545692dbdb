//! Requests that did not wait for the answer before them, put together with their answers.
//!
//! In flow the library's events; out flow exchanges in one piece. Of such a request (HTTP/1 in clear text) there are two events,
//! since it ends when the client goes on to ask, before its answer comes. Servers answer in the order of the
//! requests, so a request that waits when a later one is answered is never answered.
//!
//! Invariant: every request comes out once, answered or not, unless it is counted as lost; memory is bounded.

use hydrometer_ebpf::abi::{DERIVED, ExchangeEvent, PIPELINED};

use crate::{recent::Recent, wire};

/// Connections whose requests wait at a time.
const MAX_FLOWS: usize = 1 << 14;
/// Requests of one connection that wait; more are taken for unanswered.
const MAX_WAITING: usize = 256;

/// Requests that wait for their answers, by the number of their flow.
#[derive(Debug)]
pub(crate) struct Pipelines(Recent<Vec<ExchangeEvent>>);

impl Pipelines {
    pub(crate) fn new() -> Self {
        Self(Recent::new(MAX_FLOWS))
    }

    /// Takes an event; hands what is whole with it to `out`.
    pub(crate) fn take(&mut self, event: ExchangeEvent, mut out: impl FnMut(ExchangeEvent)) {
        let is_part = event.flags & PIPELINED != 0;
        if !is_part && self.0.is_empty() {
            return out(event);
        }
        let flow = wire::event_flow(&event);
        let mut waiting = self.0.remove(flow).unwrap_or_default();
        if is_part && event.start != 0 {
            if waiting.len() == MAX_WAITING {
                out(waiting.remove(0));
            }
            waiting.push(event);
        } else {
            let unanswered = waiting.partition_point(|request| request.turn < event.turn);
            waiting.drain(..unanswered).for_each(&mut out);
            let has_request = is_part && waiting.first().is_some_and(|request| request.turn == event.turn);
            out(match has_request.then(|| waiting.remove(0)) {
                Some(request) => whole(&request, event),
                None if is_part => alone(event),
                None => event,
            });
        }
        if !waiting.is_empty() {
            self.0.insert(flow, waiting);
        }
    }

    /// Everything that waits: there will be no more answers.
    pub(crate) fn flush(&mut self, out: impl FnMut(ExchangeEvent)) {
        std::mem::replace(&mut self.0, Recent::new(MAX_FLOWS)).into_values().flatten().for_each(out);
    }

    /// Connections of which something waited and was forgotten.
    pub(crate) fn lost(&self) -> u64 {
        self.0.dropped()
    }
}

/// A request and its answer.
fn whole(request: &ExchangeEvent, answer: ExchangeEvent) -> ExchangeEvent {
    ExchangeEvent {
        flags: (answer.flags | request.flags & DERIVED) & !PIPELINED,
        start: request.start,
        request_end: request.request_end,
        request_bytes: request.request_bytes,
        request_head: request.request_head,
        ..answer
    }
}

/// An answer whose request is not known.
fn alone(answer: ExchangeEvent) -> ExchangeEvent {
    ExchangeEvent {
        flags: (answer.flags | DERIVED) & !PIPELINED,
        start: answer.first,
        request_end: answer.first,
        ..answer
    }
}

#[cfg(test)]
mod tests {
    use hydrometer_ebpf::abi::ABORTED;

    use super::*;

    fn request(turn: u32) -> ExchangeEvent {
        let flags = PIPELINED | ABORTED;
        ExchangeEvent {
            turn,
            flags,
            start: 5,
            request_bytes: u64::from(turn) * 100,
            ..ExchangeEvent::default()
        }
    }

    fn answer(turn: u32) -> ExchangeEvent {
        let answer_bytes = u64::from(turn);
        ExchangeEvent {
            turn,
            flags: PIPELINED,
            records: 1,
            first: 9,
            answer_bytes,
            ..ExchangeEvent::default()
        }
    }

    fn last(turn: u32) -> ExchangeEvent {
        ExchangeEvent { flags: 0, answer_bytes: u64::from(turn), ..request(turn) }
    }

    /// Turn, bytes asked and answered, flags, begin.
    fn paired(events: &[ExchangeEvent]) -> Vec<(u32, u64, u64, u8, u64)> {
        let (mut pipelines, mut out) = (Pipelines::new(), Vec::new());
        for event in events {
            pipelines.take(*event, |event| out.push(event));
        }
        pipelines.flush(|event| out.push(event));
        out.iter()
            .map(|event| (event.turn, event.request_bytes, event.answer_bytes, event.flags, event.start))
            .collect()
    }

    #[test]
    fn answers_come_to_their_requests() {
        let events = [request(1), request(2), answer(1), request(3), answer(2), answer(3), last(4)];
        let expected: Vec<_> =
            (1..=4).map(|turn| (turn, u64::from(turn) * 100, u64::from(turn), 0, 5)).collect();
        assert_eq!(paired(&events), expected);
    }

    #[test]
    fn what_is_never_answered_comes_out_once_and_says_so() {
        let cut = PIPELINED | ABORTED;
        let expected = [(1, 100, 1, 0, 5), (2, 200, 0, cut, 5), (3, 300, 3, 0, 5), (4, 400, 0, cut, 5)];
        assert_eq!(paired(&[request(1), request(2), answer(1), last(3), request(4)]), expected);
        assert_eq!(paired(&[answer(7)]), [(7, 0, 7, DERIVED, 9)]);
        let many: Vec<_> = (1..=1000).map(request).collect();
        assert_eq!(paired(&many).len(), 1000);
    }
}
