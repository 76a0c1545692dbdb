//! What the demo prints, on at most 100 columns.

use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};

use hydrometer_proto::v1::GetStatusResponse;

use crate::{
    cast::Part,
    soc::{self, Anomaly},
    verdict::Comparison,
};

/// A heading.
pub(crate) fn heading(text: &str) {
    let colour = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if colour { println!("\n\x1b[1m== {text}\x1b[0m") } else { println!("\n== {text}") }
}

/// Who takes part.
pub(crate) fn parts(parts: &[Part]) {
    for Part { id, actor, .. } in parts {
        println!("  {:<18} {}", id.to_string(), actor.role);
    }
}

/// How the agent is attached.
pub(crate) fn attachments(status: &GetStatusResponse) {
    for attachment in &status.attachments {
        println!("  attached to {} {}: {}", attachment.interface, attachment.direction, attachment.mode);
    }
}

/// One anomaly, as it arrives.
pub(crate) fn arrival(anomaly: &Anomaly, after: Duration) {
    println!(
        "\n  SOC after {} s: {} {}, severity {}, client {}\n    {}",
        after.as_secs(),
        anomaly.kind,
        anomaly.state,
        anomaly.severity,
        anomaly.client,
        anomaly.summary
    );
}

/// Every anomaly in its last state, as the subscriber printed it.
pub(crate) fn received(received: &[Anomaly]) {
    for anomaly in soc::last_states(received) {
        println!("{}", anomaly.line);
    }
}

/// The closing table.
pub(crate) fn comparisons(comparisons: &[Comparison]) {
    println!("  {:<18} {:>17} {:>25} {:>27}", "", "REQUESTS", "REQUEST BYTES", "ANSWER BYTES");
    println!(
        "  {:<18} {:>5} {:>5} {:>5} {:>8} {:>8} {:>7} {:>9} {:>9} {:>7}",
        "CLIENT", "log", "ours", "diff", "log", "ours", "diff", "log", "ours", "diff"
    );
    for comparison in comparisons {
        let Comparison { client, log, counted, .. } = comparison;
        let [requests, asked, answered] = comparison.differences().map(|difference| difference * 100.0);
        println!(
            "  {:<18} {:>5} {:>5} {requests:>4.1}% {:>8} {:>8} {asked:>6.2}% {:>9} {:>9} {answered:>6.2}%{}",
            client.to_string(),
            log.requests,
            counted.requests,
            log.request_bytes,
            counted.request_bytes,
            log.answer_bytes,
            counted.answer_bytes,
            if comparison.agrees() { "" } else { "  OFF" }
        );
    }
}
