use super::*;
use model::ids::OperationId;

const HERE: Place = Place::Here { device_id: 4 };

fn volume(last: u8) -> VolumeId {
    format!("60338035-92fb-4d27-98d{}-b60ad4b38b87", last % 10)
        .parse()
        .unwrap()
}

fn record(place: Place) -> Recorded {
    Recorded {
        volume: volume(1),
        place,
        size_bytes: 100,
        should_be_held: true,
        is_busy: false,
    }
}

fn cloud(place: Place, size_bytes: u64) -> Observed {
    Observed {
        volume: volume(1),
        name: "a disk".to_owned(),
        place,
        size_bytes,
    }
}

fn seen(disks: u32, is_held: bool) -> Seen {
    Seen {
        disks,
        size_bytes: 200,
        is_held,
    }
}

fn plan_of(
    observed: &[Observed],
    recorded: &[Recorded],
    seen: Seen,
    generations_agree: bool,
) -> Vec<Action> {
    let seen = BTreeMap::from([(Serial::of(volume(1)), seen)]);
    let facts = Facts {
        observed,
        recorded,
        seen: &seen,
        own_root: Some(volume(9)),
        generations_agree,
    };
    plan(&facts).into_iter().map(|(_, action)| action).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn each_disagreement_has_its_answer() {
    use Problem::*;
    let report = |problem| vec![Action::Report(problem)];
    let repair = |repair| vec![Action::Repair(repair)];
    for (recorded, observed, kernel, wanted) in [
        (HERE, Some(cloud(HERE, 100)), seen(1, true), vec![]),
        (
            Place::Free,
            Some(cloud(Place::Free, 100)),
            seen(0, false),
            vec![],
        ),
        (
            Place::Elsewhere,
            Some(cloud(Place::Elsewhere, 100)),
            seen(0, false),
            vec![],
        ),
        (
            HERE,
            Some(cloud(HERE, 100)),
            seen(1, false),
            repair(Repair::HoldAgain),
        ),
        (
            HERE,
            Some(cloud(Place::Free, 100)),
            seen(0, false),
            repair(Repair::RecordFree),
        ),
        (
            Place::Free,
            Some(cloud(HERE, 100)),
            seen(1, true),
            repair(Repair::RecordHere { device_id: 4 }),
        ),
        (
            Place::Here { device_id: 1 },
            Some(cloud(HERE, 150)),
            seen(1, false),
            vec![
                Action::Repair(Repair::RecordHere { device_id: 4 }),
                Action::Repair(Repair::RecordSize { size_bytes: 150 }),
                Action::Repair(Repair::HoldAgain),
            ],
        ),
        (HERE, None, seen(1, true), report(Missing)),
        (
            HERE,
            Some(cloud(Place::Free, 100)),
            seen(1, true),
            report(LateDetach),
        ),
        (
            Place::Free,
            Some(cloud(Place::Free, 100)),
            seen(1, false),
            report(LateDetach),
        ),
        (
            HERE,
            Some(cloud(Place::Elsewhere, 100)),
            seen(1, true),
            report(TwoWriters),
        ),
        (
            Place::Elsewhere,
            Some(cloud(Place::Elsewhere, 100)),
            seen(1, false),
            report(TwoWriters),
        ),
        (
            HERE,
            Some(cloud(Place::Elsewhere, 100)),
            seen(0, false),
            report(Moved),
        ),
        (
            Place::Free,
            Some(cloud(HERE, 100)),
            seen(0, false),
            report(NoDisk),
        ),
        (
            HERE,
            Some(cloud(HERE, 100)),
            seen(2, true),
            report(DoubleDisk),
        ),
        (HERE, Some(cloud(HERE, 99)), seen(1, true), report(Shrunk)),
        (HERE, Some(cloud(HERE, 201)), seen(1, true), report(Shrunk)),
    ] {
        let observed: Vec<Observed> = observed.into_iter().collect();
        let plan = plan_of(&observed, &[record(recorded)], kernel, true);
        assert_eq!(plan, wanted, "{recorded:?} {observed:?} {kernel:?}");
    }
}

#[test]
fn a_volume_with_an_active_operation_is_left_alone() {
    let busy = Recorded {
        is_busy: true,
        ..record(HERE)
    };
    let observed = [cloud(Place::Elsewhere, 100)];
    assert_eq!(plan_of(&observed, &[busy], seen(1, true), true), []);
}

#[test]
fn what_bears_our_mark_is_adopted_and_what_does_not_is_told() {
    let marked = Observed {
        name: OperationId(volume(7).0).mark(),
        ..cloud(Place::Free, 1)
    };
    let foreign = cloud(HERE, 1);
    let root = Observed {
        volume: volume(9),
        ..cloud(HERE, 1)
    };
    let elsewhere = cloud(Place::Elsewhere, 1);
    let none = Seen::default();
    assert_eq!(plan_of(&[marked], &[], none, true), [Action::Adopt]);
    assert_eq!(
        plan_of(&[foreign], &[], none, true),
        [Action::Report(Problem::Foreign)]
    );
    assert_eq!(plan_of(&[root, elsewhere], &[], none, true), []);
}

#[test]
fn a_restored_backup_stops_repairs_and_no_reports() {
    let lost = [cloud(HERE, 100)];
    assert_eq!(
        plan_of(&lost, &[record(HERE)], seen(1, false), false),
        [Action::Withheld]
    );
    let gone = plan_of(&[], &[record(HERE)], seen(1, true), false);
    assert_eq!(gone, [Action::Report(Problem::Missing)]);
}

#[test]
fn volumes_that_share_a_serial_are_told() {
    let twin = Recorded {
        volume: "60338035-92fb-4d27-98d1-000000000000".parse().unwrap(),
        ..record(HERE)
    };
    let plan = plan_of(
        &[cloud(HERE, 100)],
        &[record(HERE), twin],
        seen(1, true),
        true,
    );
    assert_eq!(plan, [Action::Report(Problem::SharedSerial); 2]);
}
