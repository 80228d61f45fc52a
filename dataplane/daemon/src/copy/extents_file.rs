//! Reads the file of `--extents`, line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use engine::ExtentSet;
use engine::extents::ExtentParser;

use crate::exit::{Failure, Side};

/// One more than the parser takes, so that it sees that a line is too long, and the line feed.
const LINE_BYTES_READ_MAX: u64 = 4096 + 2;

/// The extents of a file for a source of this size.
pub(crate) fn read(path: &Path, source_size_bytes: u64) -> Result<ExtentSet, Failure> {
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    parse(BufReader::new(file), path, source_size_bytes)
}

fn parse(mut text: impl BufRead, path: &Path, size_bytes: u64) -> Result<ExtentSet, Failure> {
    let refused = |error| Failure::engine(Side::Local, &error).inside(&path.display().to_string());
    let mut parser = ExtentParser::new(size_bytes);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut text)
            .take(LINE_BYTES_READ_MAX)
            .read_until(b'\n', &mut line);
        if read.map_err(|error| cannot_read(path, &error))? == 0 {
            return parser.finish().map_err(refused);
        }
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        // What is no text is no number either; the parser names the line.
        parser
            .push_line(&String::from_utf8_lossy(content))
            .map_err(refused)?;
    }
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(
        "the extents cannot be read",
        path.display().to_string(),
        "check the path of --extents",
    )
    .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn parse_text(text: &[u8]) -> Result<ExtentSet, Failure> {
        parse(text, Path::new("list"), 1 << 20)
    }

    #[test]
    fn lines_are_counted_over_the_whole_file() {
        let failure = parse_text(b"0 512\n# x\n\n5 5\n").unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("list, line 4"), "{failure}");
    }

    #[test]
    fn a_last_line_without_its_end_counts() {
        assert_eq!(parse_text(b"0 512\n1024 512").unwrap().len(), 2);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_by_line() {
        let failure = parse_text(b"0 512\n\xff\xfe\x00\n").unwrap_err();
        assert!(failure.to_string().contains("line 2"), "{failure}");
    }

    #[test]
    fn a_line_without_end_is_not_read_whole() {
        let endless = std::io::repeat(b'7').take(1 << 40);
        let failure = parse(BufReader::new(endless), Path::new("list"), 512).unwrap_err();
        assert!(failure.to_string().contains("4096 bytes"), "{failure}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = read(Path::new("/nonexistent/list"), 512).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(
            failure.to_string().contains("/nonexistent/list"),
            "{failure}"
        );
    }
}
