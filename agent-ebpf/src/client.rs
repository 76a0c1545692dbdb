//! Counters of one client, the values of the client map.
//!
//! Invariant: counters only grow, and every addition is atomic, so that any core may make it.

use crate::{
    abi::{ExchangeEvent, SIZE_CLASSES},
    cell::Shared64,
};

/// One client. Times are nanoseconds of the kernel's monotonic clock.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Client {
    /// First packet.
    pub first_seen: Shared64,
    /// Last packet.
    pub last_seen: Shared64,
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
}

const _: () = assert!(size_of::<Client>() == 96);

impl Client {
    /// A packet was seen.
    #[inline(always)]
    pub(crate) fn seen(&self, now: u64) {
        if self.first_seen.get() == 0 {
            self.first_seen.set(now);
        }
        self.last_seen.set(now);
    }

    /// An exchange ended.
    #[inline(always)]
    pub(crate) fn ended(&self, request_bytes: u64, answer_bytes: u64) {
        self.exchanges.add(1);
        self.request_bytes.add(request_bytes);
        self.answer_bytes.add(answer_bytes);
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
    fn absurd_sizes_fall_into_the_outer_classes() {
        assert_eq!((size_class(0), size_class(u32::MAX)), (0, SIZE_CLASSES - 1));
    }
}
