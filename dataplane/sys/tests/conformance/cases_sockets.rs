//! Sockets.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
    time::Duration,
};

use sys::{
    Completion, FaultKind, Op, Part, Parts, RefusedWhy, RxMode, SetupErrorKind, SocketId, Token,
};

use crate::bed::{
    Bed, Lcg, RING_BYTES, SMALL_COUNT, SOCKETS_MAX, mappings, open_descriptors, stream_bytes,
};

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// Reads `total` stream bytes, consuming random amounts, and checks each look at the ring.
fn read_stream(bed: &mut Bed, socket: SocketId, total: usize, seed: u64) {
    let mut random = Lcg::new(seed);
    let (mut position, mut announced) = (0, 0);
    bed.turns_until(|bed, completion| {
        let Completion::Rx {
            socket: from,
            token,
            outcome,
        } = completion
        else {
            panic!("{completion:?}");
        };
        assert_eq!((from, token), (socket, Token(7)));
        announced += outcome.unwrap() as usize;
        let bytes = bed.backend.rx_bytes(socket);
        assert!(
            bytes == stream_bytes(position, bytes.len()),
            "torn at {position}"
        );
        assert!(
            position + bytes.len() >= announced,
            "announced but not there"
        );
        // Sometimes leaves a rest, to stand across the wrap; never at the end.
        let len = match bytes.len() {
            len if position + len == total => len,
            len => random
                .below(len + 1)
                .max(len.saturating_sub(RING_BYTES / 2)),
        };
        bed.backend.rx_consume(socket, len);
        position += len;
        position == total
    });
    assert!(bed.backend.rx_bytes(socket).is_empty());
}

fn send_stream(mut to: impl Write + Send + 'static, total: usize, chunk_max: usize) {
    thread::spawn(move || {
        let mut random = Lcg::new(99);
        let mut position = 0;
        while position < total {
            let len = (random.below(chunk_max) + 1).min(total - position);
            to.write_all(&stream_bytes(position, len)).unwrap();
            position += len;
        }
        to
    });
}

pub(crate) fn a_stream_arrives_in_order_and_in_one_piece_across_the_wrap(bed: &mut Bed) {
    let (ours, theirs) = pair();
    let socket = bed.stream(ours, &[]);
    let total = 8 << 20;
    send_stream(theirs, total, 50_000);
    read_stream(bed, socket, total, 1);
}

pub(crate) fn tiny_and_huge_writes_arrive_alike(bed: &mut Bed) {
    for (number, chunk_max) in [(2, 3), (3, 400_000), (4, 20_000)] {
        let (ours, theirs) = pair();
        let socket = bed.stream(ours, &[]);
        let total = chunk_max * 30;
        send_stream(theirs, total, chunk_max);
        read_stream(bed, socket, total, number);
        bed.backend.remove_socket(socket);
        bed.kept.clear();
    }
}

pub(crate) fn tcp_streams_work_like_unix_ones(bed: &mut Bed) {
    let (ours, theirs) = tcp_pair();
    let socket = bed.stream(ours, &[]);
    let total = 16 << 20;
    send_stream(theirs, total, 300_000);
    read_stream(bed, socket, total, 5);
}

pub(crate) fn many_streams_at_once(bed: &mut Bed) {
    let total = 1 << 20;
    let sockets: Vec<SocketId> = (0..SOCKETS_MAX)
        .map(|_| {
            let (ours, theirs) = pair();
            send_stream(theirs, total, 30_000);
            bed.stream(ours, &[])
        })
        .collect();
    let mut positions = vec![0; sockets.len()];
    bed.turns_until(|bed, completion| {
        let Completion::Rx {
            socket, outcome, ..
        } = completion
        else {
            panic!("{completion:?}")
        };
        let which = sockets.iter().position(|one| *one == socket).unwrap();
        if outcome == Ok(0) {
            assert_eq!(positions[which], total, "ended early");
            return positions.iter().all(|position| *position == total);
        }
        outcome.unwrap();
        let bytes = bed.backend.rx_bytes(socket);
        assert!(bytes == stream_bytes(positions[which], bytes.len()));
        let len = bytes.len();
        positions[which] += len;
        bed.backend.rx_consume(socket, len);
        positions.iter().all(|position| *position == total)
    });
}

