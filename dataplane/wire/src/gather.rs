//! Collects bytes that arrive in pieces until a unit is complete.

use crate::limits::HEADER_BYTES_MAX;
use crate::reader::Reader;

/// Collects a unit of the handshake. Grows with what has arrived, never with what was announced.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    bytes: Vec<u8>,
}

impl Gather {
    /// Takes from `input` what is missing to `len`; returns how much was taken.
    pub(crate) fn fill(&mut self, input: &[u8], len: usize) -> usize {
        let taken = input.len().min(len.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(&input[..taken]);
        taken
    }

    /// The unit of `len` bytes once it is complete; the collection starts again.
    pub(crate) fn take_full(&mut self, len: usize) -> Option<Vec<u8>> {
        (self.bytes.len() >= len).then(|| std::mem::take(&mut self.bytes))
    }
}

/// Collects a header of the transmission phase in place, without allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderGather {
    bytes: [u8; HEADER_BYTES_MAX],
    filled: usize,
}

impl HeaderGather {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; HEADER_BYTES_MAX],
            filled: 0,
        }
    }

    /// Takes from `input` what is missing to `len` (at most [`HEADER_BYTES_MAX`]).
    pub(crate) fn fill(&mut self, input: &[u8], len: usize) -> usize {
        let taken = input.len().min(self.missing(len));
        self.bytes[self.filled..self.filled + taken].copy_from_slice(&input[..taken]);
        self.filled += taken;
        taken
    }

    /// Bytes missing to `len`.
    pub(crate) fn missing(&self, len: usize) -> usize {
        len.min(HEADER_BYTES_MAX).saturating_sub(self.filled)
    }

    /// The first four bytes, once they are there: every header starts with a magic number, so a
    /// stray byte is noticed before the rest of the header is waited for.
    pub(crate) fn magic(&self) -> Option<u32> {
        Reader::new(self.as_bytes()).u32()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub(crate) const fn clear(&mut self) {
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_complete_only_with_its_last_byte() {
        let mut gather = Gather::default();
        assert_eq!(gather.fill(b"ab", 3), 2);
        assert_eq!(gather.take_full(3), None);
        assert_eq!(gather.fill(b"cd", 3), 1);
        assert_eq!(gather.take_full(3).as_deref(), Some(&b"abc"[..]));
        assert_eq!(gather.take_full(0).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_header_takes_no_byte_of_what_follows() {
        let mut gather = HeaderGather::new();
        assert_eq!(gather.fill(&[1, 2, 3], 5), 3);
        assert_eq!(gather.magic(), None);
        assert_eq!(gather.fill(&[4, 5, 6], 5), 2);
        assert_eq!(gather.missing(5), 0);
        assert_eq!(gather.magic(), Some(0x0102_0304));
        assert_eq!(gather.fill(&[7; 100], 1000), HEADER_BYTES_MAX - 5);
    }
}
