//! Bytes of a recording, decompressed, and whether they are a capture's. What they begin with tells, not the file's name.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::Path,
};

use indicatif::ProgressBar;

/// Bytes of a recording.
pub(super) type Source = BufReader<Box<dyn Read + Send>>;

/// Bytes that tell what follows.
const HEAD: usize = 4;

/// What captures begin with: pcapng, and pcap of micro- and nanoseconds, as such and with longer record heads, in both byte
/// orders.
const CAPTURES: [[u8; HEAD]; 7] = [
    [0x0a, 0x0d, 0x0d, 0x0a],
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0xa1, 0xb2, 0xcd, 0x34],
    [0x34, 0xcd, 0xb2, 0xa1],
];

/// Opens a file, or standard input for `-`; tells whether it is a capture.
pub(super) fn open(path: &Path, progress: &ProgressBar) -> io::Result<(Source, bool)> {
    if path.as_os_str() == "-" {
        return recognise(Box::new(progress.wrap_read(io::stdin())));
    }
    recognise(Box::new(progress.wrap_read(File::open(path)?)))
}

/// Likewise, of bytes that are there already.
pub(super) fn of(bytes: Vec<u8>) -> io::Result<(Source, bool)> {
    recognise(Box::new(Cursor::new(bytes)))
}

fn recognise(raw: Box<dyn Read + Send>) -> io::Result<(Source, bool)> {
    let (mut head, mut whole) = peek(raw)?;
    if is_zstd(head) {
        let decompressed: Box<dyn Read + Send> = Box::new(zstd::Decoder::new(whole)?);
        (head, whole) = peek(decompressed).unwrap_or_else(|error| ([0; HEAD], Box::new(Broken(Some(error)))));
    }
    Ok((BufReader::with_capacity(1 << 16, whole), CAPTURES.contains(&head)))
}

/// The first bytes, zeros where there are fewer, and a stream that begins with them again.
fn peek(mut stream: Box<dyn Read + Send>) -> io::Result<([u8; HEAD], Box<dyn Read + Send>)> {
    let mut begin = Vec::new();
    (&mut stream).take(HEAD as u64).read_to_end(&mut begin)?;
    let mut head = [0; HEAD];
    head[..begin.len()].copy_from_slice(&begin);
    Ok((head, Box::new(Cursor::new(begin).chain(stream))))
}

/// What is damaged from its first byte on: the recording says so where it is read.
struct Broken(Option<io::Error>);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// A frame of Zstandard's, or one that it skips.
fn is_zstd(head: [u8; HEAD]) -> bool {
    head == [0x28, 0xb5, 0x2f, 0xfd] || (head[0] & 0xf0 == 0x50 && head[1..] == [0x2a, 0x4d, 0x18])
}
