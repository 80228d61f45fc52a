//! Digests of what clients write, made while the bytes are hot.
//!
//! ```text
//! shard: begin ─► piece… ─► end ──(bounded queue)──► collector thread, or whoever asks ─► ChunkTable
//! ```
//! A digest that is believed and wrong is worse than none, so whatever is in doubt is unknown, and unknown is read
//! again from the medium:
//!
//! - From its begin to its end a write makes its chunks unknown. A write that failed leaves them so.
//! - Two writes of one grain that are in flight at the same time may reach the device in any order: both leave it
//!   unknown.
//! - When the queue is full something was lost: everything is forgotten, a new *generation* begins, and nothing of
//!   it is believed before the last write of the one before has ended, because that write is not known any more.
//!   The same happens when the first user comes.

use crate::digest::{ChunkTable, Cv, Digest, GRAIN_BYTES, GRAINS_PER_CHUNK, Hashed, hash_payload};
use crossbeam::queue::ArrayQueue;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

/// Messages that may wait for the collector: 50 ms of the fastest stream we know, three for each request of 256 KiB.
const NOTES_MAX: usize = 8_192;
/// With more than this many the collector is woken.
const NOTES_WAKE: usize = NOTES_MAX / 4;

/// One write of one connection among all that are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WriteId {
    pub connection: u64,
    pub slot: u32,
}

/// What a write turns its range into when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// What its pieces say.
    Payload,
    Zeroes,
    /// TRIM: anything.
    Anything,
}

#[derive(Debug, Clone, Copy)]
enum Note {
    Begin {
        offset: u64,
        len: u64,
        leaves: Leaves,
        /// No write of the generation before was in flight.
        is_trusted: bool,
    },
    Piece(Hashed),
    End {
        succeeded: bool,
    },
}

/// A message and the write that it belongs to.
#[derive(Debug, Clone, Copy)]
struct Message {
    generation: u64,
    id: WriteId,
    note: Note,
}

/// How a write takes part; kept by its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    generation: u64,
    id: WriteId,
    /// There was a user when it began.
    is_told: bool,
}

impl Ticket {
    /// Its pieces are worth hashing.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }
}

/// The stream of one device.
#[derive(Debug)]
pub(crate) struct Stream {
    device_bytes: u64,
    users: AtomicUsize,
    /// Made with the first user.
    queue: OnceLock<ArrayQueue<Message>>,
    generation: AtomicU64,
    /// Newest generation whose writes may be believed.
    trusted: AtomicU64,
    /// Writes in flight of the even and of the odd generation.
    in_flight: [AtomicUsize; 2],
    /// A message was lost.
    is_void: AtomicBool,
    /// Somebody was told that the queue is filling.
    is_woken: AtomicBool,
    voided: AtomicU64,
    collector: Mutex<Collector>,
}

/// A write that is in flight, as the collector knows it.
#[derive(Debug)]
struct Open {
    range: Range<u64>,
    leaves: Leaves,
    is_doubtful: bool,
}

#[derive(Debug)]
struct Collector {
    table: ChunkTable,
    open: HashMap<WriteId, Open>,
    /// A new generation has to begin as soon as one can.
    wants_generation: bool,
}

/// What the target hashed of one chunk while it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamChunk {
    /// Nothing that could be believed.
    Unknown,
    /// All of it.
    Complete(Digest),
    /// Some of its grains.
    Grains {
        /// Bit `i` for the grain at position `i`.
        have: u64,
        /// By position; those whose bit is not set mean nothing.
        cvs: Box<[Cv; GRAINS_PER_CHUNK]>,
    },
}

impl Stream {
    pub(crate) fn new(device_bytes: u64) -> Self {
        Self {
            device_bytes,
            users: AtomicUsize::new(0),
            queue: OnceLock::new(),
            generation: AtomicU64::new(0),
            trusted: AtomicU64::new(0),
            in_flight: [const { AtomicUsize::new(0) }; 2],
            is_void: AtomicBool::new(false),
            is_woken: AtomicBool::new(false),
            voided: AtomicU64::new(0),
            collector: Mutex::new(Collector {
                table: ChunkTable::new(device_bytes),
                open: HashMap::new(),
                wants_generation: false,
            }),
        }
    }

