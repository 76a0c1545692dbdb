//! Reading a map in large pieces: `BPF_MAP_LOOKUP_BATCH`, which aya does not have. Key by key, a map of
//! a million entries takes two million system calls.
//!
//! Invariant: a cursor is only ever what the kernel returned for the same map.
#![expect(unsafe_code, reason = "the bpf system call")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// `bpf_cmd` of linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The `batch` member of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attributes>() == 56);

/// A walk over a hash map, in pieces of a fixed number of entries.
#[derive(Debug)]
pub(super) struct Batches<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the next piece begins, in the kernel's terms; `None` at the start.
    cursor: Option<u32>,
}

/// How a piece ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more.
    More,
    /// The walk is over; the next piece begins anew.
    End,
}

impl<K: aya::Pod, V: aya::Pod> Batches<K, V> {
    /// Pieces of up to `len` entries; the buffers begin with `key` and `value`.
    pub(super) fn new(len: usize, key: K, value: V) -> Self {
        Self { keys: vec![key; len], values: vec![value; len], cursor: None }
    }

    /// Reads the next piece and hands its entries to `each`.
    pub(super) fn next(&mut self, map: impl AsFd, mut each: impl FnMut(&K, &V)) -> io::Result<Progress> {
        let mut next = 0_u32;
        let mut attributes = Attributes {
            in_batch: self.cursor.as_ref().map_or(0, |cursor| (&raw const *cursor).addr() as u64),
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: self.keys.as_mut_ptr().expose_provenance() as u64,
            values: self.values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
            ..Attributes::default()
        };
        // SAFETY: the pointers are to buffers of `count` keys and values and to two cursors, which all
        // live until the call returns; the kernel writes no more than that. K and V are plain data of the
        // map's key and value sizes, which the kernel does not check: the callers' types are asserted
        // equal in size to the map's.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attributes,
                libc::c_long::try_from(size_of::<Attributes>()).unwrap_or(0),
            )
        };
        let progress = if result == 0 { Progress::More } else { Self::ended(io::Error::last_os_error())? };
        self.cursor = (progress == Progress::More).then_some(next);
        let count = (attributes.count as usize).min(self.keys.len());
        for (key, value) in self.keys[..count].iter().zip(&self.values) {
            each(key, value);
        }
        Ok(progress)
    }

    /// Begins anew with the next piece.
    pub(super) fn restart(&mut self) {
        self.cursor = None;
    }

    /// No more entries is an error number, too.
    fn ended(error: io::Error) -> io::Result<Progress> {
        if error.raw_os_error() == Some(libc::ENOENT) { Ok(Progress::End) } else { Err(error) }
    }
}
