//! The help: every key, and the filter language.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    text::Line,
    widgets::{Block, Clear, Paragraph},
};

use super::Theme;
use crate::{
    cli::output::Tone,
    top::{columns::COLUMNS, keys::BINDINGS},
};

const WIDTH: u16 = 76;

pub(super) fn draw(theme: Theme, frame: &mut Frame<'_>, area: Rect) {
    let mut lines: Vec<Line<'_>> = BINDINGS
        .iter()
        .map(|binding| {
            Line::from(vec![
                theme.span(Tone::Strong, &format!(" {:<8}", binding.shown)),
                theme.span(Tone::Plain, binding.does),
            ])
        })
        .collect();
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    lines.extend([
        Line::from(
            theme.span(
                Tone::Strong,
                " Filter: rate>1 203.0.113.0/24 kind:logit_harvest anomaly ja4:t13d !text",
            ),
        ),
        Line::from(theme.span(Tone::Dim, &format!(" columns: {}", names.join(" ")))),
    ]);
    let height = (lines.len() as u16 + 2).min(area.height);
    let place = area.centered(Constraint::Length(WIDTH.min(area.width)), Constraint::Length(height));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), place);
}
