//! Who takes part in the demo: eight clients, two of which copy the model.

use std::{net::IpAddr, time::Duration};

use hydrometer_engine::ClientId;
use hydrometer_tests::{
    net::ClientAddress,
    openai::{Behaviour, Call, Pace, Stream},
};

/// One client of the demo.
pub(crate) struct Actor {
    /// What it does, in a few words.
    pub(crate) role: &'static str,
    /// The kind of anomaly that it has to cause; an ordinary client must cause none.
    pub(crate) expected: Option<&'static str>,
    /// What it does, exactly.
    pub(crate) behaviour: Behaviour,
    /// Whether it comes over IPv6.
    pub(crate) family: Family,
}

/// Which of its two addresses a client uses.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Actor {
    /// The address that it uses.
    pub(crate) fn address(&self, addresses: ClientAddress) -> IpAddr {
        match self.family {
            Family::V4 => addresses.v4.into(),
            Family::V6 => addresses.v6.into(),
        }
    }
}

/// An actor with its name in Hydrometer's figures.
pub(crate) struct Part {
    /// The client's name.
    pub(crate) id: ClientId,
    /// The client.
    pub(crate) actor: Actor,
    /// Its requests, once it has ended.
    pub(crate) calls: Vec<Call>,
}

/// All clients, the ordinary ones first; each starts no request after `duration`.
pub(crate) fn actors(duration: Duration) -> Vec<Actor> {
    let base = |seed| Behaviour { duration: Some(duration), max_tokens: 32, seed, ..Behaviour::default() };
    let bursty = |seed, most, pause_s: u64, stream| Behaviour {
        pace: Pace::Bursty(most, Duration::from_secs(pause_s)),
        stream,
        ..base(seed)
    };
    let ordinary = |role, behaviour, family| Actor { role, expected: None, behaviour, family };
    vec![
        ordinary("chat, streamed", bursty(11, 4, 5, Stream::Always), Family::V4),
        ordinary("chat, streamed", bursty(12, 3, 4, Stream::Always), Family::V6),
        ordinary("assistant, both ways", bursty(13, 5, 6, Stream::Mixed), Family::V4),
        ordinary(
            "batch of two at a time",
            Behaviour { concurrency: 2, ..bursty(14, 6, 8, Stream::Mixed) },
            Family::V6,
        ),
        ordinary(
            "long answers, streamed",
            Behaviour { max_tokens: 96, ..bursty(15, 2, 6, Stream::Always) },
            Family::V4,
        ),
        ordinary("scripts, not streamed", bursty(16, 6, 7, Stream::Never), Family::V4),
        Actor {
            role: "EXTRACTOR: one request a second",
            expected: Some("low_and_slow"),
            behaviour: Behaviour { pace: Pace::Interval(Duration::from_secs(1)), ..base(17) },
            family: Family::V4,
        },
        Actor {
            role: "EXTRACTOR: asks for top_logprobs",
            expected: Some("logit_harvest"),
            behaviour: Behaviour { top_logprobs: Some(20), ..bursty(18, 4, 4, Stream::Always) },
            family: Family::V4,
        },
    ]
}
