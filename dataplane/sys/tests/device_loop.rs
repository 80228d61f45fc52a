//! Block devices, as loop devices over files. Needs root and losetup; says `SKIP:` otherwise.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod bed;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bed::Bed;
use sys::{
    Arena, ArenaConfig, Backend, DeviceFile, DeviceKind, FaultKind, Lease, Op, OpenIntent,
    OpenOptions, Outcome, SetupErrorKind, Tier, Via, ZeroMode,
};

const MIB: u64 = 1 << 20;

/// Where skipping is not allowed (as root in CI), it is a failure.
fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    let root = nix::unistd::geteuid().is_root();
    assert!(
        !(root && std::env::var_os("CI").is_some()),
        "must not be skipped here: {why}"
    );
}

fn run(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        eprintln!("{command} {arguments:?}: {}: {errors}", output.status);
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device; detached on drop.
struct Loop {
    device: PathBuf,
    folder: tempfile::TempDir,
}

impl Loop {
    fn attach(size: u64, arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let backing = folder.path().join("backing");
        File::create(&backing).unwrap().set_len(size).unwrap();
        if !nix::unistd::geteuid().is_root() {
            skip("loop devices need root");
            return None;
        }
        let mut all = vec!["--find", "--show"];
        all.extend_from_slice(arguments);
        all.push(backing.to_str().unwrap());
        let Some(device) = run("losetup", &all) else {
            skip("losetup does not work");
            return None;
        };
        Some(Self {
            device: device.into(),
            folder,
        })
    }

    fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }

    fn open(
        &self,
        intent: OpenIntent,
        options: &OpenOptions,
    ) -> Result<DeviceFile, sys::SetupError> {
        DeviceFile::open(&self.device, intent, options)
    }

    fn target_error(&self) -> sys::SetupError {
        self.open(OpenIntent::Target, &OpenOptions::default())
            .unwrap_err()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", self.name()]);
    }
}

/// Runs a command on drop.
struct Undo<'a>(&'a str, Vec<&'a str>);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        run(self.0, &self.1);
    }
}

fn overwrite() -> OpenOptions {
    OpenOptions {
        overwrite: true,
        ..OpenOptions::default()
    }
}

#[test]
fn a_blank_device_is_a_target_with_its_sector_size() {
    for (sector, argument) in [(512, "512"), (4096, "4096")] {
        let Some(disk) = Loop::attach(8 * MIB, &["--sector-size", argument]) else {
            return;
        };
        let file = disk
            .open(OpenIntent::Target, &OpenOptions::default())
            .unwrap();
        assert_eq!(file.kind(), DeviceKind::Block);
        assert_eq!(file.size_bytes(), 8 * MIB);
        assert_eq!(file.logical_block(), sector);
        assert!(file.physical_block() >= sector && file.preferred_io() >= sector);
        assert!(file.is_direct());
        assert_eq!(file.direct_align() % sector, 0);
        assert!(!file.is_read_only());
        assert_eq!(file.identity().serial, None, "loop devices have none");
        assert!(file.identity().diskseq.is_some());
        file.revalidate().unwrap();
        assert_eq!(
            file.next_data(4096).unwrap(),
            Some((4096, 8 * MIB)),
            "all of it is data"
        );
        file.flush_blocking().unwrap();
    }
}

#[test]
fn a_mounted_device_is_no_target_but_a_source() {
    let Some(disk) = Loop::attach(32 * MIB, &[]) else {
        return;
    };
    if run("mkfs.ext4", &["-q", disk.name()]).is_none() {
        return skip("mkfs.ext4 does not work");
    }
    let place = disk.folder.path().join("mount point");
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    if run("mount", &[disk.name(), place]).is_none() {
        return skip("mount does not work");
    }
    let _umount = Undo("umount", vec![place]);
    for options in [OpenOptions::default(), overwrite()] {
        let error = disk.open(OpenIntent::Target, &options).unwrap_err();
        assert_eq!(error.kind(), SetupErrorKind::Busy);
        assert!(
            error
                .to_string()
                .contains(&format!("is mounted on {place}")),
            "{error}"
        );
    }
    let source = disk
        .open(OpenIntent::Source, &OpenOptions::default())
        .unwrap();
    assert!(source.is_read_only());
}

