//! Reading the protocol's messages for people: names of enums, instants, the window that is shown.
//!
//! In flow generated messages, out flow plain values. Invariant: a value that this build does not
//! know (a newer agent) has a name too and never fails.

use std::{str::FromStr, time::Duration};

use anyhow::bail;
use hydrometer_proto::v1::{
    Accuracy, Anomaly, AnomalyKind, AnomalyState, Client, ClientIdentity, Histogram, Protocol, Service,
    Severity, WindowFeatures,
};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use super::output::Tone;

const UNKNOWN: &str = "unknown";
const KIND_PREFIX: &str = "ANOMALY_KIND_";
const SEVERITY_PREFIX: &str = "SEVERITY_";

fn word(name: Option<&str>, prefix: &str) -> String {
    name.and_then(|name| name.strip_prefix(prefix)).unwrap_or(UNKNOWN).to_ascii_lowercase()
}

/// The name of an anomaly kind, e.g. `logit_harvest`.
pub fn kind(value: i32) -> String {
    word(AnomalyKind::try_from(value).ok().map(|kind| kind.as_str_name()), KIND_PREFIX)
}

/// The name of a severity, e.g. `high`.
pub fn severity(value: i32) -> String {
    word(Severity::try_from(value).ok().map(|severity| severity.as_str_name()), SEVERITY_PREFIX)
}

/// The name of an anomaly's state: `open`, `updated` or `closed`.
pub fn state(value: i32) -> String {
    word(AnomalyState::try_from(value).ok().map(|state| state.as_str_name()), "ANOMALY_STATE_")
}

/// The name of a protocol, e.g. `tls`.
pub fn protocol(value: i32) -> String {
    word(Protocol::try_from(value).ok().map(|protocol| protocol.as_str_name()), "PROTOCOL_")
}

/// The name of an accuracy: `exact`, `derived` or `estimated`.
pub fn accuracy(value: i32) -> String {
    word(Accuracy::try_from(value).ok().map(|accuracy| accuracy.as_str_name()), "ACCURACY_")
}

/// The name of an accuracy, with how far the figures are to be believed where that is a question.
pub fn believed(accuracy: String, confidence: Option<f32>) -> String {
    match confidence {
        Some(confidence) => format!("{accuracy} {confidence:.2}"),
        None => accuracy,
    }
}

/// How an exchange ended: cut short, at a cap, or, as far as can be told, by itself.
pub fn end(aborted: bool, truncated: Option<bool>) -> &'static str {
    match (aborted, truncated) {
        (true, _) => "aborted",
        (false, Some(true)) => "truncated",
        (false, Some(false) | None) => "complete",
    }
}

/// `direct`, `proxy` or `forwarded`.
pub fn identity(value: i32) -> String {
    word(ClientIdentity::try_from(value).ok().map(|identity| identity.as_str_name()), "CLIENT_IDENTITY_")
}

/// Reads an anomaly kind as users type it.
pub fn parse_kind(text: &str) -> anyhow::Result<AnomalyKind> {
    let wanted = text.replace('-', "_").to_ascii_uppercase();
    match AnomalyKind::from_str_name(&format!("{KIND_PREFIX}{wanted}")) {
        Some(AnomalyKind::Unspecified) | None => {
            bail!("{text:?} is not an anomaly kind; kinds are {}", names(kind))
        }
        Some(kind) => Ok(kind),
    }
}

/// Reads a severity as users type it.
pub fn parse_severity(text: &str) -> anyhow::Result<Severity> {
    match Severity::from_str_name(&format!("{SEVERITY_PREFIX}{}", text.to_ascii_uppercase())) {
        Some(Severity::Unspecified) | None => {
            bail!("{text:?} is not a severity; severities are {}", names(severity))
        }
        Some(severity) => Ok(severity),
    }
}

/// The names of all specified values of an enum; the protocol numbers them from 1 without gaps, and
/// lint-clean enums are far shorter than the bound.
fn names(name: fn(i32) -> String) -> String {
    (1..100).map(name).take_while(|name| name != UNKNOWN).collect::<Vec<_>>().join(", ")
}

/// Reads "since": a span before `now` such as `10m`, or an RFC 3339 instant.
pub fn parse_since(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(at) = Timestamp::from_str(text) {
        return Ok(at);
    }
    match SignedDuration::from_str(text) {
        Ok(span) if !span.is_negative() => Ok(now.checked_sub(span)?),
        _ => bail!(
            "{text:?} is not a time; give a span such as 10m or 2h, or an instant such as 2026-05-04T10:00:00Z"
        ),
    }
}

