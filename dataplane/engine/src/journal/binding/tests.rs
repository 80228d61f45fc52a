use super::*;
use crate::{digest::Digest, journal::ExportTarget};

const HASHES: bool = true;
const NONE: bool = false;

fn block(serial: Option<&str>) -> Medium {
    Medium::Block {
        serial: serial.map(str::to_owned),
        wwid: None,
        size_bytes: 1 << 30,
        logical_block: 512,
    }
}

fn file(dev: u64, inode: u64, size_bytes: u64) -> Medium {
    file_born(dev, inode, size_bytes, Some(5))
}

fn file_born(dev: u64, inode: u64, size_bytes: u64, born_ns: Option<i64>) -> Medium {
    Medium::File {
        dev,
        inode,
        size_bytes,
        born_ns,
    }
}

fn export(name: &str, size_bytes: u64, medium: Option<Medium>) -> Target {
    Target::Export(ExportTarget {
        name: name.into(),
        size_bytes,
        medium,
    })
}

fn source_file(mtime_ns: i64) -> Source {
    Source::File {
        dev: 1,
        inode: 2,
        size_bytes: 1 << 30,
        mtime_ns,
    }
}

fn source_block(serial: Option<&str>, boot: &str, diskseq: Option<u64>) -> Source {
    Source::Block(BlockSource {
        serial: serial.map(str::to_owned),
        wwid: None,
        size_bytes: 1 << 30,
        boot_id: boot.into(),
        diskseq,
    })
}

fn nbd(source_id: &str) -> Source {
    Source::Nbd {
        source_id: source_id.into(),
        size_bytes: 1 << 30,
    }
}

fn header(target: Target, source: Source) -> Header {
    Header {
        schema: 1,
        target,
        source,
        ranges: Digest([1; 32]),
        total_bytes: 1 << 30,
        created_unix_s: 1,
        version: "0.1.0".into(),
    }
}

fn session(boot: Option<&str>, diskseq: Option<u64>) -> Session {
    Session {
        boot_id: boot.map(str::to_owned),
        diskseq,
        pid: 1,
        unix_s: 1,
    }
}

