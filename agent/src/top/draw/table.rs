//! The clients, a row each.

use hydrometer_proto::v1::Client;
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Rect},
    style::{Modifier, Style},
    text::{Line, Text},
    widgets::{Cell, Row, Table, TableState},
};

use super::Theme;
use crate::{
    cli::{chart, output::Tone, units, words},
    top::{
        columns::{COLUMNS, Column, SortBy},
        state::{App, Link},
    },
};

/// An IPv6 /64 written out, where there is room.
const ADDRESS_WIDTHS: [(u16, u16); 2] = [(110, 24), (0, 18)];
/// A point of the sparkline is 10 s; from this width on it is drawn.
const SPARKLINE_FROM_WIDTH: u16 = 110;
const SPARKLINE_POINTS: usize = 18;
const LEAST_ANOMALIES_WIDTH: u16 = 12;

pub(super) fn draw(app: &mut App, theme: Theme, frame: &mut Frame<'_>, area: Rect) {
    app.set_page(usize::from(area.height.saturating_sub(1)));
    if app.clients().len() == 0 {
        return frame.render_widget(Text::styled(nobody(app), theme.style(Tone::Dim)), area);
    }
    let columns: Vec<(usize, &Column)> =
        COLUMNS.iter().enumerate().filter(|(_, column)| column.from_width <= area.width).collect();
    let address_width =
        ADDRESS_WIDTHS.iter().find(|(from, _)| *from <= area.width).map_or(18, |(_, width)| *width);
    let has_sparkline = area.width >= SPARKLINE_FROM_WIDTH;
    let sparkline_width = if has_sparkline { SPARKLINE_POINTS as u16 } else { 0 };

    let mut widths = vec![Constraint::Length(address_width)];
    widths.extend(columns.iter().map(|(_, column)| Constraint::Length(column.width)));
    if has_sparkline {
        widths.push(Constraint::Length(sparkline_width));
    }
    widths.push(Constraint::Min(LEAST_ANOMALIES_WIDTH));

    let rows = app.clients().map(|client| row(app, theme, client, &columns, has_sparkline));
    let table = Table::new(rows, widths)
        .header(header(app, theme, &columns, has_sparkline))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(app.selected_row()));
    frame.render_stateful_widget(table, area, &mut state);
}

fn nobody(app: &App) -> &'static str {
    match app.link {
        Link::Connecting => "waiting for the agent",
        _ if app.filter_text.is_empty() => "no clients yet: nobody has talked to a watched service",
        _ => "no client meets the filter; Esc drops it",
    }
}

fn header(app: &App, theme: Theme, columns: &[(usize, &Column)], has_sparkline: bool) -> Row<'static> {
    // An arrow beside the title marks the column that decides, and which way.
    let title = |by: SortBy, title: &str, ascending: bool| {
        if app.sort != by {
            return title.to_owned();
        }
        format!("{}{title}", if ascending == app.reversed { '▼' } else { '▲' })
    };
    let mut cells = vec![Cell::from(title(SortBy::Address, "CLIENT", true))];
    cells.extend(
        columns
            .iter()
            .map(|(index, column)| right(title(SortBy::Figure(*index), column.title, column.ascending))),
    );
    if has_sparkline {
        cells.push(Cell::from("LAST 3 MIN"));
    }
    cells.push(Cell::from("ANOMALIES"));
    Row::new(cells).style(theme.style(Tone::Strong))
}

fn row(
    app: &App,
    theme: Theme,
    client: &Client,
    columns: &[(usize, &Column)],
    has_sparkline: bool,
) -> Row<'static> {
    let tone = if client.open_anomalies.is_empty() { Tone::Plain } else { Tone::Bad };
    let mut cells = vec![Cell::from(theme.span(tone, &app.shown(&client.address)))];
    cells.extend(
        columns
            .iter()
            .map(|(_, column)| right(units::or_absent((column.value)(client, app.now()), column.write))),
    );
    if has_sparkline {
        let series = &client.rate_series;
        let recent = &series[series.len().saturating_sub(SPARKLINE_POINTS)..];
        cells.push(Cell::from(chart::sparkline(recent)));
    }
    cells.push(Cell::from(theme.span(tone, &anomalies(app, client))));
    Row::new(cells)
}

/// The kinds; what was raised so lately that its kind is not known yet is counted.
fn anomalies(app: &App, client: &Client) -> String {
    let kinds = app.kinds(client);
    let unknown = client.open_anomalies.len().saturating_sub(kinds.len());
    let mut names: Vec<String> = kinds.into_iter().map(words::kind).collect();
    if unknown > 0 {
        names.push(format!("{unknown} new"));
    }
    names.join(",")
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).alignment(Alignment::Right))
}
