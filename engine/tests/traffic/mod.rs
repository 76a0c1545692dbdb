//! Generated traffic, the same for the same seed: campaigns of all nine kinds with parameters drawn anew, and benign
//! clients ([`benign`]) to find them among.

mod benign;

use std::{net::Ipv4Addr, time::Duration};

use hydrometer_engine::{Accuracy, ClientId, Ending, Exchange, Identity, Nanos, Protocol, Service};
use serde_json::{Value, json};

pub(crate) const HOUR: f64 = 3600.0;

/// TLS stacks that benign clients use, too.
const STACKS: [&str; 4] = [
    "t13d1812h1_85036bcba153_375ca2c5e164",
    "t13d3112h1_e8f1e7e78f70_6bebaf5329ac",
    "t13d1516h2_8daaf6152771_e5627efa2ab1",
    "t13d5911h1_a33745022dd6_1f22a2ca17c4",
];

/// Exchanges, and who is behind them.
pub(crate) struct Traffic {
    /// As in a file of labels.
    pub(crate) campaigns: Vec<Value>,
    /// In no order.
    pub(crate) exchanges: Vec<Exchange>,
    dice: Dice,
    clients: u32,
}

/// A sequence of numbers that depends on the seed alone (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.next()
    }

    fn pause(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.next()).ln()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.next()).ln()).sqrt() * (std::f64::consts::TAU * self.next()).cos()
    }

    fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }
}

/// How a campaign's exchanges look.
#[derive(Clone, Copy)]
struct Shape {
    request: f64,
    request_sigma: f64,
    tokens: f64,
    tokens_sigma: f64,
    cap: f64,
    record: f64,
    tokens_per_s: f64,
    streamed: bool,
    stack: &'static str,
    port: u16,
}

