//! Benign clients, and those that look like campaigns but are none.

use super::{HOUR, STACKS, Shape, Traffic};

impl Traffic {
    /// People and applications of all sizes and habits, and the look-alikes: health checks, a monitoring vendor, an office
    /// behind one address, nightly batches, a regression run each hour, and a flash crowd.
    pub(crate) fn benign(&mut self, count: usize, end: f64) {
        for _ in 0..count {
            self.person(end);
        }
        for interval in [10.0, 30.0, 60.0] {
            self.probe(interval, end);
        }
        for _ in 0..12 {
            self.probe(45.0, end);
        }
        self.office(end);
        for start in [2.0, 3.5] {
            self.nightly(start, end);
        }
        self.hourly(end);
        let start = self.start();
        self.crowd(start);
    }

    /// Sessions of bursts, at hours of its own, with sizes of its own.
    fn person(&mut self, end: f64) {
        let (client, mut shape) = (self.next_client(), self.anything());
        shape.request_sigma = self.dice.between(0.05, 1.0);
        shape.tokens_sigma = self.dice.between(0.2, 1.0);
        let sessions = self.dice.lognormal(1.5, 0.8) / HOUR;
        let (burst, gap) = (self.dice.lognormal(8.0, 1.0), self.dice.lognormal(2.5, 1.0));
        let mut at = self.dice.pause(1.0 / sessions);
        while at < end {
            let asks = self.dice.pause(burst).min(400.0) as u32 + 1;
            for _ in 0..asks {
                self.ask(client, at, &shape);
                at += self.dice.lognormal(gap, 1.0);
            }
            // Half of them sleep.
            let is_night = client.to_bits().is_multiple_of(2) && !(7.0..22.0).contains(&(at / HOUR % 24.0));
            at += self.dice.pause(1.0 / sessions) * if is_night { 5.0 } else { 1.0 };
        }
    }

    /// One small question, always answered alike.
    fn probe(&mut self, interval: f64, end: f64) {
        let client = self.next_client();
        let shape = Shape { request: 420.0, request_sigma: 0.002, tokens: 10.0, cap: 10.0, ..self.whole() };
        let mut at = self.dice.between(0.0, interval);
        while at < end {
            self.ask(client, at, &shape);
            at += interval + self.dice.between(0.0, 0.05);
        }
    }

    /// Many people behind one address, with many stacks.
    fn office(&mut self, end: f64) {
        let client = self.next_client();
        for n in 0..8 {
            let mut shape = self.anything();
            shape.stack = STACKS[n % STACKS.len()];
            let mut at = self.dice.pause(HOUR);
            while at < end {
                for _ in 0..6 {
                    self.ask(client, at, &shape);
                    at += self.dice.pause(40.0);
                }
                at += self.dice.pause(2.0 * HOUR);
            }
        }
    }

    /// One after the other, as soon as the answer is there, once a night.
    fn nightly(&mut self, hour: f64, end: f64) {
        let client = self.next_client();
        let shape = Shape { request_sigma: 0.23, tokens: 110.0, ..self.whole() };
        let mut day = 0.0;
        while day + hour * HOUR < end {
            let mut at = day + hour * HOUR;
            for _ in 0..1500 {
                at += self.ask(client, at, &shape) + 0.05;
            }
            day += 24.0 * HOUR;
        }
    }

    /// Sixty cases of all sizes, each hour.
    fn hourly(&mut self, end: f64) {
        let client = self.next_client();
        let shape = Shape { request_sigma: 0.6, ..self.whole() };
        for hour in 0..(end / HOUR) as u32 {
            let mut at = f64::from(hour) * HOUR;
            for _ in 0..60 {
                at += self.ask(client, at, &shape) + 0.1;
            }
        }
    }

    /// Sixty people who heard of it at the same time, each with questions of their own.
    fn crowd(&mut self, start: f64) {
        for _ in 0..60 {
            let (client, shape) = (self.next_client(), self.anything());
            let mut at = start + self.dice.pause(0.5 * HOUR);
            for _ in 0..40 {
                self.ask(client, at, &shape);
                at += self.dice.pause(120.0);
            }
        }
    }

    fn anything(&mut self) -> Shape {
        let mut shape = self.shape();
        shape.request = self.dice.lognormal(1800.0, 0.9);
        shape.tokens = self.dice.lognormal(150.0, 1.2).min(1000.0);
        shape.cap = 4096.0;
        shape.tokens_sigma = 0.6;
        shape.streamed = self.dice.next() < 0.5;
        shape
    }

    fn whole(&mut self) -> Shape {
        Shape { streamed: false, ..self.shape() }
    }
}
