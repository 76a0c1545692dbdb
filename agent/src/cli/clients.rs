//! `hydrometer clients`: who asks, sorted.
//!
//! In flows one ListClients answer, out flows a table or [`schema::Clients`].

use std::{collections::HashMap, path::Path};

use clap::{Args, ValueEnum};
use hydrometer_proto::v1::{
    Client, ClientCounters, ClientSort, ListClientsRequest, ListClientsResponse, WindowFeatures,
};

use super::{
    anomalies, connect,
    output::{self, Align, ColorChoice, Format, Grid, Paint, Tone},
    schema, units, words,
};

/// List the clients of the watched services.
#[derive(Args, Debug)]
pub struct ClientsArgs {
    /// What to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Sort by this, largest, newest or most regular first
    #[arg(long, value_enum, default_value_t = Order::Rate)]
    sort: Order,
    /// At most this many clients
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print the listed clients in opposite order
    #[arg(long)]
    reverse: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

/// How clients can be sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Requests per second over the last minute
    Rate,
    /// Requests in all
    Requests,
    /// Answer bytes in all
    AnswerBytes,
    /// Request bytes in all
    RequestBytes,
    /// Most recently seen
    LastSeen,
    /// Most regular cadence
    Regularity,
    /// Address, ascending
    Address,
}

impl From<Order> for ClientSort {
    fn from(order: Order) -> Self {
        match order {
            Order::Rate => Self::Rate,
            Order::Requests => Self::Requests,
            Order::AnswerBytes => Self::AnswerBytes,
            Order::RequestBytes => Self::RequestBytes,
            Order::LastSeen => Self::LastSeen,
            Order::Regularity => Self::Regularity,
            Order::Address => Self::Address,
        }
    }
}

/// Asks the agent on `socket` and prints its clients.
pub async fn run(args: ClientsArgs, socket: &Path) -> anyhow::Result<()> {
    let mut agent = connect::agent(socket).await?;
    let request = ListClientsRequest { sort: ClientSort::from(args.sort).into(), limit: args.limit };
    let mut list = agent
        .list_clients(request)
        .await
        .map_err(|status| connect::refused("list the clients", &status))?
        .into_inner();
    if args.reverse {
        list.clients.reverse();
    }
    if args.output == Format::Json {
        return output::print_json(&schema::Clients::from(&list));
    }
    let kinds = anomalies::open_kinds(&mut agent).await?;
    output::print(&render(&list, &kinds, args.output, Paint::for_stdout(args.color)))
}

/// Kinds of open anomalies by identifier.
pub type OpenKinds = HashMap<String, i32>;

type Cell = (Tone, String);

/// A column: its title, how it leans, and a client's cell in it.
struct Column {
    title: &'static str,
    align: Align,
    cell: fn(&Row) -> Cell,
}

struct Row<'a> {
    client: &'a Client,
    counters: ClientCounters,
    minute: WindowFeatures,
    list: &'a ListClientsResponse,
    kinds: &'a OpenKinds,
}

const fn left(title: &'static str, cell: fn(&Row) -> Cell) -> Column {
    Column { title, align: Align::Left, cell }
}

const fn right(title: &'static str, cell: fn(&Row) -> Cell) -> Column {
    Column { title, align: Align::Right, cell }
}

const COLUMNS: &[Column] = &[
    left("CLIENT", |row| (row.tone(), row.client.address.clone())),
    right("REQ/S", |row| plain(units::number(row.minute.request_rate))),
    right("REQUESTS", |row| plain(units::count(row.counters.requests))),
    right("CONC", |row| plain(units::number(row.minute.concurrency))),
    right("REQ MED", |row| plain(row.size(|window| window.request_bytes_median))),
    right("ANS MED", |row| plain(row.size(|window| window.answer_bytes_median))),
    right("CV", |row| {
        plain(units::or_absent(words::longest(row.client, |w| w.interarrival_cv), |cv| format!("{cv:.2}")))
    }),
    right("REC MED", |row| plain(row.size(|window| window.server_record_median_bytes))),
    right("SEEN", |row| {
        plain(units::age(
            words::instant(row.client.last_seen.as_ref()),
            words::instant(row.list.time.as_ref()).unwrap_or_default(),
        ))
    }),
    left("ANOMALIES", |row| (row.tone(), kinds_of(row.client, row.kinds))),
];

const WIDE: &[Column] = &[
    right("IN PKTS", |row| plain(units::count(row.counters.ingress_packets))),
    right("IN BYTES", |row| plain(units::bytes(row.counters.ingress_bytes as f64))),
    right("OUT PKTS", |row| plain(units::count(row.counters.egress_packets))),
    right("OUT BYTES", |row| plain(units::bytes(row.counters.egress_bytes as f64))),
    right("ASKED", |row| plain(units::bytes(row.counters.request_bytes as f64))),
    right("ANSWERED", |row| plain(units::bytes(row.counters.answer_bytes as f64))),
    right("CONNS", |row| plain(units::count(row.counters.connections))),
    right("SYNS", |row| plain(units::count(row.counters.syns))),
    left("PROTOCOL", |row| plain(words::list(&row.client.protocols, |&protocol| words::protocol(protocol)))),
    left("ACCURACY", |row| plain(words::accuracy(row.client.accuracy))),
    left("SERVICE", |row| plain(words::list(&row.client.services, |service| words::service(Some(service))))),
    left("JA4", |row| plain(words::list(&row.client.ja4, Clone::clone))),
];

impl Row<'_> {
    fn tone(&self) -> Tone {
        if self.client.open_anomalies.is_empty() { Tone::Plain } else { Tone::Bad }
    }

    /// A size over the longest window that has one.
    fn size(&self, feature: fn(&WindowFeatures) -> Option<f64>) -> String {
        units::or_absent(words::longest(self.client, feature), units::bytes)
    }
}

fn plain(text: String) -> Cell {
    (Tone::Plain, text)
}

/// The table, and a line below it when clients were left out.
pub fn render(list: &ListClientsResponse, kinds: &OpenKinds, format: Format, paint: Paint) -> String {
    if list.clients.is_empty() {
        return "no clients yet: nobody has talked to a watched service since the agent started\n".to_owned();
    }
    let extra = if format == Format::Wide { WIDE } else { &[] };
    let columns = || COLUMNS.iter().chain(extra);
    let titles: Vec<_> = columns().map(|column| (column.title, column.align)).collect();
    let mut grid = Grid::new(paint, &titles);
    for client in &list.clients {
        let row = Row {
            client,
            counters: client.counters.unwrap_or_default(),
            minute: words::minute(client).copied().unwrap_or_default(),
            list,
            kinds,
        };
        grid.row(columns().map(|column| (column.cell)(&row)));
    }
    let mut text = grid.finish();
    let shown = list.clients.len() as u64;
    if shown < list.total {
        let note =
            format!("{} of {} clients; --limit shows more", units::count(shown), units::count(list.total));
        text.push_str(&paint.text(Tone::Dim, &note));
        text.push('\n');
    }
    text
}

/// The kinds of a client's open anomalies; an anomaly raised since the list was read has no kind yet.
pub fn kinds_of(client: &Client, kinds: &OpenKinds) -> String {
    words::list(&client.open_anomalies, |id| {
        kinds.get(id).map_or_else(|| "new".to_owned(), |&kind| words::kind(kind))
    })
}
