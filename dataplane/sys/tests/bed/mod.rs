//! The test bed: a backend, an arena, and helpers that wait with a limit.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use sys::{
    Arena, ArenaConfig, Backend, Completion, DeviceFile, Lease, LeaseClass, Op, OpenIntent,
    OpenOptions, Outcome, RxMode, SocketId, Tier, Token,
    poll::{Poll, PollConfig},
    ring::{Ring, RingConfig},
};

pub(crate) const ENTRIES: u32 = 64;
pub(crate) const SOCKETS_MAX: u16 = 16;
pub(crate) const FILES_MAX: u16 = 4;
pub(crate) const RING_BYTES: usize = 64 * 1024;
pub(crate) const SMALL_COUNT: usize = 100;
pub(crate) const LARGE_COUNT: usize = 20;
/// Nothing in these tests takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Bed {
    pub(crate) backend: Box<dyn Backend + Send>,
    pub(crate) arena: Arc<Arena>,
    pub(crate) folder: tempfile::TempDir,
    /// Completions taken but not yet asked for.
    pub(crate) kept: Vec<Completion>,
}

pub(crate) fn arena() -> Arc<Arena> {
    let config = ArenaConfig {
        small_count: SMALL_COUNT,
        large_count: LARGE_COUNT,
        huge_pages: false,
    };
    Arena::new(&config).unwrap()
}

pub(crate) fn ring(tier: Tier, arena: &Arc<Arena>) -> Ring {
    let config = RingConfig {
        tier,
        entries: ENTRIES,
        files_max: FILES_MAX,
        sockets_max: SOCKETS_MAX,
        arena: Arc::clone(arena),
    };
    Ring::new(&config).unwrap()
}

pub(crate) fn poll() -> Poll {
    let config = PollConfig {
        entries: ENTRIES,
        files_max: FILES_MAX,
        sockets_max: SOCKETS_MAX,
        threads: 2,
    };
    Poll::new(&config).unwrap()
}

pub(crate) fn on_ring(tier: Tier, case: fn(&mut Bed)) {
    let arena = arena();
    case(&mut Bed::new(Box::new(ring(tier, &arena)), arena));
}

pub(crate) fn on_poll(case: fn(&mut Bed)) {
    case(&mut Bed::new(Box::new(poll()), arena()));
}

impl Bed {
    pub(crate) fn new(backend: Box<dyn Backend + Send>, arena: Arc<Arena>) -> Self {
        // Next to the build, not in /tmp: that may be a tmpfs, where direct I/O differs.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            backend,
            arena,
            folder,
            kept: Vec::new(),
        }
    }

    pub(crate) fn small(&self) -> Lease {
        self.arena
            .take(LeaseClass::Small)
            .expect("enough small leases")
    }

    pub(crate) fn large(&self) -> Lease {
        self.arena
            .take(LeaseClass::Large)
            .expect("enough large leases")
    }

    pub(crate) fn filled(&self, byte: u8) -> Lease {
        let mut lease = self.small();
        lease.bytes_mut().fill(byte);
        lease
    }

    pub(crate) fn stream(&mut self, fd: impl Into<OwnedFd>, initial: &[u8]) -> SocketId {
        let mode = RxMode::Stream {
            ring_bytes: RING_BYTES,
        };
        self.backend
            .add_socket(fd.into(), mode, Token(7), initial)
            .unwrap()
    }

    pub(crate) fn exact(&mut self, fd: impl Into<OwnedFd>) -> SocketId {
        self.backend
            .add_socket(fd.into(), RxMode::Exact, Token(8), &[])
            .unwrap()
    }

    pub(crate) fn push(&mut self, op: Op, token: u64) -> sys::SlotId {
        self.backend
            .push(op, Token(token))
            .unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// One turn: wait for at most `wait`, take everything.
    pub(crate) fn turn(&mut self, wait: Duration) -> Vec<Completion> {
        let mut all = std::mem::take(&mut self.kept);
        let until = if all.is_empty() {
            self.backend.now() + wait
        } else {
            self.backend.now()
        };
        self.backend.submit_and_wait(Some(until)).unwrap();
        all.extend(std::iter::from_fn(|| self.backend.reap()));
        all
    }

    /// Turns until `done` says so.
    pub(crate) fn turns_until(&mut self, mut done: impl FnMut(&mut Self, Completion) -> bool) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let mut completions = self.turn(PATIENCE).into_iter();
            while let Some(completion) = completions.next() {
                if done(self, completion) {
                    self.kept.extend(completions);
                    return;
                }
            }
            assert!(Instant::now() < limit, "nothing more happens");
        }
    }

    /// The operation with this token; others are kept.
    pub(crate) fn wait_op(&mut self, token: u64) -> (Outcome, Op) {
        let mut others = Vec::new();
        let mut found = None;
        self.turns_until(|_, completion| match completion {
            Completion::Op {
                token: Token(number),
                outcome,
                op,
                ..
            } if number == token => {
                found = Some((outcome, op));
                true
            }
            other => {
                others.push(other);
                false
            }
        });
        self.kept.extend(others);
        found.unwrap()
    }

    /// Everything that came on `socket` until `len` bytes stand unread.
    pub(crate) fn wait_unread(&mut self, socket: SocketId, len: usize) {
        if self.backend.rx_bytes(socket).len() >= len {
            return;
        }
        self.turns_until(|bed, _| bed.backend.rx_bytes(socket).len() >= len);
    }

    /// Consumes the stream to its end; what came and how it ended.
    pub(crate) fn read_to_end(&mut self, socket: SocketId) -> (Vec<u8>, Outcome) {
        let mut all = Vec::new();
        let mut end = Ok(0);
        self.turns_until(|bed, completion| {
            let Completion::Rx {
                socket: from,
                outcome,
                ..
            } = completion
            else {
                return false;
            };
            assert_eq!(from, socket);
            let bytes = bed.backend.rx_bytes(socket);
            all.extend_from_slice(bytes);
            let len = bytes.len();
            bed.backend.rx_consume(socket, len);
            end = outcome;
            !matches!(outcome, Ok(1..))
        });
        (all, end)
    }

    /// Nothing more happens for a moment.
    pub(crate) fn assert_quiet(&mut self) {
        let quiet = self.turn(Duration::from_millis(30));
        assert!(quiet.is_empty(), "{quiet:?}");
    }

    pub(crate) fn target(&self, name: &str, size: u64) -> Arc<DeviceFile> {
        let options = OpenOptions {
            create_size_bytes: Some(size),
            overwrite: true,
            ..OpenOptions::default()
        };
        Arc::new(DeviceFile::open(&self.path(name), OpenIntent::Target, &options).unwrap())
    }

    pub(crate) fn source(&self, name: &str, content: &[u8]) -> Arc<DeviceFile> {
        fs::write(self.path(name), content).unwrap();
        let options = OpenOptions::default();
        Arc::new(DeviceFile::open(&self.path(name), OpenIntent::Source, &options).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Numbers that look random and are the same on every run.
pub(crate) struct Lcg(u64);

impl Lcg {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Byte `position` of the test stream.
pub(crate) fn stream_byte(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]
}

pub(crate) fn stream_bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(stream_byte).collect()
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

pub(crate) fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}