#[test]
fn swap_in_use_is_no_target() {
    let Some(disk) = Loop::attach(16 * MIB, &[]) else {
        return;
    };
    let ready = run("mkswap", &[disk.name()]).and_then(|_| run("swapon", &[disk.name()]));
    if ready.is_none() {
        return skip("swapon does not work");
    }
    let _swapoff = Undo("swapoff", vec![disk.name()]);
    let error = disk.open(OpenIntent::Target, &overwrite()).unwrap_err();
    assert_eq!(error.kind(), SetupErrorKind::Busy);
    assert!(error.to_string().contains("in use as swap"), "{error}");
}

#[test]
fn a_device_held_by_another_opener_is_no_target() {
    let Some(disk) = Loop::attach(8 * MIB, &[]) else {
        return;
    };
    let _first = disk
        .open(OpenIntent::Target, &OpenOptions::default())
        .unwrap();
    let error = disk.target_error();
    assert_eq!(error.kind(), SetupErrorKind::Busy);
    assert!(
        error.to_string().contains("another process holds it"),
        "{error}"
    );
    assert_eq!(error.errno(), Some(libc::EBUSY));
}

#[test]
fn a_read_only_device_is_no_target_but_a_source() {
    let Some(disk) = Loop::attach(8 * MIB, &["--read-only"]) else {
        return;
    };
    let error = disk.target_error();
    assert_eq!(error.kind(), SetupErrorKind::Permission);
    assert!(error.to_string().contains("read-only device"), "{error}");
    disk.open(OpenIntent::Source, &OpenOptions::default())
        .unwrap();
}

#[test]
fn what_a_device_holds_is_named_and_can_be_overruled() {
    // (what makes it, arguments before the device, what the error names)
    let makers: [(&str, &[&str], &str); 7] = [
        ("mkfs.ext4", &["-q"], "ext2/3/4"),
        ("mkfs.xfs", &["-q"], "XFS"),
        ("mkfs.btrfs", &["-q"], "btrfs"),
        ("mkswap", &[], "swap"),
        ("sgdisk", &["--new=1:2048:4096"], "GPT"),
        ("pvcreate", &["--quiet"], "LVM2"),
        ("mkfs.vfat", &[], "FAT"),
    ];
    for (maker, arguments, name) in makers {
        let Some(disk) = Loop::attach(320 * MIB, &[]) else {
            return;
        };
        let all: Vec<&str> = arguments.iter().copied().chain([disk.name()]).collect();
        if run(maker, &all).is_none() {
            // Which tools there are differs between machines; at least the magic is tested elsewhere.
            eprintln!("SKIP: {maker} does not work");
            continue;
        }
        let error = disk.target_error();
        assert_eq!(error.kind(), SetupErrorKind::Refused, "{maker}");
        assert!(error.to_string().contains(name), "{maker}: {error}");
        assert!(error.remedy().contains("overwriting"), "{error}");
        drop(disk.open(OpenIntent::Target, &overwrite()).unwrap());
        let unchecked = OpenOptions {
            skip_signature_check: true,
            ..OpenOptions::default()
        };
        drop(disk.open(OpenIntent::Target, &unchecked).unwrap());
        disk.open(OpenIntent::Source, &OpenOptions::default())
            .unwrap();
    }
}

#[test]
fn a_backup_partition_table_at_the_end_is_seen() {
    for sector in ["512", "4096"] {
        let Some(disk) = Loop::attach(16 * MIB, &["--sector-size", sector]) else {
            return;
        };
        if run("sgdisk", &["--new=1:0:0", disk.name()]).is_none() {
            return skip("sgdisk does not work");
        }
        // As a half-finished wipe leaves it.
        let raw = fs::OpenOptions::new()
            .write(true)
            .open(&disk.device)
            .unwrap();
        raw.write_all_at(&vec![0; 1 << 20], 0).unwrap();
        raw.sync_all().unwrap();
        drop(raw);
        let error = disk.target_error();
        assert!(error.to_string().contains("backup GPT"), "{error}");
    }
}

