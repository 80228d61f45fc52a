//! A fixed table: indices stay valid until removed, nothing is allocated after it was made.

/// At most `capacity` entries, each at an index of its own.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// An empty table.
    #[must_use]
    pub(crate) fn new(capacity: usize) -> Self {
        let count = u32::try_from(capacity).unwrap_or(u32::MAX);
        Self {
            entries: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Puts an entry in; gives it back when the table is full.
    pub(crate) fn insert(&mut self, entry: T) -> Result<u32, T> {
        let Some(index) = self.free.pop() else {
            return Err(entry);
        };
        self.entries[index as usize] = Some(entry);
        Ok(index)
    }

    /// The index the next `insert` will use.
    #[must_use]
    pub(crate) fn next_index(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?.take();
        if entry.is_some() {
            self.free.push(index);
        }
        entry
    }

    /// The entry at `index`.
    #[must_use]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.as_ref()
    }

    /// The entry at `index`.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.as_mut()
    }

    /// How many entries there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// True without entries.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when `insert` would refuse.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// All entries with their indices.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0u32..)
            .zip(self.entries.iter_mut())
            .filter_map(|(index, e)| Some((index, e.as_mut()?)))
    }

    /// All entries with their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..)
            .zip(self.entries.iter())
            .filter_map(|(index, e)| Some((index, e.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_gives_the_entry_back() {
        let mut slots = Slots::new(2);
        let a = slots.insert('a').expect("room");
        assert!(slots.insert('b').is_ok());
        assert_eq!(slots.insert('c'), Err('c'));
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.insert('c'), Ok(a));
        assert_eq!(slots.len(), 2);
    }
}
