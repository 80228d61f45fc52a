//! What a shard tells about the bytes it moved.

use std::array;

use super::{Cv, GRAIN_BYTES, grain_cv, position_of};

/// Grains of one message: those of a request of 256 KiB.
pub const GRAINS_PER_BATCH: usize = 4;

/// Chaining values of grains that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrainBatch {
    /// Index over the whole device.
    pub first_grain: u64,
    /// How many of `cvs` count.
    pub count: u8,
    /// The values in order.
    pub cvs: [Cv; GRAINS_PER_BATCH],
}

impl GrainBatch {
    /// The grains with their indices over the whole device.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Cv)> + '_ {
        let grains = self.cvs.iter().take(usize::from(self.count));
        (0..)
            .zip(grains)
            .map(|(index, cv)| (self.first_grain.saturating_add(index), *cv))
    }
}

/// What a range of a device holds, in the order in which it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashed {
    /// Whole grains.
    Grains(GrainBatch),
    /// Zeroes.
    Zero {
        /// Where they begin, bytes.
        offset: u64,
        /// How many, bytes.
        len: u64,
    },
    /// Something was written that makes no whole grain.
    Unknown {
        /// Where it begins, bytes.
        offset: u64,
        /// How much, bytes.
        len: u64,
    },
}

// It travels by value through queues with a place for every request in flight.
const _: () = assert!(size_of::<Hashed>() <= 160);

/// Hashes `len` bytes that stand at `offset` of a device that ends at `device_end`, and gives what they tell to `sink`.
///
/// `bytes_at(i)` gives the contiguous bytes from byte `i` on, as many as there are; pieces may break anywhere. Whole
/// grains are hashed; what is left at both ends is `Unknown`, except that the last grain of the device is whole when
/// the bytes reach `device_end`. Allocates nothing: it runs inside a turn.
///
/// Worked example, in units of a grain: 3.5 grains from 0.5 on are Unknown 0.5..1, then grains 1, 2 and 3.
pub fn hash_payload<'a>(
    offset: u64,
    len: usize,
    device_end: u64,
    bytes_at: impl Fn(usize) -> &'a [u8],
    mut sink: impl FnMut(Hashed),
) {
    let end = offset.saturating_add(len as u64).min(device_end);
    let mut unknown = |from: u64, to: u64| {
        if from < to {
            let len = to - from;
            sink(Hashed::Unknown { offset: from, len });
        }
    };
    let whole_end = if end == device_end {
        end
    } else {
        end - end % GRAIN_BYTES
    };
    let whole_start = offset.next_multiple_of(GRAIN_BYTES);
    if whole_start >= whole_end {
        return unknown(offset, end);
    }
    unknown(offset, whole_start);
    unknown(whole_end, end);

    let in_payload = |at: u64| usize::try_from(at - offset).expect("below len, a usize");
    let mut at = whole_start;
    while at < whole_end {
        let first_grain = at / GRAIN_BYTES;
        let mut count = 0;
        let cvs = array::from_fn(|_| {
            let grain_end = (at + GRAIN_BYTES).min(whole_end);
            if at >= grain_end {
                return Cv([0; 32]);
            }
            let parts = Parts {
                at: in_payload(at),
                end: in_payload(grain_end),
                bytes_at: &bytes_at,
            };
            let position = position_of(at / GRAIN_BYTES);
            at = grain_end;
            count += 1;
            grain_cv(position, parts)
        });
        sink(Hashed::Grains(GrainBatch {
            first_grain,
            count,
            cvs,
        }));
    }
}

/// The pieces of one grain.
struct Parts<'f, F> {
    at: usize,
    end: usize,
    bytes_at: &'f F,
}

impl<'a, F: Fn(usize) -> &'a [u8]> Iterator for Parts<'_, F> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        let bytes = (self.bytes_at)(self.at);
        // A grain of which bytes are missing would be a wrong digest, and believed.
        assert!(!bytes.is_empty(), "the payload is as long as it says");
        let part = &bytes[..bytes.len().min(self.end - self.at)];
        self.at += part.len();
        Some(part)
    }
}
