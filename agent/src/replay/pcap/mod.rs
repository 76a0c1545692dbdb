//! Reading captures: pcap and pcapng in either byte order, of Ethernet, Linux's `any`, loopback and bare IP.
//!
//! In flows a stream of bytes, from a file or a pipe; out flow frames with an Ethernet header, whatever header
//! they had. Invariant: memory does not grow with the capture, and one that is cut off or damaged gives every
//! frame before the damage, then an error that says where it is.

mod classic;
mod link;
mod ng;
mod source;

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use self::{link::Link, source::Source};
use super::Captured;

/// Why a capture could not be read (on).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open it")]
    Open(#[source] io::Error),
    /// Reading failed.
    #[error("cannot read on after byte {offset}")]
    Read {
        /// Bytes read before.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no capture.
    #[error("not a capture; give a pcap or pcapng file, as `tcpdump -w` writes them, decompressed")]
    NotACapture,
    /// It ends inside a record.
    #[error("cut off in the record that begins at byte {offset}; everything before it was read")]
    CutOff {
        /// Where the record begins.
        offset: u64,
    },
    /// A record says what cannot be.
    #[error("damaged at byte {offset}: {what}; everything before it was read")]
    Damaged {
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Frames of a link type that is not read.
    #[error("frames of link type {0} are not read; capture on an Ethernet interface, on `any`, or bare IP")]
    LinkType(u16),
}

/// What a capture held so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Frames read.
    pub frames: u64,
    /// Of these, frames of which the capture has fewer bytes than were on the wire.
    pub shortened: u64,
    /// Frames left out, since their interface has a link type that is not read.
    pub unread: u64,
}

/// A capture that is read frame by frame.
#[derive(Debug)]
pub struct Capture<R> {
    source: Source<R>,
    format: Format,
    contents: Contents,
}

#[derive(Debug)]
enum Format {
    Classic(classic::File),
    Ng(ng::Section),
}

/// A frame in the record at the source's position.
#[derive(Debug)]
struct Record {
    /// Bytes of the record.
    len: usize,
    /// Where in the record the frame is.
    frame: Range<usize>,
    /// Bytes that were on the wire.
    wire_len: u32,
    /// Nanoseconds since the epoch.
    time: u64,
    /// `None` when frames of this type are not read.
    link: Option<Link>,
}

impl Capture<Box<dyn Read + Send>> {
    /// Opens the capture at `path`; `-` is standard input.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::new(if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(Error::Open)?)
        })
    }
}

impl<R: Read> Capture<R> {
    /// The capture that `read` gives.
    pub fn new(read: R) -> Result<Self, Error> {
        let mut source = Source::new(read);
        let format = if ng::is(&mut source)? {
            Format::Ng(ng::Section::default())
        } else {
            Format::Classic(classic::File::open(&mut source)?)
        };
        Ok(Self { source, format, contents: Contents::default() })
    }

    /// The next frame; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "a frame is lent until the next call")]
    pub fn next(&mut self) -> Result<Option<Captured<'_>>, Error> {
        let (record, link) = loop {
            let record = match &mut self.format {
                Format::Classic(file) => file.next(&mut self.source)?,
                Format::Ng(section) => section.next(&mut self.source)?,
            };
            let Some(record) = record else { return Ok(None) };
            if let Some(link) = record.link {
                break (record, link);
            }
            self.source.take(record.len);
            self.contents.unread += 1;
        };
        self.contents.frames += 1;
        self.contents.shortened += u64::from((record.frame.len() as u64) < u64::from(record.wire_len));
        let bytes = self.source.take(record.len);
        Ok(Some(link.frame(bytes, &record)))
    }

    /// What was read so far.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Bytes of the capture read so far.
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }
}

/// Hands each frame of the capture at `path` (`-` is standard input) to `frame`.
pub fn read(path: &Path, mut frame: impl FnMut(&Captured<'_>)) -> Result<Contents, Error> {
    let mut capture = Capture::open(path)?;
    while let Some(captured) = capture.next()? {
        frame(&captured);
    }
    Ok(capture.contents())
}

/// In which order a capture has the bytes of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Little,
    Big,
}

impl Order {
    /// The number of two bytes at `at`, which are there.
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let number = [bytes[at], bytes[at + 1]];
        match self {
            Self::Little => u16::from_le_bytes(number),
            Self::Big => u16::from_be_bytes(number),
        }
    }

    /// The number of four bytes at `at`, which are there.
    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let number = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match self {
            Self::Little => u32::from_le_bytes(number),
            Self::Big => u32::from_be_bytes(number),
        }
    }
}
