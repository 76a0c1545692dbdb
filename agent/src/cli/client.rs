//! `hydrometer client ADDR`: all about one client.
//!
//! In flows one GetClient answer, and one more for each client that it is compared with; out flows a page of text or
//! [`schema::ClientInDepth`].

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use hydrometer_engine::Fingerprint;
use hydrometer_proto::v1::{
    Anomaly, Client, ClientIdentity, Exchange, Flow, GetClientRequest, GetClientResponse, Head,
    WindowFeatures, agent_client::AgentClient,
};
use jiff::Timestamp;
use tonic::{Code, transport::Channel};

use super::{
    anomalies, chart, connect,
    fingerprint::{self, Others},
    output::{self, Align, ColorChoice, Grid, Paint, Report, Tone},
    schema, units, words,
};
use crate::convert;

/// Show everything about one client.
#[derive(Args, Debug)]
pub struct ClientArgs {
    /// IPv4 address, IPv6 address or IPv6 /64
    #[arg(value_name = "ADDR")]
    address: String,
    /// Say how unlike its fingerprint is to that of this client; repeat for several, taken together
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    with: Vec<String>,
    /// What to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Report,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

/// Asks the agent on `socket` about one client and prints what it knows.
pub async fn run(args: ClientArgs, socket: &Path) -> anyhow::Result<()> {
    let mut agent = connect::agent(socket).await?;
    let response = ask(&mut agent, &args.address).await?;
    let mut others: Option<Others> = None;
    for address in args.with {
        let response = ask(&mut agent, &address).await?;
        let fingerprint = read(&response)?.context("the agent tells no fingerprints; update the agent")?;
        match &mut others {
            Some(others) => {
                others.fingerprint.merge(&fingerprint);
                others.addresses.push(address);
            }
            None => others = Some(Others { addresses: vec![address], fingerprint }),
        }
    }
    match args.output {
        Report::Json => output::print_json(&in_depth(&response, others.as_ref())?),
        Report::Text => {
            let paint = Paint::for_stdout(args.color);
            output::print(&render(&response, others.as_ref(), Timestamp::now(), paint)?)
        }
    }
}

async fn ask(agent: &mut AgentClient<Channel>, address: &str) -> anyhow::Result<GetClientResponse> {
    match agent.get_client(GetClientRequest { address: address.to_owned() }).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) if status.code() == Code::NotFound => bail!(
            "no client {} is known to this agent; `hydrometer clients --limit 1000` lists those that are",
            output::clean(address)
        ),
        Err(status) => Err(connect::refused("show the client", &status)),
    }
}

fn read(response: &GetClientResponse) -> anyhow::Result<Option<Fingerprint>> {
    Ok(response.fingerprint.as_ref().map(convert::read_fingerprint).transpose()?)
}

/// The answer by the schema, compared with others.
pub fn in_depth(
    response: &GetClientResponse,
    others: Option<&Others>,
) -> anyhow::Result<schema::ClientInDepth> {
    let of = read(response)?;
    let compared = of.as_ref().zip(others).map(|(of, others)| fingerprint::compared(of, others));
    Ok(schema::ClientInDepth {
        fingerprint: of.as_ref().map(fingerprint::schema),
        compared,
        ..schema::ClientInDepth::from(response)
    })
}