#[test]
fn a_path_that_leads_elsewhere_later_is_noticed() {
    let (Some(first), Some(second)) = (Loop::attach(8 * MIB, &[]), Loop::attach(8 * MIB, &[]))
    else {
        return;
    };
    let link = first.folder.path().join("by-id");
    symlink(&first.device, &link).unwrap();
    let file = DeviceFile::open(&link, OpenIntent::Target, &OpenOptions::default()).unwrap();
    assert_eq!(file.resolved_path(), first.device);
    file.revalidate().unwrap();
    fs::remove_file(&link).unwrap();
    symlink(&second.device, &link).unwrap();
    let error = file.revalidate().unwrap_err();
    assert_eq!(error.kind(), SetupErrorKind::Refused);
    assert!(error.to_string().contains("another device"), "{error}");
}

#[test]
fn a_device_number_used_again_is_another_device() {
    let Some(disk) = Loop::attach(8 * MIB, &[]) else {
        return;
    };
    let identity = disk
        .open(OpenIntent::Source, &OpenOptions::default())
        .unwrap()
        .identity()
        .clone();
    let backing = disk.folder.path().join("backing");
    run("losetup", &["--detach", disk.name()]).unwrap();
    if run("losetup", &[disk.name(), backing.to_str().unwrap()]).is_none() {
        return skip("the device number was taken by somebody else");
    }
    let again = disk
        .open(OpenIntent::Source, &OpenOptions::default())
        .unwrap();
    assert_ne!(again.identity().diskseq, identity.diskseq);
    assert_eq!(again.identity().dev, identity.dev);
}

#[test]
fn sources_do_not_disturb_each_other() {
    let Some(disk) = Loop::attach(8 * MIB, &[]) else {
        return;
    };
    let _one = disk
        .open(OpenIntent::Source, &OpenOptions::default())
        .unwrap();
    let _two = disk
        .open(OpenIntent::Source, &OpenOptions::default())
        .unwrap();
    let _target = disk
        .open(OpenIntent::Target, &OpenOptions::default())
        .unwrap();
    let claim = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(&disk.device);
    assert!(claim.is_err(), "the target holds the claim");
}

fn beds() -> Vec<Bed> {
    let arena = || {
        let config = ArenaConfig {
            small_count: 8,
            large_count: 0,
            huge_pages: false,
        };
        Arena::new(&config).unwrap()
    };
    let bed = |backend: Box<dyn Backend + Send>, arena: Arc<Arena>| Bed::new(backend, arena);
    let rings = [Tier::Rich, Tier::Plain].map(|tier| {
        let arena = arena();
        bed(Box::new(bed::ring(tier, &arena)), arena)
    });
    let mut all = Vec::from(rings);
    all.push(bed(Box::new(bed::poll()), arena()));
    all
}

fn write(bed: &mut Bed, file: sys::FileId, lease: Lease, offset: u64, len: u32) -> Outcome {
    let via = Via::Direct;
    bed.push(
        Op::Write {
            file,
            lease,
            at: 0,
            len,
            offset,
            via,
            dsync: false,
        },
        1,
    );
    bed.wait_op(1).0
}

#[test]
fn writes_at_the_end_are_short_or_out_of_space() {
    for mut bed in beds() {
        let Some(disk) = Loop::attach(MIB, &[]) else {
            return;
        };
        let target = disk
            .open(OpenIntent::Target, &OpenOptions::default())
            .unwrap();
        let file = bed.backend.add_file(Arc::new(target)).unwrap();
        let lease = bed.filled(1);
        assert_eq!(write(&mut bed, file, lease, MIB - 4096, 4096), Ok(4096));
        let lease = bed.filled(2);
        assert_eq!(
            write(&mut bed, file, lease, MIB - 4096, 8192),
            Ok(4096),
            "cut at the end"
        );
        let lease = bed.filled(3);
        let fault = write(&mut bed, file, lease, MIB, 4096).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::OutOfSpace);
    }
}

