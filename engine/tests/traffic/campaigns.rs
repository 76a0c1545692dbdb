//! Campaigns of every kind, each with intensity, length, members and jitter drawn anew.

use std::net::Ipv4Addr;

use hydrometer_engine::evaluation::LabelledCampaign;

use super::{HOUR, Shape, Traffic};

impl Traffic {
    /// Two campaigns of each kind.
    pub(crate) fn attacked(&mut self) {
        for second in [false, true] {
            self.bulk();
            self.low_and_slow(second);
            self.template();
            self.logit();
            self.hydra(second);
            self.rotation();
            self.wallet(second);
            self.pivot();
            self.flood(second);
            self.drip();
        }
    }

    /// Answers worth learning from.
    fn lessons(&mut self) -> Shape {
        Shape {
            request: self.dice.scale(900.0, 4000.0),
            tokens: self.dice.between(450.0, 900.0),
            tokens_sigma: 0.3,
            cap: 1024.0,
            streamed: self.dice.chance(0.7),
            ..self.shape()
        }
    }

    fn several(&mut self, low: usize, high: usize) -> Vec<Ipv4Addr> {
        (0..self.dice.count(low, high)).map(|_| self.stranger()).collect()
    }

    fn label(&mut self, kind: &str, clients: &[Ipv4Addr], start: f64, end: f64) {
        let clients: Vec<String> = clients.iter().map(ToString::to_string).collect();
        let (id, end) = (format!("v{:02}", self.campaigns.len()), end.min(self.end));
        self.campaigns.push(LabelledCampaign { id, kind: kind.to_owned(), clients, start, end });
    }

    fn start(&mut self) -> f64 {
        self.dice.between(25.0, 46.0) * HOUR
    }

    /// A pool of workers, or a limiter that lets requests through at a rate.
    fn bulk(&mut self) {
        let (mut shape, client, start) = (self.lessons(), self.stranger(), self.start());
        shape.request_sigma = self.dice.between(0.35, 0.7);
        let length = self.dice.between(3.0, 10.0) * HOUR;
        if self.dice.chance(0.5) {
            let workers = self.dice.count(4, 16);
            let each = shape.model.first_byte + shape.tokens / shape.model.tokens_per_s;
            self.pool(&[client], &shape, workers, start, (length / each * workers as f64) as usize);
        } else {
            let (interval, scatter) = (self.dice.scale(0.5, 3.5), self.dice.between(0.3, 0.7));
            let mut at = start;
            while at < start + length {
                self.ask(client, at, &shape);
                at += self.dice.lognormal(interval, scatter);
            }
        }
        self.label("bulk_extraction", &[client], start, start + length);
    }

    fn low_and_slow(&mut self, by_day: bool) {
        let (mut shape, client) = (self.lessons(), self.stranger());
        shape.request_sigma = self.dice.between(0.2, 0.6);
        let start = self.dice.between(12.0, 30.0) * HOUR;
        let (interval, jitter) = (self.dice.scale(25.0, 150.0), self.dice.between(0.02, 0.3));
        let wakes = self.dice.between(0.0, 24.0);
        let mut at = start;
        while at < self.end {
            if !by_day || (at / HOUR - wakes).rem_euclid(24.0) < 14.0 {
                self.ask(client, at, &shape);
            }
            at += interval * (1.0 + jitter * self.dice.normal()).max(0.1);
        }
        self.label("low_and_slow", &[client], start, self.end);
    }

    fn template(&mut self) {
        let (mut shape, client, start) = (self.lessons(), self.stranger(), self.start());
        shape.request_sigma = self.dice.between(0.02, 0.08);
        shape.cap = self.dice.pick(&[256.0, 400.0, 512.0, 768.0, 1024.0]);
        shape.tokens = shape.cap * self.dice.between(1.0, 1.6);
        let (interval, length) = (self.dice.scale(4.0, 30.0), self.dice.between(8.0, 20.0) * HOUR);
        self.at_random(&[client], &shape, interval, start, start + length);
        self.label("template_sweep", &[client], start, start + length);
    }

    /// Log-probabilities: three to eight times the bytes a token.
    fn logit(&mut self) {
        let (mut shape, client, start) = (self.lessons(), self.stranger(), self.start());
        shape.record_ratio = self.dice.scale(2.6, 8.0);
        shape.streamed = true;
        shape.tokens = self.dice.scale(30.0, 300.0);
        let (interval, length) = (self.dice.scale(10.0, 90.0), self.dice.between(6.0, 18.0) * HOUR);
        self.at_random(&[client], &shape, interval, start, start + length);
        self.label("logit_harvest", &[client], start, start + length);
    }

