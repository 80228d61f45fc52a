//! The bytes of one request, in leases.

use crate::limits::{PAYLOAD_LEASES_MAX, PIECE_BYTES, SMALL_BYTES};
use sys::{Lease, LeaseClass};

/// Up to `TRANSFER_REQUEST_BYTES_MAX` bytes in leases of one class: byte `i` stands in lease
/// `(at + i) / segment`, and inside one lease bytes are contiguous.
#[derive(Default)]
pub(crate) struct Payload {
    leases: [Option<Lease>; PAYLOAD_LEASES_MAX],
    count: usize,
    at: usize,
    len: usize,
}

/// Where some bytes of a payload stand: lease, offset in it, how many are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Index of the lease.
    pub(crate) lease: usize,
    /// Offset in the lease, bytes.
    pub(crate) at: usize,
    /// Contiguous payload bytes from there.
    pub(crate) len: usize,
}

/// The class of lease that `len` bytes need, when they need one.
#[must_use]
pub(crate) fn class_for(len: u64) -> LeaseClass {
    if len <= SMALL_BYTES as u64 {
        LeaseClass::Small
    } else {
        LeaseClass::Large
    }
}

/// Class and number of leases that `len` bytes need.
#[must_use]
pub(crate) fn leases_for(len: usize) -> (LeaseClass, usize) {
    if len <= SMALL_BYTES {
        (LeaseClass::Small, 1)
    } else {
        (LeaseClass::Large, len.div_ceil(PIECE_BYTES))
    }
}

impl Payload {
    /// `len` bytes that will stand from `at` on in leases added by `push_lease`.
    #[must_use]
    pub(crate) fn with_place(at: usize, len: usize) -> Self {
        Self {
            at,
            len,
            ..Self::default()
        }
    }

    /// Part of one lease.
    #[must_use]
    pub(crate) fn single(lease: Lease, at: usize, len: usize) -> Self {
        let mut payload = Self {
            at,
            len,
            ..Self::default()
        };
        payload.leases[0] = Some(lease);
        payload.count = 1;
        payload
    }

    /// Adds the next lease.
    ///
    /// # Panics
    /// When there are `PAYLOAD_LEASES_MAX` already: requests are cut to fit before.
    pub(crate) fn push_lease(&mut self, lease: Lease) {
        self.leases[self.count] = Some(lease);
        self.count += 1;
    }

    /// Bytes of the payload.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of leases.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn segment(&self) -> usize {
        match self.leases[0].as_ref().map(Lease::class) {
            Some(LeaseClass::Small) => SMALL_BYTES,
            _ => PIECE_BYTES,
        }
    }

    /// Where byte `offset` stands; `len` is 0 at the end.
    #[must_use]
    pub(crate) fn spot(&self, offset: usize) -> Spot {
        let segment = self.segment();
        let place = self.at + offset;
        if self.count <= 1 {
            // A lone lease may be used into its slack (the cover of an unaligned read).
            return Spot {
                lease: 0,
                at: place,
                len: self.len.saturating_sub(offset),
            };
        }
        let (lease, at) = (place / segment, place % segment);
        Spot {
            lease,
            at,
            len: (segment - at).min(self.len.saturating_sub(offset)),
        }
    }

    /// The contiguous bytes from `offset` on.
    #[must_use]
    pub(crate) fn bytes_at(&self, offset: usize) -> &[u8] {
        let spot = self.spot(offset);
        match self.leases.get(spot.lease).and_then(Option::as_ref) {
            Some(lease) => &lease.bytes()[spot.at..spot.at + spot.len],
            None => &[],
        }
    }

    /// The rest of the lease that holds byte `offset`, slack included; the second value says how much of it is payload.
    pub(crate) fn room_at(&mut self, offset: usize) -> (&mut [u8], usize) {
        let spot = self.spot(offset);
        match self.leases.get_mut(spot.lease).and_then(Option::as_mut) {
            Some(lease) => (&mut lease.bytes_mut()[spot.at..], spot.len),
            None => (&mut [], 0),
        }
    }

    /// Takes the lease with this index out for an operation.
    pub(crate) fn take_lease(&mut self, index: usize) -> Option<Lease> {
        self.leases.get_mut(index)?.take()
    }

    /// Puts the lease back where it was taken.
    pub(crate) fn put_lease(&mut self, index: usize, lease: Lease) {
        self.leases[index] = Some(lease);
    }

    /// Cuts the payload to `[from, from + len)` without moving bytes; leases that are not needed stay in.
    pub(crate) fn narrow(&mut self, from: usize, len: usize) {
        debug_assert!(from + len <= self.len);
        self.at += from;
        self.len = len;
    }

    /// All leases that are in.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Lease> {
        self.count = 0;
        self.len = 0;
        std::mem::take(&mut self.leases).into_iter().flatten()
    }
}
