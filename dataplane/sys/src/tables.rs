//! What both backends say about their tables and receive rings.

use crate::{RxMode, SetupError, SetupErrorKind, memory::MirroredRing};

/// A ring must hold more than one TLS record of any kind, twice.
const RING_BYTES_MIN: usize = 64 * 1024;
pub(crate) const RING_BYTES_MAX: usize = 1 << 30;

/// Every table has an end.
pub(crate) fn full(what: &str, count: usize) -> SetupError {
    SetupError::new(
        SetupErrorKind::Resource,
        what,
        format!("all {count} places are taken"),
    )
    .with_remedy("close some, or allow more per shard")
}

/// The socket's receive ring with its initial bytes; None in `RxMode::Exact`.
pub(crate) fn receive_ring(
    mode: RxMode,
    initial: &[u8],
) -> Result<Option<MirroredRing>, SetupError> {
    let error = |kind, problem: String| SetupError::new(kind, "receive ring", problem);
    let ring_bytes = match mode {
        RxMode::Exact if initial.is_empty() => return Ok(None),
        RxMode::Exact => {
            let problem = "initial bytes need a receive ring".to_owned();
            return Err(error(SetupErrorKind::Invalid, problem));
        }
        RxMode::Stream { ring_bytes } => ring_bytes,
    };
    let sizes = RING_BYTES_MIN..=RING_BYTES_MAX;
    if !ring_bytes.is_power_of_two() || !sizes.contains(&ring_bytes) || initial.len() > ring_bytes {
        let problem = format!(
            "{ring_bytes} bytes make no ring for {} initial ones",
            initial.len()
        );
        return Err(error(SetupErrorKind::Invalid, problem));
    }
    let mut ring = MirroredRing::new(ring_bytes).map_err(|source| {
        let problem = format!("{ring_bytes} bytes cannot be mapped twice");
        error(SetupErrorKind::Resource, problem).with_source(source)
    })?;
    ring.append(initial);
    Ok(Some(ring))
}
