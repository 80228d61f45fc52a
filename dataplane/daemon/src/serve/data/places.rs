//! Connections of `mk-data/1` at once: all together, and of one certificate, so that one cannot lock out the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use control::Fingerprint;

use crate::serve::limits::{DATA_CONNECTIONS_MAX, DATA_CONNECTIONS_PER_CERTIFICATE_MAX};

/// Connections by certificate.
#[derive(Debug, Default)]
pub(in crate::serve) struct DataPlaces(Mutex<BTreeMap<Fingerprint, usize>>);

impl DataPlaces {
    /// A place for one more; `None` when there is none.
    pub(in crate::serve) fn take(self: &Arc<Self>, fingerprint: Fingerprint) -> Option<DataPlace> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&fingerprint).copied().unwrap_or_default();
        if all >= DATA_CONNECTIONS_MAX || own >= DATA_CONNECTIONS_PER_CERTIFICATE_MAX {
            return None;
        }
        taken.insert(fingerprint, own + 1);
        Some(DataPlace {
            places: Arc::clone(self),
            fingerprint,
        })
    }

    /// How many are taken.
    pub(in crate::serve) fn taken(&self) -> usize {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.values().sum()
    }
}

/// The place of one connection, given back when dropped.
pub(in crate::serve) struct DataPlace {
    places: Arc<DataPlaces>,
    fingerprint: Fingerprint,
}

impl Drop for DataPlace {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.fingerprint) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.fingerprint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_cannot_take_the_places_of_all() {
        let places = Arc::new(DataPlaces::default());
        let of = |byte| Fingerprint([byte; 32]);
        let mut held: Vec<_> = (0..DATA_CONNECTIONS_PER_CERTIFICATE_MAX)
            .map(|_| places.take(of(1)).unwrap())
            .collect();
        assert!(places.take(of(1)).is_none());
        assert!(places.take(of(2)).is_some(), "there is room for others");
        drop(held.pop());
        assert!(places.take(of(1)).is_some());
        assert_eq!(places.taken(), held.len());
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(places.0.lock().unwrap().is_empty());
    }

    #[test]
    fn all_together_have_a_limit() {
        let places = Arc::new(DataPlaces::default());
        let of = |index: usize| Fingerprint([u8::try_from(index % 200).unwrap(); 32]);
        let held: Vec<_> = (0..DATA_CONNECTIONS_MAX)
            .map(|index| places.take(of(index)).unwrap())
            .collect();
        assert!(places.take(Fingerprint([255; 32])).is_none());
        drop(held);
        assert!(places.take(Fingerprint([255; 32])).is_some());
    }
}