pub(crate) fn initial_bytes_stand_first_and_are_announced(bed: &mut Bed) {
    let (ours, mut theirs) = pair();
    let socket = bed.stream(ours, b"already here, ");
    assert_eq!(bed.backend.rx_bytes(socket), b"already here, ");
    let first = bed.turn(Duration::from_secs(5)).remove(0);
    assert!(
        matches!(
            first,
            Completion::Rx {
                outcome: Ok(14),
                token: Token(7),
                ..
            }
        ),
        "{first:?}"
    );
    theirs.write_all(b"then more").unwrap();
    bed.wait_unread(socket, 23);
    assert_eq!(bed.backend.rx_bytes(socket), b"already here, then more");
}

pub(crate) fn consuming_initial_bytes_early_is_not_the_end(bed: &mut Bed) {
    let (ours, mut theirs) = pair();
    let socket = bed.stream(ours, b"initial");
    bed.backend.rx_consume(socket, 7);
    theirs.write_all(b"more").unwrap();
    let first = bed.turn(Duration::from_secs(5)).remove(0);
    assert!(
        matches!(first, Completion::Rx { outcome: Ok(7), .. }),
        "{first:?}"
    );
    bed.wait_unread(socket, 4);
    assert_eq!(bed.backend.rx_bytes(socket), b"more");
}

pub(crate) fn a_ring_full_of_initial_bytes_goes_on_after_consuming(bed: &mut Bed) {
    for initial in [
        RING_BYTES,
        RING_BYTES - 1,
        RING_BYTES / 8,
        RING_BYTES / 8 + 1,
    ] {
        let (ours, theirs) = pair();
        let socket = bed.stream(ours, &stream_bytes(0, initial));
        let mut to = theirs;
        let writer = thread::spawn(move || {
            to.write_all(&stream_bytes(initial, 300_000)).unwrap();
            to
        });
        read_stream(bed, socket, initial + 300_000, 8);
        let _theirs = writer.join().unwrap();
        bed.backend.remove_socket(socket);
        bed.kept.clear();
    }
    let (ours, _theirs) = pair();
    let mode = RxMode::Stream {
        ring_bytes: RING_BYTES,
    };
    let error = bed
        .backend
        .add_socket(ours.into(), mode, Token(1), &vec![0; RING_BYTES + 1])
        .unwrap_err();
    assert_eq!(error.kind(), SetupErrorKind::Invalid);
}

pub(crate) fn the_end_of_a_stream_is_told_once_after_its_bytes(bed: &mut Bed) {
    let (ours, mut theirs) = pair();
    let socket = bed.stream(ours, &[]);
    theirs.write_all(b"goodbye").unwrap();
    drop(theirs);
    let (bytes, end) = bed.read_to_end(socket);
    assert_eq!((&bytes[..], end), (&b"goodbye"[..], Ok(0)));
    bed.assert_quiet();
}

pub(crate) fn a_reset_is_a_fault_of_the_peer(bed: &mut Bed) {
    let (ours, theirs) = tcp_pair();
    let socket = bed.stream(ours, &[]);
    bed.turn(Duration::from_millis(1));
    // Closing with lingering off and zero sends a reset.
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&theirs, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(theirs);
    let (_, end) = bed.read_to_end(socket);
    assert_eq!(end.unwrap_err().kind(), FaultKind::PeerReset);
    bed.assert_quiet();
}

pub(crate) fn an_unread_ring_stops_receiving_and_resumes(bed: &mut Bed) {
    let (ours, theirs) = pair();
    let socket = bed.stream(ours, &[]);
    let total = 1 << 20;
    send_stream(theirs, total, 10_000);
    bed.wait_unread(socket, RING_BYTES / 2);
    // Give it every chance to overrun.
    let deadline = std::time::Instant::now() + Duration::from_millis(50);
    while std::time::Instant::now() < deadline {
        bed.turn(Duration::from_millis(5));
    }
    let unread = bed.backend.rx_bytes(socket);
    assert!(unread.len() <= RING_BYTES);
    assert!(unread == stream_bytes(0, unread.len()));
    let (mut position, len) = (unread.len(), unread.len());
    bed.backend.rx_consume(socket, len);
    bed.turns_until(|bed, completion| {
        if !matches!(
            completion,
            Completion::Rx {
                outcome: Ok(1..),
                ..
            }
        ) {
            return position == total;
        }
        let bytes = bed.backend.rx_bytes(socket);
        assert!(bytes == stream_bytes(position, bytes.len()));
        position += bytes.len();
        let len = bytes.len();
        bed.backend.rx_consume(socket, len);
        position == total
    });
}

