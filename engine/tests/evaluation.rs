//! The promise of the evaluation: its figures are those of `score.py`, which lies beside the clone where there is
//! labelled traffic; where there is not, this has nothing to compare with.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "of the exchanges nothing is needed here")]
mod traffic;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hydrometer_engine::{
    Release,
    anomaly::AnomalyKind,
    evaluation::{Alert, Alerts, Evaluation, Labels},
};
use serde_json::Value;

use traffic::Traffic;

#[test]
fn the_figures_are_those_of_the_scorer_beside_the_clone() {
    let scorer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/eval/score.py");
    if !scorer.exists() {
        return;
    }
    for seed in 0..2 {
        let mut traffic = Traffic::new(seed);
        traffic.end = 50.0 * 3600.0;
        traffic.benign(12);
        traffic.attacked();
        let labels = traffic.labels();
        for round in 0..4 {
            let mut chance = Chance(4 * seed + round + 1);
            let count = chance.below(60);
            let alerts: Vec<Alert> = (0..count).map(|number| alert(&labels, number, &mut chance)).collect();
            let theirs = scored(&scorer, &labels, &alerts);
            let ours = serde_json::to_value(Evaluation::of(&labels, &alerts.into_iter().collect::<Alerts>()));
            same(&theirs, &ours.unwrap(), &format!("seed {seed}, round {round}"));
        }
    }
}

/// What the scorer says.
fn scored(scorer: &Path, labels: &Labels, alerts: &[Alert]) -> Value {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lines: Vec<String> =
        alerts.iter().map(|alert| serde_json::to_string(alert).unwrap() + "\n").collect();
    let files = [
        written(folder, "labels.json", &serde_json::to_string(labels).unwrap()),
        written(folder, "alerts.jsonl", &lines.concat()),
    ];
    let scored = Command::new("python3").arg(scorer).args(files).arg("--json").output().unwrap();
    assert!(scored.status.success(), "{}", String::from_utf8_lossy(&scored.stderr));
    serde_json::from_slice(&scored.stdout).unwrap()
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Everything that `theirs` says, `ours` says too.
fn same(theirs: &Value, ours: &Value, place: &str) {
    match theirs {
        Value::Object(fields) => {
            for (name, value) in fields {
                same(value, &ours[name], &format!("{place}, {name}"));
            }
        }
        Value::Array(values) => {
            assert_eq!(Some(values.len()), ours.as_array().map(Vec::len), "{place}");
            for (at, value) in values.iter().enumerate() {
                same(value, &ours[at], &format!("{place}, {at}"));
            }
        }
        Value::Number(number) => {
            let (theirs, ours) = (number.as_f64().unwrap(), ours.as_f64());
            let is_near = ours.is_some_and(|ours| (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0));
            assert!(is_near, "{place}: {theirs} and {ours:?}");
        }
        _ => assert_eq!(theirs, ours, "{place}"),
    }
}

/// An alert about some of a campaign's clients and some others, about when it happened; or a later word of an earlier one.
fn alert(labels: &Labels, number: u64, chance: &mut Chance) -> Alert {
    let campaign = &labels.campaigns[chance.below(labels.campaigns.len() as u64) as usize];
    let benign: Vec<&String> = labels.benign.keys().collect();
    let mut clients = BTreeSet::new();
    for _ in 0..=chance.below(4) {
        clients.insert(campaign.clients[chance.below(campaign.clients.len() as u64) as usize].clone());
    }
    for _ in 0..chance.below(4) {
        clients.insert(benign[chance.below(benign.len() as u64) as usize].clone());
    }
    let known = AnomalyKind::ALL.into_iter().find(|kind| kind.name() == campaign.kind);
    let kind = known.filter(|_| chance.below(3) > 0).unwrap_or(AnomalyKind::SlowDrip);
    let span = (campaign.end - campaign.start + 8000.0) as u64;
    Alert {
        id: format!("a{}", if chance.below(4) == 0 { chance.below(number + 1) } else { number }),
        t: campaign.start - 2000.0 + chance.below(span) as f64,
        kind,
        score: 0.9,
        clients: clients.into_iter().collect(),
    }
}

#[test]
fn what_an_operator_would_have_announced_is_in_the_labels() {
    let traffic = Traffic::new(3);
    let labels = traffic.labels();
    let releases: Vec<Release> = labels.releases();
    assert_eq!(releases, [traffic.release]);
    labels.check().unwrap();
    let wrong = Labels { days: 0.0, ..labels };
    assert!(wrong.check().unwrap_err().to_string().starts_with("days is 0"));
}

/// Numbers that look like chance.
struct Chance(u64);

impl Chance {
    /// Below `bound`, which is 1 or more.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
