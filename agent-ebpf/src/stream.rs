//! Where a segment lies in its byte stream: new, seen before, or behind a gap.
//!
//! A stream is walked in order. `next` is how far; `remaining` is how much of the TLS record at `next`
//! is still to come, so a gap inside a record can be stepped over without having seen its bytes.
//!
//! Invariant: in sync, `next + remaining` is a record boundary (with `header_len` bytes of a header
//! that straddles two segments already taken).

/// One direction of one TCP connection, whose records have headers of `N` bytes; those of TLS have five.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream<const N: usize = 5> {
    /// Everything before this sequence number has been walked.
    pub(crate) next: u32,
    /// The highest sequence number seen, exclusive.
    pub(crate) high: u32,
    /// Bytes from `next` to the end of the current record.
    pub(crate) remaining: u32,
    /// Begin of the newest gap (clear text only).
    gap_from: u32,
    /// End of the newest gap; equal to its begin when there is none.
    gap_to: u32,
    /// First bytes of a header that continues in the next segment.
    pub(crate) header: [u8; N],
    /// How many.
    pub(crate) header_len: u8,
    state: u8,
    /// Segments held back behind a gap, up to a limit.
    held: u8,
}

impl<const N: usize> Default for Stream<N> {
    fn default() -> Self {
        Self {
            next: 0,
            high: 0,
            remaining: 0,
            gap_from: 0,
            gap_to: 0,
            header: [0; N],
            header_len: 0,
            state: UNSTARTED,
            held: 0,
        }
    }
}

const UNSTARTED: u8 = 0;
const IN_SYNC: u8 = 1;
const LOST: u8 = 2;

/// Segments that may wait behind a gap for its retransmission before the gap is given up.
const MAX_HELD: u8 = 64;

/// Farther than this from what was seen, a sequence number is not one that the connection has come to:
/// windows of a few hundred KiB are usual.
const MAX_WINDOW: u32 = 1 << 20;

/// Where a segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Seen before.
    Old,
    /// Walk it from this offset.
    Walk(u32),
    /// Behind a gap that hides a record boundary.
    Gap,
    /// The boundary is not known: walk it only if it begins with a record.
    Lost,
}

impl<const N: usize> Stream<N> {
    /// The connection begins: its first byte has this number.
    #[inline(always)]
    pub(crate) fn start(&mut self, first: u32) {
        *self = Self {
            next: first,
            high: first,
            gap_from: first,
            gap_to: first,
            state: IN_SYNC,
            ..Self::default()
        };
    }

    /// Whether a place in the stream is known at all.
    #[inline(always)]
    pub(crate) fn is_started(&self) -> bool {
        self.state != UNSTARTED
    }

    /// Whether record boundaries are known.
    #[inline(always)]
    pub(crate) fn in_sync(&self) -> bool {
        self.state == IN_SYNC
    }

    /// Whether a segment from `seq` begins with bytes not seen before.
    #[inline(always)]
    pub(crate) fn is_fresh(&self, seq: u32) -> bool {
        self.state == UNSTARTED || after(seq, self.high) >= 0
    }

    /// Whether a segment from `seq` can be of this connection: a reset that is not is somebody else's.
    #[inline(always)]
    pub(crate) fn is_near(&self, seq: u32) -> bool {
        self.state == UNSTARTED || after(seq, self.high).unsigned_abs() <= MAX_WINDOW
    }

    /// Whether everything before `seq` has been walked and nothing after it was seen, with no header cut in
    /// two: what nearly every segment finds.
    #[inline(always)]
    pub(crate) fn is_next(&self, seq: u32) -> bool {
        self.state == IN_SYNC && self.next == seq && self.high == seq && self.header_len == 0
    }

    /// Steps over `len` bytes from `next`, all of one record, of which `remaining` are then still to come.
    #[inline(always)]
    pub(crate) fn step(&mut self, len: u32, remaining: u32) {
        self.next = self.next.wrapping_add(len);
        self.high = self.next;
        self.remaining = remaining;
    }

    /// Places `len` bytes (not 0) from `seq`, for a walk of records.
    #[inline(always)]
    pub(crate) fn place(&mut self, seq: u32, len: u32) -> Place {
        if self.state == UNSTARTED {
            self.start(seq);
            self.state = LOST;
        }
        let end = seq.wrapping_add(len);
        if after(end, self.next) <= 0 {
            return Place::Old;
        }
        let ahead = after(seq, self.next);
        if self.state == LOST {
            // Also when it overlaps what was seen: a plausible header at its begin settles it.
            return Place::Lost;
        }
        if ahead <= 0 {
            return Place::Walk(ahead.unsigned_abs());
        }
        if ahead as u32 <= self.remaining {
            self.remaining -= ahead as u32;
            self.next = seq;
            return Place::Walk(0);
        }
        Place::Gap
    }

