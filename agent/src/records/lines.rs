//! Lines of bounded length, each an exchange or counted.

use std::io::{self, BufRead, Read as _};

use hydrometer_engine::Exchange;

use super::{
    Faults, Reason,
    line::{self, Line},
};

/// Bytes of a line at most; one of an exchange has some hundred.
const MAX_LINE: u64 = 1 << 16;

/// A text that is read line by line.
#[derive(Debug)]
pub(super) struct Lines<R> {
    source: R,
    line: Vec<u8>,
    /// Lines read.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, line: Vec::new(), number: 0 }
    }

    /// The next exchange and its line; `None` where nothing follows that can be read.
    pub(super) fn next(&mut self, faults: &mut Faults) -> Option<(u64, Exchange)> {
        loop {
            match self.read_line() {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(error) => {
                    faults.add(Reason::Damaged, self.number + 1, &error);
                    return None;
                }
            }
            if self.line.len() as u64 > MAX_LINE {
                faults.add(
                    Reason::TooLong,
                    self.number,
                    &format_args!("a line of more than {MAX_LINE} bytes"),
                );
                continue;
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            match line::read(&self.line) {
                Ok(Line { exchange, unknown }) => {
                    if let Some(unknown) = unknown {
                        faults.add(Reason::UnknownField, self.number, &unknown);
                    }
                    return Some((self.number, exchange));
                }
                Err((reason, said)) => faults.add(reason, self.number, &said),
            }
        }
    }

    /// Reads a line, of a long one the begin; returns how much of it there was, 0 at the end.
    fn read_line(&mut self) -> io::Result<usize> {
        self.line.clear();
        (&mut self.source).take(MAX_LINE + 1).read_until(b'\n', &mut self.line)?;
        if self.line.len() as u64 > MAX_LINE && !self.line.ends_with(b"\n") {
            self.source.skip_until(b'\n')?;
        }
        Ok(self.line.len())
    }
}
