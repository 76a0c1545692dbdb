//! Generated traffic, the same for the same seed: a place with services, client stacks and habits of its own, drawn anew
//! for each seed; benign clients of all kinds ([`benign`]), those that look like campaigns ([`lookalikes`]), and campaigns
//! of every kind ([`campaigns`]) among them.

mod benign;
mod campaigns;
mod dice;
mod lookalikes;

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use hydrometer_engine::{
    Accuracy, ClientId, Ending, Exchange, Heads, Identity, Nanos, Protocol, Release, RoundTrips, Service,
    evaluation::{LabelledCampaign, LabelledRelease, Labels},
};

use dice::Dice;

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// TLS stacks of client libraries. Each place prefers others of them.
const STACKS: [&str; 7] = [
    "t13d1812h1_85036bcba153_375ca2c5e164",
    "t13d3112h1_e8f1e7e78f70_6bebaf5329ac",
    "t13d1516h2_8daaf6152771_e5627efa2ab1",
    "t13d5911h1_a33745022dd6_1f22a2ca17c4",
    "t13d4907h2_0d8feac7bc37_7395dae3b2f3",
    "t13d1312h2_f57a46bbacb6_ab7e3b40a677",
    "t12d280700_d943125447b4_e7c285222651",
];

/// Exchanges, and who is behind them.
pub(crate) struct Traffic {
    /// As in a file of labels.
    pub(crate) campaigns: Vec<LabelledCampaign>,
    /// Benign clients and their roles, as in a file of labels.
    pub(crate) benign: BTreeMap<String, String>,
    /// In no order until [`Traffic::sort`].
    pub(crate) exchanges: Vec<Exchange>,
    /// The model that appears meanwhile.
    pub(crate) release: Release,
    /// Seconds in all; they begin at midnight.
    pub(crate) end: f64,
    dice: Dice,
    services: Vec<Model>,
    /// How much more popular each stack is than the next.
    favour: f64,
    clients: u32,
}

/// What a service serves.
#[derive(Clone, Copy)]
struct Model {
    port: u16,
    /// Bytes of a server record of a stream.
    record: f64,
    tokens_per_s: f64,
    /// Seconds to the first byte of the answer to a short request.
    first_byte: f64,
}

/// How exchanges of one client look.
#[derive(Clone, Copy)]
struct Shape {
    request: f64,
    request_sigma: f64,
    tokens: f64,
    tokens_sigma: f64,
    cap: f64,
    /// Alternatives to each token make its record so many times larger.
    record_ratio: f64,
    streamed: bool,
    stack: &'static str,
    model: Model,
}