    /// A write begins; ends with `end`.
    pub(crate) fn begin(&self, id: WriteId, range: &Range<u64>, leaves: Leaves) -> Ticket {
        let generation = loop {
            let generation = self.generation.load(SeqCst);
            let in_flight = self.in_flight_of(generation);
            in_flight.fetch_add(1, SeqCst);
            // Once it is counted in the generation that is still the present one, whoever ends that generation
            // sees the count.
            if self.generation.load(SeqCst) == generation {
                break generation;
            }
            in_flight.fetch_sub(1, SeqCst);
        };
        let ticket = Ticket {
            generation,
            id,
            is_told: self.users.load(SeqCst) > 0,
        };
        if ticket.is_told {
            let is_trusted = self.trusted.load(SeqCst) == generation;
            let (offset, len) = (range.start, range.end - range.start);
            self.tell(
                ticket,
                Note::Begin {
                    offset,
                    len,
                    leaves,
                    is_trusted,
                },
            );
        }
        ticket
    }

    /// Hashes a piece of a write on its way to the device. Allocates nothing.
    pub(crate) fn piece(&self, ticket: Ticket, offset: u64, bytes: &[u8]) {
        hash_payload(
            offset,
            bytes.len(),
            self.device_bytes,
            |at| &bytes[at..],
            // Its begin has made everything unknown already.
            |hashed| {
                if matches!(hashed, Hashed::Grains(_)) {
                    self.tell(ticket, Note::Piece(hashed));
                }
            },
        );
    }

    /// The device has answered, or will never be asked.
    pub(crate) fn end(&self, ticket: Ticket, succeeded: bool) {
        if ticket.is_told {
            self.tell(ticket, Note::End { succeeded });
        }
        self.in_flight_of(ticket.generation).fetch_sub(1, SeqCst);
    }

    fn tell(&self, ticket: Ticket, note: Note) {
        let Some(queue) = self.queue.get() else {
            return;
        };
        let message = Message {
            generation: ticket.generation,
            id: ticket.id,
            note,
        };
        if queue.push(message).is_err() {
            self.is_void.store(true, SeqCst);
        }
        if queue.len() > NOTES_WAKE && !self.is_woken.swap(true, SeqCst) {
            super::watch::wake_collector();
        }
    }

    fn in_flight_of(&self, generation: u64) -> &AtomicUsize {
        &self.in_flight[usize::from(generation % 2 == 1)]
    }

    fn lock(&self) -> MutexGuard<'_, Collector> {
        self.collector
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One more user. What was written before the first one came is not known.
    pub(crate) fn add_user(&self) {
        self.queue.get_or_init(|| ArrayQueue::new(NOTES_MAX));
        let mut collector = self.lock();
        if self.users.fetch_add(1, SeqCst) == 0 {
            collector.forget_all();
            collector.wants_generation = true;
            self.take_messages(&mut collector);
        }
    }

    /// The table of the last user's goes with it.
    pub(crate) fn remove_user(&self) {
        let mut collector = self.lock();
        if self.users.fetch_sub(1, SeqCst) == 1 {
            collector.forget_all();
        }
    }

    pub(crate) fn has_users(&self) -> bool {
        self.users.load(SeqCst) > 0
    }

    /// How often everything had to be forgotten because the queue was full.
    pub(crate) fn voided(&self) -> u64 {
        self.voided.load(SeqCst)
    }

    /// Takes what the shards told so far.
    pub(crate) fn collect(&self) {
        let mut collector = self.lock();
        self.take_messages(&mut collector);
    }

    fn take_messages(&self, collector: &mut Collector) {
        self.is_woken.store(false, SeqCst);
        let generation = self.generation.load(SeqCst);
        if let Some(queue) = self.queue.get() {
            // No more than were there: shards may fill it as fast as it is emptied.
            for _ in 0..queue.len() {
                let Some(message) = queue.pop() else { break };
                if message.generation == generation && !collector.wants_generation {
                    collector.take(&message);
                }
            }
        }
        if self.is_void.swap(false, SeqCst) {
            self.voided.fetch_add(1, SeqCst);
            collector.forget_all();
            collector.wants_generation = true;
        }
        self.move_on(collector);
    }

