//! pcapng (draft-ietf-opsawg-pcapng): sections in the byte order of their own, in them blocks that describe
//! interfaces or hold frames. Blocks of other kinds are passed over.

use std::io::Read;

use super::{
    Error, Order, Record,
    link::Link,
    source::{MAX_RECORD, Source},
};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Superseded by [`ENHANCED_PACKET`].
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Type and length before, length behind.
const BLOCK: usize = 12;
const BODY: usize = 8;

/// What is known of the section that is being read.
#[derive(Debug, Default)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// When the last frame was captured: what the next one gets that has no time of its own.
    time: u64,
}

/// One interface of a section.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Option<Link>,
    /// Bytes captured of a frame at most; 0 is no limit.
    snaplen: u32,
    clock: Clock,
}

/// What an interface's stamps mean.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Units in a second.
    units: u64,
    /// Seconds to be added.
    offset: i64,
}

/// Whether a section begins here.
pub(super) fn is<R: Read>(source: &mut Source<R>) -> Result<bool, Error> {
    Ok(source.peek(4)?.starts_with(&SECTION_HEADER.to_be_bytes()))
}

impl Section {
    /// The next record with a frame; `None` at the end.
    pub(super) fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Record>, Error> {
        loop {
            let offset = source.offset();
            let damaged = |what| Error::Damaged { offset, what };
            let head = source.peek(BLOCK)?;
            if head.is_empty() {
                return Ok(None);
            }
            if head.len() < BLOCK {
                return Err(Error::CutOff { offset });
            }
            let kind = self.order.u32(head, 0);
            if kind == SECTION_HEADER {
                self.order = byte_order(head).ok_or_else(|| damaged("a section without a byte order"))?;
            }
            let len = self.order.u32(head, 4) as usize;
            if len < BLOCK || !len.is_multiple_of(4) {
                return Err(damaged("an impossible block length"));
            }
            if ![SECTION_HEADER, INTERFACE_DESCRIPTION, PACKET, SIMPLE_PACKET, ENHANCED_PACKET]
                .contains(&kind)
            {
                if !source.skip(len as u64)? {
                    return Err(Error::CutOff { offset });
                }
                continue;
            }
            if len > MAX_RECORD {
                return Err(damaged("a block of over 16 MiB"));
            }
            let block = source.peek(len)?;
            if block.len() < len {
                return Err(Error::CutOff { offset });
            }
            if self.order.u32(block, len - 4) as usize != len {
                return Err(damaged("a block whose two lengths differ"));
            }
            let body = &block[BODY..len - 4];
            match kind {
                SECTION_HEADER => self.interfaces.clear(),
                INTERFACE_DESCRIPTION => {
                    self.interfaces.push(Interface::read(self.order, body).map_err(damaged)?);
                }
                _ => {
                    let found = self.packet(kind, body).map_err(damaged)?;
                    self.time = found.time;
                    return Ok(Some(Record { len, ..found }));
                }
            }
            source.take(len);
        }
    }

    /// The frame in the body of a packet block.
    fn packet(&self, kind: u32, body: &[u8]) -> Result<Record, &'static str> {
        const SHORT: &str = "a packet block that is too short";
        const TIME: usize = 4;
        let header = if kind == SIMPLE_PACKET { 4 } else { 20 };
        if body.len() < header {
            return Err(SHORT);
        }
        let interface = match kind {
            SIMPLE_PACKET => 0,
            PACKET => self.order.u16(body, 0).into(),
            _ => self.order.u32(body, 0) as usize,
        };
        let interface =
            self.interfaces.get(interface).ok_or("a packet of an interface that is not described")?;
        let (captured, wire_len, time) = if kind == SIMPLE_PACKET {
            let wire_len = self.order.u32(body, 0);
            let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
            (wire_len.min(limit), wire_len, self.time)
        } else {
            let [high, low, captured, wire_len] =
                [TIME, TIME + 4, TIME + 8, TIME + 12].map(|at| self.order.u32(body, at));
            (captured, wire_len, interface.clock.nanos(u64::from(high) << 32 | u64::from(low)))
        };
        let frame = header..header + captured as usize;
        if frame.end > body.len() {
            return Err(SHORT);
        }
        let frame = BODY + frame.start..BODY + frame.end;
        Ok(Record { len: 0, frame, wire_len, time, link: interface.link })
    }
}

/// The byte order of the section that begins with these bytes.
fn byte_order(head: &[u8]) -> Option<Order> {
    const MAGIC: u32 = 0x1a2b_3c4d;
    [Order::Little, Order::Big].into_iter().find(|order| order.u32(head, BODY) == MAGIC)
}

impl Interface {
    /// Reads the body of an interface's description.
    fn read(order: Order, body: &[u8]) -> Result<Self, &'static str> {
        const TIME_RESOLUTION: u16 = 9;
        const TIME_OFFSET: u16 = 14;
        const HEADER: usize = 8;
        let mut options = body.get(HEADER..).ok_or("an interface description that is too short")?;
        let mut clock = Clock { units: 1_000_000, offset: 0 };
        while options.len() >= 4 {
            let (kind, len) = (order.u16(options, 0), usize::from(order.u16(options, 2)));
            let value = options.get(4..4 + len).ok_or("an option that is longer than its block")?;
            match (kind, value) {
                (0, _) => break,
                (TIME_RESOLUTION, &[resolution]) => {
                    clock.units = units(resolution).ok_or("a time resolution that fits no stamp")?;
                }
                (TIME_OFFSET, value) if len == 8 => {
                    let (first, second) = (order.u32(value, 0), order.u32(value, 4));
                    let (high, low) = if order == Order::Big { (first, second) } else { (second, first) };
                    clock.offset = (u64::from(high) << 32 | u64::from(low)).cast_signed();
                }
                _ => {}
            }
            options = options.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self { link: Link::of(order.u16(body, 0)), snaplen: order.u32(body, 4), clock })
    }
}

/// Units in a second: the highest bit tells whether the others are a power of two or of ten.
fn units(resolution: u8) -> Option<u64> {
    let power = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10_u64.checked_pow(power) } else { 1_u64.checked_shl(power) }
}

impl Clock {
    /// A stamp as nanoseconds since the epoch, as near as they go.
    fn nanos(self, stamp: u64) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        let (seconds, rest) = (stamp / self.units, stamp % self.units);
        let nanos = if SECOND.is_multiple_of(self.units) {
            rest * (SECOND / self.units)
        } else {
            (u128::from(rest) * u128::from(SECOND) / u128::from(self.units)) as u64
        };
        seconds.saturating_add_signed(self.offset).saturating_mul(SECOND).saturating_add(nanos)
    }
}
