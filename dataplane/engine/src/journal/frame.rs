//! Lines of the file: a checksum over everything so far, a space, one JSON object.

use std::io::{self, BufRead, Read};

use serde::Serialize;

use super::{
    RECORD_BYTES_MAX,
    record::{Body, Header},
};

/// The first line. A file without it is not ours, and nothing in it is touched.
pub(super) const MAGIC: &[u8] = b"migratekit-journal\n";
/// Hexadecimal digits of a checksum: 16 bytes, enough that no damage passes by chance.
const SUM_DIGITS: usize = 32;

/// The checksum of the last record: BLAKE3 of the one before and this record's bytes, cut to 16 bytes. A record that is
/// moved, lost or altered breaks the chain for everything behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain([u8; 16]);

impl Chain {
    /// Before the first record.
    pub(super) fn new() -> Self {
        Self([0; 16]).after(MAGIC)
    }

    fn after(self, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(bytes);
        let mut sum = [0; 16];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(sum)
    }

    fn digits(self) -> [u8; SUM_DIGITS] {
        let mut digits = [0; SUM_DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        digits
    }

    /// Appends one line to `out`. On an error nothing is appended.
    pub(super) fn encode(&mut self, body: &impl Serialize, out: &mut Vec<u8>) -> io::Result<()> {
        let json = serde_json::to_vec(body)?;
        if SUM_DIGITS + 1 + json.len() + 1 > RECORD_BYTES_MAX {
            return Err(io::Error::other("a record is too long"));
        }
        *self = self.after(&json);
        out.extend_from_slice(&self.digits());
        out.push(b' ');
        out.extend_from_slice(&json);
        out.push(b'\n');
        Ok(())
    }

    /// The JSON of a whole line, and the chain behind it; `None` when it does not belong here.
    pub(super) fn decode<'a>(&self, line: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (sum, rest) = line.split_at_checked(SUM_DIGITS)?;
        let json = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
        let next = self.after(json);
        (next.digits() == sum).then_some((next, json))
    }
}

/// A line as an append writes it, whatever its checksum says.
pub(super) fn is_whole(line: &[u8]) -> bool {
    let Some((sum, rest)) = line.split_at_checked(SUM_DIGITS) else {
        return false;
    };
    sum.iter().all(u8::is_ascii_hexdigit) && rest.starts_with(b" {") && rest.ends_with(b"}\n")
}

/// The header is a record like the others, but always the first and only there.
pub(super) fn encode_header(
    chain: &mut Chain,
    header: &Header,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    chain.encode(&Body::Header(Box::new(header.clone())), out)
}

/// Reads one line with its end into `line`, at most `RECORD_BYTES_MAX` bytes of it. False at the end of the file.
pub(super) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let len = reader
        .take(RECORD_BYTES_MAX as u64)
        .read_until(b'\n', line)?;
    Ok(len > 0)
}
