//! Where a record ends, and how one direction's key seals and opens it (RFC 8446 section 5.2).
//!
//! Layout of a protected record, and of the memory it is opened into:
//!
//! ```text
//! wire:  17 03 03 len len | ciphertext of (content, type, padding) | tag
//!        \____ AAD ____/    \________ inner_len bytes ________/     16
//! out:                      content ... type 00 00 ...
//! ```

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305};
use aws_lc_rs::aead::{LessSafeKey, Nonce, UnboundKey};

use crate::error::TlsError;
use crate::limits::{
    RECORD_HEADER_LEN, RECORD_INNER_MAX, RECORD_OVERHEAD, RECORD_PLAINTEXT_MAX,
    RECORDS_PER_KEY_HARD_MAX, TAG_LEN,
};

/// Content types (RFC 8446 section 5.1).
pub(crate) const CONTENT_ALERT: u8 = 21;
pub(crate) const CONTENT_HANDSHAKE: u8 = 22;
pub(crate) const CONTENT_DATA: u8 = 23;

const NONCE_LEN: usize = 12;

/// Where a record ends and what it opens to. All lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordFrame {
    /// The whole record on the wire, header included.
    pub wire_len: usize,
    /// Room that [`Session::open`](crate::Session::open) needs: content, type byte and padding.
    pub inner_len: usize,
}

/// The AEAD of a connection. Prints and compares by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Suite {
    pub(crate) const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Self::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
            Self::ChaCha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }

    /// Records one key may seal before the connection has to stop.
    pub(crate) const fn records_hard_max(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => RECORDS_PER_KEY_HARD_MAX,
            // RFC 8446 section 5.5: the sequence number wraps before ChaCha20 wears out.
            Self::ChaCha20Poly1305 => 1 << 62,
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// The record at the front of `bytes`; `None` when its header is incomplete.
#[inline]
pub(crate) fn frame(bytes: &[u8]) -> Result<Option<RecordFrame>, TlsError> {
    let Some(&[content_type, major, minor, high, low]) = bytes.first_chunk::<RECORD_HEADER_LEN>()
    else {
        return Ok(None);
    };
    let len_bytes = usize::from(u16::from_be_bytes([high, low]));
    let fits = (TAG_LEN + 1..=RECORD_INNER_MAX + TAG_LEN).contains(&len_bytes);
    if content_type != CONTENT_DATA || major != 3 || minor != 3 || !fits {
        return Err(refuse_header(
            content_type,
            u16::from_be_bytes([major, minor]),
            len_bytes,
        ));
    }
    Ok(Some(RecordFrame {
        wire_len: RECORD_HEADER_LEN + len_bytes,
        inner_len: len_bytes - TAG_LEN,
    }))
}

#[cold]
fn refuse_header(content_type: u8, version: u16, len_bytes: usize) -> TlsError {
    // change_cipher_spec is legal during the handshake only (section 5, last paragraphs), and
    // alerts are protected by now: what comes in the clear comes from somebody else.
    if content_type != CONTENT_DATA {
        TlsError::UnexpectedRecord { content_type }
    } else if version != 0x0303 {
        TlsError::BadRecordVersion { version }
    } else if len_bytes > RECORD_INNER_MAX + TAG_LEN {
        TlsError::RecordOverflow { len_bytes }
    } else {
        TlsError::RecordTooShort { len_bytes }
    }
}

/// Key, initialization vector and sequence number of one direction.
///
/// The number of a record never repeats under one key: it only grows, sealing and opening refuse to
/// wrap it, and a new key comes as a new value of this type. The key memory is wiped by the crypto
/// library when it is freed.
pub(crate) struct DirectionKeys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    seq: u64,
}

impl DirectionKeys {
    pub(crate) fn new(suite: Suite, key: &[u8], iv: &[u8], seq: u64) -> Result<Self, TlsError> {
        let unbound = UnboundKey::new(suite.algorithm(), key)
            .map_err(|_| TlsError::Crypto { what: "key setup" })?;
        let iv = iv
            .try_into()
            .map_err(|_| TlsError::Crypto { what: "iv setup" })?;
        Ok(Self {
            key: LessSafeKey::new(unbound),
            iv,
            seq,
        })
    }

    /// Number of the next record, which is also the count of records under this key.
    #[inline]
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    #[cfg(test)]
    pub(crate) fn set_seq(&mut self, seq: u64) {
        self.seq = seq;
    }

