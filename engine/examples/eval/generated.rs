//! Traffic of places that no rule was tuned to: all of it generated, or its campaigns among the recording's benign clients.

use anyhow::Result;
use hydrometer_engine::{
    EngineConfig, Exchange,
    anomaly::{AnomalyKind, State},
};
use serde_json::Value;

use crate::{
    Arguments, Run, is_true, run, score, show,
    split::{DAY, Labels, Split},
    table::Table,
    traffic::Traffic,
    with,
};

/// Benign clients besides those that look like campaigns: drawn between these.
const BENIGN: (u64, u64) = (120, 400);

/// Everything generated; and what is found of each kind without its own rule.
pub(crate) fn judge(arguments: &Arguments, seeds: u64) -> Result<()> {
    let mut table = Table::default();
    for seed in 0..seeds {
        let traffic = place(seed);
        let part: Vec<&Exchange> = traffic.exchanges.iter().collect();
        let run = run(&part, with(vec![traffic.release]));
        let truth = traffic.labels();
        table.add(&show(arguments, &format!("seed {seed}"), &truth, &run)?);
        claim(&mut table, &run, &truth);
    }
    println!("\n== all seeds");
    table.print();
    if arguments.without > 0 {
        println!("\n== of each kind, without the rule that was made for it");
        for kind in AnomalyKind::ALL {
            without(arguments, kind)?.print_kind(kind.name());
        }
    }
    Ok(())
}

/// Generated campaigns among the recording's benign clients.
pub(crate) fn judge_among(
    arguments: &Arguments,
    seeds: u64,
    exchanges: &[Exchange],
    labels: &Labels,
) -> Result<()> {
    let mut table = Table::default();
    for seed in 0..seeds {
        let mut traffic = Traffic::new(seed);
        traffic.end = 3.0 * DAY;
        let releases = labels.releases();
        traffic.release = releases.first().copied().unwrap_or(traffic.release);
        traffic.attacked();
        let benign = exchanges.iter().filter(|exchange| labels.role(&exchange.client.to_string()).is_some());
        let mut part: Vec<&Exchange> = benign.chain(&traffic.exchanges).collect();
        part.sort_by_key(|exchange| exchange.start + exchange.duration);
        let run = run(&part, with(releases));
        let mut truth = labels.of(&Split::WHOLE);
        truth["campaigns"] = traffic.campaigns.into();
        table.add(&show(arguments, &format!("seed {seed} among the recording's clients"), &truth, &run)?);
        claim(&mut table, &run, &truth);
    }
    println!("\n== all seeds among the recording's clients");
    table.print();
    Ok(())
}

fn place(seed: u64) -> Traffic {
    let mut traffic = Traffic::new(seed);
    let (least, most) = BENIGN;
    traffic.benign((least + seed * 97 % (most - least)) as usize);
    traffic.lookalikes();
    traffic.attacked();
    traffic.sort();
    traffic
}

fn without(arguments: &Arguments, kind: AnomalyKind) -> Result<Table> {
    let mut table = Table::default();
    for seed in 0..arguments.without {
        let traffic = place(seed);
        let part: Vec<&Exchange> = traffic.exchanges.iter().collect();
        let config = EngineConfig { disabled: vec![kind], ..with(vec![traffic.release]) };
        let run = run(&part, config);
        table.add(&score(arguments, &format!("seed {seed} without {kind}"), &traffic.labels(), &run.alerts)?);
    }
    Ok(table)
}

fn claim(table: &mut Table, run: &Run, truth: &Value) {
    for alert in run.alerts.iter().filter(|alert| alert.state == State::Open) {
        table.claim(alert.score, is_true(alert, truth));
    }
}
