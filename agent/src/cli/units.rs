//! Numbers as people read them: sizes, rates, durations, ages, instants.
//!
//! In flow plain numbers, out flow short texts. Invariant: an absent figure is a dash, never a zero.

use std::time::Duration;

use jiff::Timestamp;

/// What stands for a figure that is not there.
pub const ABSENT: &str = "-";

/// Bytes with an IEC prefix: `512 B`, `1.5 KiB`, `23 MiB`.
pub fn bytes(value: f64) -> String {
    const PREFIXES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = value.max(0.0);
    let mut prefix = 0;
    // 1023.5 would be shown as 1024.
    while scaled >= 1023.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1024.0;
        prefix += 1;
    }
    if prefix == 0 || scaled >= 9.95 {
        format!("{scaled:.0} {}", PREFIXES[prefix])
    } else {
        format!("{scaled:.1} {}", PREFIXES[prefix])
    }
}

/// A number with as many decimals as help: `0.05`, `3.2`, `120`, `45.0k`.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => ABSENT.to_owned(),
        0.0 => "0".to_owned(),
        magnitude if magnitude < 0.005 => "<0.01".to_owned(),
        magnitude if magnitude < 1.0 => format!("{value:.2}"),
        magnitude if magnitude < 99.95 => format!("{value:.1}"),
        magnitude if magnitude < 9999.5 => format!("{value:.0}"),
        magnitude if magnitude < 999_950.0 => format!("{:.1}k", value / 1e3),
        _ => format!("{:.1}M", value / 1e6),
    }
}

/// A whole number with its thousands apart: `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration by its two largest units: `850 ms`, `12.3 s`, `4m 05s`, `3h 12m`, `5d 01h`.
pub fn duration(value: Duration) -> String {
    let seconds = value.as_secs();
    match seconds {
        0 => format!("{} ms", value.as_millis()),
        1..=59 => format!("{:.1} s", value.as_millis() as f64 / 1e3),
        60..=3599 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long before `now` something was: `0s`, `42s`, `12m`, `3h`, `5d`.
pub fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then else { return ABSENT.to_owned() };
    span(now.duration_since(then).as_secs())
}

/// Whole seconds by their largest unit: `42s`, `12m`, `3h`, `5d`.
pub fn span(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..=99 => format!("{seconds}s"),
        seconds @ 100..=5_999 => format!("{}m", seconds / 60),
        seconds @ 6_000..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// An instant in UTC to the second: `2026-05-04T10:00:00Z`.
pub fn instant(value: Option<Timestamp>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The time of day of an instant, in UTC: `10:00:00.250`.
pub fn time_of_day(value: Option<Timestamp>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |at| at.strftime("%H:%M:%S.%3f").to_string())
}

/// A figure that may be absent.
pub fn or_absent(value: Option<f64>, write: impl FnOnce(f64) -> String) -> String {
    value.map_or_else(|| ABSENT.to_owned(), write)
}

/// `value` in its unit as the protocol names it, e.g. `1.4 KiB` for `bytes` or `5.0 1/s`.
pub fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => bytes(value),
        "" | "1" => number(value),
        unit => format!("{} {unit}", number(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_stay_short_at_every_magnitude() {
        for (value, text) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (10_189.0, "10 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (2e19, "17 EiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in [
            (0.0, "0"),
            (0.001, "<0.01"),
            (0.25, "0.25"),
            (99.96, "100"),
            (12_345.0, "12.3k"),
            (2.5e6, "2.5M"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }

    #[test]
    fn durations_show_two_units_and_ages_one() {
        for (seconds, text) in [
            (0.85, "850 ms"),
            (12.3, "12.3 s"),
            (245.0, "4m 05s"),
            (11_520.0, "3h 12m"),
            (435_600.0, "5d 01h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (ago, text) in [(0, "0s"), (42, "42s"), (720, "12m"), (10_800, "3h"), (432_000, "5d"), (-5, "0s")]
        {
            assert_eq!(age(Timestamp::from_second(1_000_000 - ago).ok(), now), text);
        }
    }
}