    /// RFC 8446 section 5.3: the sequence number, left-padded, xor the initialization vector.
    #[inline]
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.seq.to_be_bytes())
        {
            *byte ^= seq;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    #[inline]
    fn advance(&mut self) -> Result<(), TlsError> {
        self.seq = self.seq.checked_add(1).ok_or(TlsError::KeyExhausted)?;
        Ok(())
    }

    /// Seals `content` as one record of `content_type` at the front of `out`; returns its length.
    #[inline]
    pub(crate) fn seal(
        &mut self,
        content_type: u8,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<usize, TlsError> {
        if content.len() > RECORD_PLAINTEXT_MAX {
            return Err(TlsError::PlaintextTooLong {
                len_bytes: content.len(),
            });
        }
        self.seal_inner(content, &[content_type], out)
    }

    /// Seals `content` followed by `trailer`: the type byte and, in tests, padding.
    #[inline]
    pub(crate) fn seal_inner(
        &mut self,
        content: &[u8],
        trailer: &[u8],
        out: &mut [u8],
    ) -> Result<usize, TlsError> {
        let sealed_len = content.len() + trailer.len() + TAG_LEN;
        let wire_len = RECORD_HEADER_LEN + sealed_len;
        let len_bytes = out.len();
        let (Some(out), Ok(length_field)) = (out.get_mut(..wire_len), u16::try_from(sealed_len))
        else {
            return Err(TlsError::BufferTooSmall {
                len_bytes,
                needed_bytes: wire_len,
            });
        };
        let [high, low] = length_field.to_be_bytes();
        let header = [CONTENT_DATA, 3, 3, high, low];
        out[..RECORD_HEADER_LEN].copy_from_slice(&header);
        let (body, trailer_and_tag) = out[RECORD_HEADER_LEN..].split_at_mut(content.len());
        let nonce = self.nonce();
        // Counted before use: a number is spent even if sealing fails.
        self.advance()?;
        self.key
            .seal_out_of_place_scatter(
                nonce,
                Aad::from(header),
                content,
                body,
                trailer,
                trailer_and_tag,
            )
            .map_err(|_| TlsError::Crypto { what: "sealing" })?;
        Ok(wire_len)
    }

    /// Opens the record that `frame` describes into exactly `frame.inner_len` bytes.
    #[inline]
    pub(crate) fn open(&mut self, record: &[u8], inner: &mut [u8]) -> Result<(), TlsError> {
        debug_assert_eq!(record.len(), RECORD_HEADER_LEN + inner.len() + TAG_LEN);
        let (header, sealed) = record.split_at(RECORD_HEADER_LEN);
        let (ciphertext, tag) = sealed.split_at(inner.len());
        let nonce = self.nonce();
        self.key
            .open_separate_gather(nonce, Aad::from(header), ciphertext, tag, inner)
            .map_err(|_| TlsError::BadRecordMac)?;
        self.advance()
    }
}

const _: () = assert!(RECORD_OVERHEAD == RECORD_HEADER_LEN + 1 + TAG_LEN);
const _: () = assert!(RECORD_INNER_MAX + TAG_LEN <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn header(content_type: u8, version: u16, len_bytes: u16) -> Vec<u8> {
        let mut bytes = vec![content_type];
        bytes.extend(version.to_be_bytes());
        bytes.extend(len_bytes.to_be_bytes());
        bytes
    }

    #[test]
    fn a_frame_needs_the_whole_header_and_then_tells_both_lengths() {
        let bytes = header(23, 0x0303, 100);
        for cut in 0..5 {
            assert_eq!(frame(&bytes[..cut]).unwrap(), None);
        }
        let found = frame(&bytes).unwrap();
        assert_eq!(
            found,
            Some(RecordFrame {
                wire_len: 105,
                inner_len: 84
            })
        );
    }

    #[test]
    fn lengths_are_accepted_from_an_empty_record_to_a_full_one() {
        assert!(matches!(
            frame(&header(23, 0x0303, 16)),
            Err(TlsError::RecordTooShort { len_bytes: 16 })
        ));
        assert_eq!(
            frame(&header(23, 0x0303, 17)).unwrap().unwrap().inner_len,
            1
        );
        let full = frame(&header(23, 0x0303, 16_401)).unwrap().unwrap();
        assert_eq!(full.inner_len, RECORD_INNER_MAX);
        for too_long in [16_402, 16_640, 16_641, u16::MAX] {
            assert!(matches!(
                frame(&header(23, 0x0303, too_long)),
                Err(TlsError::RecordOverflow { .. })
            ));
        }
    }

    #[test]
    fn only_protected_records_of_version_0303_pass() {
        for content_type in (0..=u8::MAX).filter(|content_type| *content_type != CONTENT_DATA) {
            assert!(matches!(
                frame(&header(content_type, 0x0303, 100)),
                Err(TlsError::UnexpectedRecord { content_type: found }) if found == content_type
            ));
        }
        assert!(matches!(
            frame(&header(23, 0x0301, 100)),
            Err(TlsError::BadRecordVersion { version: 0x0301 })
        ));
    }

    #[test]
    fn the_nonce_is_the_sequence_number_xor_the_initialization_vector() {
        let iv = [0xf0; NONCE_LEN];
        let keys =
            DirectionKeys::new(Suite::Aes128Gcm, &[1; 16], &iv, 0x0102_0304_0506_0708).unwrap();
        let expected = [
            0xf0, 0xf0, 0xf0, 0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
        ];
        assert_eq!(keys.nonce().as_ref(), &expected);
    }

    #[test]
    fn a_sequence_number_never_wraps() {
        let mut keys = DirectionKeys::new(Suite::Aes128Gcm, &[1; 16], &[2; 12], u64::MAX).unwrap();
        let mut out = [0; 64];
        assert!(matches!(
            keys.seal(CONTENT_DATA, b"x", &mut out),
            Err(TlsError::KeyExhausted)
        ));
        assert!(matches!(
            keys.seal(CONTENT_DATA, b"x", &mut out),
            Err(TlsError::KeyExhausted)
        ));
    }

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        for suite in Suite::ALL {
            assert!(DirectionKeys::new(suite, &[0; 5], &[0; 12], 0).is_err());
            assert!(DirectionKeys::new(suite, &[0; 32], &[0; 11], 0).is_err());
        }
    }
}
