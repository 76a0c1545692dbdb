//! The demo: a real model server behind TLS, ordinary clients and two that copy the model, and what Hydrometer makes of
//! them. About two minutes; needs root.
//!
//! Everything runs in network namespaces of its own and is gone at the end, after an error or a Ctrl-C as well. The
//! exit code is 1 when Hydrometer's figures are not the server's, or its anomalies are not the right ones.
#![forbid(unsafe_code)]

mod cast;
mod show;
mod soc;
mod verdict;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hydrometer_engine::ClientId;
use hydrometer_proto::v1::ClientCounters;
use hydrometer_tests::{
    agent::{self, Agent},
    control::Control,
    nginx::{self, Security, Summary},
    openai::Client,
    process::{interrupt, interrupted, wait_for},
    stack::Stack,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cast::{Actor, Part},
    soc::{Anomaly, Soc},
};

/// Answers that the model server can work on at a time.
const SLOTS: usize = 6;
/// Between two tables.
const TABLE_INTERVAL: Duration = Duration::from_secs(15);
/// For what is in flight when the last client has ended: the agent closes a flow's last exchange when it was quiet for
/// ten seconds.
const SETTLING: Duration = Duration::from_secs(20);

/// Real clients, two of them extracting a model, and what Hydrometer says.
#[derive(Parser)]
struct Arguments {
    /// For how long the clients ask
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(10..))]
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match catch_signals().and_then(|()| perform(Duration::from_secs(arguments.seconds))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupted() => {
            eprintln!("interrupted; nothing is left behind");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The first Ctrl-C or SIGTERM ends the demo in good order, a second one at once.
fn catch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupted, mut terminated) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            either(&mut interrupted, &mut terminated).await;
            eprintln!("\ncleaning up; once more to leave at once");
            interrupt();
            either(&mut interrupted, &mut terminated).await;
            std::process::exit(130);
        });
    });
    Ok(())
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// The whole demo. Dropped in opposite order of their making: clients, subscriber, agent, control plane, servers.
fn perform(duration: Duration) -> Result<()> {
    show::heading("a llama.cpp server behind nginx with TLS 1.3, in namespaces of their own");
    let stack = Stack::start(Security::Tls13, SLOTS)?;
    let control = Control::start(stack.network.server(), stack.folder())?;
    let control_plane = agent::reporting(&control, stack.folder());
    let mut agent = Agent::start(
        stack.network.server(),
        stack.folder(),
        agent::usual_arguments().into_iter().chain(control_plane),
    )?;
    show::attachments(&agent.status()?);
    let mut soc = Soc::start(stack.network.server(), &control.socket(), stack.folder())?;

    show::heading("eight clients");
    let (mut parts, mut clients) = start_clients(&stack, cast::actors(duration))?;
    show::parts(&parts);
    let mut received = watch(&mut clients, &agent, &mut soc, duration)?;
    for (part, client) in parts.iter_mut().zip(&mut clients) {
        part.calls = client.finish(Duration::ZERO)?;
    }

    show::heading("the clients have ended; Hydrometer closes their last exchanges");
    let (log, counted) = settle(&stack, &agent)?;
    received.extend(soc.news()?);

    show::heading("anomalies, as the SOC's subscriber received them (last state of each)");
    show::received(&received);

    show::heading("requests and bytes: the server's access log and Hydrometer");
    let comparisons = verdict::compare(&parts, &log, &counted);
    show::comparisons(&comparisons);
    let status = agent.process().terminate(Duration::from_secs(10))?;
    ensure!(status.success(), "the agent ended with {status}; it said:\n{}", agent.process().output());
    judge(&parts, &received, &comparisons)
}

fn start_clients(stack: &Stack, actors: Vec<Actor>) -> Result<(Vec<Part>, Vec<Client>)> {
    let mut parts = Vec::new();
    let mut clients = Vec::new();
    for actor in actors {
        let address = actor.address(stack.network.add_client()?);
        clients.push(stack.client(address, &actor.behaviour)?);
        parts.push(Part { id: ClientId::from(address), actor, calls: Vec::new() });
    }
    Ok((parts, clients))
}

/// Shows the table and the anomalies until all clients have ended.
fn watch(clients: &mut [Client], agent: &Agent, soc: &mut Soc, duration: Duration) -> Result<Vec<Anomaly>> {
    let begun = Instant::now();
    let mut next_table = TABLE_INTERVAL;
    let mut received = Vec::new();
    wait_for("the clients to end", duration + Duration::from_mins(2), || {
        for anomaly in soc.news()? {
            // A state that only brings figures up to date is not worth a line here.
            if anomaly.state != "updated" {
                show::arrival(&anomaly, begun.elapsed());
            }
            received.push(anomaly);
        }
        if begun.elapsed() >= next_table {
            next_table += TABLE_INTERVAL;
            show::heading(&format!("{} s: hydrometer clients", begun.elapsed().as_secs()));
            let status = agent.command("clients")?.status().context("cannot run hydrometer clients")?;
            ensure!(status.success(), "`hydrometer clients` failed ({status})");
        }
        let mut running = false;
        for client in &mut *clients {
            running |= client.process().ended()?.is_none();
        }
        Ok((!running).then_some(()))
    })?;
    Ok(received)
}

/// Waits until Hydrometer has counted as many requests as the server has logged, or no longer: the closing table tells.
fn settle(
    stack: &Stack,
    agent: &Agent,
) -> Result<(BTreeMap<ClientId, Summary>, BTreeMap<String, ClientCounters>)> {
    let log = nginx::summaries(&stack.nginx.accesses()?);
    let begun = Instant::now();
    wait_for("the counters to settle", SETTLING + Duration::from_secs(10), || {
        let counted: BTreeMap<_, _> = agent
            .clients()?
            .into_iter()
            .map(|client| (client.address, client.counters.unwrap_or_default()))
            .collect();
        let agrees = |(id, summary): (&ClientId, &Summary)| {
            counted.get(&id.to_string()).is_some_and(|counters| {
                counters.requests == summary.requests && counters.exchanges == summary.requests
            })
        };
        let settled = log.iter().all(agrees) || begun.elapsed() > SETTLING;
        Ok(settled.then(|| (log.clone(), counted)))
    })
}

fn judge(parts: &[Part], received: &[Anomaly], comparisons: &[verdict::Comparison]) -> Result<()> {
    let off: Vec<_> = comparisons
        .iter()
        .filter(|comparison| !comparison.agrees())
        .map(|comparison| format!("the figures for {} ({}) differ", comparison.client, comparison.role))
        .collect();
    let wrong =
        [off, verdict::wrong_anomalies(parts, received), verdict::late_anomalies(parts, received)].concat();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    soc::each_once(received)?;
    println!(
        "\nThe figures agree, both extractors were found in time, and no ordinary client was suspected."
    );
    Ok(())
}