    /// Keeps a segment behind a gap in mind. `false` when it is time to give the gap up.
    #[inline(always)]
    pub(crate) fn hold(&mut self, end: u32) -> bool {
        self.reach(end);
        self.held = self.held.saturating_add(1);
        self.held < MAX_HELD
    }

    /// Whether segments wait behind a gap.
    #[inline(always)]
    pub(crate) fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// After a walk up to `end`: steps over what was held behind it. Returns the bytes that went by
    /// unwalked and uncounted when that loses the boundary.
    #[inline(always)]
    pub(crate) fn walked(&mut self, end: u32) -> Option<u32> {
        self.next = end;
        self.held = 0;
        let beyond = after(self.high, end);
        if beyond <= 0 {
            self.high = end;
            return None;
        }
        if beyond as u32 <= self.remaining {
            self.remaining -= beyond as u32;
            self.next = self.high;
            return None;
        }
        Some(self.lose(self.high))
    }

    /// A walk ends before its segment does: `remaining` bytes of a record are left at `at`.
    #[inline(always)]
    pub(crate) fn stop(&mut self, at: u32, remaining: u32) {
        self.next = at;
        self.remaining = remaining;
    }

    /// Gives up the boundary at `end`; returns the bytes up to there that no record header has told of: none where
    /// they are more than a window holds, since nobody knows then whether there ever were any.
    #[inline(always)]
    pub(crate) fn lose(&mut self, end: u32) -> u32 {
        let passed = after(end, self.next);
        let believed = passed > 0 && passed as u32 <= MAX_WINDOW;
        let uncounted = if believed { (passed as u32).saturating_sub(self.remaining) } else { 0 };
        self.reach(end);
        self.next = end;
        self.remaining = 0;
        self.header_len = 0;
        self.held = 0;
        self.state = LOST;
        uncounted
    }

    /// Takes up the boundary again at `seq`; returns the bytes skipped that were not counted.
    #[inline(always)]
    pub(crate) fn resume(&mut self, seq: u32) -> u32 {
        let uncounted = self.lose(seq);
        self.state = IN_SYNC;
        uncounted
    }

    /// Takes `len` bytes from `seq` of clear text. Returns how many are new, counting those of a gap
    /// before them if a window holds it, and whether the segment itself is fresh or fills the newest gap.
    #[inline(always)]
    pub(crate) fn take(&mut self, seq: u32, len: u32) -> Taken {
        let end = seq.wrapping_add(len);
        if self.state == UNSTARTED {
            self.start(seq);
        }
        let news = after(end, self.high);
        if news <= 0 {
            let fills = after(seq, self.gap_from) >= 0 && after(seq, self.gap_to) < 0;
            if fills && seq == self.gap_from {
                self.gap_from = if after(end, self.gap_to) < 0 { end } else { self.gap_to };
            }
            return Taken { bytes: 0, fresh: false, fills, gap: false };
        }
        let gap = after(seq, self.high) > 0;
        if gap {
            self.gap_from = self.high;
            self.gap_to = seq;
        }
        let fresh = after(seq, self.high) >= 0;
        self.next = if gap { self.high } else { seq };
        self.high = end;
        let bytes = if news as u32 <= MAX_WINDOW { news as u32 } else { len };
        Taken { bytes, fresh, fills: false, gap }
    }

    #[inline(always)]
    fn reach(&mut self, end: u32) {
        if after(end, self.high) > 0 {
            self.high = end;
        }
    }
}

/// What a segment of clear text adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// New bytes, those of a gap before the segment included.
    pub(crate) bytes: u32,
    /// The segment begins at or after everything seen.
    pub(crate) fresh: bool,
    /// The segment lies in the newest gap.
    pub(crate) fills: bool,
    /// There is a gap before it.
    pub(crate) gap: bool,
}

/// How far `a` is after `b` in sequence space (negative: before).
#[inline(always)]
fn after(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

/// Application bytes in `bytes` of stream whose record headers were not seen: full records carry 22
/// bytes in 16,406 that are not the application's.
#[inline(always)]
pub(crate) fn estimate_application_bytes(bytes: u32) -> u32 {
    bytes - bytes / 745
}