    /// Trusts the generation, and begins the next one, as soon as no write of the one before is in flight.
    fn move_on(&self, collector: &mut Collector) {
        let generation = self.generation.load(SeqCst);
        let before = self.in_flight_of(generation.wrapping_add(1));
        if before.load(SeqCst) > 0 {
            return;
        }
        if collector.wants_generation {
            // The place of the one before is free for the next one.
            collector.wants_generation = false;
            self.generation.store(generation + 1, SeqCst);
            let before = self.in_flight_of(generation);
            if before.load(SeqCst) == 0 {
                self.trusted.store(generation + 1, SeqCst);
            }
        } else {
            self.trusted.store(generation, SeqCst);
        }
    }

    /// What is known of the chunks with these indices.
    pub(crate) fn chunks(&self, chunks: Range<u64>) -> Vec<StreamChunk> {
        let mut collector = self.lock();
        self.take_messages(&mut collector);
        // Something was lost since: what the table says may be older than what is on the device.
        let is_void = self.is_void.load(SeqCst) || collector.wants_generation;
        let busy = collector.busy_chunks(&chunks);
        chunks
            .map(|chunk| match is_void || busy.contains(chunk) {
                true => StreamChunk::Unknown,
                false => collector.table.view(chunk).into(),
            })
            .collect()
    }
}

impl From<crate::digest::ChunkView<'_>> for StreamChunk {
    fn from(view: crate::digest::ChunkView<'_>) -> Self {
        use crate::digest::ChunkView;
        match view {
            ChunkView::Unknown => Self::Unknown,
            ChunkView::Complete(digest) => Self::Complete(digest),
            ChunkView::Grains { have, cvs } => Self::Grains {
                have,
                cvs: Box::new(*cvs),
            },
        }
    }
}

impl Collector {
    fn forget_all(&mut self) {
        self.table.clear();
        self.open.clear();
    }

    fn take(&mut self, message: &Message) {
        match message.note {
            Note::Begin {
                offset,
                len,
                leaves,
                is_trusted,
            } => {
                let range = offset..offset.saturating_add(len);
                self.table.forget(range.clone());
                let mut is_doubtful = !is_trusted;
                for other in self.open.values_mut() {
                    if share_a_grain(&other.range, &range) {
                        other.is_doubtful = true;
                        is_doubtful = true;
                    }
                }
                let open = Open {
                    range,
                    leaves,
                    is_doubtful,
                };
                self.open.insert(message.id, open);
            }
            Note::Piece(hashed) => {
                // Of a write whose begin was lost nothing is taken.
                if self.open.contains_key(&message.id) {
                    self.table.absorb(hashed);
                }
            }
            Note::End { succeeded } => {
                let Some(open) = self.open.remove(&message.id) else {
                    return;
                };
                let (offset, len) = (open.range.start, open.range.end - open.range.start);
                if !succeeded || open.is_doubtful {
                    self.table.forget(open.range);
                } else if open.leaves == Leaves::Zeroes {
                    self.table.absorb(Hashed::Zero { offset, len });
                }
            }
        }
    }

    /// Those of `chunks` that a write in flight touches.
    fn busy_chunks(&self, chunks: &Range<u64>) -> crate::ExtentSet {
        let mut busy = crate::ExtentSet::new();
        for open in self.open.values() {
            let first = open.range.start / crate::digest::CHUNK_BYTES;
            let end = open.range.end.div_ceil(crate::digest::CHUNK_BYTES);
            busy.insert(first.max(chunks.start)..end.min(chunks.end).max(first.max(chunks.start)));
        }
        busy
    }
}

fn share_a_grain(one: &Range<u64>, other: &Range<u64>) -> bool {
    let grains = |range: &Range<u64>| range.start / GRAIN_BYTES..range.end.div_ceil(GRAIN_BYTES);
    let (one, other) = (grains(one), grains(other));
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests;
