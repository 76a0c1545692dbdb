//! `hydrometer status`: what is lost first, then how the agent is attached and how full it is.
//!
//! In flows one GetStatus answer, out flows text or [`schema::Status`].

use std::{fmt::Write as _, path::Path};

use clap::Args;
use hydrometer_proto::v1::{
    ControlPlaneLink, GetStatusRequest, GetStatusResponse, Interfaces, MapStatus, Memory, StateStatus,
};
use jiff::Timestamp;

use super::{
    connect,
    output::{self, Align, ColorChoice, Grid, Paint, Report, Tone},
    schema, units, words,
};

/// A map fuller than this evicts or refuses soon.
const NEARLY_FULL_PERCENT: f64 = 90.0;

/// Show losses, attachments, maps and links of the agent.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// What to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Report,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

/// Asks the agent on `socket` and prints its status.
pub async fn run(args: StatusArgs, socket: &Path) -> anyhow::Result<()> {
    let mut agent = connect::agent(socket).await?;
    let status = agent
        .get_status(GetStatusRequest {})
        .await
        .map_err(|status| connect::refused("read the status", &status))?
        .into_inner();
    match args.output {
        Report::Json => output::print_json(&schema::Status::from(&status)),
        Report::Text => output::print(&render(&status, Timestamp::now(), Paint::for_stdout(args.color))),
    }
}

/// The status as text, losses first.
pub fn render(status: &GetStatusResponse, now: Timestamp, paint: Paint) -> String {
    let sections = [
        losses(status, paint),
        agent(status, now, paint),
        control_plane(status.control_plane.as_ref(), paint),
        attachments(status, paint),
        interfaces(status.interfaces.as_ref(), paint),
        packets(status, paint),
        maps(&status.maps, paint),
        memory(status.memory.as_ref(), paint),
        programs(status, paint),
    ];
    sections.join("\n")
}

fn losses(status: &GetStatusResponse, paint: Paint) -> String {
    let lost: Vec<_> = status.losses.iter().filter(|loss| loss.count > 0).collect();
    let quiet: Vec<_> =
        status.losses.iter().filter(|loss| loss.count == 0).map(|loss| loss.stage.as_str()).collect();
    let mut text = String::new();
    if lost.is_empty() {
        text.push_str(&paint.text(Tone::Good, "no losses"));
        text.push('\n');
    } else {
        let mut grid =
            Grid::new(paint, &[("LOST AT", Align::Left), ("COUNT", Align::Right), ("MEANING", Align::Left)]);
        for loss in lost {
            grid.row([
                (Tone::Bad, loss.stage.clone()),
                (Tone::Bad, units::count(loss.count)),
                (Tone::Plain, loss.meaning.clone()),
            ]);
        }
        text.push_str(&grid.finish());
    }
    let watched = match (quiet.as_slice(), status.losses.is_empty()) {
        (_, true) => "the agent reports no stages".to_owned(),
        ([], false) => return text,
        (quiet, false) => format!("nothing lost at: {}", quiet.join(", ")),
    };
    text.push_str(&wrapped(&watched, paint));
    text
}

/// A long list of names, folded at 100 columns.
fn wrapped(text: &str, paint: Paint) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > WIDTH {
            lines.push("  ".to_owned());
        }
        // There is always a last line: one was put there, and none is ever taken.
        if let Some(last) = lines.last_mut() {
            if !last.trim().is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.iter().fold(String::new(), |text, line| text + &paint.text(Tone::Dim, line) + "\n")
}

fn agent(status: &GetStatusResponse, now: Timestamp, paint: Paint) -> String {
    let started = words::instant(status.started.as_ref());
    let uptime = started.map_or_else(
        || units::ABSENT.to_owned(),
        |at| units::duration(now.duration_since(at).try_into().unwrap_or_default()),
    );
    let muted = match status.muted_anomalies {
        0 => String::new(),
        muted => format!(" and {} muted", units::count(muted)),
    };
    let anomalies = (
        if status.open_anomalies > 0 { Tone::Bad } else { Tone::Plain },
        units::count(status.open_anomalies) + &muted,
    );
    let mut text = String::new();
    for (name, (tone, value)) in [
        ("node", (Tone::Strong, status.node.clone())),
        (
            "agent",
            (Tone::Plain, format!("{}, up {uptime} (since {})", status.version, units::instant(started))),
        ),
        ("kernel", (Tone::Plain, status.kernel.clone())),
        ("services", (Tone::Plain, words::list(&status.services, |service| words::service(Some(service))))),
        ("clients", (Tone::Plain, units::count(status.clients))),
        ("exchanges", (Tone::Plain, units::count(status.exchanges))),
        ("open anomalies", anomalies),
        ("state", state(status.state.as_ref(), now)),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<15} {}", paint.text(tone, &value));
    }
    text
}

fn state(state: Option<&StateStatus>, now: Timestamp) -> (Tone, String) {
    let Some(state) = state else {
        return (Tone::Dim, "not kept: what was learnt ends with the agent".to_owned());
    };
    let written = words::instant(state.saved.as_ref()).map_or_else(
        || "not written yet".to_owned(),
        |at| format!("{} written {} ago", units::bytes(state.bytes as f64), units::age(Some(at), now)),
    );
    let from = if state.resumed { "resumed" } else { "begun anew" };
    (Tone::Plain, format!("{}, {from}, {written}", state.path))
}

