//! pcap, as libpcap writes it (draft-ietf-opsawg-pcap): a header, then records of 16 bytes and the frame.

use std::io::Read;

use super::{
    Error, Order, Record,
    link::Link,
    source::{MAX_RECORD, Source},
};

const HEADER: usize = 24;
const RECORD: usize = 16;
/// Of the format with interface and protocol in each record, which some Linux distributions once wrote.
const MODIFIED_RECORD: usize = 24;

/// What the header says.
#[derive(Debug)]
pub(super) struct File {
    order: Order,
    /// Bytes before the frame.
    record: usize,
    /// Nanoseconds in a unit of a record's fraction of a second.
    fraction: u64,
    link: Link,
}

impl File {
    /// Reads the header.
    pub(super) fn open<R: Read>(source: &mut Source<R>) -> Result<Self, Error> {
        const MICROSECONDS: u32 = 0xa1b2_c3d4;
        const NANOSECONDS: u32 = 0xa1b2_3c4d;
        const MODIFIED: u32 = 0xa1b2_cd34;
        let header = source.peek(HEADER)?;
        if header.len() < HEADER {
            return Err(Error::NotACapture);
        }
        let (order, (record, fraction)) = [Order::Little, Order::Big]
            .into_iter()
            .find_map(|order| {
                Some((
                    order,
                    match order.u32(header, 0) {
                        MICROSECONDS => (RECORD, 1000),
                        NANOSECONDS => (RECORD, 1),
                        MODIFIED => (MODIFIED_RECORD, 1000),
                        _ => return None,
                    },
                ))
            })
            .ok_or(Error::NotACapture)?;
        // The upper half tells of frame check sequences, which nobody looks at.
        let number = order.u32(header, 20) as u16;
        let link = Link::of(number).ok_or(Error::LinkType(number))?;
        source.take(HEADER);
        Ok(Self { order, record, fraction, link })
    }

    /// The record at the source's position; `None` at the end.
    pub(super) fn next<R: Read>(&self, source: &mut Source<R>) -> Result<Option<Record>, Error> {
        let offset = source.offset();
        let header = source.peek(self.record)?;
        if header.is_empty() {
            return Ok(None);
        }
        if header.len() < self.record {
            return Err(Error::CutOff { offset });
        }
        let [seconds, fraction, captured, wire_len] = [0, 4, 8, 12].map(|at| self.order.u32(header, at));
        let len = self.record + captured as usize;
        if len > MAX_RECORD {
            return Err(Error::Damaged { offset, what: "a frame of over 16 MiB" });
        }
        if source.peek(len)?.len() < len {
            return Err(Error::CutOff { offset });
        }
        let time = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.fraction;
        Ok(Some(Record { len, frame: self.record..len, wire_len, time, link: Some(self.link) }))
    }
}
