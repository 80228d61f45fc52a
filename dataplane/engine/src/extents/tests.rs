//! Extents against a naive model: a vector of booleans, one for each byte.

#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of the model are tiny"
)]

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

/// Universe of the model. Small, so that overlaps and touches are frequent.
const SIZE: u64 = 96;

fn model_of(set: &ExtentSet) -> Vec<bool> {
    let mut bytes = vec![false; SIZE as usize];
    for range in set.iter() {
        for offset in range {
            assert!(!bytes[offset as usize], "byte {offset} twice");
            bytes[offset as usize] = true;
        }
    }
    bytes
}

fn assert_canonical(set: &ExtentSet) {
    for range in set.iter() {
        assert!(range.start < range.end, "{set:?}");
    }
    for pair in set.ranges.windows(2) {
        assert!(pair[0].end < pair[1].start, "{set:?}");
    }
}

fn any_range() -> impl Strategy<Value = Range<u64>> {
    (0..=SIZE, 0..=SIZE).prop_map(|(a, b)| a.min(b)..a.max(b))
}

fn any_set() -> impl Strategy<Value = ExtentSet> {
    proptest::collection::vec(any_range(), 0..12).prop_map(ExtentSet::from_unsorted)
}

#[derive(Debug, Clone)]
enum Change {
    Insert(Range<u64>),
    Remove(Range<u64>),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => any_range().prop_map(Change::Insert),
        1 => any_range().prop_map(Change::Remove),
    ]
}

proptest! {
    #[test]
    fn inserting_and_removing_match_a_set_of_bytes(
        changes in proptest::collection::vec(any_change(), 0..40),
    ) {
        let mut set = ExtentSet::new();
        let mut model = vec![false; SIZE as usize];
        for change in changes {
            let (range, value) = match change {
                Change::Insert(range) => {
                    set.insert(range.clone());
                    (range, true)
                }
                Change::Remove(range) => {
                    set.remove(range.clone());
                    (range, false)
                }
            };
            for offset in range {
                model[offset as usize] = value;
            }
            assert_canonical(&set);
            prop_assert_eq!(&model_of(&set), &model);
        }
    }

    #[test]
    fn a_set_does_not_depend_on_the_order_of_its_ranges(
        ranges in proptest::collection::vec(any_range(), 0..12),
    ) {
        let sorted = ExtentSet::from_unsorted(ranges.clone());
        let mut inserted = ExtentSet::new();
        for range in ranges.into_iter().rev() {
            inserted.insert(range);
        }
        assert_canonical(&sorted);
        prop_assert_eq!(sorted, inserted);
    }

    #[test]
    fn set_operations_match_the_bytes(a in any_set(), b in any_set(), window in any_range()) {
        let (in_a, in_b) = (model_of(&a), model_of(&b));
        let zip = |f: fn(bool, bool) -> bool| -> Vec<bool> {
            in_a.iter().zip(&in_b).map(|(x, y)| f(*x, *y)).collect()
        };
        let (both, either, not) = (a.intersect(&b), a.union(&b), a.complement(SIZE));
        for set in [&both, &either, &not] {
            assert_canonical(set);
        }
        prop_assert_eq!(model_of(&both), zip(|x, y| x && y));
        prop_assert_eq!(model_of(&either), zip(|x, y| x || y));
        prop_assert_eq!(model_of(&not), zip(|x, _| !x));
        prop_assert_eq!(a.total_bytes(), in_a.iter().filter(|x| **x).count() as u64);
        prop_assert_eq!(a.end(), in_a.iter().rposition(|x| *x).map_or(0, |i| i as u64 + 1));

        let mut only_window = ExtentSet::new();
        only_window.insert(window.clone());
        let inside: ExtentSet = a.within(window.clone()).collect();
        prop_assert_eq!(a.within(window.clone()).count(), inside.len());
        prop_assert_eq!(&inside, &a.intersect(&only_window));
        prop_assert_eq!(a.overlaps(window.clone()), !inside.is_empty());
        let covered = window.clone().all(|offset| in_a[offset as usize]);
        prop_assert_eq!(a.contains_range(window), covered);
    }

    #[test]
    fn every_byte_is_found_where_it_is(set in any_set(), offset in 0..SIZE) {
        let model = model_of(&set);
        prop_assert_eq!(set.contains(offset), model[offset as usize]);
        let next = (offset..SIZE).find(|o| model[*o as usize]);
        let found = set.next_from(offset);
        prop_assert_eq!(found.as_ref().map(|r| r.start.max(offset)), next);
    }

    #[test]
    fn text_of_a_set_is_read_back(set in any_set()) {
        let set: ExtentSet = set.iter().map(|r| r.start * 512..r.end * 512).collect();
        let text: String =
            set.iter().rev().map(|r| format!("{} {}\n", r.start, r.end - r.start)).collect();
        prop_assert_eq!(ExtentSet::parse(&text, SIZE * 512).unwrap(), set);
    }

    #[test]
    fn any_text_is_read_or_refused_with_its_line(text in "([0-9# \t]{0,12}\n){0,6}\\PC{0,8}") {
        if let Err(error) = ExtentSet::parse(&text, 1 << 20) {
            prop_assert_eq!(error.kind, ErrorKind::Config);
            prop_assert!(error.on.starts_with("line "), "{}", error);
        }
    }
}

