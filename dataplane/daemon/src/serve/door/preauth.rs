//! Who may stay before authentication: pure, so that a flood can be tested without sockets.
//!
//! At most `max` connections are held. When one more comes, one of those that have not even finished
//! their ClientHello goes, oldest first; only when all have, the oldest of all goes. A client that means
//! it sends its ClientHello at once, so silent connections make room for it.

use std::collections::BTreeMap;

/// Names a held connection; grows with age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PreauthId(u64);

/// A connection that had to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Evicted<T> {
    /// Its handle.
    pub(super) handle: T,
    /// It had sent a whole ClientHello.
    pub(super) had_hello: bool,
}

/// The connections held, by age.
#[derive(Debug)]
pub(in crate::serve) struct Preauth<T> {
    max: usize,
    next: u64,
    /// Without a complete ClientHello.
    silent: BTreeMap<PreauthId, T>,
    /// With one.
    greeted: BTreeMap<PreauthId, T>,
}

impl<T> Preauth<T> {
    /// Holds at most `max`.
    pub(in crate::serve) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            next: 0,
            silent: BTreeMap::new(),
            greeted: BTreeMap::new(),
        }
    }

    /// A new limit; those above it go as new ones come.
    pub(in crate::serve) fn set_max(&mut self, max: usize) {
        self.max = max.max(1);
    }

    /// How many are held.
    pub(in crate::serve) fn len(&self) -> usize {
        self.silent.len() + self.greeted.len()
    }

    /// An id for a connection that is about to be inserted.
    pub(super) fn next_id(&mut self) -> PreauthId {
        self.next += 1;
        PreauthId(self.next)
    }

    /// Holds one more; those who must go for it. Call with ids in their order.
    pub(super) fn insert(&mut self, id: PreauthId, handle: T) -> Vec<Evicted<T>> {
        let mut evicted = Vec::new();
        while self.len() >= self.max {
            match self.evict_oldest() {
                Some(one) => evicted.push(one),
                None => break,
            }
        }
        self.silent.insert(id, handle);
        evicted
    }

    /// Takes out whoever is to go first.
    pub(super) fn evict_oldest(&mut self) -> Option<Evicted<T>> {
        let silent = self.silent.pop_first().map(|(_, handle)| Evicted {
            handle,
            had_hello: false,
        });
        silent.or_else(|| {
            self.greeted.pop_first().map(|(_, handle)| Evicted {
                handle,
                had_hello: true,
            })
        })
    }

    /// The ClientHello is complete.
    pub(super) fn greeted(&mut self, id: PreauthId) {
        if let Some(handle) = self.silent.remove(&id) {
            self.greeted.insert(id, handle);
        }
    }

    /// The connection authenticated, or ended. False when it was evicted before.
    pub(super) fn remove(&mut self, id: PreauthId) -> bool {
        self.silent.remove(&id).is_some() || self.greeted.remove(&id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn insert(preauth: &mut Preauth<u32>, handle: u32) -> (PreauthId, Vec<(u32, bool)>) {
        let id = preauth.next_id();
        let evicted = preauth.insert(id, handle);
        (
            id,
            evicted
                .into_iter()
                .map(|one| (one.handle, one.had_hello))
                .collect(),
        )
    }

    #[test]
    fn the_oldest_silent_one_goes_first() {
        let mut preauth = Preauth::new(3);
        let (first, _) = insert(&mut preauth, 1);
        insert(&mut preauth, 2);
        insert(&mut preauth, 3);
        preauth.greeted(first);
        assert_eq!(insert(&mut preauth, 4).1, [(2, false)]);
        assert_eq!(insert(&mut preauth, 5).1, [(3, false)]);
        assert_eq!(preauth.len(), 3);
    }

    #[test]
    fn when_all_have_greeted_the_oldest_of_all_goes() {
        let mut preauth = Preauth::new(2);
        let (first, _) = insert(&mut preauth, 1);
        let (second, _) = insert(&mut preauth, 2);
        preauth.greeted(second);
        preauth.greeted(first);
        assert_eq!(insert(&mut preauth, 3).1, [(1, true)]);
        assert!(!preauth.remove(first), "it was evicted");
        assert!(preauth.remove(second));
        assert_eq!(preauth.len(), 1);
    }

    #[test]
    fn a_lower_limit_takes_effect_with_the_next_connection() {
        let mut preauth = Preauth::new(3);
        for handle in 1..=3 {
            insert(&mut preauth, handle);
        }
        preauth.set_max(1);
        assert_eq!(
            insert(&mut preauth, 4).1,
            [(1, false), (2, false), (3, false)]
        );
        assert_eq!(preauth.len(), 1);
    }

    #[test]
    fn a_client_that_greets_at_once_survives_a_flood_of_silent_ones() {
        let mut preauth = Preauth::new(512);
        for handle in 0..10_000 {
            insert(&mut preauth, handle);
        }
        let (good, _) = insert(&mut preauth, 99_999);
        preauth.greeted(good);
        for handle in 0..10_000 {
            let (_, evicted) = insert(&mut preauth, handle);
            assert_eq!(evicted.len(), 1);
            assert_ne!(evicted[0].0, 99_999);
        }
        assert!(preauth.remove(good));
    }

    proptest! {
        #[test]
        fn the_limit_holds_and_nobody_is_lost(steps in prop::collection::vec(0u8..4, 1..400)) {
            let mut preauth = Preauth::new(7);
            let (mut ids, mut alive) = (Vec::new(), 0usize);
            for step in steps {
                match step {
                    0 | 1 => {
                        let id = preauth.next_id();
                        alive += 1;
                        alive -= preauth.insert(id, ids.len()).len();
                        ids.push(id);
                    }
                    2 => if let Some(id) = ids.last() { preauth.greeted(*id) },
                    _ => if let Some(id) = ids.pop() { alive -= usize::from(preauth.remove(id)) },
                }
                prop_assert!(preauth.len() <= 7);
                prop_assert_eq!(preauth.len(), alive);
            }
        }
    }
}
