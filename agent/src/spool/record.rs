//! One record of a spool file: how it is written, and how it is found again in a damaged one.
//!
//! ```text
//! mark    u32  "HYDR"
//! length  u32  of the content, at most MAX_CONTENT
//! check   u32  CRC-32 of sequence, length and content
//! sequence u64
//! content
//! ```
//! Numbers are little-endian. The check covers all that a wrong bit could make believable.

use std::ops::Range;

use super::MAX_CONTENT;

const MARK: [u8; 4] = *b"HYDR";
const HEAD: usize = 20;

/// Where a record lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its number.
    pub(super) sequence: u64,
    /// Its content.
    pub(super) content: Range<usize>,
}

/// What the bytes of a file behind its head hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Whole records, in the order of their numbers.
    pub(super) places: Vec<Place>,
    /// Where the last whole record ends.
    pub(super) end: usize,
    /// Damaged stretches with whole records behind them.
    pub(super) corrupt: u64,
    /// What is behind the last whole record.
    pub(super) tail: Tail,
}

/// What is behind the last whole record of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    #[default]
    Clean,
    /// A write that did not end.
    Torn,
    /// Bytes that were changed later. They held so many records at most, which may have been sent.
    Damaged(u64),
}

/// Appends a record to `bytes`.
pub(super) fn write(bytes: &mut Vec<u8>, sequence: u64, content: &[u8]) {
    let length = content.len() as u32;
    bytes.extend(MARK);
    bytes.extend(length.to_le_bytes());
    bytes.extend(check(sequence, content).to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(content);
}

/// Bytes that a record of this content takes.
pub(super) fn length_with(content: &[u8]) -> usize {
    HEAD + content.len()
}

/// Finds the records of `bytes` from `start` on; what is damaged is passed over.
pub(super) fn scan(bytes: &[u8], start: usize) -> Scan {
    let mut found = Scan { end: start, ..Scan::default() };
    let mut at = start;
    while at < bytes.len() {
        let last = found.places.last().map_or(0, |place| place.sequence);
        match read(bytes, at).filter(|place| place.sequence > last) {
            Some(place) => {
                found.corrupt += u64::from(at > found.end);
                at = place.content.end;
                found.end = at;
                found.places.push(place);
            }
            None => at += 1,
        }
    }
    found.tail = tail(&bytes[found.end..]);
    found
}

/// What `bytes` are, in which no record is whole.
fn tail(bytes: &[u8]) -> Tail {
    let is_cut = |bytes: &[u8]| length(bytes).is_none_or(|length| HEAD + length > bytes.len());
    // A file may have grown before its content was written.
    if bytes.is_empty() {
        Tail::Clean
    } else if bytes.iter().all(|&byte| byte == 0)
        || MARK.starts_with(&bytes[..bytes.len().min(4)]) && is_cut(bytes)
    {
        Tail::Torn
    } else {
        let marks = bytes.windows(MARK.len()).filter(|window| *window == MARK).count();
        Tail::Damaged(marks as u64 + 1)
    }
}

/// Length of the content, as the head at the begin of `bytes` says.
fn length(bytes: &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize)
}

/// The record that begins at `at`, if it is whole.
fn read(bytes: &[u8], at: usize) -> Option<Place> {
    let head = bytes.get(at..at + HEAD)?;
    let length = length(head)?;
    if head[..4] != MARK || length > MAX_CONTENT {
        return None;
    }
    let sequence = u64::from_le_bytes(head[12..].try_into().ok()?);
    let content = at + HEAD..at + HEAD + length;
    let said = u32::from_le_bytes(head[8..12].try_into().ok()?);
    let is_whole = check(sequence, bytes.get(content.clone())?) == said;
    is_whole.then_some(Place { sequence, content })
}

fn check(sequence: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&(content.len() as u32).to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(contents: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (content, sequence) in contents.iter().zip(1..) {
            write(&mut bytes, sequence, content);
        }
        bytes
    }

    fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8)
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(contents in contents()) {
            let bytes = written(&contents);
            let found = scan(&bytes, 0);
            let read: Vec<_> = found.places.iter().map(|place| bytes[place.content.clone()].to_vec()).collect();
            prop_assert_eq!(read, contents);
            prop_assert_eq!((found.end, found.corrupt, found.tail), (bytes.len(), 0, Tail::Clean));
        }

        #[test]
        fn a_torn_write_costs_what_was_torn(contents in contents(), cut in any::<prop::sample::Index>()) {
            let bytes = written(&contents);
            let cut = cut.index(bytes.len());
            let whole = scan(&bytes, 0).places.iter().filter(|place| place.content.end <= cut).count();
            let found = scan(&bytes[..cut], 0);
            prop_assert_eq!((found.places.len(), found.corrupt), (whole, 0));
            prop_assert_eq!(found.tail, if found.end == cut { Tail::Clean } else { Tail::Torn });
        }

        #[test]
        fn a_wrong_byte_costs_one_record(
            contents in contents(), at in any::<prop::sample::Index>(), bits in 1..=u8::MAX,
        ) {
            let mut bytes = written(&contents);
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            let found = scan(&bytes, 0);
            prop_assert_eq!(found.places.len(), contents.len() - 1);
            let is_last = found.tail != Tail::Clean;
            prop_assert_eq!(found.corrupt, u64::from(!is_last));
        }

        #[test]
        fn nothing_is_too_absurd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let found = scan(&bytes, 0);
            prop_assert!(found.end <= bytes.len());
        }
    }
}
