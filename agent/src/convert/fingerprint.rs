//! A fingerprint as a message, and back.
//!
//! Invariant: what was written is read as it was.

use hydrometer_engine::{
    Accuracy, Fingerprint, Identity, Protocol, Service, Totals,
    connections::{Connections, REGISTERS},
    fingerprint::{Distribution, MAX_JA4, MAX_SERVICES},
    histogram::{BUCKETS, Histogram},
};
use hydrometer_proto::v1;

/// A message that is no fingerprint of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fingerprint's {0} cannot be read; update the older of agent and command")]
pub struct FingerprintError(&'static str);

/// A fingerprint as a message.
pub fn fingerprint(of: &Fingerprint) -> v1::Fingerprint {
    let histogram = |which: Distribution| Some(distribution(of, which));
    v1::Fingerprint {
        first_seen: Some(super::timestamp(of.first_seen)),
        last_seen: Some(super::timestamp(of.last_seen)),
        requests: of.totals.requests,
        request_bytes: of.totals.request_bytes,
        answer_bytes: of.totals.answer_bytes,
        aborted: of.totals.aborted,
        interarrival: histogram(Distribution::Intervals),
        request_sizes: histogram(Distribution::RequestSizes),
        answer_sizes: histogram(Distribution::AnswerSizes),
        answer_ratios: histogram(Distribution::AnswerRatios),
        record_sizes: histogram(Distribution::RecordSizes),
        times_to_first_byte: histogram(Distribution::FirstBytes),
        durations: histogram(Distribution::Durations),
        relay_gaps: histogram(Distribution::RelayGaps),
        busy_us: of.busy_us,
        asking_us: of.asking_us,
        hours: of.hours().to_vec(),
        connection_registers: of.connections.registers().to_vec(),
        connections: of.connections.count(),
        protocols: of.protocols.iter().map(|spoken| super::protocol(spoken).into()).collect(),
        accuracy: super::accuracy(of.accuracy).into(),
        identity: super::identity(of.identity).into(),
        services: of.services.iter().map(super::service).collect(),
        ja4: of.ja4.clone(),
    }
}

/// The values of one figure as a message.
pub fn distribution(of: &Fingerprint, which: Distribution) -> v1::Histogram {
    v1::Histogram {
        counts: of.histogram(which).counts().map(u64::from).into(),
        lower_bound: which.unit().first(),
        unit: which.unit().name().to_owned(),
    }
}

/// The fingerprint that a message holds.
pub fn read_fingerprint(from: &v1::Fingerprint) -> Result<Fingerprint, FingerprintError> {
    let missing = |what| move || FingerprintError(what);
    let time = |at: Option<&prost_types::Timestamp>| at.map(super::nanos);
    let mut fingerprint = Fingerprint::new(time(from.first_seen.as_ref()).ok_or_else(missing("first_seen"))?);
    fingerprint.last_seen = time(from.last_seen.as_ref()).ok_or_else(missing("last_seen"))?;
    fingerprint.totals = Totals {
        requests: from.requests,
        request_bytes: from.request_bytes,
        answer_bytes: from.answer_bytes,
        aborted: from.aborted,
    };
    fingerprint.busy_us = from.busy_us;
    fingerprint.asking_us = from.asking_us;
    let hours = from.hours.as_slice().try_into();
    fingerprint.set_hours(hours.map_err(|_| FingerprintError("hours"))?);
    let registers = <[u8; REGISTERS]>::try_from(from.connection_registers.as_slice());
    fingerprint.connections =
        Connections::from(registers.map_err(|_| FingerprintError("connection_registers"))?);
    fingerprint.protocols = from.protocols().map(read_protocol).collect();
    fingerprint.accuracy = match from.accuracy() {
        v1::Accuracy::Unspecified | v1::Accuracy::Exact => Accuracy::Exact,
        v1::Accuracy::Derived => Accuracy::Derived,
        v1::Accuracy::Estimated => Accuracy::Estimated,
    };
    fingerprint.identity = match from.identity() {
        v1::ClientIdentity::Unspecified | v1::ClientIdentity::Direct => Identity::Direct,
        v1::ClientIdentity::Proxy => Identity::Proxy,
        v1::ClientIdentity::Forwarded => Identity::Forwarded,
    };
    let services: Option<Vec<Service>> = from.services.iter().take(MAX_SERVICES).map(read_service).collect();
    fingerprint.services = services.ok_or_else(missing("services"))?;
    fingerprint.ja4 = from.ja4.iter().take(MAX_JA4).cloned().collect();
    for (which, held) in [
        (Distribution::Intervals, &from.interarrival),
        (Distribution::RequestSizes, &from.request_sizes),
        (Distribution::AnswerSizes, &from.answer_sizes),
        (Distribution::AnswerRatios, &from.answer_ratios),
        (Distribution::RecordSizes, &from.record_sizes),
        (Distribution::FirstBytes, &from.times_to_first_byte),
        (Distribution::Durations, &from.durations),
        (Distribution::RelayGaps, &from.relay_gaps),
    ] {
        let read = held.as_ref().and_then(read_histogram);
        fingerprint.set_histogram(which, &read.ok_or_else(missing("distributions"))?);
    }
    Ok(fingerprint)
}

fn read_histogram(from: &v1::Histogram) -> Option<Histogram> {
    let counts: Vec<u32> =
        from.counts.iter().map(|count| u32::try_from(*count).ok()).collect::<Option<_>>()?;
    Some(Histogram::from(<[u32; BUCKETS]>::try_from(counts).ok()?))
}

fn read_protocol(from: v1::Protocol) -> Protocol {
    match from {
        v1::Protocol::Unspecified | v1::Protocol::Other => Protocol::Other,
        v1::Protocol::Http1 => Protocol::Http1,
        v1::Protocol::Tls => Protocol::Tls,
        v1::Protocol::Http2 => Protocol::Http2,
        v1::Protocol::TlsHttp2 => Protocol::TlsHttp2,
        v1::Protocol::Quic => Protocol::Quic,
    }
}

fn read_service(from: &v1::Service) -> Option<Service> {
    let address = if from.address.is_empty() { None } else { Some(from.address.parse().ok()?) };
    Some(Service { address, port: u16::try_from(from.port).ok()? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hydrometer_engine::{ClientId, Ending, Engine, EngineConfig, Exchange, Heads, Nanos, RoundTrips};

    use super::*;

    fn sample() -> Fingerprint {
        let client = ClientId::V4([203, 0, 113, 7].into());
        let mut engine = Engine::new(EngineConfig::default());
        let begin = 1_790_000_000_123_456_789;
        for n in 0..40_u64 {
            engine.observe(&Exchange {
                start: Nanos(begin + n * 1_250_000_000),
                client,
                identity: Identity::Forwarded,
                client_port: 40_000,
                service: Service {
                    address: (n % 2 == 0).then(|| [10, 0, 0, 5].into()),
                    port: 8000 + n as u16,
                },
                flow: n / 3,
                request_bytes: 700 * n,
                answer_bytes: 40_000 + n,
                heads: Heads::default(),
                time_to_first_byte: Some(Duration::from_millis(n)),
                time_to_first_token: None,
                duration: Duration::from_millis(1500),
                records: 30,
                record_median: 240,
                protocol: if n == 0 { Protocol::Quic } else { Protocol::TlsHttp2 },
                accuracy: Accuracy::Estimated,
                confidence: Some(0.5),
                ending: Ending::Aborted,
                truncated: None,
                ja4: Some(format!("t13d{n}")),
                round_trips: RoundTrips {
                    tcp: Some(Duration::from_millis(2)),
                    tls: Some(Duration::from_millis(90)),
                },
            });
        }
        engine.client(&client, Nanos(begin)).unwrap().fingerprint
    }

    #[test]
    fn what_was_written_is_read_as_it_was() {
        for fingerprint in [sample(), Fingerprint::new(Nanos(1))] {
            assert_eq!(read_fingerprint(&super::fingerprint(&fingerprint)), Ok(fingerprint));
        }
    }

    #[test]
    fn what_is_no_fingerprint_is_refused_by_the_name_of_the_part() {
        let whole = fingerprint(&sample());
        assert_eq!(read_fingerprint(&v1::Fingerprint::default()), Err(FingerprintError("first_seen")));
        let cut = v1::Fingerprint { hours: vec![0; 23], ..whole.clone() };
        assert_eq!(read_fingerprint(&cut), Err(FingerprintError("hours")));
        let cut = v1::Fingerprint { relay_gaps: None, ..whole };
        assert_eq!(read_fingerprint(&cut), Err(FingerprintError("distributions")));
    }
}
