//! How good alerts are, judged by labels that say who did what.
//!
//! In flow labels ([`Labels`]) and what was raised ([`Alerts`]); out flow figures a campaign, a kind and in all
//! ([`Evaluation`]), and how often what was claimed to be likely was true ([`Reliability`]). The engine never sees a label.

mod alert;
mod labels;
mod reliability;
mod score;

pub use alert::{Alert, Alerts};
pub use labels::{LabelledCampaign, LabelledRelease, Labels, LabelsError};
pub use reliability::{Bin, Claim, Reliability};
pub use score::{CampaignFigures, Evaluation, Figures, KindFigures};