impl Traffic {
    /// A place without clients.
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common.
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut services: Vec<Model> = Vec::new();
        for port in 0..dice.count(2, 4) as u16 {
            services.push(Model {
                port: 8000 + port,
                record: dice.between(200.0, 290.0),
                tokens_per_s: dice.scale(25.0, 150.0),
                first_byte: dice.scale(0.05, 0.5),
            });
        }
        let release = Release { port: 8000 + services.len() as u16, at_s: dice.between(28.0, 40.0) * HOUR };
        let favour = dice.between(1.1, 2.5);
        let end = 66.0 * HOUR;
        Self {
            campaigns: Vec::new(),
            benign: BTreeMap::new(),
            exchanges: Vec::new(),
            release,
            end,
            dice,
            services,
            favour,
            clients: 0,
        }
    }

    /// By the time they ended, as an engine hears of them.
    pub(crate) fn sort(&mut self) {
        self.exchanges.sort_by_key(|exchange| exchange.start + exchange.duration);
    }

    /// As in a file of labels.
    pub(crate) fn labels(&self) -> Labels {
        Labels {
            days: self.end / DAY,
            release: Some(LabelledRelease { port: self.release.port, t: self.release.at_s }),
            benign: self.benign.clone(),
            campaigns: self.campaigns.clone(),
        }
    }

    /// What an application asks of a model: all sizes, an answer of a few hundred tokens.
    fn shape(&mut self) -> Shape {
        Shape {
            request: self.dice.lognormal(2000.0, 1.0).clamp(200.0, 40_000.0),
            request_sigma: 0.5,
            tokens: self.dice.lognormal(150.0, 1.1).clamp(4.0, 1500.0),
            tokens_sigma: 0.6,
            cap: 4096.0,
            record_ratio: 1.0,
            streamed: self.dice.chance(0.5),
            stack: self.stack(),
            model: self.model(),
        }
    }

    fn model(&mut self) -> Model {
        self.dice.pick(&self.services)
    }

    /// One of the stacks in use, some more popular than others.
    fn stack(&mut self) -> &'static str {
        let most = (1.0 - self.favour.powf(-(STACKS.len() as f64))) / self.favour.ln();
        let rank = -(1.0 - self.dice.next() * most * self.favour.ln()).max(1e-9).ln() / self.favour.ln();
        STACKS[(rank as usize).min(STACKS.len() - 1)]
    }

    /// A new benign client.
    fn client(&mut self, role: &'static str) -> Ipv4Addr {
        let client = self.stranger();
        self.benign.insert(client.to_string(), role.to_owned());
        client
    }

    /// A new client, benign or not: addresses tell nothing.
    fn stranger(&mut self) -> Ipv4Addr {
        self.clients += 1;
        Ipv4Addr::from_bits(0x0b00_0000 | (self.clients.wrapping_mul(0x9e37_79b1) >> 8))
    }

    /// Adds an exchange; returns how long it took, seconds.
    fn ask(&mut self, client: Ipv4Addr, at: f64, shape: &Shape) -> f64 {
        let tokens = self.dice.lognormal(shape.tokens, shape.tokens_sigma).clamp(1.0, shape.cap).round();
        let request = self.dice.lognormal(shape.request, shape.request_sigma);
        let record = shape.model.record * shape.record_ratio;
        let first_byte = self.dice.lognormal(shape.model.first_byte, 0.4) * (1.0 + request / 100_000.0);
        let seconds = first_byte + tokens / (shape.model.tokens_per_s * self.dice.lognormal(1.0, 0.08));
        let answer = if shape.streamed { 700.0 + record * tokens } else { 500.0 + 4.5 * tokens };
        let records = if shape.streamed { tokens as u32 + 2 } else { 1 + (answer / 16_384.0) as u32 };
        let record_median = if shape.streamed { record } else { answer.min(16_384.0) };
        self.exchange(client, at, shape, (request, answer), (first_byte, seconds), (records, record_median));
        seconds
    }

    /// Adds an exchange of which everything is known: bytes, seconds and records.
    fn exchange(
        &mut self,
        client: Ipv4Addr,
        at: f64,
        shape: &Shape,
        (request, answer): (f64, f64),
        (first_byte, seconds): (f64, f64),
        (records, record_median): (u32, f64),
    ) {
        if at >= self.end {
            return;
        }
        self.exchanges.push(Exchange {
            start: Nanos::from_secs_f64(at),
            client: ClientId::V4(client),
            client_port: 0,
            service: Service { address: None, port: shape.model.port },
            flow: 0,
            request_bytes: request as u64,
            answer_bytes: answer as u64,
            time_to_first_byte: Some(Duration::from_secs_f64(first_byte)),
            time_to_first_token: None,
            duration: Duration::from_secs_f64(seconds),
            records,
            record_median: record_median as u32,
            protocol: Protocol::Tls,
            accuracy: Accuracy::Derived,
            confidence: None,
            identity: Identity::Direct,
            ending: Ending::Complete,
            ja4: Some(shape.stack.to_owned()),
            truncated: None,
            heads: Heads::default(),
            round_trips: RoundTrips::default(),
        });
    }
}
