//! `hydrometer top`: the clients of this node, live.
//!
//! In flow keys and the agent's streams, out flow frames. [`state`] decides, [`draw`] shows, [`feed`]
//! fetches; this module joins them. Invariant: the terminal is given back as it was found, whatever
//! happens.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures::StreamExt as _;
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};

use self::{
    feed::Feed,
    state::{App, Detail, Link, Update, View},
};
use crate::cli::{
    output::{self, ColorChoice, Paint},
    words,
};

pub mod columns;
pub mod draw;
pub mod feed;
pub mod filter;
pub mod keys;
pub mod state;

/// Updates that wait while a frame is drawn.
const QUEUE: usize = 64;
/// How long `--once` waits for the first picture.
const FIRST_PICTURE: Duration = Duration::from_secs(10);

/// Watch the clients live.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Between pictures, e.g. 500ms or 2s
    #[arg(long, default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// At most this many clients
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Begin with this filter, e.g. 'rate>1 kind:logit_harvest'
    #[arg(long, value_name = "TERMS", default_value = "")]
    filter: String,
    /// Begin with the page of this client
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,
    /// Hide addresses from the start
    #[arg(long)]
    private: bool,
    /// Print one picture as text and leave; needs no terminal
    #[arg(long)]
    once: bool,
    /// Width of that picture
    #[arg(long, requires = "once", default_value_t = 120, value_parser = clap::value_parser!(u16).range(20..=1000))]
    width: u16,
    /// Height of that picture
    #[arg(long, requires = "once", default_value_t = 40, value_parser = clap::value_parser!(u16).range(5..=1000))]
    height: u16,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

fn parse_interval(text: &str) -> anyhow::Result<Duration> {
    let span: Duration = text
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|span| span.try_into().ok())
        .with_context(|| format!("{text:?} is not a span; give one such as 500ms or 2s"))?;
    ensure!(span >= Duration::from_millis(100), "{text} is too short; 100ms is the least");
    Ok(span)
}

/// Shows the agent on `socket`, live or once.
pub async fn run(args: TopArgs, socket: &Path) -> anyhow::Result<()> {
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !args.once && !is_terminal {
        bail!("the live view needs a terminal; use `hydrometer top --once` or `hydrometer clients`");
    }
    let mut app = App::default();
    app.is_private = args.private;
    app.set_filter(&args.filter).map_err(|error| anyhow::anyhow!("--filter: {error}"))?;
    if let Some(address) = args.client {
        app.open_client(address);
    }
    let theme = draw::Theme::new(Paint::for_stdout(args.color));
    let (wanted, wants) = watch::channel(app.wanted());
    let (sender, updates) = mpsc::channel(QUEUE);
    let feed = Feed { socket: socket.to_owned(), interval: args.interval, limit: args.limit };
    let feed = tokio::spawn(feed.run(wants, sender));
    let result = if args.once {
        once(app, updates, theme, (args.width, args.height)).await
    } else {
        live(app, updates, wanted, theme).await
    };
    feed.abort();
    result
}

/// Gives the terminal back on every way out; a panic does it through ratatui's hook.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn live(
    mut app: App,
    mut updates: mpsc::Receiver<Update>,
    wanted: watch::Sender<state::Wanted>,
    theme: draw::Theme,
) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut terminal = ratatui::try_init().context("cannot set up the terminal")?;
    let _restore = Restore;
    let mut keys = EventStream::new();
    while !app.is_done {
        terminal.draw(|frame| draw::frame(&mut app, theme, frame)).context("cannot draw")?;
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => app.key(key),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("cannot read keys from the terminal"),
                None => break,
            },
            Some(update) = updates.recv() => {
                app.update(update);
                // Take what else has come, so that a burst costs one frame.
                while let Ok(update) = updates.try_recv() {
                    app.update(update);
                }
            }
            _ = terminated.recv() => break,
        }
        let wants = app.wanted();
        wanted.send_if_modified(|current| {
            *current != wants && {
                *current = wants;
                true
            }
        });
    }
    Ok(())
}

async fn once(
    mut app: App,
    mut updates: mpsc::Receiver<Update>,
    theme: draw::Theme,
    size: (u16, u16),
) -> anyhow::Result<()> {
    let complete = async {
        while !is_complete(&app) {
            let Some(update) = updates.recv().await else { bail!("the agent is gone") };
            app.update(update);
            if let Link::Lost(why) = &app.link {
                bail!("{why}");
            }
        }
        Ok(())
    };
    timeout(FIRST_PICTURE, complete)
        .await
        .with_context(|| format!("no picture from the agent in {} s", FIRST_PICTURE.as_secs()))??;
    output::print(&picture(&mut app, theme, size)?)
}

/// Whether everything on the screen has arrived, the kinds of open anomalies included.
fn is_complete(app: &App) -> bool {
    let is_known =
        |client: &hydrometer_proto::v1::Client| app.kinds(client).len() == client.open_anomalies.len();
    app.status.is_some()
        && words::instant(app.list.time.as_ref()).is_some()
        && app.list.clients.iter().all(is_known)
        && (app.view == View::List || app.detail != Detail::Asking)
}

/// One frame as text.
pub fn picture(app: &mut App, theme: draw::Theme, (width, height): (u16, u16)) -> anyhow::Result<String> {
    let mut terminal =
        Terminal::new(TestBackend::new(width, height)).context("cannot lay out the picture")?;
    terminal.draw(|frame| draw::frame(app, theme, frame)).context("cannot draw the picture")?;
    Ok(text(terminal.backend().buffer()))
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    buffer.content().chunks(width).fold(String::new(), |text, line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text + line.trim_end() + "\n"
    })
}