#[test]
fn a_sector_is_the_least_a_large_sector_device_takes() {
    for mut bed in beds() {
        let Some(disk) = Loop::attach(MIB, &["--sector-size", "4096"]) else {
            return;
        };
        let target = disk
            .open(OpenIntent::Target, &OpenOptions::default())
            .unwrap();
        let file = bed.backend.add_file(Arc::new(target)).unwrap();
        let lease = bed.filled(1);
        let fault = write(&mut bed, file, lease, 512, 512).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Invalid);
        let lease = bed.filled(5);
        bed.push(
            Op::Write {
                file,
                lease,
                at: 0,
                len: 512,
                offset: 512,
                via: Via::Buffered,
                dsync: true,
            },
            2,
        );
        assert_eq!(
            bed.wait_op(2).0,
            Ok(512),
            "the page cache reads, changes and writes"
        );
        bed.push(Op::Flush { file }, 3);
        assert_eq!(bed.wait_op(3).0, Ok(0));
        let lease = bed.small();
        bed.push(
            Op::Read {
                file,
                lease,
                at: 0,
                len: 4096,
                offset: 0,
                via: Via::Direct,
            },
            4,
        );
        let (outcome, op) = bed.wait_op(4);
        assert_eq!(outcome, Ok(4096));
        let Op::Read { lease, .. } = op else {
            panic!("{op:?}")
        };
        assert!(lease.bytes()[..512].iter().all(|byte| *byte == 0));
        assert!(lease.bytes()[512..1024].iter().all(|byte| *byte == 5));
    }
}

#[test]
fn zeroing_a_device_zeroes_or_says_that_it_cannot() {
    for mut bed in beds() {
        let Some(disk) = Loop::attach(MIB, &[]) else {
            return;
        };
        let target = disk
            .open(OpenIntent::Target, &OpenOptions::default())
            .unwrap();
        let file = bed.backend.add_file(Arc::new(target)).unwrap();
        for mode in [ZeroMode::PunchHole, ZeroMode::ZeroRange] {
            let lease = bed.filled(0xff);
            assert_eq!(write(&mut bed, file, lease, 0, 16_384), Ok(16_384));
            bed.push(
                Op::Zero {
                    file,
                    offset: 4096,
                    len: 4096,
                    mode,
                },
                2,
            );
            match bed.wait_op(2).0 {
                Ok(count) => assert_eq!(count, 0),
                Err(fault) => {
                    assert_eq!(fault.kind(), FaultKind::Unsupported, "{mode:?}");
                    continue;
                }
            }
            let lease = bed.small();
            bed.push(
                Op::Read {
                    file,
                    lease,
                    at: 0,
                    len: 16_384,
                    offset: 0,
                    via: Via::Direct,
                },
                3,
            );
            let (_, op) = bed.wait_op(3);
            let Op::Read { lease, .. } = op else {
                panic!("{op:?}")
            };
            let expected = |at: usize| if (4096..8192).contains(&at) { 0 } else { 0xff };
            assert!(
                (0..16_384).all(|at| lease.bytes()[at] == expected(at)),
                "{mode:?}"
            );
        }
    }
}

#[test]
fn stale_page_cache_does_not_hide_what_was_written() {
    for mut bed in beds() {
        let Some(disk) = Loop::attach(MIB, &[]) else {
            return;
        };
        let bystander = File::open(&disk.device).unwrap();
        let mut seen = [1; 4096];
        bystander.read_exact_at(&mut seen, 0).unwrap();
        let target = disk
            .open(OpenIntent::Target, &OpenOptions::default())
            .unwrap();
        let file = bed.backend.add_file(Arc::new(target)).unwrap();
        let lease = bed.filled(9);
        assert_eq!(write(&mut bed, file, lease, 0, 4096), Ok(4096));
        bystander.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, [9; 4096]);
    }
}

#[test]
fn the_self_test_passes_on_this_machine() {
    let reports = sys::runtime::self_test(Path::new(env!("CARGO_TARGET_TMPDIR")));
    for report in reports {
        eprintln!("{report:?}");
        if report.tier == Tier::Epoll {
            assert!(report.error.is_none());
        }
    }
}
