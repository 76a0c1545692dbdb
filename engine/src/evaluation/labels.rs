//! Who did what in recorded traffic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Release;

/// The labels of a recording; fields that are not named here are left alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// Length of the recording, days of 86,400 seconds.
    pub days: f64,
    /// A new model, which an operator would have announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<LabelledRelease>,
    /// Everyone who belongs to no campaign, and a word for what they are.
    pub benign: BTreeMap<String, String>,
    /// What is to be found.
    pub campaigns: Vec<LabelledCampaign>,
}

/// When a new model appeared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelledRelease {
    /// Port of its service.
    pub port: u16,
    /// Seconds, as the recording has them.
    pub t: f64,
}

/// One thing to be found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelledCampaign {
    /// Its name.
    pub id: String,
    /// What it is, by the name of an anomaly's kind.
    pub kind: String,
    /// Who takes part.
    pub clients: Vec<String>,
    /// When it began, seconds as the recording has them.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

/// Labels by which nothing can be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// The recording has no length.
    #[error("days is {0}: give the length of the recording in days, over 0")]
    Days(String),
    /// A campaign has no length or no clients.
    #[error(
        "campaign {0:?} has no clients, or does not end after it starts: give both in seconds of the recording"
    )]
    Campaign(String),
}

impl Labels {
    /// Whether something can be judged by them.
    pub fn check(&self) -> Result<(), LabelsError> {
        if !self.days.is_finite() || self.days <= 0.0 {
            return Err(LabelsError::Days(self.days.to_string()));
        }
        let is_usable = |campaign: &&LabelledCampaign| {
            !campaign.clients.is_empty() && campaign.start.is_finite() && campaign.end > campaign.start
        };
        let wrong = self.campaigns.iter().find(|campaign| !is_usable(campaign));
        wrong.map_or(Ok(()), |campaign| Err(LabelsError::Campaign(campaign.id.clone())))
    }

    /// What an operator would have announced.
    pub fn releases(&self) -> Vec<Release> {
        self.release.iter().map(|release| Release { port: release.port, at_s: release.t }).collect()
    }
}
