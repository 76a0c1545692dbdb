//! A minimal SOC: prints every anomaly that a control plane stores, one JSON object a line, for ever.
//!
//! A line is `{"resume_token", "anomaly"}`, the anomaly as `hydrometer anomalies -o json` prints it. Whoever keeps the last
//! line's token and hands it back gets each state of each anomaly exactly once, whatever was restarted in between.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::Parser;
use hydrometer_agent::cli::schema;
use hydrometer_proto::v1::SubscribeResponse;
use hydrometer_tests::feed;
use serde::Serialize;

/// Print the anomalies of a fleet as JSON lines.
#[derive(Parser)]
struct Arguments {
    /// Unix socket of the control plane
    socket: PathBuf,
    /// Go on after the line with this token
    #[arg(long, default_value = "")]
    resume_token: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    feed::follow(&arguments.socket, arguments.resume_token, |message| print(&message)).await.map(drop)
}

fn print(message: &SubscribeResponse) -> Result<()> {
    let anomaly = message.anomaly.as_ref().context("the control plane sent a message without an anomaly")?;
    let line = Line { resume_token: &message.resume_token, anomaly: schema::Anomaly::from(anomaly) };
    let line = serde_json::to_string(&line).context("cannot write an anomaly as JSON")? + "\n";
    // One write a line: whoever reads the file sees whole lines.
    io::stdout().write_all(line.as_bytes()).context("cannot print an anomaly")
}

#[derive(Serialize)]
struct Line<'a> {
    resume_token: &'a str,
    anomaly: schema::Anomaly,
}
