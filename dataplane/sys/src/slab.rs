//! A table of fixed size whose keys carry a generation: a key to something that is gone fits nothing.

/// A place and how often it was reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Never grows, never allocates after `new`. Freed places are reused last in, first out.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Generations wrap here: `ring::tag` has this many bits for them.
pub(crate) const GENERATION_MAX: u32 = (1 << 28) - 1;

impl<T> Slab<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        let count = u32::try_from(capacity).expect("tables are far smaller than 2^32");
        let entries = (0..count)
            .map(|_| Entry {
                generation: 0,
                value: None,
            })
            .collect();
        Self {
            entries,
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that the next `insert` will return; None when full.
    pub(crate) fn next_key(&self) -> Option<Key> {
        let index = *self.free.last()?;
        Some(Key {
            index,
            generation: self.entries[index as usize].generation,
        })
    }

    /// A full table gives the value back.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        let Some(index) = self.free.pop() else {
            return Err(value);
        };
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.value.is_none(), "a free place holds nothing");
        entry.value = Some(value);
        Ok(Key {
            index,
            generation: entry.generation,
        })
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation == key.generation {
            entry.value.as_ref()
        } else {
            None
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation {
            entry.value.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = if entry.generation == GENERATION_MAX {
            0
        } else {
            entry.generation + 1
        };
        self.free.push(key.index);
        Some(value)
    }

    /// Everything present.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries
            .iter()
            .zip(0u32..)
            .filter_map(|(entry, index)| {
                let key = Key {
                    index,
                    generation: entry.generation,
                };
                entry.value.as_ref().map(|value| (key, value))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut slab = Slab::new(1);
        let key = slab.insert('a').unwrap();
        assert_eq!(slab.insert('b'), Err('b'));
        assert_eq!(slab.next_key(), None);
        assert_eq!(slab.remove(key), Some('a'));
        assert!(slab.is_empty());
    }

    #[test]
    fn a_key_to_something_gone_fits_nothing() {
        let mut slab = Slab::new(2);
        let old = slab.insert(1).unwrap();
        slab.remove(old);
        let new = slab.insert(2).unwrap();
        assert_eq!(new.index, old.index, "places are reused at once");
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&2));
        assert_eq!(
            slab.get(Key {
                index: 9,
                generation: 0
            }),
            None
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn it_behaves_like_a_map_with_unique_keys(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..100),
        ) {
            let mut slab = Slab::new(8);
            let mut model: HashMap<Key, usize> = HashMap::new();
            let mut gone: Vec<Key> = Vec::new();
            for (number, (insert, which)) in steps.into_iter().enumerate() {
                if insert {
                    let expected = slab.next_key();
                    match slab.insert(number) {
                        Ok(key) => {
                            prop_assert_eq!(Some(key), expected);
                            prop_assert!(model.insert(key, number).is_none());
                        }
                        Err(_) => prop_assert_eq!(model.len(), 8),
                    }
                } else if !model.is_empty() {
                    let key = *which.get(&model.keys().copied().collect::<Vec<_>>());
                    prop_assert_eq!(slab.remove(key), model.remove(&key));
                    gone.push(key);
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert!(gone.iter().all(|key| slab.get(*key).is_none()));
                prop_assert!(slab.iter().all(|(key, value)| model.get(&key) == Some(value)));
            }
        }
    }
}
