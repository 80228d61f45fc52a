//! Sessions without a handshake, and records no honest peer makes, for tests and fuzz targets only.

use crate::error::TlsError;
use crate::handoff::KeySchedule;
use crate::record::{DirectionKeys, Suite};
use crate::session::{Keys, Session, SessionLimits};

/// A key schedule that counts instead of deriving: generation `n` of a direction has a key made of
/// its direction and `n`.
pub(crate) struct FixedSchedule {
    pub(crate) is_client: bool,
    tx_generation: u8,
    rx_generation: u8,
}

impl FixedSchedule {
    fn keys(suite: Suite, from_client: bool, generation: u8) -> Result<DirectionKeys, TlsError> {
        let direction = if from_client { 0xc0 } else { 0x50 };
        let mut key = [direction; 32];
        key[0] = generation;
        let len = if suite == Suite::Aes128Gcm { 16 } else { 32 };
        DirectionKeys::new(suite, &key[..len], &[direction ^ generation; 12], 0)
    }

    pub(crate) fn next_tx(&mut self, suite: Suite) -> Result<DirectionKeys, TlsError> {
        self.tx_generation = self.tx_generation.wrapping_add(1);
        Self::keys(suite, self.is_client, self.tx_generation)
    }

    pub(crate) fn next_rx(&mut self, suite: Suite) -> Result<DirectionKeys, TlsError> {
        self.rx_generation = self.rx_generation.wrapping_add(1);
        Self::keys(suite, !self.is_client, self.rx_generation)
    }
}

fn session(suite: Suite, is_client: bool, limits: SessionLimits) -> Session {
    let schedule = FixedSchedule {
        is_client,
        tx_generation: 0,
        rx_generation: 0,
    };
    let keys = |from_client| {
        FixedSchedule::keys(suite, from_client, 0).expect("fixed keys have the right length")
    };
    Session::new(
        Keys {
            suite,
            tx: keys(is_client),
            rx: keys(!is_client),
            schedule: KeySchedule::Fixed(schedule),
        },
        limits,
    )
}

/// A client and a server session that understand each other. `suite` counts in the order AES-128,
/// AES-256, ChaCha20 and wraps.
pub fn session_pair(suite: usize, limits: SessionLimits) -> (Session, Session) {
    let suite = Suite::ALL[suite % Suite::ALL.len()];
    (session(suite, true, limits), session(suite, false, limits))
}

/// Seals arbitrary inner plaintext: `content`, then `trailer` (type byte and padding).
pub fn seal_inner(
    session: &mut Session,
    content: &[u8],
    trailer: &[u8],
    out: &mut [u8],
) -> Result<usize, TlsError> {
    session.tx_for_tests().seal_inner(content, trailer, out)
}
