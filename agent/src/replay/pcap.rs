//! Reading captures: pcap and pcapng, of Ethernet, of any interface (`-i any`) and of bare IP.
//!
//! Invariant: a file that is cut off or damaged gives the frames before the damage, then an error.

use std::{fs::File, io, path::Path};

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader, traits::PcapReaderIterator};

use super::Captured;

/// Largest frame that is read: a super-frame and its record header.
const BUFFER: usize = 1 << 20;
const ETHERNET: usize = 14;

/// Why a capture could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no capture.
    #[error("{0} is not a capture; give a pcap or pcapng file (as `tcpdump -w` writes them)")]
    NotACapture(String),
    /// It breaks off.
    #[error("{path} is damaged or cut off after frame {frames}; what was read before is counted")]
    Damaged {
        /// Which.
        path: String,
        /// Frames read before.
        frames: u64,
    },
    /// Frames of a link type that is not read.
    #[error("{path} holds frames of link type {link}; capture on an Ethernet interface, or on `any`")]
    LinkType {
        /// Which.
        path: String,
        /// The number of the type.
        link: i32,
    },
}

/// One interface of a capture.
#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Units of a timestamp in a second.
    units: u64,
    offset: i64,
}

/// Hands each frame of the capture at `path` (`-` is standard input) to `frame`; returns how many.
pub fn read(path: &Path, mut frame: impl FnMut(&Captured<'_>)) -> Result<u64, Error> {
    let name = path.display().to_string();
    let source: Box<dyn io::Read + Send> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|source| Error::Open { path: name.clone(), source })?)
    };
    let mut reader = create_reader(BUFFER, source).map_err(|_| Error::NotACapture(name.clone()))?;
    let mut interfaces = Vec::new();
    let mut frames = 0;
    let mut ethernet = Vec::new();
    loop {
        match reader.next() {
            Ok((consumed, block)) => {
                if let Some(found) = packet(&block, &mut interfaces) {
                    frames += 1;
                    let shown = as_ethernet(&found, &mut ethernet)
                        .ok_or_else(|| Error::LinkType { path: name.clone(), link: found.link.0 })?;
                    frame(&shown);
                }
                reader.consume(consumed);
            }
            Err(PcapError::Eof) => return Ok(frames),
            Err(PcapError::Incomplete(_)) => match refill(reader.as_mut()) {
                Refilled::More => {}
                Refilled::End => return Ok(frames),
                Refilled::CutOff => return Err(Error::Damaged { path: name, frames }),
            },
            Err(_) => return Err(Error::Damaged { path: name, frames }),
        }
    }
}

/// What reading on gave.
enum Refilled {
    More,
    End,
    CutOff,
}

/// Reads on in the file.
fn refill(reader: &mut dyn PcapReaderIterator) -> Refilled {
    let before = reader.data().len();
    // An error of the file itself shows as no more data, like its end.
    let _ = reader.refill();
    match reader.data().len() {
        0 => Refilled::End,
        now if now > before => Refilled::More,
        _ => Refilled::CutOff,
    }
}

/// A frame with what its interface says about it.
struct Found<'a> {
    link: Linktype,
    time: u64,
    len: u32,
    bytes: &'a [u8],
}

/// The frame in a block, if it holds one; interfaces are taken note of.
fn packet<'a>(block: &'a PcapBlockOwned<'_>, interfaces: &mut Vec<Interface>) -> Option<Found<'a>> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let units = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            interfaces.push(Interface { link: header.network, units, offset: 0 });
            None
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = interfaces.first()?;
            let fraction = u64::from(packet.ts_usec).saturating_mul(1_000_000_000 / interface.units);
            Some(Found {
                link: interface.link,
                time: u64::from(packet.ts_sec) * 1_000_000_000 + fraction,
                len: packet.origlen,
                bytes: packet.data,
            })
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
            let units = description.ts_resolution().unwrap_or(1_000_000).max(1);
            interfaces.push(Interface { link: description.linktype, units, offset: description.ts_offset() });
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = interfaces.get(packet.if_id as usize)?;
            let stamp = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
            let nanos = stamp * 1_000_000_000 / u128::from(interface.units);
            let offset = i128::from(interface.offset) * 1_000_000_000;
            Some(Found {
                link: interface.link,
                time: u64::try_from(nanos.cast_signed() + offset).unwrap_or(0),
                len: packet.origlen,
                bytes: packet.data.get(..packet.caplen as usize)?,
            })
        }
        PcapBlockOwned::NG(_) => None,
    }
}

/// The frame with an Ethernet header, which `buffer` lends to those that have another one. `None` for a
/// link type that is not read.
fn as_ethernet<'a>(found: &Found<'a>, buffer: &'a mut Vec<u8>) -> Option<Captured<'a>> {
    const SLL: usize = 16;
    const SLL2: usize = 20;
    let (header, ethertype) = match found.link {
        Linktype::ETHERNET => return Some(Captured { time: found.time, len: found.len, bytes: found.bytes }),
        Linktype::RAW | Linktype(12 | 14 | 228 | 229) => {
            (0, if found.bytes.first()? >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] })
        }
        Linktype::LINUX_SLL => (SLL, ethertype(found.bytes, SLL - 2)),
        Linktype::LINUX_SLL2 => (SLL2, ethertype(found.bytes, 0)),
        _ => return None,
    };
    buffer.clear();
    buffer.resize(ETHERNET - 2, 0);
    buffer.extend_from_slice(&ethertype);
    buffer.extend_from_slice(found.bytes.get(header..).unwrap_or_default());
    let len = found.len.saturating_sub(header as u32) + ETHERNET as u32;
    Some(Captured { time: found.time, len, bytes: buffer })
}

fn ethertype(bytes: &[u8], at: usize) -> [u8; 2] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}