pub(crate) fn a_reader_may_wait_for_half_the_ring(bed: &mut Bed) {
    let (ours, theirs) = pair();
    let socket = bed.stream(ours, &[]);
    let total = 2 << 20;
    send_stream(theirs, total, 7_000);
    let (mut position, wanted) = (0, RING_BYTES / 2);
    while position + wanted <= total {
        bed.wait_unread(socket, wanted);
        assert!(bed.backend.rx_bytes(socket)[..wanted] == stream_bytes(position, wanted));
        // Not a multiple of anything the ring is made of.
        let step = wanted - 123;
        bed.backend.rx_consume(socket, step);
        position += step;
    }
}

fn parts_of(bed: &Bed, pieces: &[&[u8]]) -> Parts {
    let mut parts = Parts::new();
    for piece in pieces {
        let mut lease = bed.small();
        lease.bytes_mut()[10..10 + piece.len()].copy_from_slice(piece);
        let len = u32::try_from(piece.len()).unwrap();
        parts.push(Part { lease, at: 10, len }).unwrap();
    }
    parts
}

pub(crate) fn a_gathering_send_arrives_in_order(bed: &mut Bed) {
    for count in [1, 2, 8] {
        let (ours, mut theirs) = pair();
        // Smaller than one send, so that it must be continued.
        sys::net::set_buffers(&ours, Some(8192), None).unwrap();
        let socket = bed.exact(ours);
        let content = stream_bytes(count, 16_000 * count);
        let pieces: Vec<&[u8]> = content.chunks(16_000).collect();
        let mut parts = parts_of(bed, &pieces);
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        while !parts.is_empty() {
            bed.push(
                Op::Send {
                    socket,
                    parts,
                    zero_copy: false,
                },
                1,
            );
            let (outcome, op) = bed.wait_op(1);
            let Op::Send {
                parts: mut rest, ..
            } = op
            else {
                panic!("{op:?}")
            };
            rest.advance(outcome.unwrap() as usize);
            parts = rest;
        }
        bed.backend.remove_socket(socket);
        assert!(reader.join().unwrap() == content, "{count} parts");
    }
}

pub(crate) fn a_second_send_or_receive_is_refused_while_one_is_in_flight(bed: &mut Bed) {
    let (ours, mut theirs) = pair();
    let socket = bed.exact(ours);
    bed.push(
        Op::Recv {
            socket,
            lease: bed.small(),
            at: 0,
            len: 100,
        },
        1,
    );
    let lease = bed.filled(3);
    let refused = bed
        .backend
        .push(
            Op::Recv {
                socket,
                lease,
                at: 0,
                len: 100,
            },
            Token(2),
        )
        .unwrap_err();
    assert_eq!(refused.why, RefusedWhy::Busy);
    let Op::Recv { lease, .. } = refused.op else {
        panic!("{refused:?}")
    };
    assert_eq!(lease.bytes()[0], 3, "given back untouched");

    // A send that cannot finish: the peer does not read.
    let huge: Vec<&[u8]> = vec![&[5; 16_000]; 8];
    let mut sent = 0;
    let parts = loop {
        let parts = parts_of(bed, &huge);
        match bed.backend.push(
            Op::Send {
                socket,
                parts,
                zero_copy: false,
            },
            Token(3),
        ) {
            Ok(_) => {
                sent += 1;
                bed.turn(Duration::from_millis(20));
            }
            Err(refused) => break refused,
        }
        assert!(sent < 1000, "the socket's buffer never fills");
    };
    assert_eq!(parts.why, RefusedWhy::Busy);
    theirs.write_all(b"x").unwrap();
    let (outcome, _) = bed.wait_op(1);
    assert_eq!(outcome, Ok(1), "receiving goes on while a send waits");
}

