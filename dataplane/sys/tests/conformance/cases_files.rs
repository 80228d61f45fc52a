//! Files.

use std::time::Duration;

use sys::{
    ArenaConfig, FaultKind, FileId, Lease, LeaseClass, Op, Outcome, RefusedWhy, Token, Via,
    ZeroMode,
};

use crate::bed::{Bed, LARGE_COUNT, stream_bytes};

const MIB: u64 = 1 << 20;

struct At {
    file: FileId,
    offset: u64,
    via: Via,
}

fn write(bed: &mut Bed, to: &At, lease: Lease, len: u32, dsync: bool) -> (Outcome, Lease) {
    let At { file, offset, via } = *to;
    bed.push(
        Op::Write {
            file,
            lease,
            at: 0,
            len,
            offset,
            via,
            dsync,
        },
        1,
    );
    match bed.wait_op(1) {
        (outcome, Op::Write { lease, .. }) => (outcome, lease),
        other => panic!("{other:?}"),
    }
}

fn read(bed: &mut Bed, from: &At, len: u32) -> (Outcome, Lease) {
    let At { file, offset, via } = *from;
    bed.push(
        Op::Read {
            file,
            lease: bed.large(),
            at: 0,
            len,
            offset,
            via,
        },
        2,
    );
    match bed.wait_op(2) {
        (outcome, Op::Read { lease, .. }) => (outcome, lease),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn data_written_directly_is_read_back_both_ways(bed: &mut Bed) {
    let target = bed.target("disk", 4 * MIB);
    assert!(
        target.is_direct(),
        "the build folder's file system must do direct I/O"
    );
    let file = bed.backend.add_file(target).unwrap();
    for (number, dsync) in [(0, false), (1, true)] {
        let len = 256 * 1024u32;
        let at = |via| At {
            file,
            offset: number * MIB,
            via,
        };
        let content = stream_bytes(usize::try_from(number).unwrap(), len as usize);
        let mut lease = bed.large();
        lease.bytes_mut()[..len as usize].copy_from_slice(&content);
        assert_eq!(write(bed, &at(Via::Direct), lease, len, dsync).0, Ok(len));
        for via in [Via::Direct, Via::Buffered] {
            let (outcome, lease) = read(bed, &at(via), len);
            assert_eq!(outcome, Ok(len));
            assert!(lease.bytes()[..len as usize] == content, "{via:?}");
        }
    }
}

pub(crate) fn a_buffered_write_needs_no_alignment(bed: &mut Bed) {
    let file = bed.backend.add_file(bed.target("disk", MIB)).unwrap();
    let at = At {
        file,
        offset: 12_345,
        via: Via::Buffered,
    };
    let lease = bed.filled(7);
    assert_eq!(write(bed, &at, lease, 77, false).0, Ok(77));
    let lease = bed.filled(8);
    assert_eq!(
        write(
            bed,
            &At {
                offset: 20_001,
                ..at
            },
            lease,
            3,
            true
        )
        .0,
        Ok(3)
    );
    let (outcome, lease) = read(
        bed,
        &At {
            file,
            offset: 12_344,
            via: Via::Buffered,
        },
        79,
    );
    assert_eq!(outcome, Ok(79));
    assert_eq!((lease.bytes()[0], lease.bytes()[78]), (0, 0));
    assert!(lease.bytes()[1..78].iter().all(|byte| *byte == 7));
}

pub(crate) fn a_read_across_the_end_is_short(bed: &mut Bed) {
    let file = bed
        .backend
        .add_file(bed.source("file", &stream_bytes(0, 10_000)))
        .unwrap();
    let (outcome, lease) = read(
        bed,
        &At {
            file,
            offset: 8192,
            via: Via::Buffered,
        },
        8192,
    );
    assert_eq!(outcome, Ok(1808));
    assert!(lease.bytes()[..1808] == stream_bytes(8192, 1808));
    assert_eq!(
        read(
            bed,
            &At {
                file,
                offset: 8192,
                via: Via::Direct
            },
            8192
        )
        .0,
        Ok(1808)
    );
    assert_eq!(
        read(
            bed,
            &At {
                file,
                offset: 1 << 30,
                via: Via::Buffered
            },
            512
        )
        .0,
        Ok(0)
    );
}

pub(crate) fn a_misaligned_direct_write_is_invalid(bed: &mut Bed) {
    let target = bed.target("disk", MIB);
    assert!(target.direct_align() > 1);
    let file = bed.backend.add_file(target).unwrap();
    let lease = bed.filled(1);
    let at = At {
        file,
        offset: 1,
        via: Via::Direct,
    };
    let fault = write(bed, &at, lease, 4096, false).0.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Invalid);
    assert_eq!(fault.to_string(), "write failed: Invalid argument (EINVAL)");
}

pub(crate) fn zeroed_ranges_read_as_zeroes(bed: &mut Bed) {
    let target = bed.target("disk", MIB);
    let size = target.size_bytes();
    let file = bed.backend.add_file(target).unwrap();
    for (number, mode) in [(0, ZeroMode::PunchHole), (1, ZeroMode::ZeroRange)] {
        let offset = number * 65_536;
        let lease = bed.filled(0xff);
        write(
            bed,
            &At {
                file,
                offset,
                via: Via::Direct,
            },
            lease,
            16_384,
            false,
        )
        .0
        .unwrap();
        bed.push(
            Op::Zero {
                file,
                offset: offset + 4096,
                len: 8192,
                mode,
            },
            3,
        );
        assert_eq!(bed.wait_op(3).0, Ok(0));
        let (_, lease) = read(
            bed,
            &At {
                file,
                offset,
                via: Via::Direct,
            },
            16_384,
        );
        let bytes = lease.bytes();
        assert!(bytes[..4096].iter().all(|byte| *byte == 0xff));
        assert!(bytes[4096..12_288].iter().all(|byte| *byte == 0));
        assert!(bytes[12_288..16_384].iter().all(|byte| *byte == 0xff));
    }
    let mode = ZeroMode::ZeroRange;
    bed.push(
        Op::Zero {
            file,
            offset: size - 4096,
            len: 1 << 20,
            mode,
        },
        4,
    );
    bed.wait_op(4).0.unwrap();
    assert_eq!(
        std::fs::metadata(bed.path("disk")).unwrap().len(),
        size,
        "the file did not grow"
    );
}

pub(crate) fn a_flush_covers_both_descriptors(bed: &mut Bed) {
    let file = bed.backend.add_file(bed.target("disk", MIB)).unwrap();
    for via in [Via::Direct, Via::Buffered] {
        let lease = bed.filled(1);
        write(
            bed,
            &At {
                file,
                offset: 0,
                via,
            },
            lease,
            4096,
            false,
        )
        .0
        .unwrap();
    }
    bed.push(Op::Flush { file }, 5);
    let (outcome, op) = bed.wait_op(5);
    assert_eq!(outcome, Ok(0));
    assert!(matches!(op, Op::Flush { file: flushed } if flushed == file));
}

pub(crate) fn writing_to_a_source_is_a_fault(bed: &mut Bed) {
    let file = bed
        .backend
        .add_file(bed.source("file", &[1; 8192]))
        .unwrap();
    let lease = bed.filled(2);
    let (outcome, _) = write(
        bed,
        &At {
            file,
            offset: 0,
            via: Via::Buffered,
        },
        lease,
        10,
        false,
    );
    assert_eq!(outcome.unwrap_err().errno, libc::EBADF);
    assert_eq!(std::fs::read(bed.path("file")).unwrap(), [1; 8192]);
}

pub(crate) fn many_operations_at_once_complete_each_with_its_own_memory(bed: &mut Bed) {
    let file = bed.backend.add_file(bed.target("disk", 16 * MIB)).unwrap();
    for round in 0..3u8 {
        for number in 0..40u8 {
            let lease = bed.filled(number + round);
            let offset = u64::from(number) * 16_384;
            let op = Op::Write {
                file,
                lease,
                at: 0,
                len: 16_384,
                offset,
                via: Via::Direct,
                dsync: false,
            };
            bed.push(op, u64::from(number));
        }
        assert_eq!(bed.backend.in_flight(), 40);
        for number in 0..40u8 {
            let (outcome, op) = bed.wait_op(u64::from(number));
            assert_eq!(outcome, Ok(16_384));
            let Op::Write { lease, offset, .. } = op else {
                panic!("{op:?}")
            };
            assert_eq!(
                (lease.bytes()[0], offset),
                (number + round, u64::from(number) * 16_384)
            );
        }
        assert_eq!(bed.backend.in_flight(), 0);
        for number in 0..40u8 {
            let offset = u64::from(number) * 16_384;
            let (_, lease) = read(
                bed,
                &At {
                    file,
                    offset,
                    via: Via::Direct,
                },
                16_384,
            );
            assert!(
                lease.bytes()[..16_384]
                    .iter()
                    .all(|byte| *byte == number + round)
            );
        }
    }
}

pub(crate) fn a_removed_file_finishes_its_operations_first(bed: &mut Bed) {
    let target = bed.target("disk", MIB);
    let weak = std::sync::Arc::downgrade(&target);
    let file = bed.backend.add_file(target).unwrap();
    for number in 0..10u64 {
        let lease = bed.filled(4);
        let offset = number * 4096;
        let op = Op::Write {
            file,
            lease,
            at: 0,
            len: 4096,
            offset,
            via: Via::Direct,
            dsync: true,
        };
        bed.push(op, number);
    }
    bed.backend.remove_file(file);
    bed.backend.remove_file(file);
    let refused = bed.backend.push(Op::Flush { file }, Token(99)).unwrap_err();
    assert_eq!(refused.why, RefusedWhy::StaleId);
    for number in 0..10u64 {
        assert_eq!(bed.wait_op(number).0, Ok(4096));
    }
    bed.turn(Duration::from_millis(1));
    assert!(weak.upgrade().is_none(), "closed after the last operation");
    // Refused while anything still holds its lock.
    bed.target("disk", MIB);
    assert!(
        std::fs::read(bed.path("disk")).unwrap()[..40_960]
            .iter()
            .all(|byte| *byte == 4)
    );
    for number in 0..20 {
        let file = bed
            .backend
            .add_file(bed.target(&format!("disk{number}"), MIB))
            .unwrap();
        bed.backend.remove_file(file);
    }
}

pub(crate) fn leases_of_another_arena_work(bed: &mut Bed) {
    let other = sys::Arena::new(&ArenaConfig {
        small_count: 1,
        large_count: 0,
        huge_pages: false,
    })
    .unwrap();
    let file = bed.backend.add_file(bed.target("disk", MIB)).unwrap();
    let mut lease = other.take(LeaseClass::Small).unwrap();
    lease.bytes_mut().fill(6);
    let at = At {
        file,
        offset: 0,
        via: Via::Direct,
    };
    let (outcome, lease) = write(bed, &at, lease, 4096, false);
    assert_eq!(outcome, Ok(4096));
    drop(lease);
    assert_eq!(other.available(LeaseClass::Small), 1);
    let (_, lease) = read(bed, &at, 4096);
    assert!(lease.bytes()[..4096].iter().all(|byte| *byte == 6));
    drop(lease);
    assert_eq!(bed.arena.available(LeaseClass::Large), LARGE_COUNT);
}
