//! One frame of the live view: header, pane, footer, and the help over them.
//!
//! In flows the state, out flows a drawn frame. Invariant: any size draws; one too small says so.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    keys::BINDINGS,
    state::{App, View},
};
use crate::cli::output::{Paint, Tone, clean};

mod client;
mod header;
mod help;
mod table;

const LEAST_WIDTH: u16 = 80;
const LEAST_HEIGHT: u16 = 20;

/// How tones look.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    is_colored: bool,
}

impl Theme {
    /// Colours as on stdout.
    pub fn new(paint: Paint) -> Self {
        Self { is_colored: paint.is_colored() }
    }

    /// The style of a tone; without colour, what is bad is still bold.
    pub fn style(self, tone: Tone) -> Style {
        let color = |color: Color| if self.is_colored { Style::new().fg(color) } else { Style::new() };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Good => color(Color::Green),
            Tone::Warn => color(Color::Yellow),
            Tone::Bad => color(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// A piece of a line, its control characters escaped.
    pub fn span(self, tone: Tone, text: &str) -> Span<'static> {
        Span::styled(clean(text).into_owned(), self.style(tone))
    }
}

/// Draws everything.
pub fn frame(app: &mut App, theme: Theme, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < LEAST_WIDTH || area.height < LEAST_HEIGHT {
        return too_small(frame, area);
    }
    let [header, body, footer] =
        Layout::vertical([Constraint::Length(header::LINES), Constraint::Min(1), Constraint::Length(1)])
            .areas(area);
    header::draw(app, theme, frame, header);
    match app.view {
        View::List => table::draw(app, theme, frame, body),
        View::Client { .. } => client::draw(app, theme, frame, body),
    }
    frame.render_widget(footer_line(app, theme), footer);
    if app.is_help_open {
        help::draw(theme, frame, body);
    }
}

fn too_small(frame: &mut Frame<'_>, area: Rect) {
    let text = format!(
        "This terminal is {} by {}; hydrometer top needs {LEAST_WIDTH} by {LEAST_HEIGHT}.\nMake it larger, or press q.",
        area.width, area.height
    );
    frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
}

fn footer_line(app: &App, theme: Theme) -> Line<'static> {
    if let Some(typing) = &app.typing {
        let mut spans =
            vec![theme.span(Tone::Strong, "/"), theme.span(Tone::Plain, &typing.text), Span::raw("█")];
        if let Some(error) = &typing.error {
            spans.extend([Span::raw("  "), theme.span(Tone::Bad, error)]);
        } else {
            spans.push(theme.span(Tone::Dim, "  rate>1 203.0.113.0/24 kind:logit_harvest !text"));
        }
        return Line::from(spans);
    }
    let hints = BINDINGS.iter().filter(|binding| !binding.hint.is_empty());
    let spans = hints.flat_map(|binding| {
        [theme.span(Tone::Strong, binding.shown), theme.span(Tone::Dim, &format!(" {}  ", binding.hint))]
    });
    Line::from(spans.collect::<Vec<_>>())
}
