//! How often what was claimed to be likely was true.

use serde::Serialize;

use crate::anomaly::AnomalyKind;

/// Where one bin of scores begins and ends.
const EDGES: [f64; 7] = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0];

/// What an alert claimed, and whether it was true.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// Of what.
    pub kind: AnomalyKind,
    /// How likely it was said to be when it was raised, 0 to 1.
    pub score: f64,
    /// Whether it matches a campaign.
    pub is_true: bool,
}

/// Alerts that claim to be about as likely as each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bin {
    /// Scores from here,
    pub from: f64,
    /// to here; the last bin includes it.
    pub to: f64,
    /// How many there are.
    pub alerts: usize,
    /// How many of them are true.
    #[serde(rename = "true")]
    pub matched: usize,
    /// Mean of what they claim.
    pub claimed: f64,
    /// The share that is true; of well calibrated scores it is near `claimed`.
    pub share: f64,
}

/// Claims by what they claim; bins without any are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reliability(pub Vec<Bin>);

impl Reliability {
    /// Of these claims.
    pub fn of<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> Self {
        let mut bins: Vec<Bin> =
            EDGES.windows(2).map(|edges| Bin { from: edges[0], to: edges[1], ..Bin::default() }).collect();
        for claim in claims {
            let bin = EDGES[1..].partition_point(|edge| *edge <= claim.score).min(bins.len() - 1);
            let bin = &mut bins[bin];
            bin.alerts += 1;
            bin.matched += usize::from(claim.is_true);
            bin.claimed += claim.score;
        }
        bins.retain(|bin| bin.alerts > 0);
        for bin in &mut bins {
            bin.claimed /= bin.alerts as f64;
            bin.share = bin.matched as f64 / bin.alerts as f64;
        }
        Self(bins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_is_in_the_bin_of_its_score() {
        let claim = |score, is_true| Claim { kind: AnomalyKind::Flood, score, is_true };
        let claims =
            [claim(0.0, false), claim(0.9, true), claim(0.94, false), claim(0.95, true), claim(1.0, true)];
        let bins = Reliability::of(&claims).0;
        let rows: Vec<_> = bins.iter().map(|bin| (bin.from, bin.alerts, bin.matched)).collect();
        assert_eq!(rows, [(0.0, 1, 0), (0.9, 2, 1), (0.95, 1, 1), (0.98, 1, 1)]);
        assert!((bins[1].claimed - 0.92).abs() < 1e-9 && (bins[1].share - 0.5).abs() < 1e-9);
    }
}