/// The page about one client, compared with others.
pub fn render(
    response: &GetClientResponse,
    others: Option<&Others>,
    now: Timestamp,
    paint: Paint,
) -> anyhow::Result<String> {
    let client = response.client.as_ref().context("the agent's answer holds no client; update the agent")?;
    let of = read(response)?;
    let sections = [
        identity(client, now, paint),
        findings(&response.anomalies, paint),
        rates(client, paint),
        sparkline(client, paint),
        histograms(client, paint),
        of.map(|of| fingerprint::render(&of, others, paint)).unwrap_or_default(),
        flows(&response.flows, now, paint),
        exchanges(&response.exchanges, paint),
    ];
    Ok(sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n"))
}

fn identity(client: &Client, now: Timestamp, paint: Paint) -> String {
    let counters = client.counters.unwrap_or_default();
    let (first, last) =
        (words::instant(client.first_seen.as_ref()), words::instant(client.last_seen.as_ref()));
    let seen =
        format!("{} to {} ({} ago)", units::instant(first), units::instant(last), units::age(last, now));
    let spoken = format!(
        "{} to {}, figures {}",
        words::list(&client.protocols, |&protocol| words::protocol(protocol)),
        words::list(&client.services, |service| words::service(Some(service))),
        words::accuracy(client.accuracy),
    );
    let asked = format!(
        "{} requests ({}), {} answered ({})",
        units::count(counters.requests),
        units::bytes(counters.request_bytes as f64),
        units::count(counters.exchanges),
        units::bytes(counters.answer_bytes as f64),
    );
    let packets = format!(
        "{} in ({}), {} out ({})",
        units::count(counters.ingress_packets),
        units::bytes(counters.ingress_bytes as f64),
        units::count(counters.egress_packets),
        units::bytes(counters.egress_bytes as f64),
    );
    let connections =
        format!("{} with data, {} SYNs", units::count(counters.connections), units::count(counters.syns));
    let mut lines = vec![
        ("client", Tone::Strong, client.address.clone()),
        ("seen", Tone::Plain, seen),
        ("speaks", Tone::Plain, spoken),
        ("asked", Tone::Plain, asked),
        ("packets", Tone::Plain, packets),
        ("connections", Tone::Plain, connections),
    ];
    if client.identity() != ClientIdentity::Direct {
        lines.push(("identity", Tone::Plain, words::identity(client.identity)));
    }
    if !client.ja4.is_empty() {
        lines.push(("ja4", Tone::Plain, client.ja4.join(", ")));
    }
    lines.into_iter().fold(String::new(), |text, (name, tone, value)| {
        text + &format!("{name:<12} {}\n", paint.text(tone, &value))
    })
}

fn findings(found: &[Anomaly], paint: Paint) -> String {
    if found.is_empty() {
        return paint.text(Tone::Good, "no anomalies") + "\n";
    }
    found.iter().fold(String::new(), |text, anomaly| text + &anomalies::finding(anomaly, paint))
}

/// A column a window, so that the table fits a narrow terminal.
fn rates(client: &Client, paint: Paint) -> String {
    type Figure = (&'static str, fn(&WindowFeatures) -> String);
    let figures: [Figure; 12] = [
        ("requests", |window| units::count(window.requests)),
        ("requests per second", |window| units::number(window.request_rate)),
        ("asked per second", |window| units::bytes(window.request_bytes_rate)),
        ("answered per second", |window| units::bytes(window.answer_bytes_rate)),
        ("concurrency", |window| units::number(window.concurrency)),
        ("interval, median", |window| seconds(window.interarrival_median_s)),
        ("interval, MAD", |window| seconds(window.interarrival_mad_s)),
        ("interval, CV", |window| units::or_absent(window.interarrival_cv, |cv| format!("{cv:.2}"))),
        ("request size, median", |window| units::or_absent(window.request_bytes_median, units::bytes)),
        ("request size, entropy", |window| units::with_unit(window.request_size_entropy_bits, "bit")),
        ("answer size, median", |window| units::or_absent(window.answer_bytes_median, units::bytes)),
        ("server record, median", |window| units::or_absent(window.server_record_median_bytes, units::bytes)),
    ];
    let titles: Vec<String> = client
        .windows
        .iter()
        .map(|window| {
            let seconds = words::duration(window.window.as_ref()).unwrap_or_default().as_secs();
            if seconds < 60 { format!("{seconds} s") } else { format!("{} min", seconds / 60) }
        })
        .collect();
    let mut columns = vec![("WINDOW", Align::Left)];
    columns.extend(titles.iter().map(|title| (title.as_str(), Align::Right)));
    let mut grid = Grid::new(paint, &columns);
    for (name, write) in figures {
        let cells = client.windows.iter().map(write);
        grid.row(std::iter::once(name.to_owned()).chain(cells).map(|text| (Tone::Plain, text)));
    }
    grid.finish()
}

fn seconds(value: Option<f64>) -> String {
    units::or_absent(value, |value| units::duration(Duration::try_from_secs_f64(value).unwrap_or_default()))
}

fn sparkline(client: &Client, paint: Paint) -> String {
    let series = &client.rate_series;
    if series.is_empty() {
        return String::new();
    }
    let peak = series.iter().copied().fold(0.0, f64::max);
    format!(
        "{}\n{}\n",
        paint.text(
            Tone::Strong,
            &format!("REQUESTS PER SECOND, last {} s, peak {}", series.len() * 10, units::number(peak))
        ),
        chart::sparkline(series)
    )
}

fn histograms(client: &Client, paint: Paint) -> String {
    [
        ("REQUEST SIZES", &client.request_sizes),
        ("ANSWER SIZES", &client.answer_sizes),
        ("TIME BETWEEN REQUESTS", &client.interarrival),
    ]
    .into_iter()
    .filter_map(|(title, histogram)| histogram.as_ref().map(|histogram| (title, histogram)))
    .map(|(title, histogram)| {
        let bars = chart::bars(histogram);
        let drawn = if bars.is_empty() { "  none yet\n".to_owned() } else { chart::draw(&bars, 40) };
        paint.text(Tone::Strong, title) + "\n" + &drawn
    })
    .collect::<Vec<_>>()
    .join("\n")
}

fn flows(flows: &[Flow], now: Timestamp, paint: Paint) -> String {
    let mut grid = Grid::new(
        paint,
        &[
            ("FLOW", Align::Left),
            ("PROTOCOL", Align::Left),
            ("ACCURACY", Align::Left),
            ("REQUESTS", Align::Right),
            ("ASKED", Align::Right),
            ("ANSWERED", Align::Right),
            ("AGE", Align::Right),
            ("SEEN", Align::Right),
            ("STATE", Align::Left),
        ],
    );
    for flow in flows {
        let cells = [
            format!("{} > {}", flow.client_port, words::service(flow.service.as_ref())),
            words::protocol(flow.protocol),
            words::believed(words::accuracy(flow.accuracy), flow.confidence),
            units::count(flow.requests),
            units::bytes(flow.request_bytes as f64),
            units::bytes(flow.answer_bytes as f64),
            units::age(words::instant(flow.first_seen.as_ref()), now),
            units::age(words::instant(flow.last_seen.as_ref()), now),
            if flow.in_progress { "answering" } else { "idle" }.to_owned(),
        ];
        grid.row(cells.map(|text| (Tone::Plain, text)));
    }
    if flows.is_empty() { "no live flows\n".to_owned() } else { grid.finish() }
}

fn exchanges(exchanges: &[Exchange], paint: Paint) -> String {
    let mut grid = Grid::new(
        paint,
        &[
            ("EXCHANGE", Align::Left),
            ("PORT", Align::Right),
            ("ASKED", Align::Right),
            ("ANSWERED", Align::Right),
            ("HEADS", Align::Right),
            ("FIRST BYTE", Align::Right),
            ("DURATION", Align::Right),
            ("RECORDS", Align::Right),
            ("REC MED", Align::Right),
            ("TCP RTT", Align::Right),
            ("TLS RTT", Align::Right),
            ("ACCURACY", Align::Left),
            ("END", Align::Left),
        ],
    );
    let span = |value: Option<&prost_types::Duration>| {
        words::duration(value).map_or_else(|| units::ABSENT.to_owned(), units::duration)
    };
    let head =
        |head: Option<&Head>| head.map_or_else(|| units::ABSENT.to_owned(), |head| head.bytes.to_string());
    for exchange in exchanges {
        let cells = [
            units::time_of_day(words::instant(exchange.start.as_ref())),
            exchange.client_port.to_string(),
            units::bytes(exchange.request_bytes as f64),
            units::bytes(exchange.answer_bytes as f64),
            format!("{}/{}", head(exchange.request_head.as_ref()), head(exchange.answer_head.as_ref())),
            span(exchange.time_to_first_byte.as_ref()),
            span(exchange.duration.as_ref()),
            units::count(u64::from(exchange.records)),
            units::bytes(f64::from(exchange.record_median_bytes)),
            span(exchange.tcp_round_trip.as_ref()),
            span(exchange.tls_round_trip.as_ref()),
            words::believed(words::accuracy(exchange.accuracy), exchange.confidence),
            words::end(exchange.aborted, exchange.truncated).to_owned(),
        ];
        let tone = if exchange.aborted { Tone::Warn } else { Tone::Plain };
        grid.row(cells.map(|text| (tone, text)));
    }
    if exchanges.is_empty() { "no finished exchanges\n".to_owned() } else { grid.finish() }
}
