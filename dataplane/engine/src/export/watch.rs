//! What is known of the writes to one device, whichever export they come through.
//!
//! Two exports may share a device (one that may be written and one that may not, or an old one and the one that
//! replaces it). A digest must be wrong for none of them, and what one of them lost the others lost too, so they share
//! this.

use super::{
    Export,
    busy::RangeUse,
    stream::{Leaves, Stream, StreamChunk, Ticket, WriteId},
};
use crate::{
    export::Store,
    limits::SERVER_REQUESTS_PER_LANE_MAX,
    syncs::{Half, Syncs},
};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};
use sys::DeviceKind;

/// A device among those that are open: kind and numbers.
type DeviceKey = (DeviceKind, u64, u64);

/// Watches of open devices. The last export that goes takes its watch with it.
static WATCHES: Mutex<Vec<(DeviceKey, Weak<DeviceWatch>)>> = Mutex::new(Vec::new());

/// The thread that takes what shards tell about streams; there once somebody wants a stream.
static COLLECTOR: OnceLock<Thread> = OnceLock::new();

/// How often it looks by itself: a generation that waits for old writes is trusted that soon after the last of them.
const COLLECT_INTERVAL: Duration = Duration::from_millis(500);

/// Writes to one device, and what makes them durable.
#[derive(Debug)]
pub(crate) struct DeviceWatch {
    pub(crate) writes: RangeUse,
    pub(crate) stream: Stream,
    pub(crate) syncs: Syncs,
}

impl DeviceWatch {
    fn new(size_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            writes: RangeUse::new(size_bytes),
            stream: Stream::new(size_bytes),
            syncs: Syncs::default(),
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

/// Wakes the thread that takes what shards tell.
pub(super) fn wake_collector() {
    if let Some(collector) = COLLECTOR.get() {
        collector.unpark();
    }
}

/// Without the thread (no room for one more) a queue overflows sooner, which is no error.
fn start_collector() {
    let _one_at_a_time = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    if COLLECTOR.get().is_none() {
        let spawned = thread::Builder::new()
            .name("mk-stream".into())
            .spawn(collect_for_ever);
        if let Ok(handle) = spawned {
            // Set once, here.
            let _ = COLLECTOR.set(handle.thread().clone());
        }
    }
}

fn collect_for_ever() {
    loop {
        let watches: Vec<_> = {
            let watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
            let alive = watches.iter().filter_map(|(_, watch)| watch.upgrade());
            alive.filter(|watch| watch.stream.has_users()).collect()
        };
        watches.iter().for_each(|watch| watch.stream.collect());
        if watches.is_empty() {
            thread::park();
        } else {
            drop(watches);
            thread::park_timeout(COLLECT_INTERVAL);
        }
    }
}

/// Somebody who wants digests of what is written to a device while it is written.
#[derive(Debug)]
pub struct StreamUser(Arc<DeviceWatch>);

impl StreamUser {
    pub(super) fn new(watch: &Arc<DeviceWatch>) -> Self {
        start_collector();
        watch.stream.add_user();
        wake_collector();
        Self(Arc::clone(watch))
    }

    /// True when the export is on the device that this user listens to.
    #[must_use]
    pub fn is_of(&self, export: &Export) -> bool {
        Arc::ptr_eq(&self.0, &export.watch)
    }

    /// What was hashed of the chunks with these indices. Every write that is answered by now is in it.
    #[must_use]
    pub fn chunks(&self, chunks: Range<u64>) -> Vec<StreamChunk> {
        self.0.stream.chunks(chunks)
    }
}

impl Drop for StreamUser {
    fn drop(&mut self) {
        self.0.stream.remove_user();
    }
}

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(0);

/// Writes of one connection, by the slot of their request. What is still there when the connection is dropped ends
/// then: a connection is dropped when the kernel has given back all of its operations.
#[derive(Debug)]
pub(crate) struct ConnectionWrites {
    watch: Arc<DeviceWatch>,
    connection: u64,
    places: Box<[Option<Write>]>,
}

#[derive(Debug, Clone)]
struct Write {
    range: Range<u64>,
    ticket: Ticket,
}

impl ConnectionWrites {
    pub(crate) fn new(watch: &Arc<DeviceWatch>) -> Self {
        Self {
            watch: Arc::clone(watch),
            connection: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed),
            places: vec![None; SERVER_REQUESTS_PER_LANE_MAX].into(),
        }
    }

    /// The request in `slot` will write to `range`.
    pub(crate) fn begin(&mut self, slot: u32, range: Range<u64>, leaves: Leaves) {
        let Some(place) = self.places.get_mut(slot as usize) else {
            return debug_assert!(false, "a request without a slot");
        };
        debug_assert!(place.is_none(), "two writes in one slot");
        let id = WriteId {
            connection: self.connection,
            slot,
        };
        self.watch.writes.begin(&range);
        let ticket = self.watch.stream.begin(id, &range, leaves);
        *place = Some(Write { range, ticket });
    }

    /// These bytes of the request in `slot` go to the device now.
    pub(crate) fn piece(&self, slot: u32, offset: u64, bytes: &[u8]) {
        let write = self.places.get(slot as usize).and_then(Option::as_ref);
        if let Some(write) = write.filter(|write| write.ticket.is_told()) {
            self.watch.stream.piece(write.ticket, offset, bytes);
        }
    }

    /// The request in `slot` is answered.
    pub(crate) fn end(&mut self, slot: u32, succeeded: bool) {
        let place = self.places.get_mut(slot as usize);
        if let Some(write) = place.and_then(Option::take) {
            self.watch.stream.end(write.ticket, succeeded);
            self.watch.writes.end(&write.range);
        }
    }
}

impl Drop for ConnectionWrites {
    fn drop(&mut self) {
        for slot in 0..SERVER_REQUESTS_PER_LANE_MAX {
            self.end(u32::try_from(slot).unwrap_or(u32::MAX), false);
        }
    }
}

/// Syncs of one connection. What is still under way when the connection is dropped (its shard broke down) counts as
/// failed: nobody will ever hear how it ended.
#[derive(Debug)]
pub(crate) struct ConnectionSyncs {
    watch: Arc<DeviceWatch>,
    under_way: [u32; 2],
}

impl ConnectionSyncs {
    pub(crate) fn new(watch: &Arc<DeviceWatch>) -> Self {
        Self {
            watch: Arc::clone(watch),
            under_way: [0; 2],
        }
    }

    /// See [`Syncs::begin`].
    pub(crate) fn begin(&mut self) -> Half {
        let half = self.watch.syncs.begin();
        self.under_way[half.index()] += 1;
        half
    }

    /// See [`Syncs::end`].
    pub(crate) fn end(&mut self, half: Half) {
        self.under_way[half.index()] -= 1;
        self.watch.syncs.end(half);
    }

    /// See [`Syncs::fail`].
    pub(crate) fn fail(&mut self, half: Half) {
        self.under_way[half.index()] -= 1;
        self.watch.syncs.fail(half);
    }
}

impl Drop for ConnectionSyncs {
    fn drop(&mut self) {
        for half in Half::BOTH {
            while self.under_way[half.index()] > 0 {
                self.fail(half);
            }
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
        writes.begin(0, 0..10, Leaves::Payload);
        writes.begin(5, 10..20, Leaves::Anything);
        writes.end(0, true);
        writes.end(1, true);
        assert!(watch.writes.is_busy(&(0..20)));
        drop(writes);
        assert!(!watch.writes.is_busy(&(0..20)));
    }
}