impl Traffic {
    /// None yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { campaigns: Vec::new(), exchanges: Vec::new(), dice: Dice(seed), clients: 0 }
    }

    /// Adds two campaigns of each kind, until `end`; a new model appears at the port and time of `release`.
    pub(crate) fn attacked(&mut self, release: (u16, f64), end: f64) {
        for n in 0..2 {
            self.bulk();
            self.low_and_slow(end, n == 1);
            self.template();
            self.logit();
            self.hydra(n == 1);
            self.rotation();
            self.wallet(n == 1);
            self.pivot(release, end);
            self.flood(n == 1);
        }
    }

    fn shape(&mut self) -> Shape {
        let stack = STACKS[(self.dice.next() * 4.0) as usize];
        Shape {
            request: self.dice.between(900.0, 3500.0),
            request_sigma: 0.5,
            tokens: self.dice.between(500.0, 900.0),
            tokens_sigma: 0.3,
            cap: 1024.0,
            record: self.dice.between(215.0, 260.0),
            tokens_per_s: self.dice.between(40.0, 110.0),
            streamed: true,
            stack,
            port: 8000 + (self.dice.next() * 3.0) as u16,
        }
    }

    fn next_client(&mut self) -> Ipv4Addr {
        self.clients += 1;
        Ipv4Addr::from_bits(0xf000_0000 + self.clients)
    }

    /// Adds an exchange; returns how long it took, seconds.
    fn ask(&mut self, client: Ipv4Addr, at: f64, shape: &Shape) -> f64 {
        let tokens = self.dice.lognormal(shape.tokens, shape.tokens_sigma).clamp(8.0, shape.cap).round();
        let first_byte = self.dice.lognormal(0.05, 0.4);
        let records = if shape.streamed { tokens as u32 + 2 } else { 1 };
        let answer = if shape.streamed { 700.0 + shape.record * tokens } else { 500.0 + 4.5 * tokens };
        let request = self.dice.lognormal(shape.request, shape.request_sigma);
        let duration = first_byte + tokens / (shape.tokens_per_s * self.dice.lognormal(1.0, 0.05));
        self.exchanges.push(Exchange {
            start: Nanos::from_secs_f64(at),
            client: ClientId::V4(client),
            client_port: 0,
            service: Service { address: None, port: shape.port },
            flow: 0,
            request_bytes: request as u64,
            answer_bytes: answer as u64,
            time_to_first_byte: Some(Duration::from_secs_f64(first_byte)),
            time_to_first_token: None,
            duration: Duration::from_secs_f64(duration),
            records,
            record_median: if shape.streamed { shape.record as u32 } else { answer as u32 },
            protocol: Protocol::Tls,
            accuracy: Accuracy::Derived,
            confidence: None,
            identity: Identity::Direct,
            ending: Ending::Complete,
            ja4: Some(shape.stack.to_owned()),
        });
        duration
    }

    fn label(&mut self, kind: &str, clients: &[Ipv4Addr], start: f64, end: f64) {
        let clients: Vec<String> = clients.iter().map(ToString::to_string).collect();
        let id = format!("v{:02}", self.campaigns.len());
        self.campaigns
            .push(json!({ "id": id, "kind": kind, "clients": clients, "start": start, "end": end }));
    }

    fn start(&mut self) -> f64 {
        self.dice.between(26.0, 46.0) * HOUR
    }

    fn bulk(&mut self) {
        let (shape, client, start) = (self.shape(), self.next_client(), self.start());
        let (length, interval) = (self.dice.between(4.0, 10.0) * HOUR, self.dice.between(0.6, 3.0));
        let scatter = self.dice.between(0.4, 0.85);
        let mut at = start;
        while at < start + length {
            self.ask(client, at, &shape);
            at += self.dice.lognormal(interval, scatter * 0.8);
        }
        self.label("bulk_extraction", &[client], start, start + length);
    }

    fn low_and_slow(&mut self, end: f64, by_day: bool) {
        let (mut shape, client) = (self.shape(), self.next_client());
        shape.streamed = !by_day;
        let start = self.dice.between(18.0, 30.0) * HOUR;
        let (interval, jitter) = (self.dice.between(30.0, 120.0), self.dice.between(0.08, 0.3));
        let mut at = start;
        while at < end {
            if !by_day || (8.0..20.0).contains(&(at / HOUR % 24.0)) {
                self.ask(client, at, &shape);
            }
            at += interval * (1.0 + jitter * self.dice.normal()).max(0.1);
        }
        self.label("low_and_slow", &[client], start, end);
    }

    fn template(&mut self) {
        let (mut shape, client, start) = (self.shape(), self.next_client(), self.start());
        shape.request_sigma = self.dice.between(0.02, 0.07);
        shape.cap = [256.0, 512.0, 1024.0][(self.dice.next() * 3.0) as usize];
        shape.tokens = shape.cap * self.dice.between(1.1, 1.5);
        let (interval, length) = (self.dice.between(4.0, 20.0), 20.0 * HOUR);
        self.at_random(&[client], &shape, interval, start, start + length);
        self.label("template_sweep", &[client], start, start + length);
    }

    fn logit(&mut self) {
        let (mut shape, client, start) = (self.shape(), self.next_client(), self.start());
        shape.record = self.dice.between(640.0, 1900.0);
        shape.tokens = 120.0;
        let interval = self.dice.between(15.0, 60.0);
        self.at_random(&[client], &shape, interval, start, start + 18.0 * HOUR);
        self.label("logit_harvest", &[client], start, start + 18.0 * HOUR);
    }

    /// Bursts in which all take part; half of the requests unrelated when `mixed`.
    fn hydra(&mut self, mixed: bool) {
        let (mut shape, start) = (self.shape(), self.start());
        shape.request_sigma = self.dice.between(0.08, 0.15);
        shape.tokens_sigma = 0.15;
        let count = self.dice.between(30.0, 200.0) as usize;
        let clients: Vec<Ipv4Addr> = (0..count).map(|_| self.next_client()).collect();
        let length = 22.0 * HOUR;
        let bursts: Vec<f64> = (0..40).map(|_| self.dice.between(0.0, length)).collect();
        for client in &clients {
            for burst in &bursts {
                for _ in 0..4 {
                    let at = start + burst + self.dice.between(0.0, 900.0);
                    let mut other = shape;
                    if mixed && self.dice.next() < 0.5 {
                        other.request = self.dice.lognormal(1500.0, 1.0);
                        other.tokens = self.dice.lognormal(150.0, 1.0);
                    }
                    self.ask(*client, at.min(start + length), &other);
                }
            }
        }
        self.label("hydra", &clients, start, start + length);
    }

    fn rotation(&mut self) {
        let (mut shape, start) = (self.shape(), self.start());
        shape.request_sigma = 0.17;
        shape.tokens_sigma = 0.2;
        shape.streamed = self.dice.next() < 0.5;
        let count = self.dice.between(40.0, 140.0) as usize;
        let clients: Vec<Ipv4Addr> = (0..count).map(|_| self.next_client()).collect();
        let stint = self.dice.between(6.0, 15.0) * 60.0;
        let interval = self.dice.between(8.0, 20.0);
        let mut at = start;
        for client in &clients {
            let end = at + self.dice.between(0.8, 1.2) * stint;
            while at < end {
                self.ask(*client, at, &shape);
                at += self.dice.pause(interval);
            }
        }
        self.label("proxy_rotation", &clients, start, at);
    }

    fn wallet(&mut self, whole: bool) {
        let (mut shape, client, start) = (self.shape(), self.next_client(), self.start());
        shape.request = self.dice.between(90_000.0, 350_000.0);
        shape.request_sigma = 0.12;
        shape.tokens = 9000.0;
        shape.cap = 4096.0;
        shape.streamed = !whole;
        let interval = self.dice.between(4.0, 16.0);
        self.at_random(&[client], &shape, interval, start, start + 5.0 * HOUR);
        self.label("denial_of_wallet", &[client], start, start + 5.0 * HOUR);
    }

    fn pivot(&mut self, release: (u16, f64), end: f64) {
        let mut shape = self.shape();
        shape.port = 8000;
        shape.request_sigma = 0.13;
        shape.tokens_sigma = 0.15;
        let count = self.dice.between(30.0, 80.0) as usize;
        let clients: Vec<Ipv4Addr> = (0..count).map(|_| self.next_client()).collect();
        let (start, shift) = (4.8 * HOUR, release.1 + self.dice.between(1.0, 10.0) * HOUR);
        let interval = self.dice.between(700.0, 1400.0);
        self.at_random(&clients, &shape, interval, start, shift);
        shape.port = release.0;
        self.at_random(&clients, &shape, interval, shift, end);
        self.label("pivot", &clients, start, end);
    }

    fn flood(&mut self, many: bool) {
        let (mut shape, start) = (self.shape(), self.start());
        shape.request = self.dice.between(300.0, 900.0);
        shape.request_sigma = 0.02;
        shape.tokens = 8.0;
        shape.cap = 8.0;
        shape.streamed = false;
        let count = if many { self.dice.between(15.0, 40.0) as usize } else { 1 };
        let clients: Vec<Ipv4Addr> = (0..count).map(|_| self.next_client()).collect();
        let per_s = if many { 90.0 } else { self.dice.between(30.0, 60.0) };
        self.at_random(&clients, &shape, count as f64 / per_s, start, start + 1200.0);
        self.label("flood", &clients, start, start + 1200.0);
    }

    fn at_random(&mut self, clients: &[Ipv4Addr], shape: &Shape, interval: f64, start: f64, end: f64) {
        for client in clients {
            let mut at = start + self.dice.pause(interval);
            while at < end {
                self.ask(*client, at, shape);
                at += self.dice.pause(interval);
            }
        }
    }
}
