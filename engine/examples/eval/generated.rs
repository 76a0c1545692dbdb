//! Traffic of places that no rule was tuned to: all of it generated, or its campaigns among the recording's benign clients.

use anyhow::Result;
use hydrometer_engine::{EngineConfig, Exchange, anomaly::AnomalyKind, evaluation::Labels};

use crate::{
    Arguments, judged, run, show,
    split::{DAY, Halves, Split},
    table::{Table, print_header},
    traffic::Traffic,
};

/// Benign clients besides those that look like campaigns: drawn between these.
const BENIGN: (u64, u64) = (120, 400);

/// Everything generated.
pub(crate) fn judge(arguments: &Arguments) -> Result<()> {
    let mut table = Table::default();
    for seed in arguments.seeds() {
        let traffic = place(seed);
        let part: Vec<&Exchange> = traffic.exchanges.iter().collect();
        let run = run(&part, arguments.with(vec![traffic.release]));
        table.add(&show(arguments, &format!("seed {seed}"), &traffic.labels(), &run)?);
    }
    println!("\n== all seeds");
    table.print();
    Ok(())
}

/// Generated campaigns among the recording's benign clients.
pub(crate) fn judge_among(arguments: &Arguments, exchanges: &[Exchange], halves: &Halves) -> Result<()> {
    let mut table = Table::default();
    let labels = halves.labels();
    for seed in arguments.seeds() {
        let mut traffic = Traffic::new(seed);
        traffic.end = 3.0 * DAY;
        let releases = labels.releases();
        traffic.release = releases.first().copied().unwrap_or(traffic.release);
        traffic.attacked();
        let benign =
            exchanges.iter().filter(|exchange| labels.benign.contains_key(&exchange.client.to_string()));
        let mut part: Vec<&Exchange> = benign.chain(&traffic.exchanges).collect();
        part.sort_by_key(|exchange| exchange.start + exchange.duration);
        let run = run(&part, arguments.with(releases));
        let truth = Labels { campaigns: traffic.campaigns, ..halves.of(&Split::WHOLE) };
        table.add(&show(arguments, &format!("seed {seed} among the recording's clients"), &truth, &run)?);
    }
    println!("\n== all seeds among the recording's clients");
    table.print();
    Ok(())
}

/// What is found of the campaigns of each kind while the rule that was made for it is switched off.
pub(crate) fn leave_one_out(arguments: &Arguments) -> Result<()> {
    println!("\n== of each kind, without the rule that was made for it");
    print_header();
    for kind in AnomalyKind::ALL.into_iter().filter(|kind| *kind != AnomalyKind::ContractExceeded) {
        let mut table = Table::default();
        for seed in 0..arguments.without {
            let traffic = place(seed);
            let part: Vec<&Exchange> = traffic.exchanges.iter().collect();
            let config = EngineConfig { disabled: vec![kind], ..arguments.with(vec![traffic.release]) };
            let name = format!("seed {seed} without {kind}");
            table.add(&judged(arguments, &name, &traffic.labels(), &run(&part, config))?);
        }
        table.print_kind(kind.name());
    }
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