fn control_plane(link: Option<&ControlPlaneLink>, paint: Paint) -> String {
    let Some(link) = link else {
        return format!("{:<15} {}\n", "control plane", paint.text(Tone::Dim, "none configured"));
    };
    let state = if link.connected {
        paint.text(Tone::Good, "connected")
    } else {
        let reason = if link.last_error.is_empty() { "not yet connected" } else { &link.last_error };
        paint.text(Tone::Bad, &format!("not connected: {reason}"))
    };
    format!(
        "{:<15} {} {state}\n{:<15} {} acknowledged of {} sent, {} pending, connects {}\n",
        "control plane",
        paint.text(Tone::Plain, &link.address),
        "",
        units::count(link.acked_sequence),
        units::count(link.last_sequence),
        units::count(link.pending),
        units::count(link.connects),
    )
}

fn attachments(status: &GetStatusResponse, paint: Paint) -> String {
    if status.attachments.is_empty() {
        return paint.text(Tone::Bad, "attached nowhere: this agent sees no traffic") + "\n";
    }
    let mut grid = Grid::new(
        paint,
        &[
            ("INTERFACE", Align::Left),
            ("DIRECTION", Align::Left),
            ("MODE", Align::Left),
            ("NOTE", Align::Left),
        ],
    );
    for attachment in &status.attachments {
        // In skb mode each packet is copied before it is seen, and costs several times more.
        let tone = if attachment.mode == "xdp-skb" { Tone::Warn } else { Tone::Plain };
        grid.row([
            (Tone::Plain, attachment.interface.clone()),
            (Tone::Plain, attachment.direction.clone()),
            (tone, attachment.mode.clone()),
            (Tone::Dim, attachment.note.clone()),
        ]);
    }
    grid.finish()
}

/// What is asked for, and what of it is not watched.
fn interfaces(interfaces: Option<&Interfaces>, paint: Paint) -> String {
    let Some(interfaces) = interfaces else { return String::new() };
    let mut asked = interfaces.include.join(" ");
    if !interfaces.exclude.is_empty() {
        let _ = write!(asked, " but not {}", interfaces.exclude.join(" "));
    }
    let mut text = format!(
        "{:<15} {}\n{:<15} {} appeared, {} vanished since the start\n",
        "interfaces",
        paint.text(Tone::Plain, &asked),
        "",
        units::count(interfaces.appeared),
        units::count(interfaces.vanished),
    );
    if !interfaces.unwatched.is_empty() {
        let mut grid = Grid::new(paint, &[("NOT WATCHED", Align::Left), ("REASON", Align::Left)]);
        for unwatched in &interfaces.unwatched {
            grid.row([(Tone::Plain, unwatched.interface.clone()), (Tone::Plain, unwatched.reason.clone())]);
        }
        text.push_str(&grid.finish());
    }
    text
}

fn packets(status: &GetStatusResponse, paint: Paint) -> String {
    let packets = status.packets.unwrap_or_default();
    let mut grid = Grid::new(paint, &[("PACKETS", Align::Left), ("WATCHED", Align::Right)]);
    for (direction, watched) in [("ingress", packets.ingress_watched), ("egress", packets.egress_watched)] {
        grid.row([direction.to_owned(), units::count(watched)].map(|text| (Tone::Plain, text)));
    }
    grid.finish()
}

fn maps(maps: &[MapStatus], paint: Paint) -> String {
    let mut grid = Grid::new(
        paint,
        &[
            ("MAP", Align::Left),
            ("ENTRIES", Align::Right),
            ("CAPACITY", Align::Right),
            ("FILL", Align::Right),
            ("MEMORY", Align::Right),
        ],
    );
    for map in maps {
        let fill = map
            .entries
            .filter(|_| map.capacity > 0)
            .map(|entries| entries as f64 * 100.0 / map.capacity as f64);
        let tone = if fill.is_some_and(|fill| fill >= NEARLY_FULL_PERCENT) { Tone::Bad } else { Tone::Plain };
        grid.row([
            (Tone::Plain, map.name.clone()),
            (Tone::Plain, map.entries.map_or_else(|| units::ABSENT.to_owned(), units::count)),
            (Tone::Plain, units::count(map.capacity)),
            (tone, units::or_absent(fill, |fill| format!("{fill:.1}%"))),
            (Tone::Plain, units::bytes(map.memory_bytes as f64)),
        ]);
    }
    grid.finish()
}

/// What it takes, in all and for flows.
fn memory(memory: Option<&Memory>, paint: Paint) -> String {
    let Some(memory) = memory else { return String::new() };
    let process = units::or_absent(memory.process_bytes.map(|bytes| bytes as f64), units::bytes);
    let maps = units::bytes(memory.maps_bytes as f64);
    let mut text = format!(
        "{:<15} {}\n",
        "memory",
        paint.text(Tone::Plain, &format!("kernel maps {maps}, agent {process}"))
    );
    let mut grid = Grid::new(
        paint,
        &[
            ("KEPT BY THE AGENT", Align::Left),
            ("ENTRIES", Align::Right),
            ("CAPACITY", Align::Right),
            ("MEMORY", Align::Right),
        ],
    );
    for table in &memory.tables {
        grid.row(
            [
                table.name.clone(),
                units::count(table.entries),
                units::count(table.capacity),
                units::bytes(table.memory_bytes as f64),
            ]
            .map(|text| (Tone::Plain, text)),
        );
    }
    text.push_str(&grid.finish());
    text
}

fn programs(status: &GetStatusResponse, paint: Paint) -> String {
    let mut grid = Grid::new(
        paint,
        &[
            ("PROGRAM", Align::Left),
            ("ID", Align::Right),
            ("VERIFIED", Align::Right),
            ("MACHINE CODE", Align::Right),
        ],
    );
    for program in &status.programs {
        grid.row(
            [
                program.name.clone(),
                program.id.to_string(),
                units::count(u64::from(program.verified_instructions)),
                units::bytes(f64::from(program.jited_bytes)),
            ]
            .map(|text| (Tone::Plain, text)),
        );
    }
    grid.finish()
}
