//! How results reach a person or a pipe: formats, colour, tables and the last write to stdout.
//!
//! In flows finished text, out flow bytes on stdout. Invariant: colour is written only when it was
//! decided here, and no control character that came over the wire reaches the terminal.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _},
};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// What a listing prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for a person.
    #[default]
    Table,
    /// More columns, or more lines for each entry.
    Wide,
    /// JSON with a stable schema; one object a line where a list has no end.
    Json,
}

/// What a single answer prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// Text for a person.
    #[default]
    Text,
    /// JSON with a stable schema.
    Json,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How urgent a piece of text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// Less important than its surroundings.
    Dim,
    /// All is well.
    Good,
    /// Look at this.
    Warn,
    /// Something is lost or under attack.
    Bad,
}

/// Writes text with or without colour.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    colored: bool,
}

impl Paint {
    /// Without any colour.
    pub const PLAIN: Self = Self { colored: false };

    /// Decides once, from the user's choice, the environment and what stdout is.
    pub fn for_stdout(choice: ColorChoice) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colored: match choice {
                ColorChoice::Always => true,
                ColorChoice::Never => false,
                ColorChoice::Auto => !no_color && io::stdout().is_terminal(),
            },
        }
    }

    /// Whether colour is written.
    pub fn is_colored(self) -> bool {
        self.colored
    }

    /// `text` in that tone, its control characters escaped.
    pub fn text(self, tone: Tone, text: &str) -> String {
        let clean = clean(text);
        let code = match tone {
            Tone::Plain => return clean.into_owned(),
            Tone::Strong => "1",
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
        };
        if self.colored { format!("\x1b[{code}m{clean}\x1b[0m") } else { clean.into_owned() }
    }
}

/// A table without lines: columns two blanks apart, nothing trailing.
pub struct Grid {
    table: Table,
}

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Figures.
    Right,
}

impl Grid {
    /// A table with these columns.
    pub fn new(paint: Paint, columns: &[(&str, Align)]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if paint.colored {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(columns.iter().map(|(title, _)| Cell::new(title).add_attribute(Attribute::Bold)));
        for (column, (_, align)) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2)).set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        Self { table }
    }

    /// Adds a row; control characters are escaped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (Tone, String)>) {
        self.table.add_row(cells.into_iter().map(|(tone, text)| {
            let cell = Cell::new(clean(&text));
            match tone {
                Tone::Plain => cell,
                Tone::Strong => cell.add_attribute(Attribute::Bold),
                Tone::Dim => cell.add_attribute(Attribute::Dim),
                Tone::Good => cell.fg(Color::Green),
                Tone::Warn => cell.fg(Color::Yellow),
                Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            }
        }));
    }

    /// The finished table, a line end after each row.
    pub fn finish(self) -> String {
        let mut text = self.table.trim_fmt();
        text.push('\n');
        text
    }
}

/// `text` with control and direction-changing characters written as escapes, so that a string from
/// the wire can neither move the cursor nor hide what stands beside it.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe_to_draw) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe_to_draw(character) {
            // Writing to a String cannot fail.
            let _ = write!(clean, "{}", character.escape_unicode());
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

fn is_unsafe_to_draw(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Writes `text` to stdout. A reader that has gone away ends the program quietly: nobody is left to
/// tell.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write to stdout"),
    }
}

/// Many lines on stdout, written in large pieces unless a person is looking.
#[derive(Debug)]
pub struct Lines {
    stdout: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Default for Lines {
    fn default() -> Self {
        let stdout = io::stdout().lock();
        Self { is_terminal: stdout.is_terminal(), stdout: BufWriter::with_capacity(1 << 16, stdout) }
    }
}

impl Lines {
    /// Writes one line. As [`print`] does, it ends the program when the reader has gone away.
    pub fn print(&mut self, line: &str) -> anyhow::Result<()> {
        let written_line = writeln!(self.stdout, "{line}");
        let flushed = if self.is_terminal { self.stdout.flush() } else { Ok(()) };
        written(written_line.and(flushed))
    }

    /// Writes what has not been written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        written(self.stdout.flush())
    }
}

/// Writes `value` as one JSON document, indented where a person reads it.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        return print_json_line(value);
    }
    print(&(serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n"))
}

/// Writes `value` as one line of JSON.
pub fn print_json_line(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value).context("cannot write JSON")? + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_from_the_wire_cannot_steer_the_terminal() {
        assert_eq!(clean("203.0.113.7"), "203.0.113.7");
        assert_eq!(clean("a\x1b[2Jb\r\n\u{202e}c\u{9b}"), r"a\u{1b}[2Jb\u{d}\u{a}\u{202e}c\u{9b}");
        assert_eq!(Paint::PLAIN.text(Tone::Bad, "x\x07"), r"x\u{7}");
        assert_eq!(Paint { colored: true }.text(Tone::Bad, "x\x07"), "\x1b[1;31mx\\u{7}\x1b[0m");
    }

    #[test]
    fn figures_lean_right_and_nothing_trails() {
        let mut grid =
            Grid::new(Paint::PLAIN, &[("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        grid.row([(Tone::Plain, "a".into()), (Tone::Bad, "1.0 KiB".into()), (Tone::Plain, "-".into())]);
        assert_eq!(grid.finish(), "NAME     SIZE  NOTE\na     1.0 KiB  -\n");
    }
}
