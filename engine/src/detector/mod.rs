//! Named rules: what the engine knows of one client goes in, at most one finding comes out.
//!
//! A detector keeps no state. Whether a finding becomes an anomaly, and when that closes, is the
//! lifecycle's affair; a detector only learns whether one is open, to be more lenient then.

mod logit_harvest;
mod machine_cadence;
mod request_rate;

use std::fmt;

use crate::{
    ClientId, EngineConfig, Nanos,
    anomaly::{AnomalyKind, Evidence, Severity},
    baseline::{OwnPast, Votes},
    window::Window,
};

use self::{logit_harvest::LogitHarvest, machine_cadence::MachineCadence, request_rate::RequestRate};

/// What a detector sees now.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// 0 (nothing) to 1 (certain).
    pub(crate) score: f64,
    pub(crate) severity: Severity,
    /// When the behaviour began, as far back as the window reaches.
    pub(crate) first_seen: Nanos,
    /// When it was last seen.
    pub(crate) last_seen: Nanos,
    pub(crate) evidence: Evidence,
}

/// Everything a detector may look at.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) id: ClientId,
    pub(crate) window: &'a Window,
    pub(crate) past: &'a OwnPast,
    pub(crate) norms: &'a Norms,
    pub(crate) now: Nanos,
    pub(crate) standing: Standing,
}

/// Whether the client has an open anomaly of the detector's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Clear,
    Open,
}

impl Standing {
    /// A limit that values must exceed, eased while an anomaly is open.
    fn ease(self, limit: f64) -> f64 {
        match self {
            Self::Clear => limit,
            Self::Open => limit * 0.7,
        }
    }
}

/// What is usual among clients.
#[derive(Debug, Default)]
pub(crate) struct Norms {
    /// Requests in a client's usual busy minute.
    pub(crate) busy_minutes: Votes,
    /// By service: median bytes of a server record over a client's streamed answers.
    pub(crate) record_bytes: Vec<Votes>,
}

/// One rule.
pub(crate) trait Detector: fmt::Debug + Send + Sync {
    fn kind(&self) -> AnomalyKind;

    fn judge(&self, subject: &Subject<'_>) -> Option<Finding>;
}

/// Every detector that is switched on.
pub(crate) fn enabled(config: &EngineConfig) -> Vec<Box<dyn Detector>> {
    let mut detectors: Vec<Box<dyn Detector>> = Vec::new();
    if config.request_rate.enabled {
        detectors.push(Box::new(RequestRate::new(config.request_rate.clone())));
    }
    if config.machine_cadence.enabled {
        detectors.push(Box::new(MachineCadence::new(config.machine_cadence.clone())));
    }
    if config.logit_harvest.enabled {
        detectors.push(Box::new(LogitHarvest::new(config.logit_harvest.clone())));
    }
    detectors
}
