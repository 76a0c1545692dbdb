//! One client's last exchanges, whenever they were: what rules that look across hours read.
//!
//! Exchanges arrive when they end and are placed where they began. Invariant: marks are sorted by
//! start and bounded. [`MAX_MARKS`] x 32 bytes, 2 KiB, a client at most.

use std::{collections::VecDeque, time::Duration};

use crate::{Exchange, Nanos, recent::place, tokens};

/// Exchanges kept.
pub(crate) const MAX_MARKS: usize = 64;

/// Share of a usual client's answers that are as long as its longest.
pub(crate) const CAPPED: f64 = 0.02;

/// Answers within this share of the longest are as long.
const CAP_TOLERANCE: f64 = 0.01;

/// What is kept of one exchange: 32 bytes. Figures too large for their field become its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) start: Nanos,
    duration_us: u32,
    first_byte_us: u32,
    pub(crate) request_bytes: u32,
    pub(crate) answer_bytes: u32,
    /// Estimated tokens of the answer.
    pub(crate) tokens: u32,
    /// Median bytes of a server record of a streamed answer; 0 when it was not one.
    pub(crate) record_bytes: u16,
    pub(crate) service: u16,
}

/// The last exchanges of one client.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    marks: VecDeque<Mark>,
}

/// Where a client's answers end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cap {
    pub(crate) tokens: f64,
    /// Of the answers.
    pub(crate) share: f64,
    pub(crate) nats: f64,
}

/// The figures of a trail, each ascending: what most rules ask for, sorted once.
#[derive(Debug)]
pub(crate) struct Digest {
    pub(crate) request_bytes: Vec<f64>,
    pub(crate) answer_bytes: Vec<f64>,
    pub(crate) tokens: Vec<f64>,
    pub(crate) seconds: Vec<f64>,
}

/// The starts beside a new one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours {
    pub(crate) before: Option<Nanos>,
    pub(crate) after: Option<Nanos>,
}

impl Mark {
    pub(crate) fn new(exchange: &Exchange, record_bytes: u32, service: u16) -> Self {
        Self {
            start: exchange.start,
            duration_us: micros(exchange.duration),
            first_byte_us: micros(exchange.time_to_first_byte.unwrap_or_default()),
            request_bytes: narrow(exchange.request_bytes),
            answer_bytes: narrow(exchange.answer_bytes),
            tokens: tokens::of_answer(exchange) as u32,
            record_bytes: u16::try_from(record_bytes).unwrap_or(u16::MAX),
            service,
        }
    }

    pub(crate) fn duration_s(&self) -> f64 {
        f64::from(self.duration_us) / 1e6
    }

    pub(crate) fn end(&self) -> Nanos {
        self.start + Duration::from_micros(self.duration_us.into())
    }

    /// Answer bytes a second, from the first byte on.
    pub(crate) fn speed(&self) -> f64 {
        let seconds = f64::from(self.duration_us.saturating_sub(self.first_byte_us)) / 1e6;
        f64::from(self.answer_bytes) / seconds.max(1e-3)
    }
}

impl Trail {
    /// Takes in one exchange; `None` when it is older than everything kept and there is no room.
    pub(crate) fn insert(&mut self, mark: Mark) -> Option<Neighbours> {
        let at = place(&self.marks, mark.start, |held| held.start);
        let is_full = self.marks.len() == MAX_MARKS;
        if at == 0 && is_full {
            return None;
        }
        let before = at.checked_sub(1).map(|before| self.marks[before].start);
        let after = self.marks.get(at).map(|mark| mark.start);
        // Room is made first, so that the list never grows beyond what it may hold.
        if is_full {
            self.marks.pop_front();
        }
        self.marks.insert(at - usize::from(is_full), mark);
        Some(Neighbours { before, after })
    }

    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Mark> + ExactSizeIterator {
        self.marks.iter()
    }

    pub(crate) fn newest(&self) -> Option<&Mark> {
        self.marks.back()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest {
            request_bytes: self.column(|mark| mark.request_bytes, 1.0),
            answer_bytes: self.column(|mark| mark.answer_bytes, 1.0),
            tokens: self.column(|mark| mark.tokens, 1.0),
            seconds: self.column(|mark| mark.duration_us, 1e6),
        }
    }

    /// A figure of each mark, ascending, in its unit: integers sort twice as fast.
    fn column(&self, value: fn(&Mark) -> u32, unit: f64) -> Vec<f64> {
        let mut values: Vec<u32> = self.marks.iter().map(value).collect();
        values.sort_unstable();
        values.into_iter().map(|value| f64::from(value) / unit).collect()
    }

    /// The value of each mark, ascending.
    pub(crate) fn sorted(&self, value: impl Fn(&Mark) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.marks.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}

impl Digest {
    /// Where answers are cut off. The evidence is how much likelier so many answers of the greatest length are here than with
    /// other clients.
    pub(crate) fn cap(&self) -> Cap {
        let most = self.tokens.last().copied().unwrap_or_default();
        let below = self.tokens.partition_point(|tokens| *tokens < most * (1.0 - CAP_TOLERANCE));
        let count = self.tokens.len() as f64;
        let share = (count - below as f64) / count.max(1.0);
        Cap { tokens: most, share, nats: count * divergence(share, CAPPED) }
    }
}

/// Kullback-Leibler divergence of two shares, nats; 0 when `share` is not the larger one.
pub(crate) fn divergence(share: f64, usual: f64) -> f64 {
    if share <= usual {
        return 0.0;
    }
    let rest = if share < 1.0 { (1.0 - share) * ((1.0 - share) / (1.0 - usual)).ln() } else { 0.0 };
    share * (share / usual).ln() + rest
}

/// The value that a share of `quantile` of the ascending `sorted` does not exceed; 0 without any.
pub(crate) fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((quantile * last).round() as usize).copied().unwrap_or_default()
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
