//! Parts of the labelled traffic, to see whether what holds for one holds for another.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use hydrometer_engine::{Exchange, evaluation::Labels};

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
    pub(crate) fn has(&self, exchange: &Exchange, halves: &Halves) -> bool {
        let day = exchange.start.as_secs_f64() / DAY;
        let is_in_time = day >= self.days.0 && day < self.days.1;
        is_in_time && self.half.is_none_or(|half| halves.half(&exchange.client.to_string()) == half)
    }
}

/// Whose exchanges are in which half.
pub(crate) struct Halves {
    labels: Labels,
    halves: BTreeMap<String, usize>,
}

impl Halves {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let labels: Labels = serde_json::from_slice(&text)?;
        labels.check()?;
        let benign = labels.benign.keys().enumerate().map(|(n, client)| (client.clone(), n % 2));
        let mut halves: BTreeMap<String, usize> = benign.collect();
        for (n, campaign) in labels.campaigns.iter().enumerate() {
            halves.extend(campaign.clients.iter().map(|client| (client.clone(), n % 2)));
        }
        Ok(Self { labels, halves })
    }

    pub(crate) fn clients(&self) -> usize {
        self.halves.len()
    }

    /// All labels.
    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The labels of a part.
    pub(crate) fn of(&self, split: &Split) -> Labels {
        let is_in = |client: &String| split.half.is_none_or(|half| self.half(client) == half);
        let mut labels = self.labels.clone();
        labels.days = split.days.1 - split.days.0;
        labels.benign.retain(|client, _| is_in(client));
        labels.campaigns.retain(|campaign| {
            // A campaign of which most lies outside the part cannot be asked for.
            let (start, end) = (campaign.start / DAY, campaign.end / DAY);
            let inside = end.min(split.days.1) - start.max(split.days.0);
            campaign.clients.iter().all(is_in) && inside * 2.0 >= end - start
        });
        labels
    }

    fn half(&self, client: &str) -> usize {
        self.halves.get(client).copied().unwrap_or_default()
    }
}
