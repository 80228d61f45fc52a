//! What is known of the writes to one device, whichever export they come through.
//!
//! Two exports may share a device (one that may be written and one that may not, or an old one and the one that
//! replaces it). A digest must be wrong for none of them, so they share this.

use super::busy::RangeUse;
use crate::{export::Store, limits::SERVER_REQUESTS_PER_LANE_MAX};
use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use sys::DeviceKind;

/// A device among those that are open: kind and numbers.
type DeviceKey = (DeviceKind, u64, u64);

/// Watches of open devices. The last export that goes takes its watch with it.
static WATCHES: Mutex<Vec<(DeviceKey, Weak<DeviceWatch>)>> = Mutex::new(Vec::new());

/// Writes to one device.
#[derive(Debug)]
pub(crate) struct DeviceWatch {
    pub(crate) writes: RangeUse,
}

impl DeviceWatch {
    fn new(size_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            writes: RangeUse::new(size_bytes),
        })
    }

    /// The watch of what is behind an export.
    pub(crate) fn of(store: &Store) -> Arc<Self> {
        let file = match store {
            Store::Device(file) => file,
            Store::Null { size_bytes } => return Self::new(*size_bytes),
        };
        let identity = file.identity();
        let key = (identity.kind, identity.dev, identity.inode);
        let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|(_, watch)| watch.strong_count() > 0);
        let known = watches.iter().find(|(known, _)| *known == key);
        if let Some(watch) = known.and_then(|(_, watch)| watch.upgrade()) {
            return watch;
        }
        let watch = Self::new(file.size_bytes());
        watches.push((key, Arc::downgrade(&watch)));
        watch
    }
}

/// Writes of one connection, by the slot of their request. What is still there when the connection is dropped ends
/// then: a connection is dropped when the kernel has given back all of its operations.
#[derive(Debug)]
pub(crate) struct ConnectionWrites {
    watch: Arc<DeviceWatch>,
    ranges: Box<[Range<u64>]>,
}

impl ConnectionWrites {
    pub(crate) fn new(watch: &Arc<DeviceWatch>) -> Self {
        Self {
            watch: Arc::clone(watch),
            ranges: vec![0..0; SERVER_REQUESTS_PER_LANE_MAX].into(),
        }
    }

    /// The request in `slot` will write to `range`.
    pub(crate) fn begin(&mut self, slot: u32, range: Range<u64>) {
        let Some(place) = self.ranges.get_mut(slot as usize) else {
            return debug_assert!(false, "a request without a slot");
        };
        debug_assert!(place.is_empty(), "two writes in one slot");
        self.watch.writes.begin(&range);
        *place = range;
    }

    /// The request in `slot` is answered.
    pub(crate) fn end(&mut self, slot: u32) {
        if let Some(place) = self.ranges.get_mut(slot as usize) {
            self.watch.writes.end(&std::mem::replace(place, 0..0));
        }
    }
}

impl Drop for ConnectionWrites {
    fn drop(&mut self) {
        for range in &self.ranges {
            self.watch.writes.end(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::DeviceFile;

    fn memory() -> Store {
        let file = DeviceFile::in_memory(1 << 20).expect("a file in memory");
        Store::Device(Arc::new(file))
    }

    #[test]
    fn exports_of_one_device_share_what_is_known_of_it() {
        let (one, other) = (memory(), memory());
        let watch = DeviceWatch::of(&one);
        assert!(Arc::ptr_eq(&watch, &DeviceWatch::of(&one.clone())));
        assert!(!Arc::ptr_eq(&watch, &DeviceWatch::of(&other)));
        drop(watch);
        assert_eq!(Arc::strong_count(&DeviceWatch::of(&one)), 1, "a new one");
        let null = Store::Null { size_bytes: 7 };
        assert!(!Arc::ptr_eq(
            &DeviceWatch::of(&null),
            &DeviceWatch::of(&null)
        ));
    }

    #[test]
    fn what_a_connection_leaves_behind_ends_with_it() {
        let watch = DeviceWatch::of(&memory());
        let mut writes = ConnectionWrites::new(&watch);
        writes.begin(0, 0..10);
        writes.begin(5, 10..20);
        writes.end(0);
        writes.end(1);
        assert!(watch.writes.is_busy(&(0..20)));
        drop(writes);
        assert!(!watch.writes.is_busy(&(0..20)));
    }
}
