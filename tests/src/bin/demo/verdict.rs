//! The closing comparison: what the proxy's access log says of each client, what Hydrometer counted, and whether the
//! anomalies are the right ones.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_engine::ClientId;
use hydrometer_proto::v1::ClientCounters;
use hydrometer_tests::{nginx::Summary, openai::Call};

use crate::{cast::Part, soc::Anomaly};

/// Largest difference in requests, of those in the log.
const REQUEST_TOLERANCE: f64 = 0.005;
/// Largest difference in bytes, of those in the log.
const BYTE_TOLERANCE: f64 = 0.02;
/// Longest time from enough evidence for an anomaly to the anomaly, seconds.
const MAX_DELAY_S: f64 = 30.0;

/// A client's figures from both sides.
pub(crate) struct Comparison {
    /// The client's name.
    pub(crate) client: ClientId,
    /// What it does.
    pub(crate) role: &'static str,
    /// By the access log.
    pub(crate) log: Summary,
    /// By Hydrometer.
    pub(crate) counted: Summary,
}

/// Both sides, a line a client.
pub(crate) fn compare(
    parts: &[Part],
    log: &BTreeMap<ClientId, Summary>,
    counted: &BTreeMap<String, ClientCounters>,
) -> Vec<Comparison> {
    let line = |part: &Part| {
        let counters = counted.get(&part.id.to_string()).copied().unwrap_or_default();
        Comparison {
            client: part.id,
            role: part.actor.role,
            log: log.get(&part.id).copied().unwrap_or_default(),
            counted: Summary {
                requests: counters.requests,
                request_bytes: counters.request_bytes,
                answer_bytes: counters.answer_bytes,
            },
        }
    };
    parts.iter().map(line).collect()
}

impl Comparison {
    /// Whether requests and bytes agree within the bounds, and there are any.
    pub(crate) fn agrees(&self) -> bool {
        let [requests, bytes @ ..] = self.differences();
        self.log.requests > 0
            && requests.abs() <= REQUEST_TOLERANCE
            && bytes.iter().all(|difference| difference.abs() <= BYTE_TOLERANCE)
    }

    /// Relative differences in requests, request bytes and answer bytes.
    pub(crate) fn differences(&self) -> [f64; 3] {
        [
            difference(self.log.requests, self.counted.requests),
            difference(self.log.request_bytes, self.counted.request_bytes),
            difference(self.log.answer_bytes, self.counted.answer_bytes),
        ]
    }
}

fn difference(truth: u64, counted: u64) -> f64 {
    if truth == counted { 0.0 } else { (counted as f64 - truth as f64) / truth.max(1) as f64 }
}

/// What is wrong with the anomalies: those that did not come, and those of ordinary clients.
pub(crate) fn wrong_anomalies(parts: &[Part], received: &[Anomaly]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Part { id, actor, .. } in parts {
        let client = id.to_string();
        let kinds: BTreeSet<_> = received
            .iter()
            .filter(|anomaly| anomaly.client == client)
            .map(|anomaly| anomaly.kind.as_str())
            .collect();
        match actor.expected {
            Some(expected) if !kinds.contains(expected) => {
                wrong.push(format!("{client} ({}) caused no {expected}", actor.role));
            }
            None => wrong.extend(kinds.iter().map(|kind| format!("{client} ({}) caused {kind}", actor.role))),
            Some(_) => {}
        }
    }
    wrong
}

/// The expected anomalies that came too long after there was enough evidence for them.
pub(crate) fn late_anomalies(parts: &[Part], received: &[Anomaly]) -> Vec<String> {
    let late = |part: &Part| {
        let kind = part.actor.expected?;
        let client = part.id.to_string();
        let first = received.iter().find(|anomaly| anomaly.client == client && anomaly.kind == kind)?;
        let delay = first.raised.as_duration().as_secs_f64() - enough_evidence(kind, &part.calls)?;
        (delay > MAX_DELAY_S).then(|| {
            format!(
                "{kind} of {client} came {delay:.0} s after enough evidence, more than {MAX_DELAY_S:.0} s"
            )
        })
    };
    parts.iter().filter_map(late).collect()
}

/// When the last answer ended that an anomaly of `kind` needs by the agent's defaults, seconds since the epoch.
fn enough_evidence(kind: &str, calls: &[Call]) -> Option<f64> {
    let mut ends: Vec<f64> = calls
        .iter()
        .filter(|call| call.stream || kind != "logit_harvest")
        .map(|call| call.start + call.duration_s)
        .collect();
    ends.sort_by(f64::total_cmp);
    let needed = match kind {
        "low_and_slow" => 12,
        "logit_harvest" => 3,
        _ => return None,
    };
    ends.get(needed - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{cast, soc};

    fn comparison(log: [u64; 3], counted: [u64; 3]) -> Comparison {
        let summary = |[requests, request_bytes, answer_bytes]: [u64; 3]| Summary {
            requests,
            request_bytes,
            answer_bytes,
        };
        Comparison {
            client: "10.0.0.1".parse().unwrap(),
            role: "",
            log: summary(log),
            counted: summary(counted),
        }
    }

    #[test]
    fn figures_agree_within_half_a_percent_of_requests_and_two_of_bytes() {
        let log = [1000, 100_000, 1_000_000];
        assert!(comparison(log, log).agrees());
        assert!(comparison(log, [1005, 98_000, 1_020_000]).agrees());
        for counted in [[1006, 100_000, 1_000_000], [1000, 97_999, 1_000_000], [1000, 100_000, 1_020_001]] {
            assert!(!comparison(log, counted).agrees(), "{counted:?}");
        }
    }

    #[test]
    fn a_client_that_did_nothing_proves_nothing() {
        assert!(!comparison([0; 3], [0; 3]).agrees());
        assert!(!comparison([0; 3], [1, 1, 1]).agrees());
    }

    /// An extractor that makes one request a second from the second 0 on, each streamed and answered at once.
    fn extractor(kind: &str) -> Part {
        let actor = cast::actors(Duration::from_secs(90))
            .into_iter()
            .find(|actor| actor.expected == Some(kind))
            .unwrap();
        let call = |start| Call {
            start,
            headers_s: None,
            first_chunk_s: None,
            duration_s: 0.0,
            chunks: 9,
            stream: true,
            error: None,
        };
        Part { id: "10.0.0.1".parse().unwrap(), actor, calls: (0..20_u32).map(f64::from).map(call).collect() }
    }

    fn raised(kind: &str, second: i64) -> Anomaly {
        let anomaly = serde_json::json!({
            "id": "a", "revision": 1, "state": "open", "kind": kind, "severity": "low", "client": "10.0.0.1",
            "raised": jiff::Timestamp::from_second(second).unwrap().to_string(), "summary": "",
        });
        soc::parse(&serde_json::json!({ "anomaly": anomaly }).to_string()).unwrap()
    }

    #[test]
    fn an_anomaly_has_to_come_within_half_a_minute_of_enough_evidence() {
        for (kind, enough) in [("low_and_slow", 11), ("logit_harvest", 2)] {
            let parts = [extractor(kind)];
            assert!(late_anomalies(&parts, &[raised(kind, enough + 30)]).is_empty(), "{kind}");
            assert_eq!(late_anomalies(&parts, &[raised(kind, enough + 31)]).len(), 1, "{kind}");
        }
    }
}
