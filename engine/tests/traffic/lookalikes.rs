//! Benign clients that look like campaigns: exact periods, many alike, much at once, slow on purpose.

use std::net::Ipv4Addr;

use super::{DAY, HOUR, STACKS, Shape, Traffic, benign::awake};

impl Traffic {
    /// Some of each.
    pub(crate) fn lookalikes(&mut self) {
        for interval in [5.0, 10.0, 30.0, 60.0] {
            let probe = self.probe_shape();
            self.probe("health", interval, &probe);
        }
        self.vendor();
        self.office();
        self.gateway();
        for _ in 0..3 {
            self.nightly();
        }
        self.hourly();
        self.crowd();
        for _ in 0..4 {
            self.retries();
            self.long_poll();
        }
        self.classifier();
    }

    fn probe_shape(&mut self) -> Shape {
        let (request, tokens) = (self.dice.between(150.0, 700.0), self.dice.between(1.0, 60.0).round());
        Shape { request, request_sigma: 0.002, tokens, tokens_sigma: 0.0, streamed: false, ..self.shape() }
    }

    /// One small question, always answered alike.
    fn probe(&mut self, role: &'static str, interval: f64, shape: &Shape) {
        let client = self.client(role);
        let mut at = self.dice.between(0.0, interval);
        while at < self.end {
            self.ask(client, at, shape);
            at += interval + self.dice.between(0.0, 0.05);
        }
    }

    /// A monitoring vendor asks from many addresses, with one stack and one question.
    fn vendor(&mut self) {
        let (shape, interval) = (self.probe_shape(), self.dice.between(60.0, 300.0));
        for _ in 0..self.dice.count(12, 30) {
            self.probe("vendor", interval, &shape);
        }
    }

    /// Many people behind one address, with many stacks.
    fn office(&mut self) {
        let client = self.client("nat");
        for n in 0..self.dice.count(6, 14) {
            let shape = Shape { stack: STACKS[n % STACKS.len()], ..self.shape() };
            self.behind(client, &shape);
        }
    }

    /// Many people behind one program, with its stack.
    fn gateway(&mut self) {
        let client = self.client("gateway");
        let stack = self.stack();
        for _ in 0..self.dice.count(8, 20) {
            let shape = Shape { stack, ..self.shape() };
            self.behind(client, &shape);
        }
    }

    fn behind(&mut self, client: Ipv4Addr, shape: &Shape) {
        let wakes = self.dice.between(6.0, 10.0);
        let mut at = self.dice.pause(HOUR);
        while at < self.end {
            for _ in 0..6 {
                self.ask(client, at, shape);
                at += self.dice.pause(40.0);
            }
            at = awake(at + self.dice.pause(2.0 * HOUR), wakes);
        }
    }

    /// A list of documents, by a pool of workers, once a night; extracts, now and then whole summaries.
    fn nightly(&mut self) {
        let (client, mut shape) = (self.client("batch"), self.shape());
        shape.request_sigma = self.dice.between(0.15, 0.7);
        shape.tokens = self.dice.scale(20.0, 200.0);
        shape.streamed = false;
        let (hour, count) = (self.dice.between(0.0, 6.0), self.dice.count(500, 3000));
        let workers = self.dice.count(1, 4);
        for day in 0..(self.end / DAY).ceil() as u32 {
            self.pool(&[client], &shape, workers, f64::from(day) * DAY + hour * HOUR, count);
        }
    }

    /// Sixty cases of all sizes, each hour.
    fn hourly(&mut self) {
        let (client, mut shape) = (self.client("evaluation"), self.shape());
        shape.request_sigma = 0.6;
        shape.streamed = false;
        let (cases, offset) = (self.dice.count(20, 80), self.dice.between(0.0, HOUR));
        for hour in 0..(self.end / HOUR) as u32 {
            self.pool(&[client], &shape, 1, f64::from(hour) * HOUR + offset, cases);
        }
    }

    /// Many people who heard of it at the same time, each with questions of their own.
    fn crowd(&mut self) {
        let (start, count) = (self.dice.between(8.0, 50.0) * HOUR, self.dice.count(30, 80));
        for _ in 0..count {
            let (client, shape) = (self.client("crowd"), self.shape());
            let mut at = start + self.dice.pause(0.5 * HOUR);
            for _ in 0..self.dice.count(20, 60) {
                self.ask(client, at, &shape);
                at += self.dice.pause(120.0);
            }
        }
    }

    /// A library that asks again at fixed intervals while the service answers with one and the same error.
    fn retries(&mut self) {
        let (client, shape) = (self.client("retries"), self.shape());
        let (every, error) = (self.dice.pick(&[1.0, 2.0, 5.0, 8.0, 30.0]), self.dice.between(250.0, 500.0));
        let mut at = self.dice.pause(4.0 * HOUR);
        while at < self.end {
            let request = self.dice.lognormal(shape.request, shape.request_sigma);
            for _ in 0..self.dice.count(3, 10) {
                let seconds = self.dice.lognormal(0.02, 0.3);
                self.exchange(client, at, &shape, (request, error), (seconds, seconds), (1, error));
                at += every + self.dice.between(0.0, 0.02);
            }
            for _ in 0..self.dice.count(1, 10) {
                at += self.ask(client, at, &shape) + self.dice.pause(30.0);
            }
            at += self.dice.pause(4.0 * HOUR);
        }
    }

    /// Waits for news by a request that is held open, one or two at a time.
    fn long_poll(&mut self) {
        let (client, shape) = (self.client("long poll"), self.shape());
        let (held, wakes) = (self.dice.pick(&[15.0, 30.0, 60.0]), self.dice.between(0.0, 24.0));
        for _ in 0..self.dice.count(1, 2) {
            let mut at = self.dice.pause(HOUR);
            while at < self.end {
                let seconds = if self.dice.chance(0.9) { held } else { self.dice.between(0.0, held) };
                self.exchange(client, at, &shape, (400.0, 250.0), (seconds, seconds), (1, 250.0));
                at = awake(at + seconds + 0.1, wakes);
            }
        }
    }

    /// Labels for short texts, by a pool of workers, when a list of them came.
    fn classifier(&mut self) {
        let (client, mut shape) = (self.client("classifier"), self.shape());
        shape.request = self.dice.between(500.0, 2000.0);
        shape.request_sigma = self.dice.between(0.02, 0.3);
        (shape.tokens, shape.tokens_sigma, shape.streamed) = (2.0, 0.1, false);
        let (workers, count) = (self.dice.count(1, 6), self.dice.count(200, 1500));
        let mut at = self.dice.pause(4.0 * HOUR);
        while at < self.end {
            at = self.pool(&[client], &shape, workers, at, count) + self.dice.pause(6.0 * HOUR);
        }
    }
}
