//! The top of the screen: where this is, whether it is current, and what is lost.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::Theme;
use crate::{
    cli::{output::Tone, units, words},
    top::state::{App, Link},
};

/// Lines of the header, a blank one included.
pub(super) const LINES: u16 = 4;

pub(super) fn draw(app: &App, theme: Theme, frame: &mut Frame<'_>, area: Rect) {
    let lines = vec![place(app, theme), losses(app, theme), shown(app, theme)];
    frame.render_widget(Paragraph::new(lines), area);
}

fn place(app: &App, theme: Theme) -> Line<'static> {
    let mut spans = vec![theme.span(Tone::Strong, "hydrometer")];
    if let Some(status) = &app.status {
        let mut modes: Vec<&str> =
            status.attachments.iter().map(|attachment| attachment.mode.as_str()).collect();
        modes.sort_unstable();
        modes.dedup();
        let mut interfaces: Vec<&str> =
            status.attachments.iter().map(|attachment| attachment.interface.as_str()).collect();
        interfaces.dedup();
        spans.push(theme.span(Tone::Strong, &format!("  {}", status.node)));
        spans.push(theme.span(Tone::Dim, &format!("  {} {}", interfaces.join(","), modes.join("+"))));
    }
    let now = words::instant(app.list.time.as_ref());
    spans.push(match (&app.link, app.is_paused) {
        (Link::Connecting, _) => theme.span(Tone::Warn, "  connecting"),
        (Link::Lost(_), _) => {
            theme.span(Tone::Bad, &format!("  AGENT LOST, last seen {}", units::instant(now)))
        }
        (Link::Live, true) => theme.span(Tone::Warn, &format!("  PAUSED at {}", units::instant(now))),
        (Link::Live, false) => theme.span(Tone::Good, &format!("  {}", units::instant(now))),
    });
    Line::from(spans)
}

fn losses(app: &App, theme: Theme) -> Line<'static> {
    if let Link::Lost(why) = &app.link {
        return Line::from(theme.span(Tone::Bad, &format!("{why}; trying again")));
    }
    let Some(status) = &app.status else { return Line::default() };
    let lost: Vec<_> = status.losses.iter().filter(|loss| loss.count > 0).collect();
    if lost.is_empty() {
        return Line::from(theme.span(Tone::Good, "no losses"));
    }
    let stages: Vec<_> =
        lost.iter().map(|loss| format!("{} {}", loss.stage, units::count(loss.count))).collect();
    Line::from(theme.span(Tone::Bad, &format!("LOST {}", stages.join(", "))))
}

fn shown(app: &App, theme: Theme) -> Line<'static> {
    let rows = app.clients().len() as u64;
    let clients = if rows < app.list.total {
        format!("{} of {} clients", units::count(rows), units::count(app.list.total))
    } else {
        format!("{} clients", units::count(app.list.total))
    };
    let open = app.open_anomalies() as u64;
    let plural = if open == 1 { "y" } else { "ies" };
    let tone = if open == 0 { Tone::Good } else { Tone::Bad };
    let mut spans = vec![
        theme.span(Tone::Plain, &clients),
        theme.span(tone, &format!("  {} open anomal{plural}", units::count(open))),
    ];
    if !app.filter_text.is_empty() {
        spans.push(theme.span(Tone::Warn, &format!("  filter: {}", app.shown(&app.filter_text))));
    }
    if app.is_private {
        spans.push(theme.span(Tone::Dim, "  addresses hidden"));
    }
    Line::from(spans)
}
