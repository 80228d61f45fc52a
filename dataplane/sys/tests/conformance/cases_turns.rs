//! Turns: queues, waiting, waking, ending.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use sys::{LeaseClass, Op, RefusedWhy, Token, Via};

use crate::bed::{Bed, ENTRIES, LARGE_COUNT, SMALL_COUNT};

pub(crate) fn a_full_queue_gives_the_operation_back(bed: &mut Bed) {
    let file = bed.backend.add_file(bed.target("disk", 4 << 20)).unwrap();
    let op = |bed: &Bed, number: u32| Op::Write {
        file,
        lease: bed.filled(u8::try_from(number).unwrap()),
        at: 0,
        len: 4096,
        offset: u64::from(number) * 4096,
        via: Via::Direct,
        dsync: false,
    };
    for number in 0..ENTRIES {
        let one = op(bed, number);
        bed.push(one, u64::from(number));
    }
    let refused = bed.backend.push(op(bed, ENTRIES), Token(1000)).unwrap_err();
    assert_eq!(refused.why, RefusedWhy::QueueFull);
    let Op::Write { lease, .. } = &refused.op else {
        panic!("{refused:?}")
    };
    assert_eq!(u32::from(lease.bytes()[0]), ENTRIES, "given back untouched");
    bed.wait_op(0).0.unwrap();
    bed.push(refused.op, 1000);
    assert_eq!(bed.wait_op(1000).0, Ok(4096));
}

pub(crate) fn waiting_ends_at_its_time(bed: &mut Bed) {
    let start = Instant::now();
    bed.backend
        .submit_and_wait(Some(start + Duration::from_millis(50)))
        .unwrap();
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(50), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert!(bed.backend.reap().is_none());
    bed.backend.submit_and_wait(Some(start)).unwrap();
    bed.backend.submit_and_wait(Some(Instant::now())).unwrap();
}

pub(crate) fn a_wake_from_another_thread_ends_waiting(bed: &mut Bed) {
    let (tell, told) = mpsc::channel();
    let waker = bed.backend.waker();
    let waking = thread::spawn(move || {
        for () in told {
            waker.wake();
        }
    });
    for _ in 0..100 {
        tell.send(()).unwrap();
        bed.backend.submit_and_wait(None).unwrap();
        assert!(
            bed.backend.reap().is_none(),
            "a wake-up is not a completion"
        );
    }
    drop(tell);
    waking.join().unwrap();
}

pub(crate) fn a_wake_before_waiting_is_not_lost(bed: &mut Bed) {
    let waker = bed.backend.waker();
    for _ in 0..10 {
        waker.wake();
        waker.wake();
        bed.backend.submit_and_wait(None).unwrap();
        assert!(bed.backend.reap().is_none());
    }
}

pub(crate) fn a_message_sent_before_waking_is_seen_after_it(bed: &mut Bed) {
    const COUNT: u32 = 20_000;
    let (to_shard, from_outside) = mpsc::channel();
    let waker = bed.backend.waker();
    let sender = thread::spawn(move || {
        for number in 0..COUNT {
            to_shard.send(number).unwrap();
            waker.wake();
        }
    });
    let mut next = 0;
    while next < COUNT {
        while let Ok(number) = from_outside.try_recv() {
            assert_eq!(number, next);
            next += 1;
        }
        if next < COUNT {
            let until = Instant::now() + Duration::from_secs(10);
            bed.backend.submit_and_wait(Some(until)).unwrap();
            assert!(Instant::now() < until, "message {next} was left behind");
            while bed.backend.reap().is_some() {}
        }
    }
    sender.join().unwrap();
}

pub(crate) fn waiting_returns_at_once_while_completions_wait(bed: &mut Bed) {
    let file = bed.backend.add_file(bed.target("disk", 1 << 20)).unwrap();
    bed.push(Op::Flush { file }, 1);
    bed.push(Op::Flush { file }, 2);
    // Both are done, one is taken.
    let limit = Instant::now() + Duration::from_secs(10);
    bed.backend.submit_and_wait(None).unwrap();
    thread::sleep(Duration::from_millis(200));
    bed.backend.submit_and_wait(Some(Instant::now())).unwrap();
    assert!(bed.backend.reap().is_some());
    bed.backend.submit_and_wait(None).unwrap();
    assert!(bed.backend.reap().is_some());
    assert!(Instant::now() < limit);
}

pub(crate) fn dropping_gives_all_leases_back(bed: &mut Bed) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (stream, mut stream_peer) = UnixStream::pair().unwrap();
    let socket = bed.exact(ours);
    bed.stream(stream, b"initial");
    let file = bed.backend.add_file(bed.target("disk", 8 << 20)).unwrap();
    bed.push(
        Op::Recv {
            socket,
            lease: bed.small(),
            at: 0,
            len: 10,
        },
        1,
    );
    bed.turn(Duration::from_millis(1));
    for number in 0..10 {
        let (lease, offset) = (bed.large(), number * 262_144);
        let via = Via::Direct;
        bed.push(
            Op::Write {
                file,
                lease,
                at: 0,
                len: 262_144,
                offset,
                via,
                dsync: true,
            },
            number,
        );
    }
    stream_peer.write_all(b"unread").unwrap();
    bed.backend.submit_and_wait(Some(Instant::now())).unwrap();
    let other = crate::bed::poll();
    drop(std::mem::replace(&mut bed.backend, Box::new(other)));
    assert_eq!(bed.arena.available(LeaseClass::Small), SMALL_COUNT);
    assert_eq!(bed.arena.available(LeaseClass::Large), LARGE_COUNT);
    drop(theirs);
}

pub(crate) fn dropping_releases_files_at_once(bed: &mut Bed) {
    let file = bed.backend.add_file(bed.target("disk", 1 << 20)).unwrap();
    let (lease, via) = (bed.filled(1), Via::Direct);
    bed.push(
        Op::Write {
            file,
            lease,
            at: 0,
            len: 4096,
            offset: 0,
            via,
            dsync: false,
        },
        1,
    );
    bed.wait_op(1).0.unwrap();
    let other = crate::bed::poll();
    drop(std::mem::replace(&mut bed.backend, Box::new(other)));
    // Refused while anything still holds the lock of the first.
    bed.target("disk", 1 << 20);
}

pub(crate) fn a_backend_may_move_to_the_thread_that_uses_it(bed: &mut Bed) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let socket = bed.stream(ours, &[]);
    thread::scope(|scope| {
        scope.spawn(|| {
            theirs.write_all(b"hello").unwrap();
            bed.wait_unread(socket, 5);
            assert_eq!(bed.backend.rx_bytes(socket), b"hello");
            // Ended where it was used.
            let other = crate::bed::poll();
            drop(std::mem::replace(&mut bed.backend, Box::new(other)));
        });
    });
}
