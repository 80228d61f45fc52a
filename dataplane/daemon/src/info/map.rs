//! The map of a disk: which ranges hold data, and which are holes or zeroes.

use std::fmt::Write as _;

use serde::Serialize;

/// What is known of a range. A hole that does not read as zeroes is data for everybody but its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct MapEntry {
    pub(super) offset_bytes: u64,
    pub(super) length_bytes: u64,
    pub(super) hole: bool,
    pub(super) zero: bool,
}

impl MapEntry {
    fn kind(&self) -> &'static str {
        match (self.hole, self.zero) {
            (false, false) => "data",
            (false, true) => "zero",
            (true, false) => "hole",
            (true, true) => "hole,zero",
        }
    }
}

/// Joins neighbours of the same kind; servers cut where it suits them.
#[derive(Debug, Default)]
pub(super) struct MapBuilder {
    entries: Vec<MapEntry>,
}

impl MapBuilder {
    /// The next range, in order and without gap.
    pub(super) fn push(&mut self, length_bytes: u64, hole: bool, zero: bool) {
        if length_bytes == 0 {
            return;
        }
        match self.entries.last_mut() {
            Some(last) if (last.hole, last.zero) == (hole, zero) => {
                last.length_bytes += length_bytes;
            }
            _ => {
                let offset_bytes = self.end_bytes();
                self.entries.push(MapEntry {
                    offset_bytes,
                    length_bytes,
                    hole,
                    zero,
                });
            }
        }
    }

    /// Where the next range begins.
    pub(super) fn end_bytes(&self) -> u64 {
        self.entries
            .last()
            .map_or(0, |last| last.offset_bytes + last.length_bytes)
    }

    /// The joined ranges.
    pub(super) fn finish(self) -> Vec<MapEntry> {
        self.entries
    }
}

/// One line a range: offset, length, kind.
pub(super) fn to_text(map: &[MapEntry]) -> String {
    let mut text = String::from("map\n");
    for entry in map {
        let _ = writeln!(
            text,
            "{:>16} {:>16} {}",
            entry.offset_bytes,
            entry.length_bytes,
            entry.kind()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_become_one_range() {
        let mut map = MapBuilder::default();
        for (length, hole, zero) in [
            (512, false, false),
            (512, false, false),
            (0, true, true),
            (4096, true, true),
        ] {
            map.push(length, hole, zero);
        }
        assert_eq!(map.end_bytes(), 5120);
        let map = map.finish();
        assert_eq!(map.len(), 2);
        assert_eq!((map[1].offset_bytes, map[1].length_bytes), (1024, 4096));
        assert!(to_text(&map).ends_with("            1024             4096 hole,zero\n"));
    }
}
