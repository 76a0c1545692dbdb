//! Counts of values by powers of two.
//!
//! Invariant: the counts' sum is the number of values added less those taken back.

use std::time::Duration;

/// Buckets of a histogram.
pub const BUCKETS: usize = 20;

/// Lower bound of bucket 0 of a histogram of sizes, bytes.
pub const FIRST_SIZE: u64 = 64;

/// Lower bound of bucket 0 of a histogram of times.
pub const FIRST_TIME: Duration = Duration::from_millis(1);

/// Bucket i holds values from `first * 2^i` up to, but not including, `first * 2^(i+1)`, where `first` is
/// [`FIRST_SIZE`] or [`FIRST_TIME`]; the first also holds all smaller values, the last all larger ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u32; BUCKETS]);

impl Histogram {
    /// The counts.
    pub fn counts(&self) -> [u32; BUCKETS] {
        self.0
    }

    pub(crate) fn add_size(&mut self, bytes: u64) {
        let count = &mut self.0[bucket(bytes / FIRST_SIZE)];
        *count = count.saturating_add(1);
    }

    pub(crate) fn add_time(&mut self, time: Duration) {
        let count = &mut self.0[time_bucket(time)];
        *count = count.saturating_add(1);
    }

    /// Takes back a time that was added.
    pub(crate) fn remove_time(&mut self, time: Duration) {
        let count = &mut self.0[time_bucket(time)];
        *count = count.saturating_sub(1);
    }
}

fn time_bucket(time: Duration) -> usize {
    bucket(u64::try_from(time.as_nanos() / FIRST_TIME.as_nanos()).unwrap_or(u64::MAX))
}

/// The bucket of a value in units of the first bucket's lower bound.
fn bucket(units: u64) -> usize {
    (units.max(1).ilog2() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_that_its_bounds_say() {
        let cases =
            [(0, 0), (63, 0), (64, 0), (127, 0), (128, 1), (1 << 25, BUCKETS - 1), (u64::MAX, BUCKETS - 1)];
        for (bytes, bucket) in cases {
            let mut histogram = Histogram::default();
            histogram.add_size(bytes);
            assert_eq!(histogram.counts()[bucket], 1, "{bytes}");
        }
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut histogram = Histogram::default();
        let time = Duration::from_millis(300);
        histogram.add_time(time);
        assert_eq!(histogram.counts()[8], 1, "256 to 512 ms");
        histogram.remove_time(time);
        assert_eq!(histogram, Histogram::default());
    }
}