fn present(target: Target, source: Source, hashes: bool) -> Present {
    Present {
        target,
        boot_id: Some("boot-1".into()),
        diskseq: Some(7),
        hashes,
        source,
        ranges: Digest([1; 32]),
        total_bytes: 1 << 30,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Trust,
    AfterHashes,
    StartOver,
    Refuse,
}

fn kind(binding: Binding) -> Kind {
    match binding {
        Binding::Trust => Kind::Trust,
        Binding::TrustAfterHashes { why } if !why.is_empty() => Kind::AfterHashes,
        Binding::StartOver { why } if !why.is_empty() => Kind::StartOver,
        Binding::Refuse { what } if !what.is_empty() => Kind::Refuse,
        mute => panic!("{mute:?} without a reason"),
    }
}

/// Both ways: with hashes, and without.
#[track_caller]
fn check(then: Target, last: Option<&Session>, now: Target, expected: Kind) {
    let header = header(then, source_file(5));
    let without = match expected {
        Kind::AfterHashes => Kind::StartOver,
        other => other,
    };
    let mut present = present(now, source_file(5), HASHES);
    assert_eq!(kind(bind(&header, last, &present)), expected);
    present.hashes = NONE;
    assert_eq!(kind(bind(&header, last, &present)), without);
}

#[test]
fn a_block_device_is_bound_by_serial_size_boot_and_attachment() {
    let local = |serial| Target::Local(block(serial));
    let same = || local(Some("S"));
    let same_boot = session(Some("boot-1"), Some(7));
    check(same(), Some(&same_boot), same(), Kind::Trust);
    for doubtful in [
        session(Some("boot-0"), Some(7)),
        session(Some("boot-1"), Some(6)),
        session(Some("boot-1"), None),
        session(None, Some(7)),
    ] {
        check(same(), Some(&doubtful), same(), Kind::AfterHashes);
    }
    check(same(), None, same(), Kind::AfterHashes);
    check(
        local(None),
        Some(&same_boot),
        local(None),
        Kind::AfterHashes,
    );
    for other in [
        local(Some("T")),
        local(None),
        Target::Local(Medium::Block {
            serial: Some("S".into()),
            wwid: Some("W".into()),
            size_bytes: 1 << 30,
            logical_block: 512,
        }),
        Target::Local(Medium::Block {
            serial: Some("S".into()),
            wwid: None,
            size_bytes: 1 << 29,
            logical_block: 512,
        }),
        Target::Local(Medium::Block {
            serial: Some("S".into()),
            wwid: None,
            size_bytes: 1 << 30,
            logical_block: 4_096,
        }),
        Target::Local(file(1, 2, 1 << 30)),
        export("S", 1 << 30, Some(block(Some("S")))),
    ] {
        check(same(), Some(&same_boot), other, Kind::Refuse);
    }
}

#[test]
fn a_world_wide_id_names_a_device_as_well_as_a_serial() {
    let named = Target::Local(Medium::Block {
        serial: None,
        wwid: Some("W".into()),
        size_bytes: 1 << 30,
        logical_block: 512,
    });
    let same_boot = session(Some("boot-1"), Some(7));
    check(named.clone(), Some(&same_boot), named, Kind::Trust);
}

#[test]
fn a_file_is_bound_by_device_inode_size_and_boot() {
    let then = || Target::Local(file(1, 2, 3));
    let same_boot = session(Some("boot-1"), None);
    let other_boot = session(Some("boot-0"), None);
    check(then(), Some(&same_boot), then(), Kind::Trust);
    check(then(), Some(&other_boot), then(), Kind::AfterHashes);
    check(then(), None, then(), Kind::AfterHashes);
    let renumbered = || Target::Local(file(9, 2, 3));
    check(then(), Some(&other_boot), renumbered(), Kind::AfterHashes);
    check(then(), Some(&same_boot), renumbered(), Kind::Refuse);
    for other in [file(1, 9, 3), file(1, 2, 9)] {
        let other = || Target::Local(other.clone());
        check(then(), Some(&same_boot), other(), Kind::Refuse);
        check(then(), Some(&other_boot), other(), Kind::Refuse);
    }
}

#[test]
fn a_file_that_was_made_anew_is_another_one_though_it_has_the_inode() {
    let born = |born_ns| Target::Local(file_born(1, 2, 3, born_ns));
    let same_boot = session(Some("boot-1"), None);
    let other_boot = session(Some("boot-0"), None);
    for last in [&same_boot, &other_boot] {
        check(born(Some(5)), Some(last), born(Some(6)), Kind::Refuse);
        check(born(None), Some(last), born(Some(5)), Kind::AfterHashes);
        check(born(Some(5)), Some(last), born(None), Kind::AfterHashes);
        check(born(None), Some(last), born(None), Kind::AfterHashes);
    }
    check(born(Some(5)), Some(&same_boot), born(Some(5)), Kind::Trust);
}

#[test]
fn an_export_is_bound_by_name_size_and_what_its_server_tells() {
    let told = || export("e", 8, Some(block(Some("S"))));
    let untold = || export("e", 8, None);
    let same_boot = session(Some("boot-1"), Some(7));
    let other_boot = session(Some("boot-0"), Some(7));
    check(told(), Some(&same_boot), told(), Kind::Trust);
    check(told(), Some(&other_boot), told(), Kind::AfterHashes);
    check(untold(), Some(&same_boot), untold(), Kind::AfterHashes);
    check(told(), Some(&same_boot), untold(), Kind::AfterHashes);
    check(untold(), Some(&same_boot), told(), Kind::AfterHashes);
    for other in [
        export("f", 8, Some(block(Some("S")))),
        export("e", 9, Some(block(Some("S")))),
        export("e", 8, Some(block(Some("T")))),
        export("e", 8, Some(file(1, 2, 8))),
        Target::Local(block(Some("S"))),
    ] {
        check(told(), Some(&same_boot), other, Kind::Refuse);
    }
}

#[track_caller]
fn check_source(then: Source, now: Source, expected: Kind) {
    let target = Target::Local(block(Some("S")));
    let last = session(Some("boot-1"), Some(7));
    let header = header(target.clone(), then);
    let binding = bind(&header, Some(&last), &present(target, now, HASHES));
    assert_eq!(kind(binding), expected);
}

#[test]
fn the_source_must_be_the_same_for_certain() {
    check_source(source_file(5), source_file(5), Kind::Trust);
    check_source(source_file(5), source_file(6), Kind::Refuse);
    check_source(nbd("snap-1"), nbd("snap-1"), Kind::Trust);
    check_source(nbd("snap-1"), nbd("snap-2"), Kind::Refuse);
    check_source(nbd("snap-1"), source_file(5), Kind::Refuse);
    let image = |format: &str, base: &str| Source::Image {
        format: format.into(),
        dev: 1,
        inode: 2,
        size_bytes: 3,
        mtime_ns: 4,
        files: Digest::of(base.as_bytes()),
    };
    check_source(image("vmdk", "a"), image("vmdk", "a"), Kind::Trust);
    check_source(image("vmdk", "a"), image("raw", "a"), Kind::Refuse);
    check_source(image("vmdk", "a"), image("vmdk", "b"), Kind::Refuse);
    let (named, nameless) = (Some("S"), None);
    for (then, now, expected) in [
        ((named, "b1", Some(1)), (named, "b2", Some(9)), Kind::Trust),
        ((named, "b1", None), (named, "b2", None), Kind::Trust),
        (
            (named, "b1", Some(1)),
            (Some("T"), "b1", Some(1)),
            Kind::Refuse,
        ),
        (
            (named, "b1", Some(1)),
            (nameless, "b1", Some(1)),
            Kind::Refuse,
        ),
        (
            (nameless, "b1", Some(1)),
            (nameless, "b1", Some(1)),
            Kind::Trust,
        ),
        (
            (nameless, "b1", Some(1)),
            (nameless, "b1", Some(2)),
            Kind::Refuse,
        ),
        (
            (nameless, "b1", Some(1)),
            (nameless, "b2", Some(1)),
            Kind::Refuse,
        ),
        ((nameless, "b1", None), (nameless, "b1", None), Kind::Refuse),
    ] {
        let source = |(serial, boot, diskseq)| source_block(serial, boot, diskseq);
        check_source(source(then), source(now), expected);
    }
}

#[test]
fn another_list_of_ranges_or_size_is_another_transfer() {
    let target = Target::Local(block(Some("S")));
    let header = header(target.clone(), source_file(5));
    let last = session(Some("boot-1"), Some(7));
    let mut ranges = present(target.clone(), source_file(5), HASHES);
    ranges.ranges = Digest([2; 32]);
    let mut size = present(target, source_file(5), HASHES);
    size.total_bytes += 512;
    for present in [ranges, size] {
        assert_eq!(kind(bind(&header, Some(&last), &present)), Kind::Refuse);
    }
}

#[test]
fn a_server_that_tells_no_boot_is_never_trusted_without_hashes() {
    let target = export("e", 8, Some(block(Some("S"))));
    let header = header(target.clone(), source_file(5));
    let last = session(None, None);
    let mut present = present(target, source_file(5), NONE);
    (present.boot_id, present.diskseq) = (None, None);
    assert_eq!(kind(bind(&header, Some(&last), &present)), Kind::StartOver);
}
