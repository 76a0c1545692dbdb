//! Parts of the labelled traffic, to see whether what holds for one holds for another.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use hydrometer_engine::{Exchange, Release};
use serde_json::{Value, json};

pub(crate) const DAY: f64 = 86_400.0;

/// Which exchanges, and which labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) name: &'static str,
    /// Of the campaigns and of the benign clients: 0 or 1 for one half, nothing for all.
    half: Option<usize>,
    /// From this day on, before that one.
    days: (f64, f64),
}

impl Split {
    pub(crate) const WHOLE: Self = Self { name: "whole", half: None, days: (0.0, 3.0) };
    pub(crate) const ALL: [Self; 5] = [
        Self::WHOLE,
        Self { name: "first half of the clients", half: Some(0), ..Self::WHOLE },
        Self { name: "second half of the clients", half: Some(1), ..Self::WHOLE },
        Self { name: "days 1 and 2", days: (0.0, 2.0), ..Self::WHOLE },
        Self { name: "days 2 and 3", days: (1.0, 3.0), ..Self::WHOLE },
    ];

    /// Whether this exchange is in the part.
    pub(crate) fn has(&self, exchange: &Exchange, labels: &Labels) -> bool {
        let day = exchange.start.as_secs_f64() / DAY;
        let is_in_time = day >= self.days.0 && day < self.days.1;
        is_in_time && self.half.is_none_or(|half| labels.half(&exchange.client.to_string()) == half)
    }
}

/// Who is who.
pub(crate) struct Labels {
    all: Value,
    /// Half of each client.
    halves: BTreeMap<String, usize>,
}

impl Labels {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let all: Value = serde_json::from_slice(&text)?;
        let mut halves = BTreeMap::new();
        for (n, (client, _)) in all["benign"].as_object().context("benign is missing")?.iter().enumerate() {
            halves.insert(client.clone(), n % 2);
        }
        for (n, campaign) in campaigns(&all).enumerate() {
            for client in clients(campaign) {
                halves.insert(client.to_owned(), n % 2);
            }
        }
        Ok(Self { all, halves })
    }

    pub(crate) fn clients(&self) -> usize {
        self.halves.len()
    }

    /// What an operator would have announced.
    pub(crate) fn releases(&self) -> Vec<Release> {
        let port = self.all["release"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let at_s = self.all["release"]["t"].as_f64();
        port.zip(at_s).map(|(port, at_s)| Release { port, at_s }).into_iter().collect()
    }

    /// The role of a benign client.
    pub(crate) fn role(&self, client: &str) -> Option<&str> {
        self.all["benign"][client].as_str()
    }

    /// The labels of a part, as the scorer reads them.
    pub(crate) fn of(&self, split: &Split) -> Value {
        let is_in = |client: &str| split.half.is_none_or(|half| self.half(client) == half);
        let benign = self.all["benign"].as_object().into_iter().flatten();
        let kept: Vec<&Value> = campaigns(&self.all)
            .filter(|campaign| clients(campaign).all(is_in))
            .filter(|campaign| {
                // A campaign of which most lies outside the part cannot be asked for.
                let (start, end) = (number(campaign, "start") / DAY, number(campaign, "end") / DAY);
                let inside = end.min(split.days.1) - start.max(split.days.0);
                inside * 2.0 >= end - start
            })
            .collect();
        json!({
            "days": split.days.1 - split.days.0,
            "release": self.all["release"],
            "benign": benign.filter(|(client, _)| is_in(client)).collect::<BTreeMap<_, _>>(),
            "campaigns": kept,
        })
    }

    fn half(&self, client: &str) -> usize {
        self.halves.get(client).copied().unwrap_or_default()
    }
}

fn campaigns(labels: &Value) -> impl Iterator<Item = &Value> {
    labels["campaigns"].as_array().into_iter().flatten()
}

fn clients(campaign: &Value) -> impl Iterator<Item = &str> {
    campaign["clients"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_default()
}
