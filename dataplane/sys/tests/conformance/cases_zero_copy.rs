//! Zero-copy sends. Loopback copies when the receiving side takes the bytes; while its window is full they stay in our
//! memory, which is what most of these cases use.
#![allow(clippy::print_stderr, reason = "a skip is told on standard error")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sys::{Arena, Completion, LeaseClass, Op, Outcome, Part, Parts, SlotId, SocketId, Tier, Token};

use crate::bed::{self, Bed, stream_bytes};

/// More than the small window of `pair` takes, less than its send buffer.
const BATCH_BYTES: usize = 8 * 16 * 1024;

/// Runs `case` where the kernel has zero-copy sends.
pub(crate) fn on_ring(tier: Tier, case: fn(&mut Bed)) {
    let arena = bed::arena();
    let ring = bed::ring(tier, &arena);
    if !ring
        .features()
        .contains(&("zero_copy_send".to_owned(), true))
    {
        eprintln!("SKIP: kernel has no zero-copy sends that report their use");
        return;
    }
    case(&mut Bed::new(Box::new(ring), arena));
}

/// Our end, and a peer that lets little through while it does not read.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Before the connection is made: the window is agreed on then.
    sys::net::set_buffers(&listener, None, Some(4096)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    sys::net::set_buffers(&ours, Some(1 << 20), None).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn parts_of(bed: &Bed, bytes: &[u8]) -> Parts {
    let mut parts = Parts::new();
    for chunk in bytes.chunks(LeaseClass::Small.nominal_bytes()) {
        let mut lease = bed.small();
        lease.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
        let len = u32::try_from(chunk.len()).unwrap();
        parts.push(Part { lease, at: 0, len }).unwrap();
    }
    parts
}

fn send(bed: &mut Bed, socket: SocketId, parts: Parts, token: u64) -> SlotId {
    let op = Op::Send {
        socket,
        parts,
        zero_copy: true,
    };
    bed.push(op, token)
}

/// How a send that was pushed with `token` went; None when it was an ordinary one after all.
fn wait_sent(bed: &mut Bed, token: u64) -> (Outcome, Option<SlotId>) {
    let mut sent = None;
    let mut others = Vec::new();
    bed.turns_until(|_, completion| {
        match completion {
            Completion::Sent {
                slot,
                token: Token(number),
                outcome,
            } if number == token => sent = Some((outcome, Some(slot))),
            Completion::Op {
                token: Token(number),
                outcome,
                ..
            } if number == token => sent = Some((outcome, None)),
            other => others.push(other),
        }
        sent.is_some()
    });
    bed.kept.extend(others);
    sent.unwrap()
}

/// The memory of the send with `token`, and whether the kernel copied.
fn wait_released(bed: &mut Bed, token: u64) -> (Parts, bool) {
    let mut released = None;
    let mut others = Vec::new();
    bed.turns_until(|_, completion| {
        match completion {
            Completion::Released {
                token: Token(number),
                op: Op::Send { parts, .. },
                copied,
                ..
            } if number == token => released = Some((parts, copied)),
            other => others.push(other),
        }
        released.is_some()
    });
    bed.kept.extend(others);
    released.unwrap()
}

fn free(arena: &Arc<Arena>) -> usize {
    arena.available(LeaseClass::Small)
}

fn read_exactly(peer: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

/// A batch that the socket took and the peer did not: the kernel still needs our memory.
fn hold_a_batch(bed: &mut Bed) -> (SocketId, TcpStream) {
    let (ours, peer) = pair();
    let socket = bed.exact(ours);
    let parts = parts_of(bed, &stream_bytes(0, BATCH_BYTES));
    send(bed, socket, parts, 1);
    let (outcome, slot) = wait_sent(bed, 1);
    assert_eq!(outcome, Ok(u32::try_from(BATCH_BYTES).unwrap()));
    assert!(slot.is_some(), "the ring granted it");
    (socket, peer)
}

pub(crate) fn what_a_zero_copy_send_carries_arrives_in_order(bed: &mut Bed) {
    let (ours, mut peer) = pair();
    let socket = bed.exact(ours);
    let all_free = free(&bed.arena);
    let lens = [1, 4096, BATCH_BYTES, 16 * 1024, 3];
    let total: usize = lens.iter().sum();
    let reader = thread::spawn(move || read_exactly(&mut peer, total));
    let mut at = 0;
    let mut due = Vec::new();
    for (&len, token) in lens.iter().zip(1..) {
        let mut parts = parts_of(bed, &stream_bytes(at, len));
        while !parts.is_empty() {
            send(bed, socket, parts, token);
            let (outcome, slot) = wait_sent(bed, token);
            assert_eq!(outcome, Ok(u32::try_from(len).unwrap()), "MSG_WAITALL");
            due.extend(slot.map(|_| token));
            parts = Parts::new();
        }
        at += len;
    }
    assert!(reader.join().unwrap() == stream_bytes(0, total));
    for token in due {
        drop(wait_released(bed, token));
    }
    assert_eq!(free(&bed.arena), all_free, "every lease came back");
    assert_eq!(bed.backend.in_flight(), 0);
}

pub(crate) fn a_unix_socket_sends_as_usual(bed: &mut Bed) {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let socket = bed.exact(ours);
    let parts = parts_of(bed, b"as usual");
    send(bed, socket, parts, 1);
    let (outcome, slot) = wait_sent(bed, 1);
    assert_eq!(
        (outcome, slot),
        (Ok(8), None),
        "one completion, no notification"
    );
    let mut bytes = [0; 8];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"as usual");
}

pub(crate) fn the_next_send_need_not_wait_for_the_memory(bed: &mut Bed) {
    let (socket, mut peer) = hold_a_batch(bed);
    let parts = parts_of(bed, &stream_bytes(BATCH_BYTES, 1000));
    send(bed, socket, parts, 2);
    assert_eq!(wait_sent(bed, 2).0, Ok(1000));
    assert_eq!(bed.backend.in_flight(), 2, "both wait for the peer");
    let got = read_exactly(&mut peer, BATCH_BYTES + 1000);
    assert!(got == stream_bytes(0, BATCH_BYTES + 1000));
    wait_released(bed, 1);
    wait_released(bed, 2);
}

pub(crate) fn memory_stays_with_the_kernel_until_its_notification(bed: &mut Bed) {
    let all_free = free(&bed.arena);
    let (_socket, mut peer) = hold_a_batch(bed);
    bed.assert_quiet();
    // Whatever can be had from the arena meanwhile is other memory: writing to all of it changes nothing.
    let mut others: Vec<_> = std::iter::from_fn(|| bed.arena.take(LeaseClass::Small)).collect();
    assert_eq!(others.len(), all_free - BATCH_BYTES / (16 * 1024));
    for lease in &mut others {
        lease.bytes_mut().fill(0xee);
    }
    drop(others);
    assert!(read_exactly(&mut peer, BATCH_BYTES) == stream_bytes(0, BATCH_BYTES));
    let (parts, copied) = wait_released(bed, 1);
    assert!(copied, "loopback copies, and the kernel says so");
    assert_eq!(parts.len_bytes(), BATCH_BYTES, "it comes back as it was");
    drop(parts);
    assert_eq!(free(&bed.arena), all_free);
}

pub(crate) fn a_closed_socket_keeps_the_memory_until_all_was_delivered(bed: &mut Bed) {
    let all_free = free(&bed.arena);
    let (socket, mut peer) = hold_a_batch(bed);
    bed.backend.remove_socket(socket);
    bed.assert_quiet();
    assert_eq!(bed.backend.in_flight(), 1, "the kernel still has the bytes");
    assert!(read_exactly(&mut peer, BATCH_BYTES) == stream_bytes(0, BATCH_BYTES));
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "and then the end");
    drop(wait_released(bed, 1));
    assert_eq!(free(&bed.arena), all_free);
}

