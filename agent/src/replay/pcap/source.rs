//! A stream of bytes, of which as much as one record is held at a time.

use std::io::{ErrorKind, Read};

use super::Error;

/// Bytes held from the begin; more only while a longer record is read.
const BUFFER: usize = 1 << 20;
/// Bytes of a record at most: 64 times what `tcpdump` captures of a packet.
pub(super) const MAX_RECORD: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Source<R> {
    read: R,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not been taken.
    start: usize,
    end: usize,
    /// Where in the stream the buffer begins.
    base: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read, buffer: vec![0; BUFFER], start: 0, end: 0, base: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    /// The next bytes, `count` or more of them; fewer only where the stream ends. `count` is [`MAX_RECORD`] at
    /// most.
    pub(super) fn peek(&mut self, count: usize) -> Result<&[u8], Error> {
        if self.end - self.start < count {
            self.fill(count)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// The next `count` bytes, which have been peeked at.
    pub(super) fn take(&mut self, count: usize) -> &mut [u8] {
        let start = self.start;
        self.start += count;
        &mut self.buffer[start..self.start]
    }

    /// Leaves `count` bytes out; `false` where the stream ends before.
    pub(super) fn skip(&mut self, count: u64) -> Result<bool, Error> {
        let mut left = count;
        while left > 0 {
            let there = self.peek(1)?.len() as u64;
            if there == 0 {
                return Ok(false);
            }
            self.take(there.min(left) as usize);
            left -= there.min(left);
        }
        Ok(true)
    }

    #[cold]
    fn fill(&mut self, count: usize) -> Result<(), Error> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        (self.start, self.end) = (0, self.end - self.start);
        if count > self.buffer.len() {
            self.buffer.resize(count, 0);
        }
        while self.end < count {
            match self.read.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(more) => self.end += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { offset: self.base + self.end as u64, source }),
            }
        }
        Ok(())
    }
}
