//! All about one client: the page that `hydrometer client` prints, live and scrollable.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::Theme;
use crate::{
    cli::{
        client,
        output::{Paint, Tone},
    },
    top::state::{App, Detail, View},
};

pub(super) fn draw(app: &mut App, theme: Theme, frame: &mut Frame<'_>, area: Rect) {
    let View::Client { address, .. } = &app.view else { return };
    let lines = match &app.detail {
        Detail::Asking => {
            vec![Line::from(theme.span(Tone::Dim, &format!("asking for {}", app.shown(address))))]
        }
        Detail::Unknown => {
            let text = format!("the agent does not know {} any more; Esc goes back", app.shown(address));
            vec![Line::from(theme.span(Tone::Warn, &text))]
        }
        Detail::Known(detail) => match client::render(detail, None, app.now(), Paint::PLAIN) {
            Ok(page) => page.lines().map(|line| styled(theme, &app.shown(line))).collect(),
            Err(error) => vec![Line::from(theme.span(Tone::Bad, &error.to_string()))],
        },
    };
    let height = usize::from(area.height);
    app.set_page(height);
    app.limit_scroll(lines.len().saturating_sub(height));
    let View::Client { scroll, .. } = app.view else { return };
    let visible: Vec<_> = lines.into_iter().skip(scroll).take(height).collect();
    frame.render_widget(Paragraph::new(visible), area);
}

/// Headings are written in capitals on the page.
fn styled(theme: Theme, line: &str) -> Line<'static> {
    let first = line.split_whitespace().next().unwrap_or_default();
    let is_heading = first.len() > 1 && first.chars().all(|letter| letter.is_ascii_uppercase());
    Line::from(theme.span(if is_heading { Tone::Strong } else { Tone::Plain }, line))
}
