//! `hydrometer acknowledge`: says of an anomaly that somebody has taken it up.
//!
//! In flow an identifier and a reason, out flows the anomaly with the remark. It goes on being told.

use std::{path::Path, time::Duration};

use clap::Args;
use hydrometer_proto::v1::AcknowledgeRequest;

use super::{
    anomalies, connect,
    output::{self, Paint},
    words,
};

/// Say of an open anomaly that it is known, and why. It is told on, with the remark.
#[derive(Args, Debug)]
pub struct AcknowledgeArgs {
    /// Identifier of the anomaly, as `anomalies -o wide` shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Why
    #[arg(long)]
    reason: String,
    /// Who says so [default: whoever runs this]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// How long it holds, if the anomaly is open for so long
    #[arg(long = "for", value_name = "SPAN", default_value = "30d", value_parser = words::parse_period)]
    period: Duration,
}

/// Asks the agent on `socket` to remember it.
pub async fn run(args: AcknowledgeArgs, socket: &Path) -> anyhow::Result<()> {
    let request = AcknowledgeRequest {
        id: args.id,
        reason: args.reason,
        by: args.by.unwrap_or_else(words::user),
        period: Some(words::to_duration(args.period)),
    };
    let mut agent = connect::agent(socket).await?;
    let answer =
        agent.acknowledge(request).await.map_err(|status| connect::refused("acknowledge", &status))?;
    let anomaly = answer.into_inner().anomaly.unwrap_or_default();
    output::print(&anomalies::finding(&anomaly, Paint::PLAIN))
}
