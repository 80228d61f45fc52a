//! The text form of a set of extents.

use std::ops::Range;

use super::ExtentSet;
use crate::error::{Blame, EngineError, ErrorKind};

/// Most ranges kept after merging: 256 MiB of them. A 2 TiB disk of which every second 64 KiB
/// block changed has exactly as many, and nothing real is so scattered.
pub const EXTENTS_MAX: usize = 16 << 20;
/// Longest text: that many ranges of a 2 TiB disk, with room for comments.
pub const EXTENT_TEXT_BYTES_MAX: u64 = 1 << 30;
/// Longest line; the rest of it would be a comment.
const LINE_BYTES_MAX: usize = 4096;
/// What every range must be a multiple of: the smallest sector, and the unit of changed-block maps.
const EXTENT_ALIGN: u64 = 512;

const _: () = assert!(EXTENT_ALIGN.is_power_of_two());
/// Two numbers of 13 digits, a space and a line feed fit the share of each range.
const _: () = assert!(EXTENT_TEXT_BYTES_MAX / EXTENTS_MAX as u64 >= 2 * 13 + 2);

/// Reads extents line by line, so that a long file is never in memory as text.
#[derive(Debug)]
pub struct ExtentParser {
    source_size_bytes: u64,
    ranges: Vec<Range<u64>>,
    ranges_max: usize,
    line: u64,
    text_bytes: u64,
}

impl ExtentParser {
    /// For a source of this size.
    pub fn new(source_size_bytes: u64) -> Self {
        Self::with_limit(source_size_bytes, EXTENTS_MAX)
    }

    /// With a lower bound of ranges than [`EXTENTS_MAX`].
    pub(super) fn with_limit(source_size_bytes: u64, ranges_max: usize) -> Self {
        Self {
            source_size_bytes,
            ranges: Vec::new(),
            ranges_max,
            line: 0,
            text_bytes: 0,
        }
    }

    /// Takes the next line, with or without its line end.
    pub fn push_line(&mut self, line: &str) -> Result<(), EngineError> {
        self.line += 1;
        self.text_bytes = self.text_bytes.saturating_add(line.len() as u64 + 1);
        if self.text_bytes > EXTENT_TEXT_BYTES_MAX {
            return Err(self.refuse(
                format!("the extents have more than {EXTENT_TEXT_BYTES_MAX} bytes of text"),
                "merge neighbouring ranges",
            ));
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(self.refuse(
                format!("a line has more than {LINE_BYTES_MAX} bytes"),
                "write one OFFSET LENGTH a line",
            ));
        }
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            return Ok(());
        }
        let range = self.range_of(content)?;
        self.push(range)
    }

    /// The merged set.
    pub fn finish(self) -> Result<ExtentSet, EngineError> {
        Ok(ExtentSet::from_unsorted(self.ranges))
    }

    fn push(&mut self, range: Range<u64>) -> Result<(), EngineError> {
        // Changed-block maps come in order and cut in pages: joining here keeps them short.
        if let Some(last) = self.ranges.last_mut()
            && last.start <= range.start
            && range.start <= last.end
        {
            last.end = last.end.max(range.end);
            return Ok(());
        }
        if self.ranges.len() == self.ranges_max {
            let merged = ExtentSet::from_unsorted(std::mem::take(&mut self.ranges));
            self.ranges = merged.ranges;
            // Less than an eighth gained: each further merge would cost a sort for next to nothing.
            if self.ranges.len() > self.ranges_max - self.ranges_max / 8 {
                return Err(self.refuse(
                    format!("more than {} separate extents", self.ranges_max),
                    "merge neighbouring ranges, or copy the whole disk",
                ));
            }
        }
        self.ranges.push(range);
        Ok(())
    }

    fn range_of(&self, content: &str) -> Result<Range<u64>, EngineError> {
        let mut words = content.split_ascii_whitespace();
        let (Some(offset), Some(length), None) = (words.next(), words.next(), words.next()) else {
            return Err(self.refuse(
                format!("{:?} is not OFFSET LENGTH", shorten(content)),
                "write two decimal numbers of bytes a line",
            ));
        };
        let (offset, length) = (self.number(offset)?, self.number(length)?);
        let size = self.source_size_bytes;
        let Some(end) = offset.checked_add(length).filter(|end| *end <= size) else {
            return Err(self.refuse(
                format!("extent {offset} {length} reaches past the source end at {size}"),
                "check that the extents belong to this source",
            ));
        };
        if length == 0 {
            return Err(self.refuse(
                format!("extent {offset} {length} is empty"),
                "leave the line out, or give its length",
            ));
        }
        if !offset.is_multiple_of(EXTENT_ALIGN)
            || (!length.is_multiple_of(EXTENT_ALIGN) && end != size)
        {
            return Err(self.refuse(
                format!("extent {offset} {length} is not a multiple of {EXTENT_ALIGN} bytes"),
                "round the offset down and the end up; only the source end may be odd",
            ));
        }
        Ok(offset..end)
    }

    fn number(&self, word: &str) -> Result<u64, EngineError> {
        let digits = word.bytes().all(|b| b.is_ascii_digit());
        word.parse().ok().filter(|_| digits).ok_or_else(|| {
            self.refuse(
                format!("{:?} is not a number of bytes", shorten(word)),
                "write decimal digits only, without sign or unit",
            )
        })
    }

    fn refuse(&self, what: String, remedy: &str) -> EngineError {
        EngineError {
            kind: ErrorKind::Config,
            blame: Blame::Operator,
            what,
            on: format!("line {}", self.line),
            remedy: remedy.to_owned(),
            source: None,
        }
    }
}

/// Enough of a foreign text to find it again.
fn shorten(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some((cut, _)) => format!("{}...", &text[..cut]),
    }
}