pub(crate) fn a_reset_gives_the_memory_back(bed: &mut Bed) {
    let all_free = free(&bed.arena);
    let (socket, peer) = hold_a_batch(bed);
    // With bytes unread, closing is a reset.
    drop(peer);
    drop(wait_released(bed, 1));
    assert_eq!(free(&bed.arena), all_free);
    let parts = parts_of(bed, b"too late");
    send(bed, socket, parts, 2);
    assert!(wait_sent(bed, 2).0.is_err());
    bed.backend.remove_socket(socket);
    bed.kept.clear();
    while bed.backend.in_flight() > 0 {
        bed.turn(Duration::from_millis(20));
    }
    assert_eq!(free(&bed.arena), all_free, "also of the send that failed");
}

/// Ends the bed's ring here, on the thread that used it.
fn drop_ring(bed: &mut Bed) {
    bed.backend = Box::new(bed::poll());
}

pub(crate) fn dropping_the_ring_waits_for_the_memory(bed: &mut Bed) {
    let all_free = free(&bed.arena);
    let (_socket, mut peer) = hold_a_batch(bed);
    let reader = thread::spawn(move || {
        let bytes = read_exactly(&mut peer, BATCH_BYTES);
        peer.write_all(b"!").map(|()| bytes)
    });
    drop_ring(bed);
    assert_eq!(free(&bed.arena), all_free, "nothing was leaked");
    assert!(reader.join().unwrap().unwrap() == stream_bytes(0, BATCH_BYTES));
}

pub(crate) fn memory_that_the_kernel_keeps_is_leaked_and_not_reused(bed: &mut Bed) {
    let all_free = free(&bed.arena);
    let (_socket, mut peer) = hold_a_batch(bed);
    let start = Instant::now();
    drop_ring(bed);
    assert!(start.elapsed() < bed::PATIENCE, "it does not wait for ever");
    assert!(
        free(&bed.arena) < all_free,
        "the kernel may still send from it"
    );
    assert!(read_exactly(&mut peer, BATCH_BYTES) == stream_bytes(0, BATCH_BYTES));
}
