//! Counts of values by powers of two.
//!
//! Of one size whatever goes in, and two are merged by adding their counts, so a histogram of parts that were merged is
//! that of the whole.

use std::time::Duration;

/// Buckets of a histogram.
pub const BUCKETS: usize = 20;

/// Lower bound of bucket 0 of a histogram of sizes, bytes.
pub const FIRST_SIZE: u64 = 64;

/// Lower bound of bucket 0 of a histogram of times.
pub const FIRST_TIME: Duration = Duration::from_millis(1);

/// Lower bound of bucket 0 of a histogram of ratios.
pub const FIRST_RATIO: f64 = 1.0 / RATIO_UNITS as f64;
const RATIO_UNITS: u64 = 16;

/// Bucket i holds values from `first * 2^i` up to, but not including, `first * 2^(i+1)`, where `first` is
/// [`FIRST_SIZE`], [`FIRST_TIME`] or [`FIRST_RATIO`]; the first also holds all smaller values, the last all larger ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u32; BUCKETS]);

impl From<[u32; BUCKETS]> for Histogram {
    fn from(counts: [u32; BUCKETS]) -> Self {
        Self(counts)
    }
}

impl Histogram {
    /// The counts.
    pub fn counts(&self) -> [u32; BUCKETS] {
        self.0
    }

    /// Values counted.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// The bucket that a share of `share` of the values does not exceed; `None` without any.
    pub fn quantile(&self, share: f64) -> Option<usize> {
        let wanted = (share.clamp(0.0, 1.0) * self.total() as f64).max(1.0);
        let mut below = 0.0;
        self.0.iter().position(|count| {
            below += f64::from(*count);
            below >= wanted
        })
    }

    /// How different the shares of the buckets are; see [`distance`]. `None` where either is empty.
    pub fn distance(&self, other: &Self) -> Option<f64> {
        distance(&self.0, &other.0)
    }
}

/// The Jensen-Shannon distance of the shares that two rows of counts have: the root of the divergence in bits. 0 when they
/// are equal, 1 when no value of one is where any of the other is. `None` where either is empty.
pub(crate) fn distance<const N: usize>(one: &[u32; N], other: &[u32; N]) -> Option<f64> {
    let total = |counts: &[u32; N]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
    let (ones, others) = (total(one), total(other));
    if ones == 0.0 || others == 0.0 {
        return None;
    }
    let bits: f64 = one
        .iter()
        .zip(other)
        .map(|(a, b)| {
            let (a, b) = (f64::from(*a) / ones, f64::from(*b) / others);
            let middle = a.midpoint(b);
            let part = |share: f64| if share > 0.0 { share * (share / middle).log2() } else { 0.0 };
            part(a) + part(b)
        })
        .sum();
    Some((bits / 2.0).clamp(0.0, 1.0).sqrt())
}

/// The bucket of a size.
pub(crate) fn size_bucket(bytes: u64) -> usize {
    bucket(bytes / FIRST_SIZE)
}

/// The bucket of a time.
pub(crate) fn time_bucket(time: Duration) -> usize {
    bucket(u64::try_from(time.as_nanos() / FIRST_TIME.as_nanos()).unwrap_or(u64::MAX))
}

/// The bucket of the ratio of two numbers; nothing is how many times nothing.
pub(crate) fn ratio_bucket(of: u64, to: u64) -> usize {
    bucket(of.saturating_mul(RATIO_UNITS) / to.max(1))
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
            assert_eq!(size_bucket(bytes), bucket, "{bytes}");
        }
        for (of, to, bucket) in [(0, 1, 0), (1, 16, 0), (1, 1, 4), (3, 1, 5), (9, 0, 7), (u64::MAX, 1, 19)] {
            assert_eq!(ratio_bucket(of, to), bucket, "{of} to {to}");
        }
        assert_eq!(time_bucket(Duration::from_millis(300)), 8, "256 to 512 ms");
    }

    #[test]
    fn a_quantile_is_the_bucket_that_the_share_reaches() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let mut counts = [0; BUCKETS];
        (counts[0], counts[4]) = (3, 1);
        let histogram = Histogram::from(counts);
        assert_eq!(
            [0.0, 0.5, 0.75, 0.76, 1.0].map(|share| histogram.quantile(share)),
            [Some(0), Some(0), Some(0), Some(4), Some(4)]
        );
    }

    #[test]
    fn shares_that_differ_in_part_are_apart_in_part() {
        let counts = [[4, 0, 0], [8, 0, 0], [0, 3, 0], [1, 1, 0]];
        let apart = |one: usize, other: usize| distance(&counts[one], &counts[other]);
        assert_eq!((apart(0, 1), apart(0, 2), distance(&counts[0], &[0; 3])), (Some(0.0), Some(1.0), None));
        // Half of one, all of the other: the divergence is 1.5 - 0.75 ln 3 / ln 2 bits.
        let half = (1.5 - 0.75 * 3_f64.log2()).sqrt();
        assert!(apart(0, 3).is_some_and(|apart| (apart - half).abs() < 1e-9));
    }
}
