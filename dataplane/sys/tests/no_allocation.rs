//! A turn allocates nothing, on any backend.
//!
//! Alone in its binary: it counts for the whole process, so that the poller's threads are counted as well.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bed;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sys::{
    Arena, Backend, Completion, FileId, LeaseClass, Op, Part, Parts, RxMode, SocketId, Tier, Token,
    Via,
};

struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator, whose promises these are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: allocated above, by the same allocator with the same layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TURNS: usize = 10_000;

struct Traffic<'a> {
    backend: &'a mut dyn Backend,
    arena: &'a Arc<Arena>,
    stream: SocketId,
    exact: SocketId,
    file: FileId,
}

impl Traffic<'_> {
    /// A record to the stream, bytes to the exact socket, one send of two parts, a write, a read and a flush.
    fn round(&mut self, stream_peer: &UnixStream, exact_peer: &TcpStream, number: usize) {
        let (mut to_stream, mut exact_peer) = (stream_peer, exact_peer);
        to_stream.write_all(&[7; 3001]).unwrap();
        exact_peer.write_all(&[8; 100]).unwrap();
        self.push_all(number);
        let (mut ops, mut unread) = (0, 0);
        while ops < 5 || unread < 3001 {
            self.backend.submit_and_wait(None).unwrap();
            while let Some(completion) = self.backend.reap() {
                match completion {
                    Completion::Op { outcome, .. } => {
                        assert!(outcome.is_ok());
                        ops += 1;
                    }
                    // The second half of a zero-copy send, which counts once.
                    Completion::Released { .. } => {}
                    Completion::Sent { outcome, .. } => {
                        assert!(outcome.is_ok());
                        ops += 1;
                    }
                    Completion::Rx { outcome, .. } => {
                        assert!(outcome.is_ok());
                        let len = self.backend.rx_bytes(self.stream).len();
                        self.backend.rx_consume(self.stream, len);
                        unread += len;
                    }
                }
            }
        }
        let mut sent = [0; 600];
        exact_peer.read_exact(&mut sent).unwrap();
    }

    fn push_all(&mut self, number: usize) {
        let lease = || self.arena.take(LeaseClass::Small).unwrap();
        let mut parts = Parts::new();
        for _ in 0..2 {
            assert!(
                parts
                    .push(Part {
                        lease: lease(),
                        at: 0,
                        len: 300
                    })
                    .is_ok()
            );
        }
        let (socket, file) = (self.exact, self.file);
        let (at, len, via) = (0, 4096, Via::Direct);
        let offset = (number % 64 * 4096) as u64;
        let ops = [
            Op::Recv {
                socket,
                lease: lease(),
                at,
                len: 100,
            },
            Op::Send {
                socket,
                parts,
                zero_copy: true,
            },
            Op::Write {
                file,
                lease: lease(),
                at,
                len,
                offset,
                via,
                dsync: false,
            },
            Op::Read {
                file,
                lease: lease(),
                at,
                len,
                offset: 1 << 20,
                via,
            },
            Op::Flush { file },
        ];
        for op in ops {
            assert!(self.backend.push(op, Token(1)).is_ok());
        }
    }
}

/// TCP, where sends may be zero-copy.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nodelay(true).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn allocations_of(backend: &mut dyn Backend, arena: &Arc<Arena>) -> usize {
    let (stream, stream_peer) = UnixStream::pair().unwrap();
    let (exact, exact_peer) = tcp_pair();
    // In memory: 10,000 flushes of a real disk would take minutes.
    let file = Arc::new(sys::DeviceFile::in_memory(2 << 20).unwrap());
    let mode = RxMode::Stream {
        ring_bytes: bed::RING_BYTES,
    };
    let stream = backend
        .add_socket(stream.into(), mode, Token(0), &[])
        .unwrap();
    let exact = backend
        .add_socket(exact.into(), RxMode::Exact, Token(0), &[])
        .unwrap();
    let file = backend.add_file(file).unwrap();
    let mut traffic = Traffic {
        backend,
        arena,
        stream,
        exact,
        file,
    };
    for number in 0..100 {
        traffic.round(&stream_peer, &exact_peer, number);
    }
    COUNT.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    for number in 0..TURNS {
        traffic.round(&stream_peer, &exact_peer, number);
    }
    COUNTING.store(false, Ordering::Relaxed);
    COUNT.load(Ordering::Relaxed)
}

#[test]
fn ten_thousand_turns_allocate_nothing() {
    let arena = bed::arena();
    for tier in [Tier::Rich, Tier::Plain] {
        let mut ring = bed::ring(tier, &arena);
        assert_eq!(allocations_of(&mut ring, &arena), 0, "{tier}");
    }
    // The first time a thread sleeps on a queue it makes room to be woken; how often that happens after
    // warming up depends on the scheduler, but not on the number of turns.
    let count = allocations_of(&mut bed::poll(), &arena);
    assert!(count <= 16, "epoll: {count}");
}
