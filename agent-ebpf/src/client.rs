//! Counters and histograms of one client, the values of the client map.
//!
//! Invariant: counters only grow, and every addition is atomic, so that any core may make it.

use crate::{
    abi::{ExchangeEvent, SIZE_CLASSES},
    cell::{Shared32, Shared64},
};

/// Buckets of a client's histograms.
pub const BUCKETS: usize = 20;
/// Lower bound of bucket 0 of the size histograms, bytes.
pub const FIRST_SIZE: u64 = 64;
/// Lower bound of bucket 0 of the inter-arrival histogram, nanoseconds.
pub const FIRST_INTERVAL: u64 = 1_000_000;

/// Counts per power of two: bucket i holds values from first * 2^i up to first * 2^(i+1); the first
/// also holds all smaller values, the last all larger ones.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Histogram([Shared32; BUCKETS]);

impl Histogram {
    /// Adds one value, in units of the first bucket's lower bound.
    #[inline(always)]
    fn add(&self, units: u64) {
        let bucket = log2(units | 1) as usize;
        if let Some(count) = self.0.get(if bucket < BUCKETS { bucket } else { BUCKETS - 1 }) {
            count.add(1);
        }
    }

    /// The counts.
    pub fn counts(&self) -> [u64; BUCKETS] {
        core::array::from_fn(|bucket| self.0[bucket].get() as u64)
    }
}

/// One client. Times are nanoseconds of the kernel's monotonic clock.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Client {
    /// First packet.
    pub first_seen: Shared64,
    /// Last packet.
    pub last_seen: Shared64,
    /// Begin of the last request.
    pub last_request: Shared64,
    /// Packets from the client.
    pub ingress_packets: Shared64,
    /// IP bytes from the client.
    pub ingress_bytes: Shared64,
    /// Packets to the client.
    pub egress_packets: Shared64,
    /// IP bytes to the client.
    pub egress_bytes: Shared64,
    /// TCP SYNs.
    pub syns: Shared64,
    /// Connections on which the client sent data.
    pub connections: Shared64,
    /// Requests begun.
    pub requests: Shared64,
    /// Exchanges ended.
    pub exchanges: Shared64,
    /// Application bytes asked, over ended exchanges.
    pub request_bytes: Shared64,
    /// Application bytes answered, over ended exchanges.
    pub answer_bytes: Shared64,
    /// Request sizes from [`FIRST_SIZE`].
    pub request_sizes: Histogram,
    /// Answer sizes from [`FIRST_SIZE`].
    pub answer_sizes: Histogram,
    /// Time between the beginnings of requests, from [`FIRST_INTERVAL`].
    pub intervals: Histogram,
}

const _: () = assert!(size_of::<Client>() == 344);

impl Client {
    /// A packet was seen.
    #[inline(always)]
    pub(crate) fn seen(&self, now: u64) {
        if self.first_seen.get() == 0 {
            self.first_seen.set(now);
        }
        self.last_seen.set(now);
    }

    /// A request began.
    #[inline(always)]
    pub(crate) fn asked(&self, now: u64) {
        self.requests.add(1);
        let before = self.last_request.swap(now);
        if before != 0 && before < now {
            self.intervals.add((now - before) / FIRST_INTERVAL);
        }
    }

    /// An exchange ended.
    #[inline(always)]
    pub(crate) fn ended(&self, request_bytes: u64, answer_bytes: u64) {
        self.exchanges.add(1);
        self.request_bytes.add(request_bytes);
        self.answer_bytes.add(answer_bytes);
        self.request_sizes.add(request_bytes / FIRST_SIZE);
        self.answer_sizes.add(answer_bytes / FIRST_SIZE);
    }
}

/// The class of a record of this many bytes: four classes to an octave, from 64 B to 16 KiB.
#[inline(always)]
pub fn size_class(bytes: u32) -> usize {
    let bytes = if bytes < 64 { 64 } else { bytes as usize };
    let octave = log2(bytes as u64) as usize;
    // The octave's two bits below its highest, which stays in: 4 to 7. A sum of two masked parts would become an OR,
    // after which verifiers before 6.10 know no bounds, and the comparison would be made before it.
    let class = octave * 4 + (bytes >> (octave - 2)) - 7 * 4;
    if class < SIZE_CLASSES { class } else { SIZE_CLASSES - 1 }
}

/// The smallest size of a class, bytes.
pub fn class_floor(class: usize) -> u32 {
    let octave = 6 + class as u32 / 4;
    (1 << octave) + ((class as u32 % 4) << (octave - 2))
}

/// Median application bytes of the records of an exchange: their mean while there are two or fewer,
/// then the middle of the median's class, an error of at most an eighth.
pub fn record_median(event: &ExchangeEvent) -> u32 {
    if event.records == 0 {
        return 0;
    }
    let mean = (event.answer_bytes / event.records as u64) as u32;
    let total: u32 = event.classes.iter().map(|&count| count as u32).sum();
    if event.records <= 2 || total == 0 {
        return mean;
    }
    let mut below = 0;
    for (class, &count) in event.classes.iter().enumerate() {
        below += count as u32;
        if below * 2 >= total {
            // Where all records are of one class the mean is closer than the class's middle.
            let floor = class_floor(class);
            let width = class_floor(class + 1) - floor;
            return if count as u32 == total { mean } else { floor + width / 2 };
        }
    }
    mean
}

/// Position of the highest bit; `value` is not 0.
#[inline(always)]
fn log2(value: u64) -> u32 {
    // Shifts instead of `leading_zeros`, which costs three times the instructions on BPF.
    let mut value = value;
    let mut log = 0;
    if value >= 1 << 32 {
        value >>= 32;
        log += 32;
    }
    if value >= 1 << 16 {
        value >>= 16;
        log += 16;
    }
    if value >= 1 << 8 {
        value >>= 8;
        log += 8;
    }
    if value >= 1 << 4 {
        value >>= 4;
        log += 4;
    }
    if value >= 1 << 2 {
        value >>= 2;
        log += 2;
    }
    log + (value >> 1) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_size_is_in_its_class(bytes in 64_u32..16_384) {
            let class = size_class(bytes);
            prop_assert!(class_floor(class) <= bytes);
            prop_assert!(class == SIZE_CLASSES - 1 || bytes < class_floor(class + 1));
        }

        #[test]
        fn log2_is_the_highest_bit(value in 1_u64..) {
            prop_assert_eq!(log2(value), value.ilog2());
        }
    }

    #[test]
    fn absurd_values_fall_into_the_outer_buckets() {
        let histogram = Histogram::default();
        histogram.add(0);
        histogram.add(u64::MAX);
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[BUCKETS - 1]), (1, 1));
        assert_eq!((size_class(0), size_class(u32::MAX)), (0, SIZE_CLASSES - 1));
    }
}