pub(crate) fn sending_and_receiving_at_once(bed: &mut Bed) {
    let (ours, theirs) = pair();
    let socket = bed.stream(ours, &[]);
    let total: usize = 4 << 20;
    send_stream(theirs.try_clone().unwrap(), total, 60_000);
    let mut from = theirs;
    let reader = thread::spawn(move || {
        let mut all = vec![0; 200 * 16_000];
        from.read_exact(&mut all).unwrap();
        all
    });
    let content = stream_bytes(0, 200 * 16_000);
    let mut chunks = content.chunks(16_000);
    let (mut position, mut sending) = (0, false);
    let mut rest: Option<Parts> = None;
    while position < total || sending || chunks.len() > 0 {
        if !sending {
            let parts = rest
                .take()
                .or_else(|| chunks.next().map(|chunk| parts_of(bed, &[chunk])));
            if let Some(parts) = parts {
                bed.push(
                    Op::Send {
                        socket,
                        parts,
                        zero_copy: false,
                    },
                    1,
                );
                sending = true;
            }
        }
        for completion in bed.turn(Duration::from_secs(20)) {
            match completion {
                Completion::Op {
                    outcome,
                    op: Op::Send { mut parts, .. },
                    ..
                } => {
                    parts.advance(outcome.unwrap() as usize);
                    rest = Some(parts).filter(|parts| !parts.is_empty());
                    sending = false;
                }
                Completion::Rx { outcome, .. } => {
                    outcome.unwrap();
                    let bytes = bed.backend.rx_bytes(socket);
                    assert!(bytes == stream_bytes(position, bytes.len()));
                    position += bytes.len();
                    let len = bytes.len();
                    bed.backend.rx_consume(socket, len);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(reader.join().unwrap() == content);
}

pub(crate) fn an_exact_receive_may_be_short_and_zero_at_the_end(bed: &mut Bed) {
    let (ours, mut theirs) = pair();
    let socket = bed.exact(ours);
    theirs.write_all(b"abc").unwrap();
    bed.push(
        Op::Recv {
            socket,
            lease: bed.filled(9),
            at: 100,
            len: 1000,
        },
        1,
    );
    let (outcome, op) = bed.wait_op(1);
    assert_eq!(outcome, Ok(3));
    let Op::Recv { lease, .. } = op else {
        panic!("{op:?}")
    };
    assert_eq!(
        &lease.bytes()[99..104],
        b"\x09abc\x09",
        "nothing outside is touched"
    );
    drop(theirs);
    bed.push(
        Op::Recv {
            socket,
            lease,
            at: 0,
            len: 10,
        },
        2,
    );
    assert_eq!(bed.wait_op(2).0, Ok(0));
    bed.assert_quiet();
}

pub(crate) fn sending_to_a_closed_peer_is_a_fault_not_a_signal(bed: &mut Bed) {
    let (ours, theirs) = pair();
    let socket = bed.exact(ours);
    drop(theirs);
    for pieces in [&[&b"x"[..]][..], &[b"x", b"y"]] {
        let parts = parts_of(bed, pieces);
        bed.push(
            Op::Send {
                socket,
                parts,
                zero_copy: false,
            },
            1,
        );
        assert_eq!(bed.wait_op(1).0.unwrap_err().kind(), FaultKind::PeerReset);
    }
}

pub(crate) fn removing_a_socket_ends_its_operations_and_closes_it(bed: &mut Bed) {
    let before = open_descriptors();
    let (ours, mut theirs) = pair();
    let socket = bed.exact(ours);
    bed.push(
        Op::Recv {
            socket,
            lease: bed.small(),
            at: 0,
            len: 100,
        },
        1,
    );
    let huge: Vec<&[u8]> = vec![&[5; 16_000]; 8];
    let mut left = 0;
    while left < 1000 {
        let parts = parts_of(bed, &huge);
        if bed
            .backend
            .push(
                Op::Send {
                    socket,
                    parts,
                    zero_copy: false,
                },
                Token(2),
            )
            .is_err()
        {
            break;
        }
        bed.turn(Duration::from_millis(20));
        left += 1;
    }
    assert_eq!(bed.backend.in_flight(), 2);
    bed.backend.remove_socket(socket);
    bed.backend.remove_socket(socket);
    let (received, _) = bed.wait_op(1);
    assert!(!matches!(received, Ok(1..)), "{received:?}");
    let _ = bed.wait_op(2);
    assert_eq!(bed.backend.in_flight(), 0);
    assert_eq!(bed.arena.available(sys::LeaseClass::Small), SMALL_COUNT);
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 5));
    drop(theirs);
    assert_eq!(open_descriptors(), before);
}

pub(crate) fn removing_a_stream_socket_silences_it(bed: &mut Bed) {
    let (ours, theirs) = pair();
    let socket = bed.stream(ours, b"initial");
    send_stream(theirs, 100, 100);
    bed.backend.remove_socket(socket);
    assert!(bed.backend.rx_bytes(socket).is_empty());
    bed.backend.rx_consume(socket, 1);
    bed.assert_quiet();
}

pub(crate) fn stale_ids_are_refused(bed: &mut Bed) {
    let (ours, _theirs) = pair();
    let old = bed.stream(ours, b"old");
    bed.backend.remove_socket(old);
    bed.turn(Duration::from_millis(30));
    let (ours, _theirs) = pair();
    let new = bed.stream(ours, b"new");
    assert_ne!(old, new);
    assert!(bed.backend.rx_bytes(old).is_empty());
    bed.backend.rx_consume(old, 3);
    bed.backend.remove_socket(old);
    assert_eq!(bed.backend.rx_bytes(new), b"new");
    let parts = parts_of(bed, &[b"x"]);
    let refused = bed
        .backend
        .push(
            Op::Send {
                socket: old,
                parts,
                zero_copy: false,
            },
            Token(1),
        )
        .unwrap_err();
    assert_eq!(refused.why, RefusedWhy::StaleId);
    let never = SocketId {
        index: 12_345,
        generation: 0,
    };
    bed.backend.remove_socket(never);
    assert!(bed.backend.rx_bytes(never).is_empty());
}

pub(crate) fn sockets_come_and_go_without_leaks(bed: &mut Bed) {
    let cycle = |bed: &mut Bed| {
        let (ours, mut theirs) = pair();
        let socket = bed.stream(ours, &[]);
        theirs.write_all(b"hello").unwrap();
        bed.wait_unread(socket, 5);
        bed.backend.rx_consume(socket, 3);
        bed.backend.remove_socket(socket);
        bed.turn(Duration::from_millis(1));
    };
    cycle(bed);
    bed.assert_quiet();
    let (descriptors, maps) = (open_descriptors(), mappings());
    for _ in 0..200 {
        cycle(bed);
    }
    bed.assert_quiet();
    assert_eq!(open_descriptors(), descriptors);
    assert!(
        mappings() <= maps + 2,
        "{} mappings, were {maps}",
        mappings()
    );
}

pub(crate) fn only_streams_are_taken_and_only_so_many(bed: &mut Bed) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for fd in [OwnedFd::from(listener), OwnedFd::from(file)] {
        let error = bed
            .backend
            .add_socket(fd, RxMode::Exact, Token(1), &[])
            .unwrap_err();
        assert!(
            matches!(error.kind(), SetupErrorKind::Invalid | SetupErrorKind::Io),
            "{error}"
        );
    }
    for ring_bytes in [0, 4096, 100_000] {
        let mode = RxMode::Stream { ring_bytes };
        let error = bed
            .backend
            .add_socket(pair().0.into(), mode, Token(1), &[])
            .unwrap_err();
        assert_eq!(error.kind(), SetupErrorKind::Invalid);
    }
    let peers: Vec<UnixStream> = (0..SOCKETS_MAX)
        .map(|_| {
            let (ours, theirs) = pair();
            bed.stream(ours, &[]);
            theirs
        })
        .collect();
    let error = bed
        .backend
        .add_socket(pair().0.into(), RxMode::Exact, Token(1), &[])
        .unwrap_err();
    assert_eq!(error.kind(), SetupErrorKind::Resource);
    peers[0].shutdown(Shutdown::Both).unwrap();
}