/// Reads how long something is to hold: a span such as `7d`, of days of 24 hours.
pub fn parse_period(text: &str) -> anyhow::Result<Duration> {
    let span = Span::from_str(text).ok();
    let period = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let period = period.and_then(|period| Duration::try_from(period).ok()).filter(|period| !period.is_zero());
    match period {
        Some(period) => Ok(period),
        None => bail!("{text:?} is not a span; give one such as 7d, 12h or 2w"),
    }
}

/// A duration as the protocol has it.
pub fn to_duration(period: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(period.as_secs()).unwrap_or(i64::MAX),
        // Less than a second of nanoseconds fits.
        nanos: period.subsec_nanos().cast_signed(),
    }
}

/// Who runs the command, as far as the environment says.
pub fn user() -> String {
    let mut named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let named = named.find(|name| !name.trim().is_empty());
    named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// How a severity is to be seen.
pub fn severity_tone(value: i32) -> Tone {
    match Severity::try_from(value) {
        Ok(Severity::Critical | Severity::High) => Tone::Bad,
        Ok(Severity::Medium) => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// Whether the anomaly is still going on, and not muted.
pub fn is_raised(anomaly: &Anomaly) -> bool {
    is_open(anomaly) && anomaly.muted.is_none()
}

/// Whether the anomaly is still going on.
pub fn is_open(anomaly: &Anomaly) -> bool {
    anomaly.state() != AnomalyState::Closed
}

/// An instant of the protocol; `None` when absent or outside the calendar.
pub fn instant(value: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    value.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
}

/// A duration of the protocol; `None` when absent or negative.
pub fn duration(value: Option<&prost_types::Duration>) -> Option<Duration> {
    value.and_then(|span| Duration::try_from(*span).ok())
}

/// The window of one minute, which listings show.
pub fn minute(client: &Client) -> Option<&WindowFeatures> {
    client.windows.iter().find(|window| window.window.as_ref().is_some_and(|span| span.seconds == 60))
}

/// The longest window that has a value of `feature`: with few requests a minute says nothing yet.
pub fn longest<T>(client: &Client, feature: impl Fn(&WindowFeatures) -> Option<T>) -> Option<T> {
    client.windows.iter().rev().find_map(feature)
}

/// `10.0.0.5:8000`, `[2001:db8::1]:8000`, or `:8000` when the port is watched on any address.
pub fn service(service: Option<&Service>) -> String {
    match service {
        None => String::new(),
        Some(Service { address, port }) if address.contains(':') => format!("[{address}]:{port}"),
        Some(Service { address, port }) => format!("{address}:{port}"),
    }
}

/// Several short names in one cell.
pub fn list<T>(values: &[T], name: impl Fn(&T) -> String) -> String {
    if values.is_empty() {
        return super::units::ABSENT.to_owned();
    }
    values.iter().map(name).collect::<Vec<_>>().join(",")
}

/// The lower bound of a histogram's bucket, in its unit.
pub fn bucket_start(histogram: &Histogram, bucket: usize) -> f64 {
    histogram.lower_bound * (bucket as f64).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_unknown_values_have_a_name() {
        assert_eq!(kind(AnomalyKind::LogitHarvest as i32), "logit_harvest");
        assert_eq!(parse_kind("logit-harvest").unwrap(), AnomalyKind::LogitHarvest);
        assert_eq!(parse_severity("high").unwrap(), Severity::High);
        assert_eq!((kind(99), state(-1), protocol(99)), (UNKNOWN.into(), UNKNOWN.into(), UNKNOWN.into()));
        let error = parse_kind("distillation").unwrap_err().to_string();
        assert_eq!(
            error,
            "\"distillation\" is not an anomaly kind; kinds are bulk_extraction, low_and_slow, logit_harvest, \
             template_sweep, denial_of_wallet, flood, slow_drip, hydra, proxy_rotation, pivot, contract_exceeded"
        );
        assert!(parse_kind("unspecified").is_err());
        assert!(parse_severity("awful").unwrap_err().to_string().ends_with("low, medium, high, critical"));
    }

    #[test]
    fn a_period_is_a_span_of_some_length() {
        assert_eq!(parse_period("7d").unwrap(), Duration::from_hours(7 * 24));
        assert_eq!(parse_period("1w 30m").unwrap(), Duration::from_hours(7 * 24) + Duration::from_mins(30));
        for wrong in ["", "0s", "-1h", "7", "1mo", "forever"] {
            assert!(parse_period(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn since_takes_a_span_or_an_instant() {
        let now: Timestamp = "2026-05-04T10:00:00Z".parse().unwrap();
        assert_eq!(parse_since("10m", now).unwrap().to_string(), "2026-05-04T09:50:00Z");
        assert_eq!(parse_since("2026-05-01T00:00:00Z", now).unwrap().to_string(), "2026-05-01T00:00:00Z");
        for wrong in ["", "yesterday", "-5m", "10"] {
            assert!(parse_since(wrong, now).is_err(), "{wrong:?}");
        }
    }
}
