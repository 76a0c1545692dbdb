//! Captures made by hand: frames in every form in which the formats can hold them.

use std::ops::Range;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// A frame with an Ethernet header.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// The whole frame.
    pub bytes: Vec<u8>,
}

/// In which order numbers have their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Least significant first.
    Little,
    /// Most significant first.
    Big,
}

impl Order {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Little, Self::Big];

    fn u16(self, number: u16) -> [u8; 2] {
        if self == Self::Big { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn u32(self, number: u32) -> [u8; 4] {
        if self == Self::Big { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn u64(self, number: u64) -> [u8; 8] {
        if self == Self::Big { number.to_be_bytes() } else { number.to_le_bytes() }
    }
}

/// Link types, by their numbers.
pub mod link {
    /// Ethernet.
    pub const ETHERNET: u16 = 1;
    /// BSD loopback, address family in the byte order of the machine.
    pub const NULL: u16 = 0;
    /// BSD loopback, address family in network order.
    pub const LOOP: u16 = 108;
    /// IP.
    pub const RAW: u16 = 101;
    /// IPv4.
    pub const IPV4: u16 = 228;
    /// IPv6.
    pub const IPV6: u16 = 229;
    /// Linux's `any`.
    pub const SLL: u16 = 113;
    /// The same, second version.
    pub const SLL2: u16 = 276;
}

/// `frame`, which is Ethernet, as an interface of this link type has it.
pub fn linked(link: u16, order: Order, frame: &[u8]) -> Vec<u8> {
    let (ethertype, packet) = ([frame[12], frame[13]], &frame[ETHERNET..]);
    let family = if ethertype == [0x86, 0xdd] { 30 } else { 2 };
    let header = match link {
        link::NULL => order.u32(family).to_vec(),
        link::LOOP => family.to_be_bytes().to_vec(),
        link::RAW | link::IPV4 | link::IPV6 => Vec::new(),
        // Sent to us, by Ethernet, from an address of six bytes.
        link::SLL => [&[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0][..], &ethertype].concat(),
        link::SLL2 => [&ethertype[..], &[0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0]].concat(),
        _ => frame[..ETHERNET].to_vec(),
    };
    [&header, packet].concat()
}

/// A pcap file, of microseconds or of nanoseconds. Of each frame `snaplen` bytes are kept.
pub fn pcap(order: Order, nanos: bool, link: u16, snaplen: usize, frames: &[Frame]) -> Vec<u8> {
    let magic = if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let version = [order.u16(2), order.u16(4)].concat();
    let mut file =
        [&order.u32(magic)[..], &version, &[0; 8], &order.u32(snaplen as u32), &order.u32(link.into())]
            .concat();
    for Frame { time, bytes } in frames {
        let bytes = linked(link, order, bytes);
        let time = time / if nanos { 1 } else { 1000 };
        file.extend(record(order, if nanos { 1_000_000_000 } else { 1_000_000 }, time, snaplen, &bytes));
    }
    file
}

/// A record of a pcap file, stamped in units of which a second has so many. Of the frame `snaplen` bytes are kept.
pub fn record(order: Order, units: u64, time: u64, snaplen: usize, frame: &[u8]) -> Vec<u8> {
    let kept = &frame[..frame.len().min(snaplen)];
    let header = [(time / units) as u32, (time % units) as u32, kept.len() as u32, frame.len() as u32];
    [&header.map(|number| order.u32(number)).concat()[..], kept].concat()
}

/// An interface of a pcapng file.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Its link type.
    pub link: u16,
    /// `if_tsresol`: a power of ten, or with the highest bit of two; none for the microseconds that it stands for.
    pub resolution: Option<u8>,
    /// `if_tsoffset`, seconds.
    pub offset: i64,
}

/// Which block a pcapng file has frames in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The usual one, with an option.
    Enhanced,
    /// Its predecessor.
    Obsolete,
    /// Without interface and time.
    Simple,
}

/// A section of a pcapng file: the frames come from each of the interfaces in turn.
pub fn section(order: Order, interfaces: &[Interface], packet: Packet, frames: &[Frame]) -> Vec<u8> {
    // An unknown length, so that readers must go by the blocks.
    let header = [&order.u32(0x1a2b_3c4d)[..], &order.u16(1), &order.u16(0), &order.u64(u64::MAX)].concat();
    let mut file = block(order, 0x0a0d_0d0a, &header);
    for interface in interfaces {
        file.extend(block(order, 1, &description(order, interface)));
        // Statistics, which say nothing about frames.
        file.extend(block(order, 5, &[0; 12]));
    }
    for (number, frame) in frames.iter().enumerate() {
        let id = number % interfaces.len();
        let interface = &interfaces[id];
        let bytes = linked(interface.link, order, &frame.bytes);
        let stamp = stamp(interface, frame.time);
        let mut body = match packet {
            Packet::Enhanced => order.u32(id as u32).to_vec(),
            Packet::Obsolete => [order.u16(id as u16), order.u16(0xffff)].concat(),
            Packet::Simple => Vec::new(),
        };
        if packet != Packet::Simple {
            for number in [(stamp >> 32) as u32, stamp as u32, bytes.len() as u32] {
                body.extend(order.u32(number));
            }
        }
        body.extend(order.u32(bytes.len() as u32));
        body.extend(&bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        if packet == Packet::Enhanced {
            // A comment.
            body.extend([&order.u16(1)[..], &order.u16(2), b"hi\0\0", &[0; 4]].concat());
        }
        let kind = match packet {
            Packet::Enhanced => 6,
            Packet::Obsolete => 2,
            Packet::Simple => 3,
        };
        file.extend(block(order, kind, &body));
    }
    file
}

/// Where the body of the block at `at` is.
pub fn body(file: &[u8], order: Order, at: usize) -> Range<usize> {
    let len = [file[at + 4], file[at + 5], file[at + 6], file[at + 7]];
    let len = if order == Order::Big { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) };
    at + 8..at + len as usize - 4
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let len = order.u32(body.len() as u32 + 12);
    [&order.u32(kind)[..], &len, body, &len].concat()
}

fn description(order: Order, interface: &Interface) -> Vec<u8> {
    let mut body = [&order.u16(interface.link)[..], &[0; 2], &order.u32(0)].concat();
    // A name first, which readers pass over.
    body.extend([&order.u16(2)[..], &order.u16(3), b"lo0\0"].concat());
    if let Some(resolution) = interface.resolution {
        body.extend([&order.u16(9)[..], &order.u16(1), &[resolution, 0, 0, 0]].concat());
    }
    if interface.offset != 0 {
        body.extend(
            [&order.u16(14)[..], &order.u16(8), &order.u64(interface.offset.cast_unsigned())].concat(),
        );
    }
    body.extend([0; 4]);
    body
}

/// `time` in units of the interface, rounded up.
fn stamp(interface: &Interface, time: u64) -> u64 {
    let resolution = interface.resolution.unwrap_or(6);
    let power = u32::from(resolution & 0x7f);
    let units = if resolution & 0x80 == 0 { 10_u128.pow(power) } else { 1 << power };
    let time = i128::from(time) - i128::from(interface.offset) * 1_000_000_000;
    (time.cast_unsigned() * units).div_ceil(1_000_000_000) as u64
}
