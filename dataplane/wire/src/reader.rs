//! Reads big-endian fields from bytes of known length; nothing here can read past the end.

use crate::limits::STRING_BYTES_MAX;

/// A cursor over received bytes. Every method returns `None` instead of reading too far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `len` bytes; `len` may be whatever the peer wrote.
    pub(crate) fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    /// The next `len` bytes as a protocol string, see [`text`].
    pub(crate) fn text(&mut self, len: u32) -> Option<&'a str> {
        self.bytes(len).and_then(text)
    }

    /// What has not been read.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }
}

/// A protocol string: UTF-8, no NUL, at most [`STRING_BYTES_MAX`] bytes ("Conventions").
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > STRING_BYTES_MAX || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// The longest start of `text` that fits in `len_max` bytes and ends between characters.
pub(crate) fn truncate(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_the_end_is_none() {
        let mut reader = Reader::new(&[0, 1, 0, 0, 0, 2, b'x', 9]);
        assert_eq!(reader.u16(), Some(1));
        assert_eq!(reader.u32(), Some(2));
        assert_eq!(reader.text(1), Some("x"));
        assert_eq!(reader.rest(), &[9]);
        assert_eq!(reader.u64(), None);
        assert_eq!(reader.bytes(u32::MAX), None);
        assert_eq!(reader.rest(), &[9], "a failed read takes nothing");
    }

    #[test]
    fn strings_with_nul_bad_utf8_or_too_many_bytes_are_refused() {
        assert_eq!(text(b"a\0b"), None);
        assert_eq!(text(&[0xff]), None);
        assert_eq!(text(&[b'a'; STRING_BYTES_MAX + 1]), None);
        assert!(text(&[b'a'; STRING_BYTES_MAX]).is_some());
        assert_eq!(text(b""), Some(""));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(truncate("aé", 2), "a");
        assert_eq!(truncate("aé", 3), "aé");
        assert_eq!(truncate("aé", 99), "aé");
        assert_eq!(truncate("é", 0), "");
    }
}