#[test]
fn text_may_have_comments_blanks_any_order_and_overlaps() {
    let text = "# changed blocks\n\n  2048 512\r\n0 1024 # first\n\t512\t1024\n4096 1";
    let set = ExtentSet::parse(text, 4097).unwrap();
    assert_eq!(
        set.iter().collect::<Vec<_>>(),
        [0..1536, 2048..2560, 4096..4097]
    );
    assert_eq!(set.total_bytes(), 2049);
}

#[test]
fn an_empty_text_is_an_empty_set() {
    assert!(ExtentSet::parse("# nothing\n", 1 << 20).unwrap().is_empty());
}

#[test]
fn a_bad_line_is_named_with_its_reason_and_remedy() {
    let cases = [
        ("0 512\n1 512", "line 2", "multiple of 512"),
        ("0 513", "line 1", "multiple of 512"),
        ("0 0", "line 1", "empty"),
        ("\n\n0 4608", "line 3", "past the source end at 4096"),
        ("4096 512", "line 1", "past the source end"),
        ("512 18446744073709551615", "line 1", "past the source end"),
        ("0 18446744073709551616", "line 1", "not a number"),
        ("0 1K", "line 1", "not a number"),
        ("+0 512", "line 1", "not a number"),
        ("-512 512", "line 1", "not a number"),
        ("0x0 512", "line 1", "not a number"),
        ("512", "line 1", "not OFFSET LENGTH"),
        ("0 512 512", "line 1", "not OFFSET LENGTH"),
        ("garbage", "line 1", "not OFFSET LENGTH"),
        ("0,512", "line 1", "not OFFSET LENGTH"),
    ];
    for (text, line, reason) in cases {
        let error = ExtentSet::parse(text, 4096).unwrap_err();
        assert_eq!(error.on, line, "{text:?}");
        assert!(error.what.contains(reason), "{text:?}: {error}");
        assert!(!error.remedy.is_empty());
    }
}

#[test]
fn a_long_foreign_line_is_shortened_or_refused() {
    let error = ExtentSet::parse(&"é".repeat(500), 4096).unwrap_err();
    assert!(error.what.len() < 160, "{error}");
    let error = ExtentSet::parse(&format!("#{}", "x".repeat(5000)), 4096).unwrap_err();
    assert!(error.what.contains("4096 bytes"), "{error}");
}

#[test]
fn the_number_of_ranges_is_bounded_after_merging() {
    let scattered = |count: u64| (0..count).map(|i| format!("{} 512", i * 1024));
    let mut parser = ExtentParser::with_limit(1 << 20, 16);
    let error = scattered(17)
        .find_map(|line| parser.push_line(&line).err())
        .unwrap();
    assert!(
        error.what.contains("more than 16 separate extents"),
        "{error}"
    );

    // The same few ranges again and again are no problem.
    let mut parser = ExtentParser::with_limit(1 << 20, 16);
    for line in scattered(4).cycle().take(200).collect::<Vec<_>>() {
        parser.push_line(&line).unwrap();
    }
    assert_eq!(parser.finish().unwrap().len(), 4);

    // Neighbours in order never count.
    let mut parser = ExtentParser::with_limit(1 << 20, 16);
    for index in 0..1000_u64 {
        parser.push_line(&format!("{} 512", index * 512)).unwrap();
    }
    assert_eq!(parser.finish().unwrap().len(), 1);
}
