//! What a caller may read of the engine: one client in full, and the engine's own counts.
//!
//! Plain values, copied out when asked for; nothing here refers back into the engine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ClientId, Exchange, Fingerprint,
    anomaly::{AnomalyKind, Series},
};

/// Everything the engine knows about one client.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientView {
    /// Who.
    pub id: ClientId,
    /// What its traffic looks like.
    pub fingerprint: Fingerprint,
    /// Features over 10 s, 1 min and 10 min, in this order.
    pub windows: Vec<WindowFeatures>,
    /// Requests per second over each of the last 60 spans of 10 s, oldest first.
    pub rate_series: Series,
    /// Its last exchanges, newest start first, at most 16: sizes and times right within a two-thousandth.
    pub recent: Vec<Exchange>,
    /// Kinds of its open anomalies.
    pub open_anomalies: Vec<AnomalyKind>,
}

/// Counts of one client since it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Finished exchanges.
    pub requests: u64,
    /// Application bytes asked.
    pub request_bytes: u64,
    /// Application bytes answered.
    pub answer_bytes: u64,
    /// Exchanges that were cut short.
    pub aborted: u64,
}

impl Totals {
    /// Adds what was counted elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in [
            (&mut self.requests, other.requests),
            (&mut self.request_bytes, other.request_bytes),
            (&mut self.answer_bytes, other.answer_bytes),
            (&mut self.aborted, other.aborted),
        ] {
            *count = count.saturating_add(more);
        }
    }
}

/// Features of one client over one window that ends now.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowFeatures {
    /// Length of the window.
    pub window: Duration,
    /// Requests that began in the window.
    pub requests: u64,
    /// Requests per second.
    pub request_rate: f64,
    /// Application bytes asked per second.
    pub request_bytes_rate: f64,
    /// Application bytes answered per second, by requests that began in the window.
    pub answer_bytes_rate: f64,
    /// Mean number of requests in progress, as far as they have ended.
    pub concurrency: f64,
    /// Coefficient of variation of the time between requests (0 = a metronome, 1 = random);
    /// `None` with fewer than three requests.
    pub interarrival_cv: Option<f64>,
    /// Median time between requests, seconds; `None` with fewer than two requests.
    pub interarrival_median_s: Option<f64>,
    /// Median absolute deviation of the time between requests, seconds.
    pub interarrival_mad_s: Option<f64>,
    /// Shannon entropy of the request-size histogram (buckets of powers of two), bits.
    pub request_size_entropy_bits: f64,
    /// Median bytes of one server record over the streamed answers; `None` without one.
    pub server_record_median_bytes: Option<f64>,
    /// Median application bytes of a request.
    pub request_bytes_median: Option<f64>,
    /// Median application bytes of an answer.
    pub answer_bytes_median: Option<f64>,
}

/// What the engine took in and what it lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Clients known now.
    pub clients: usize,
    /// Anomalies open now.
    pub open_anomalies: usize,
    /// Exchanges taken in.
    pub exchanges: u64,
    /// Losses by stage; stages without a loss are listed with 0.
    pub losses: Vec<EngineLoss>,
}

/// Something the engine did not use in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLoss {
    /// Where: e.g. "engine_late".
    pub stage: &'static str,
    /// How often since start.
    pub count: u64,
    /// What it means and what to do, one sentence.
    pub meaning: &'static str,
}
