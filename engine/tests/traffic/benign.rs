//! Benign clients: people and programs, each with sizes, hours and habits of its own.

use super::{DAY, HOUR, Shape, Traffic};

impl Traffic {
    /// So many clients, in a mix that the seed draws.
    pub(crate) fn benign(&mut self, count: usize) {
        let mix: Vec<f64> = (0..6).map(|_| self.dice.scale(0.05, 1.0)).collect();
        let all: f64 = mix.iter().sum();
        for kind in
            [Self::person, Self::application, Self::agent, Self::retrieval, Self::summarizer, Self::tester]
                .into_iter()
                .zip(mix)
                .flat_map(|(kind, part)| {
                    std::iter::repeat_n(kind, (part / all * count as f64).round() as usize)
                })
        {
            kind(self);
        }
    }

    /// Sessions of questions at hours of its own; half of them sleep.
    fn person(&mut self) {
        let (client, mut shape) = (self.client("person"), self.shape());
        shape.request_sigma = self.dice.between(0.2, 1.0);
        shape.tokens_sigma = self.dice.between(0.3, 1.0);
        let (asks, gap) = (self.dice.lognormal(8.0, 0.7), self.dice.lognormal(30.0, 0.8));
        let apart = HOUR / self.dice.lognormal(0.6, 0.8);
        let wakes = self.dice.chance(0.5).then(|| self.dice.between(0.0, 24.0));
        let mut at = self.dice.pause(apart);
        while at < self.end {
            for _ in 0..=self.dice.pause(asks) as u32 {
                at += self.ask(client, at, &shape) + self.dice.lognormal(gap, 0.9);
            }
            at += self.dice.pause(apart);
            if let Some(wakes) = wakes {
                at = awake(at, wakes);
            }
        }
    }

    /// Requests of its users as they come, in bursts, day and night; often of nearly constant size.
    fn application(&mut self) {
        let (client, mut shape) = (self.client("application"), self.shape());
        if self.dice.chance(0.3) {
            shape.request_sigma = self.dice.between(0.01, 0.1);
            shape.tokens_sigma = self.dice.between(0.02, 0.3);
            shape.tokens = shape.tokens.min(200.0);
        }
        let (burst, gap) = (self.dice.scale(1.0, 25.0), self.dice.scale(0.05, 5.0));
        let (apart, peak) = (self.dice.scale(60.0, 1500.0), self.dice.between(0.0, 24.0));
        let mut at = self.dice.pause(apart);
        while at < self.end {
            for _ in 0..=self.dice.pause(burst) as u32 {
                self.ask(client, at, &shape);
                at += self.dice.lognormal(gap, 1.0);
            }
            let busy = 1.0 + 0.7 * ((at / HOUR - peak) / 24.0 * std::f64::consts::TAU).cos();
            at += self.dice.pause(apart / busy);
        }
    }

    /// Steps in a tight loop, each as soon as the last is answered, with a context that grows.
    fn agent(&mut self) {
        let (client, mut shape) = (self.client("agent"), self.shape());
        let first = self.dice.scale(3000.0, 20_000.0);
        shape.tokens = self.dice.scale(30.0, 300.0);
        shape.request_sigma = 0.03;
        let (steps, tool) = (self.dice.scale(4.0, 40.0), self.dice.scale(0.1, 4.0));
        let (apart, wakes) = (self.dice.scale(0.3, 4.0) * HOUR, self.dice.between(0.0, 24.0));
        let mut at = self.dice.pause(apart);
        while at < self.end {
            shape.request = first;
            for _ in 0..self.dice.pause(steps) as u32 + 2 {
                at += self.ask(client, at, &shape) + self.dice.lognormal(tool, 0.8);
                shape.request += self.dice.pause(first * 0.3);
            }
            at = awake(at + self.dice.pause(apart), wakes);
        }
    }

    /// Huge contexts with short answers, at random.
    fn retrieval(&mut self) {
        let (client, mut shape) = (self.client("retrieval"), self.shape());
        shape.request = self.dice.scale(15_000.0, 150_000.0);
        shape.request_sigma = self.dice.between(0.1, 0.5);
        shape.tokens = self.dice.scale(40.0, 400.0);
        let (apart, wakes) = (self.dice.scale(60.0, 900.0), self.dice.between(0.0, 24.0));
        let mut at = self.dice.pause(apart);
        while at < self.end {
            self.ask(client, at, &shape);
            at = awake(at + self.dice.pause(apart), wakes);
        }
    }

    /// Answers of thousands of tokens: reports and code, some over a slow link.
    fn summarizer(&mut self) {
        let (client, mut shape) = (self.client("long answers"), self.shape());
        shape.tokens = self.dice.scale(1000.0, 4000.0);
        shape.tokens_sigma = 0.4;
        shape.cap = 16_384.0;
        shape.streamed = true;
        if self.dice.chance(0.3) {
            shape.model.tokens_per_s = self.dice.scale(1.0, 10.0);
        }
        let (asks, apart) = (self.dice.scale(1.0, 8.0), self.dice.scale(0.3, 3.0) * HOUR);
        let mut at = self.dice.pause(apart);
        while at < self.end {
            for _ in 0..=self.dice.pause(asks) as u32 {
                at += self.ask(client, at, &shape) + self.dice.lognormal(40.0, 1.0);
            }
            at += self.dice.pause(apart);
        }
    }

    /// Someone's tests, a few at a time, whenever code is pushed.
    fn tester(&mut self) {
        let (client, mut shape) = (self.client("tests"), self.shape());
        shape.request_sigma = self.dice.between(0.2, 0.8);
        shape.tokens = self.dice.scale(10.0, 300.0);
        let (cases, workers) = (self.dice.count(10, 120), self.dice.count(1, 8));
        let (apart, wakes) = (self.dice.scale(0.5, 4.0) * HOUR, self.dice.between(0.0, 24.0));
        let mut at = self.dice.pause(apart);
        while at < self.end {
            self.pool(&[client], &shape, workers, at, cases);
            at = awake(at + 600.0 + self.dice.pause(apart), wakes);
        }
    }

    /// So many workers ask one after the other until `count` requests are made; returns when they are.
    pub(super) fn pool(
        &mut self,
        clients: &[std::net::Ipv4Addr],
        shape: &Shape,
        workers: usize,
        start: f64,
        count: usize,
    ) -> f64 {
        let mut free = vec![start; workers];
        for _ in 0..count {
            let client = self.dice.pick(clients);
            let next = (0..workers).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap_or_default();
            free[next] += self.ask(client, free[next], shape) + self.dice.pause(0.1);
        }
        free.into_iter().fold(start, f64::max)
    }
}

/// The next moment of the fourteen hours after waking.
pub(super) fn awake(at: f64, wakes: f64) -> f64 {
    let since = (at / HOUR - wakes).rem_euclid(24.0);
    if since <= 14.0 { at } else { at + (24.0 - since) * HOUR % DAY }
}
