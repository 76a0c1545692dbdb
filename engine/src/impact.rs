//! What anomalies cost: estimated tokens in, their price and how urgent that is out.
//!
//! Tokens are estimates ([`tokens`](crate::tokens)), right within a third; so is the price. Sums are whole numbers, so
//! that they do not depend on the order in which exchanges come. 24 bytes a client.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

use crate::{Exchange, anomaly::Severity, tokens};

/// What tokens cost, and how much is how urgent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImpactConfig {
    /// The currency of the prices, such as `USD`. Without one costs are no money, and only tokens are told.
    pub currency: String,
    /// Price of a million tokens asked.
    pub input_per_million: f64,
    /// Price of a million tokens answered.
    pub output_per_million: f64,
    /// Other prices, of single services.
    pub services: Vec<ServicePrice>,
    /// What has cost so much is of medium severity at least.
    pub medium: f64,
    /// Of high severity at least.
    pub high: f64,
    /// Of critical severity.
    pub critical: f64,
}

/// Prices of a service of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePrice {
    /// Its port.
    pub port: u16,
    /// Price of a million tokens asked.
    pub input_per_million: f64,
    /// Price of a million tokens answered.
    pub output_per_million: f64,
}

/// What an anomaly has taken since it began, as far as it can be estimated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Impact {
    /// Tokens asked.
    pub request_tokens: u64,
    /// Tokens answered.
    pub answer_tokens: u64,
    /// Their price, where prices have a currency.
    pub cost: Option<f64>,
    /// Of the price.
    pub currency: String,
}

/// Estimated tokens, and their price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) request_tokens: u64,
    pub(crate) answer_tokens: u64,
    /// Billionths of the unit of prices.
    cost: u64,
}

const BILLION: f64 = 1e9;
const MILLION: f64 = 1e6;

impl Default for ImpactConfig {
    /// An answer costs four times what a question does, the usual ratio of price lists. Costs are then
    /// in millions of tokens asked.
    fn default() -> Self {
        Self {
            currency: String::new(),
            input_per_million: 1.0,
            output_per_million: tokens::ANSWER_TO_REQUEST_PRICE,
            services: Vec::new(),
            medium: 0.1,
            high: 1.0,
            critical: 10.0,
        }
    }
}

impl ImpactConfig {
    #[cfg(test)]
    pub(crate) const FREE: Self = Self {
        currency: String::new(),
        input_per_million: 0.0,
        output_per_million: 0.0,
        services: Vec::new(),
        medium: 1.0,
        high: 1.0,
        critical: 1.0,
    };

    /// What so many tokens of the service at `port` are.
    pub(crate) fn taken(&self, port: u16, request_tokens: f64, answer_tokens: f64) -> Taken {
        let other = self.services.iter().find(|price| price.port == port);
        let (input, output) = other.map_or((self.input_per_million, self.output_per_million), |price| {
            (price.input_per_million, price.output_per_million)
        });
        let (request_tokens, answer_tokens) = (request_tokens.round(), answer_tokens.round());
        let cost = (request_tokens * input + answer_tokens * output) / MILLION;
        // What is too large becomes the largest number.
        Taken {
            request_tokens: request_tokens as u64,
            answer_tokens: answer_tokens as u64,
            cost: (cost * BILLION).round() as u64,
        }
    }

    /// What an exchange takes.
    pub(crate) fn taken_by(&self, exchange: &Exchange) -> Taken {
        let request_tokens = tokens::of_request(exchange.request_bytes as f64);
        self.taken(exchange.service.port, request_tokens, tokens::of_answer(exchange))
    }

    /// As it is told.
    pub(crate) fn impact(&self, taken: Taken) -> Impact {
        Impact {
            request_tokens: taken.request_tokens,
            answer_tokens: taken.answer_tokens,
            cost: (!self.currency.is_empty()).then_some(taken.cost as f64 / BILLION),
            currency: self.currency.clone(),
        }
    }

    /// How urgent it is that so much was taken.
    pub(crate) fn severity(&self, taken: Taken) -> Severity {
        let cost = taken.cost as f64 / BILLION;
        let steps = [
            (self.critical, Severity::Critical),
            (self.high, Severity::High),
            (self.medium, Severity::Medium),
        ];
        steps.into_iter().find(|(from, _)| cost >= *from).map_or(Severity::Low, |(_, severity)| severity)
    }
}

impl Taken {
    pub(crate) const NOTHING: Self = Self { request_tokens: 0, answer_tokens: 0, cost: 0 };

    /// So many times as much.
    pub(crate) fn times(self, factor: f64) -> Self {
        let scaled = |value: u64| (value as f64 * factor).round() as u64;
        Self {
            request_tokens: scaled(self.request_tokens),
            answer_tokens: scaled(self.answer_tokens),
            cost: scaled(self.cost),
        }
    }

    /// All tokens.
    pub(crate) fn tokens(self) -> f64 {
        self.request_tokens as f64 + self.answer_tokens as f64
    }
}

impl Add for Taken {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            request_tokens: self.request_tokens.saturating_add(other.request_tokens),
            answer_tokens: self.answer_tokens.saturating_add(other.answer_tokens),
            cost: self.cost.saturating_add(other.cost),
        }
    }
}

impl Sub for Taken {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            request_tokens: self.request_tokens.saturating_sub(other.request_tokens),
            answer_tokens: self.answer_tokens.saturating_sub(other.answer_tokens),
            cost: self.cost.saturating_sub(other.cost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Service, test_exchange};

    #[test]
    fn each_service_has_its_price_and_urgency_follows_from_the_cost() {
        let config = ImpactConfig {
            currency: "USD".to_owned(),
            input_per_million: 3.0,
            output_per_million: 15.0,
            services: vec![ServicePrice { port: 9000, input_per_million: 0.5, output_per_million: 2.0 }],
            ..ImpactConfig::default()
        };
        let impact = config.impact(config.taken(8000, 1e6, 1e6));
        assert_eq!(
            (impact.request_tokens, impact.answer_tokens, impact.cost),
            (1_000_000, 1_000_000, Some(18.0))
        );
        assert_eq!(config.impact(config.taken(9000, 1e6, 1e6)).cost, Some(2.5));
        for (tokens, severity) in
            [(0.0, Severity::Low), (2e4, Severity::Medium), (1e5, Severity::High), (1e30, Severity::Critical)]
        {
            assert_eq!(config.severity(config.taken(8000, 0.0, tokens)), severity, "{tokens}");
        }
    }

    #[test]
    fn without_a_currency_tokens_are_told_and_no_money() {
        let config = ImpactConfig::default();
        let mut exchange = test_exchange();
        exchange.service = Service { address: None, port: 8000 };
        (exchange.request_bytes, exchange.answer_bytes, exchange.records) = (4500, 0, 100);
        let taken = config.taken_by(&exchange);
        assert_eq!(
            config.impact(taken),
            Impact { request_tokens: 1000, answer_tokens: 100, ..Impact::default() }
        );
        assert_eq!(taken + taken - taken, taken);
        assert_eq!(taken.times(2.0), taken + taken);
    }
}
