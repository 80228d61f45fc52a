//! Finding zeroes in payload while it is hot.

/// True when every byte is zero. The compiler turns the fold over 64-byte groups into vector
/// instructions; the first group that is not zero ends the scan.
#[must_use]
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut groups = bytes.chunks_exact(256);
    for group in &mut groups {
        let any = group.iter().fold(0u8, |any, byte| any | byte);
        if any != 0 {
            return false;
        }
    }
    groups.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_found() {
        let mut bytes = vec![0u8; 1_500];
        assert!(is_zero(&bytes));
        assert!(is_zero(&[]));
        for at in [0, 1, 255, 256, 1_023, 1_279, 1_280, 1_499] {
            bytes[at] = 0x10;
            assert!(!is_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }
}
