//! Who may stay before authentication: pure, so that a flood can be tested without sockets.
//!
//! At most `max` connections are held. When one more comes, one of those that have not even finished
//! their ClientHello goes, oldest first; only when all have, the oldest of all goes. A client that means
//! it sends its ClientHello at once, so silent connections make room for it.
//!
//! "At once" is a round trip, and a flood may turn over all places in less. So when all are taken, the
//! next connection is accepted only when the one that would go has had its [`Pressure::grace`]: those
//! behind it wait in the kernel's queue, where the ClientHellos of honest clients arrive meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time for a ClientHello, when all places are taken and the kernel's queue is short.
const GRACE: Duration = Duration::from_millis(100);
/// Connections a second that get through at least, however few places there are.
const TURNOVER_PER_S_MIN: u32 = 5_000;
/// With a queue that was not empty for this long, connections come faster than they are let in.
const PATIENCE: Duration = Duration::from_millis(500);
/// Behind that, the grace halves each time this has passed: a queue that overflows turns honest clients
/// away unheard.
const HALVING: Duration = Duration::from_millis(250);
/// Halvings after which a connection goes as soon as another comes.
const HALVINGS_MAX: u32 = 8;

/// How hard connections press on a listener.
#[derive(Debug, Clone, Copy)]
pub(in crate::serve) struct Pressure {
    queue_was_empty_at: Instant,
}

impl Pressure {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            queue_was_empty_at: now,
        }
    }

    /// Nobody waits in the kernel's queue.
    pub(super) fn relieved(&mut self, now: Instant) {
        self.queue_was_empty_at = now;
    }

    /// How long a connection may keep its place without a word, when all `max` places are taken.
    pub(super) fn grace(&self, now: Instant, max: usize) -> Duration {
        let places = u32::try_from(max).unwrap_or(u32::MAX);
        let fair = Duration::from_secs(1) * places / TURNOVER_PER_S_MIN;
        let pressed_for = now.saturating_duration_since(self.queue_was_empty_at);
        let impatient_for = pressed_for.saturating_sub(PATIENCE);
        let halvings = impatient_for.as_millis() / HALVING.as_millis();
        match u32::try_from(halvings) {
            Ok(halvings) if halvings < HALVINGS_MAX => GRACE.min(fair) / (1 << halvings),
            _ => Duration::ZERO,
        }
    }
}

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

/// A connection that is held.
#[derive(Debug)]
struct Held<T> {
    since: Instant,
    handle: T,
}

/// The connections held, by age.
#[derive(Debug)]
pub(in crate::serve) struct Preauth<T> {
    max: usize,
    next: u64,
    /// Without a complete ClientHello.
    silent: BTreeMap<PreauthId, Held<T>>,
    /// With one.
    greeted: BTreeMap<PreauthId, Held<T>>,
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

    /// How long the next connection has to wait for its place: not at all while there are free ones, else
    /// until the one that would go for it has had its grace. `are_full` says that there are no more places
    /// whatever the limit is.
    pub(super) fn wait(&self, now: Instant, pressure: Pressure, are_full: bool) -> Duration {
        if self.len() < self.max && !are_full {
            return Duration::ZERO;
        }
        let next_to_go = self.silent.values().next();
        let next_to_go = next_to_go.or_else(|| self.greeted.values().next());
        next_to_go.map_or(Duration::ZERO, |held| {
            let age = now.saturating_duration_since(held.since);
            pressure.grace(now, self.max).saturating_sub(age)
        })
    }

    /// An id for a connection that is about to be inserted.
    pub(super) fn next_id(&mut self) -> PreauthId {
        self.next += 1;
        PreauthId(self.next)
    }

    /// Holds one more; those who must go for it. Call with ids in their order.
    pub(super) fn insert(&mut self, id: PreauthId, now: Instant, handle: T) -> Vec<Evicted<T>> {
        let mut evicted = Vec::new();
        while self.len() >= self.max {
            match self.evict_oldest() {
                Some(one) => evicted.push(one),
                None => break,
            }
        }
        self.silent.insert(id, Held { since: now, handle });
        evicted
    }

    /// Takes out whoever is to go first.
    pub(super) fn evict_oldest(&mut self) -> Option<Evicted<T>> {
        let evicted = |had_hello| {
            move |(_, held): (PreauthId, Held<T>)| Evicted {
                handle: held.handle,
                had_hello,
            }
        };
        let silent = self.silent.pop_first().map(evicted(false));
        silent.or_else(|| self.greeted.pop_first().map(evicted(true)))
    }

    /// The ClientHello is complete.
    pub(super) fn greeted(&mut self, id: PreauthId) {
        if let Some(held) = self.silent.remove(&id) {
            self.greeted.insert(id, held);
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
        insert_at(preauth, Instant::now(), handle)
    }

    fn insert_at(
        preauth: &mut Preauth<u32>,
        now: Instant,
        handle: u32,
    ) -> (PreauthId, Vec<(u32, bool)>) {
        let id = preauth.next_id();
        let evicted = preauth.insert(id, now, handle);
        let evicted = evicted.into_iter().map(|one| (one.handle, one.had_hello));
        (id, evicted.collect())
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
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
        let all = [(1, false), (2, false), (3, false)];
        assert_eq!(insert(&mut preauth, 4).1, all);
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

    #[test]
    fn a_place_is_kept_for_a_round_trip_before_it_is_given_away() {
        let start = Instant::now();
        let mut pressure = Pressure::new(start);
        let mut preauth = Preauth::new(512);
        for index in 0..512 {
            assert_eq!(preauth.wait(start, pressure, false), ms(0), "there is room");
            insert_at(&mut preauth, start + ms(index / 64), 0);
        }
        assert_eq!(preauth.wait(start + ms(10), pressure, false), ms(90));
        assert_eq!(preauth.wait(start + ms(100), pressure, false), ms(0));
        pressure.relieved(start + ms(600));
        assert_eq!(pressure.grace(start + ms(700), 512), ms(100));
        // Without descriptors the limit does not matter.
        let mut few = Preauth::new(512);
        insert_at(&mut few, start, 0);
        assert_eq!(few.wait(start, pressure, true), ms(100));
        assert_eq!(Preauth::<u32>::new(4).wait(start, pressure, true), ms(0));
    }

    #[test]
    fn the_grace_shrinks_while_the_queue_stays_full_and_ends_in_the_end() {
        let start = Instant::now();
        let pressure = Pressure::new(start);
        let grace = |after| pressure.grace(start + ms(after), 512);
        assert_eq!(grace(500), ms(100));
        assert_eq!(grace(750), ms(50));
        assert_eq!(grace(1_000), ms(25));
        assert_eq!(grace(2_500), ms(0));
        assert_eq!(grace(3_600_000), ms(0));
    }

    #[test]
    fn few_places_turn_over_as_fast_as_many() {
        let start = Instant::now();
        let grace = Pressure::new(start).grace(start, 10);
        assert_eq!(grace, ms(2), "ten places, five thousand a second");
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
                        alive -= preauth.insert(id, Instant::now(), ids.len()).len();
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
