//! What a completion belongs to, packed into the 64 bits that io_uring carries back.
//!
//! ```text
//! 63    60 59          32 31        0
//! | kind  | generation   | index    |
//! ```

use crate::slab::{GENERATION_MAX, Key};

/// The owner of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// An operation in the in-flight table.
    Op(Key),
    /// A socket's receive ring.
    Rx(Key),
    /// The standing read of the waker's eventfd.
    Wake,
    /// Nobody waits for it (cancellations).
    Ignored,
}

const KIND_SHIFT: u32 = 60;
const GENERATION_SHIFT: u32 = 32;
const KIND_OP: u64 = 1;
const KIND_RX: u64 = 2;
const KIND_WAKE: u64 = 3;

impl Tag {
    pub(super) fn pack(self) -> u64 {
        let with_key = |kind: u64, key: Key| {
            debug_assert!(key.generation <= GENERATION_MAX);
            kind << KIND_SHIFT
                | u64::from(key.generation) << GENERATION_SHIFT
                | u64::from(key.index)
        };
        match self {
            Self::Op(key) => with_key(KIND_OP, key),
            Self::Rx(key) => with_key(KIND_RX, key),
            Self::Wake => KIND_WAKE << KIND_SHIFT,
            Self::Ignored => 0,
        }
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let low = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
        let key = Key {
            index: low(bits),
            generation: low(bits >> GENERATION_SHIFT) & GENERATION_MAX,
        };
        match bits >> KIND_SHIFT {
            KIND_OP => Self::Op(key),
            KIND_RX => Self::Rx(key),
            KIND_WAKE => Self::Wake,
            _ => Self::Ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn tags_survive_the_kernel(index: u32, generation in 0..=GENERATION_MAX) {
            let key = Key { index, generation };
            for tag in [Tag::Op(key), Tag::Rx(key), Tag::Wake, Tag::Ignored] {
                prop_assert_eq!(Tag::unpack(tag.pack()), tag);
            }
        }
    }
}
