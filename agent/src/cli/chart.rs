//! Histograms and series drawn with characters.
//!
//! In flow counts, out flow bars. Invariant: a bucket with a count never draws as empty.

use std::fmt::Write as _;

use hydrometer_proto::v1::Histogram;

use super::{units, words};

/// One bar: the range it stands for, and its count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Where the bucket begins, with its unit.
    pub label: String,
    /// Values in the bucket.
    pub count: u64,
}

/// The bars of a histogram from its first to its last bucket with a count; empty without any.
pub fn bars(histogram: &Histogram) -> Vec<Bar> {
    let counted = |&count: &u64| count > 0;
    let Some(first) = histogram.counts.iter().position(counted) else { return Vec::new() };
    let last = histogram.counts.iter().rposition(counted).unwrap_or(first);
    (first..=last)
        .map(|bucket| Bar { label: label(histogram, bucket), count: histogram.counts[bucket] })
        .collect()
}

/// Where a bucket begins, with its unit.
pub(super) fn label(histogram: &Histogram, bucket: usize) -> String {
    let start = words::bucket_start(histogram, bucket);
    match histogram.unit.as_str() {
        // A bucket may begin at less than any duration has; the last one is open upwards.
        "ms" => units::duration(std::time::Duration::try_from_secs_f64(start / 1e3).unwrap_or_default()),
        unit => units::with_unit(start, unit),
    }
}

/// A bar drawn `width` cells wide for the largest count, in eighths of a cell.
pub fn bar(count: u64, largest: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if count == 0 || largest == 0 {
        return String::new();
    }
    let eighths = ((count as f64 / largest as f64 * width as f64 * 8.0) as usize).max(1);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// Bars as lines: where the bucket begins, the count, the bar.
pub fn draw(bars: &[Bar], width: usize) -> String {
    let largest = bars.iter().map(|bar| bar.count).max().unwrap_or(0);
    let mut text = String::new();
    for Bar { label, count } in bars {
        let line = format!("  {label:>9}+ {:>9}  {}", units::count(*count), bar(*count, largest, width));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// One character a value, the tallest for the largest.
pub fn sparkline(values: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let largest = values.iter().copied().fold(0.0, f64::max);
    values
        .iter()
        .map(|&value| match value {
            // Nothing happened: a blank reads differently from a little.
            value if value <= 0.0 || !value.is_finite() => ' ',
            value => LEVELS[((value / largest * 8.0) as usize).min(7)],
        })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_buckets_at_both_ends_are_left_out() {
        let histogram =
            Histogram { counts: vec![0, 0, 3, 0, 12, 0], lower_bound: 64.0, unit: "bytes".into() };
        let bars = bars(&histogram);
        assert_eq!(
            bars.iter().map(|bar| bar.label.as_str()).collect::<Vec<_>>(),
            ["256 B", "512 B", "1.0 KiB"]
        );
        assert_eq!(
            draw(&bars, 8),
            "      256 B+         3  ██\n      512 B+         0\n    1.0 KiB+        12  ████████\n"
        );
        assert!(super::bars(&Histogram::default()).is_empty());
    }

    #[test]
    fn the_smallest_count_is_visible_and_nothing_is_blank() {
        assert_eq!(bar(1, 1_000_000, 10), "▏");
        assert_eq!(bar(0, 10, 10), "");
        assert_eq!(sparkline(&[0.0, 0.01, 4.0, 8.0]), " ▁▅█");
    }
}
