//! The columns of the live view, as data: the table draws them, sorting and filtering read them.
//!
//! In flows a client, out flow cells, sort keys and numbers. Invariant: what a column shows, sorts by
//! and filters on is one figure.

use std::{cmp::Ordering, net::IpAddr};

use hydrometer_proto::v1::{Client, ClientSort};
use jiff::Timestamp;

use crate::cli::{units, words};

/// One column with a figure.
#[derive(Debug)]
pub struct Column {
    /// In the header.
    pub title: &'static str,
    /// In filters.
    pub name: &'static str,
    /// Cells it takes.
    pub width: u16,
    /// The terminal width from which it is shown.
    pub from_width: u16,
    /// Which clients the agent should send when this column decides.
    pub sort: ClientSort,
    /// Whether the smallest value comes first.
    pub ascending: bool,
    /// The figure.
    pub value: fn(&Client, Timestamp) -> Option<f64>,
    /// How it is written.
    pub write: fn(f64) -> String,
}

/// The columns with figures, left to right; the client stands before them.
pub const COLUMNS: &[Column] = &[
    Column {
        title: "REQ/S",
        name: "rate",
        width: 6,
        from_width: 0,
        sort: ClientSort::Rate,
        ascending: false,
        value: |client, _| Some(words::minute(client)?.request_rate),
        write: units::number,
    },
    Column {
        title: "REQUESTS",
        name: "requests",
        width: 9,
        from_width: 0,
        sort: ClientSort::Requests,
        ascending: false,
        value: |client, _| Some(client.counters?.requests as f64),
        write: |value| units::count(value as u64),
    },
    Column {
        title: "CONC",
        name: "conc",
        width: 5,
        from_width: 90,
        sort: ClientSort::Rate,
        ascending: false,
        value: |client, _| Some(words::minute(client)?.concurrency),
        write: units::number,
    },
    Column {
        title: "REQ MED",
        name: "request",
        width: 8,
        from_width: 100,
        sort: ClientSort::RequestBytes,
        ascending: false,
        value: |client, _| words::longest(client, |window| window.request_bytes_median),
        write: units::bytes,
    },
    Column {
        title: "ANS MED",
        name: "answer",
        width: 8,
        from_width: 0,
        sort: ClientSort::AnswerBytes,
        ascending: false,
        value: |client, _| words::longest(client, |window| window.answer_bytes_median),
        write: units::bytes,
    },
    Column {
        title: "CV",
        name: "cv",
        width: 5,
        from_width: 0,
        sort: ClientSort::Regularity,
        ascending: true,
        value: |client, _| words::longest(client, |window| window.interarrival_cv),
        write: |value| format!("{value:.2}"),
    },
    Column {
        title: "REC MED",
        name: "record",
        width: 8,
        from_width: 0,
        sort: ClientSort::Rate,
        ascending: false,
        value: |client, _| words::longest(client, |window| window.server_record_median_bytes),
        write: units::bytes,
    },
    Column {
        title: "SEEN",
        name: "seen",
        width: 5,
        from_width: 0,
        sort: ClientSort::LastSeen,
        ascending: true,
        value: |client, now| {
            Some(now.duration_since(words::instant(client.last_seen.as_ref())?).as_secs_f64().max(0.0))
        },
        write: |seconds| units::span(seconds as i64),
    },
];

/// By what rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The address, ascending.
    Address,
    /// A figure: index into [`COLUMNS`].
    Figure(usize),
}

impl SortBy {
    /// The next column to the right, round and round.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Address => Self::Figure(0),
            Self::Figure(index) if index + 1 < COLUMNS.len() => Self::Figure(index + 1),
            Self::Figure(_) => Self::Address,
        }
    }

    /// Which clients the agent should send, if it cannot send all.
    pub fn wanted(self) -> ClientSort {
        match self {
            Self::Address => ClientSort::Address,
            Self::Figure(index) => COLUMNS[index].sort,
        }
    }

    /// The order of two clients; a missing figure comes last, and equals are told apart by address,
    /// so that rows do not swap without cause.
    pub fn compare(self, left: &Client, right: &Client, now: Timestamp, reversed: bool) -> Ordering {
        let direction = |order: Ordering, backwards: bool| if backwards { order.reverse() } else { order };
        match self {
            Self::Address => direction(by_address(left, right), reversed),
            Self::Figure(index) => {
                let column = &COLUMNS[index];
                match ((column.value)(left, now), (column.value)(right, now)) {
                    (Some(left), Some(right)) => {
                        direction(left.total_cmp(&right), column.ascending == reversed)
                    }
                    (left, right) => left.is_none().cmp(&right.is_none()),
                }
                .then_with(|| by_address(left, right))
            }
        }
    }
}

fn by_address(left: &Client, right: &Client) -> Ordering {
    address(left).cmp(&address(right)).then_with(|| left.address.cmp(&right.address))
}

/// A client's address without its prefix length.
pub fn address(client: &Client) -> Option<IpAddr> {
    client.address.split('/').next()?.parse().ok()
}