    /// Bursts in which all take part; half of the requests unrelated when `mixed`.
    fn hydra(&mut self, mixed: bool) {
        let (mut shape, start) = (self.lessons(), self.start());
        shape.request_sigma = self.dice.between(0.07, 0.15);
        shape.tokens_sigma = self.dice.between(0.1, 0.2);
        let clients = self.several(25, 200);
        let length = self.dice.between(12.0, 24.0) * HOUR;
        let (bursts, lasts) = (self.dice.count(20, 60), self.dice.between(200.0, 1200.0));
        let asks = self.dice.count(2, 6);
        for _ in 0..bursts {
            let burst = start + self.dice.between(0.0, length - lasts);
            for client in &clients {
                for _ in 0..asks {
                    let at = burst + self.dice.between(0.0, lasts);
                    let mut other = shape;
                    if mixed && self.dice.chance(0.5) {
                        other.request = self.dice.lognormal(1500.0, 1.0);
                        other.tokens = self.dice.lognormal(150.0, 1.0);
                    }
                    self.ask(*client, at, &other);
                }
            }
        }
        self.label("hydra", &clients, start, start + length);
    }

    fn rotation(&mut self) {
        let (mut shape, start) = (self.lessons(), self.start());
        shape.request_sigma = self.dice.between(0.1, 0.18);
        shape.tokens_sigma = self.dice.between(0.12, 0.22);
        let clients = self.several(30, 120);
        let (stint, interval) = (self.dice.scale(300.0, 1200.0), self.dice.scale(5.0, 18.0));
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
        let (mut shape, client, start) = (self.lessons(), self.stranger(), self.start());
        shape.request = self.dice.scale(90_000.0, 400_000.0);
        shape.request_sigma = self.dice.between(0.05, 0.25);
        shape.tokens = 9000.0;
        shape.cap = self.dice.pick(&[2048.0, 4096.0, 8192.0]);
        shape.streamed = !whole;
        let (interval, length) = (self.dice.scale(4.0, 18.0), self.dice.between(2.0, 6.0) * HOUR);
        self.at_random(&[client], &shape, interval, start, start + length);
        self.label("denial_of_wallet", &[client], start, start + length);
    }

    fn pivot(&mut self) {
        let mut shape = self.lessons();
        shape.request_sigma = self.dice.between(0.08, 0.15);
        shape.tokens_sigma = self.dice.between(0.1, 0.2);
        let clients = self.several(25, 80);
        let (start, lag) = (self.dice.between(2.0, 12.0) * HOUR, self.dice.between(1.0, 10.0) * HOUR);
        let (shift, interval) = (self.release.at_s + lag, self.dice.scale(500.0, 1400.0));
        self.at_random(&clients, &shape, interval, start, shift);
        shape.model.port = self.release.port;
        self.at_random(&clients, &shape, interval, shift, self.end);
        self.label("pivot", &clients, start, self.end);
    }

    fn flood(&mut self, many: bool) {
        let (mut shape, start) = (self.shape(), self.start());
        shape.request = self.dice.between(250.0, 900.0);
        shape.request_sigma = self.dice.between(0.005, 0.03);
        (shape.tokens, shape.tokens_sigma, shape.streamed) =
            (self.dice.between(1.0, 40.0).round(), 0.0, false);
        let clients = if many { self.several(12, 50) } else { self.several(1, 1) };
        let per_s = if many { self.dice.between(40.0, 120.0) } else { self.dice.between(20.0, 60.0) };
        let length = self.dice.between(600.0, 1500.0);
        self.at_random(&clients, &shape, clients.len() as f64 / per_s, start, start + length);
        self.label("flood", &clients, start, start + length);
    }

    /// Slots that are held open while a byte comes now and then.
    fn drip(&mut self) {
        let (shape, client, start) = (self.shape(), self.stranger(), self.start());
        let (held, length) = (self.dice.count(8, 60), self.dice.between(1.0, 6.0) * HOUR);
        let (lasts, pace) = (self.dice.scale(60.0, 500.0), self.dice.scale(0.5, 20.0));
        for _ in 0..held {
            let mut at = start + self.dice.between(0.0, lasts);
            while at < start + length {
                let seconds = lasts * self.dice.between(0.7, 1.3);
                let bytes = (200.0 + pace * seconds, self.dice.between(200.0, 400.0));
                self.exchange(client, at, &shape, bytes, (seconds, seconds), (1, bytes.1));
                at += seconds + self.dice.pause(1.0);
            }
        }
        self.label("slow_drip", &[client], start, start + length);
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
