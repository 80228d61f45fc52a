//! Rust source seen apart: code, string literals, and where the tests begin.
//!
//! Checks that look for words must not be fooled by a word in a comment, and checks that look for
//! names inside strings must see strings only. A full parser is more than that needs: this walks
//! the bytes once and knows comments, strings, raw strings, characters and lifetimes.

/// One source file, split.
pub(crate) struct RustText {
    /// The source with comments and the inside of literals blanked; lines stay where they were.
    pub(crate) code: String,
    pub(crate) literals: Vec<Literal>,
    /// The line on which `#[cfg(test)] mod …` begins. House rule: tests come last in a file.
    pub(crate) tests_from: Option<usize>,
}

/// The inside of a string literal as written, escapes not resolved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl RustText {
    pub(crate) fn parse(source: &str) -> Self {
        let mut walk = Walk {
            bytes: source.as_bytes(),
            at: 0,
            code: Vec::new(),
            spans: Vec::new(),
        };
        walk.run();
        let literals = walk
            .spans
            .iter()
            .map(|&(start, end)| Literal {
                line: source[..start].matches('\n').count() + 1,
                text: source[start..end].to_owned(),
            })
            .collect();
        let code = String::from_utf8_lossy(&walk.code).into_owned();
        let tests_from = tests_from(&code);
        Self {
            code,
            literals,
            tests_from,
        }
    }

    /// Lines of product code: number and text, tests left out.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.tests_from.unwrap_or(usize::MAX);
        self.code
            .lines()
            .enumerate()
            .map(|(i, line)| (i + 1, line))
            .take_while(move |l| l.0 < end)
    }

    /// String literals of product code, tests left out.
    pub(crate) fn product_literals(&self) -> impl Iterator<Item = &Literal> {
        let end = self.tests_from.unwrap_or(usize::MAX);
        self.literals.iter().filter(move |l| l.line < end)
    }
}

/// Whether a whole file is test code, by its place in the tree or its name.
pub(crate) fn is_test_path(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    path.split('/')
        .any(|part| part == "tests" || part == "fuzz")
        || path.split('/').skip(1).any(|part| part == "benches")
        || matches!(file, "tests.rs" | "testing.rs")
        || file.ends_with("_tests.rs")
}

/// Finds `word` where neither neighbour could belong to the same identifier.
pub(crate) fn contains_word(text: &str, word: &str) -> bool {
    let ident = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !ident(text[..at].chars().next_back()) && !ident(text[at + word.len()..].chars().next())
    })
}

fn tests_from(code: &str) -> Option<usize> {
    let lines: Vec<&str> = code.lines().collect();
    let is_test_module = |index: usize| {
        lines[index].trim_start().starts_with("#[cfg(test)]")
            && lines[index..].iter().take(4).any(|line| {
                let line = line
                    .trim_start()
                    .trim_start_matches("#[cfg(test)]")
                    .trim_start();
                line.starts_with("mod ") && line.trim_end().ends_with('{')
            })
    };
    (0..lines.len())
        .find(|&index| is_test_module(index))
        .map(|index| index + 1)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    code: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Walk<'_> {
    fn run(&mut self) {
        while self.at < self.bytes.len() {
            let rest = &self.bytes[self.at..];
            if rest.starts_with(b"//") {
                let len = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                self.blank(len);
            } else if rest.starts_with(b"/*") {
                self.blank(block_comment_len(rest));
            } else if let Some((open, close)) = self.raw_string_at() {
                self.literal(open, close);
            } else if rest[0] == b'"' {
                self.literal(1, string_len(rest));
            } else if rest[0] == b'\'' {
                match char_len(rest) {
                    Some(len) => self.blank(len),
                    None => self.keep(1),
                }
            } else {
                self.keep(1);
            }
        }
    }

    fn keep(&mut self, len: usize) {
        self.code
            .extend_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
    }

    fn blank(&mut self, len: usize) {
        let end = (self.at + len).min(self.bytes.len());
        let blanked = self.bytes[self.at..end]
            .iter()
            .map(|&b| if b == b'\n' { b } else { b' ' });
        self.code.extend(blanked);
        self.at = end;
    }

    /// Keeps the quotes, blanks what is between, and remembers it. `open` is the length of the
    /// opening up to and with the quote, `close` the offset of the closing quote.
    fn literal(&mut self, open: usize, close: usize) {
        let start = self.at + open;
        let end = (self.at + close).min(self.bytes.len());
        self.keep(open);
        self.spans.push((start, end));
        self.blank(end - start);
        if self.at < self.bytes.len() {
            self.keep(1);
        }
    }

    /// `r"…"`, `r#"…"#`, with `b` or `c` before: lengths for [`Walk::literal`].
    fn raw_string_at(&self) -> Option<(usize, usize)> {
        let before = self.at.checked_sub(1).map(|i| self.bytes[i]);
        if before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let rest = &self.bytes[self.at..];
        let prefix = usize::from(matches!(rest[0], b'b' | b'c'));
        if rest.get(prefix) != Some(&b'r') {
            return None;
        }
        let hashes = rest[prefix + 1..]
            .iter()
            .take_while(|&&b| b == b'#')
            .count();
        let quote = prefix + 1 + hashes;
        if rest.get(quote) != Some(&b'"') {
            return None;
        }
        let mut closing = vec![b'"'];
        closing.resize(1 + hashes, b'#');
        let inside = &rest[quote + 1..];
        let len = inside.windows(closing.len()).position(|w| w == closing);
        Some((quote + 1, quote + 1 + len.unwrap_or(inside.len())))
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Offset of the closing quote of a string that starts at `rest[0]`.
fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at.min(rest.len())
}

/// Length of a character literal, or nothing when the quote begins a lifetime.
fn char_len(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&b| b == b'\'')?;
        return Some(end + 4);
    }
    let width = match rest.get(1)? {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, code: &str, literals: &[&str]) {
        let text = RustText::parse(source);
        assert_eq!(text.code, code);
        let found: Vec<&str> = text.literals.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(found, literals);
    }

    #[test]
    fn comments_are_blanked_and_lines_stay() {
        check("a // b\nc", "a     \nc", &[]);
        check("a /* b /* c */ d\n */ e", "a               \n    e", &[]);
    }

    #[test]
    fn strings_are_blanked_and_kept_apart() {
        check(r#"f("a\"b", x)"#, r#"f("    ", x)"#, &[r#"a\"b"#]);
        check(r##"f(r#"a"b"#)"##, r##"f(r#"   "#)"##, &[r#"a"b"#]);
        check(r#"f(br"a\")"#, r#"f(br"  ")"#, &[r"a\"]);
        check(r#"bar"x""#, r#"bar" ""#, &["x"]);
    }

    #[test]
    fn characters_and_lifetimes_are_told_apart() {
        check(
            "f::<'a>('\"', '\\'', 'é') // x",
            "f::<'a>(   ,     ,     )     ",
            &[],
        );
        check(
            "let r#type: &'static str;",
            "let r#type: &'static str;",
            &[],
        );
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_file() {
        check("a \"b", "a \" ", &["b"]);
        check("a /* b", "a     ", &[]);
        check("a r#\"b", "a r#\" ", &["b"]);
    }

    #[test]
    fn tests_begin_at_the_test_module_only() {
        let source = "#[cfg(test)]\nuse a;\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
        // The first attribute is followed by the module within a few lines only by accident of
        // distance, so distance is bounded.
        assert_eq!(RustText::parse(source).tests_from, Some(5));
        assert_eq!(
            RustText::parse("#[cfg(test)]\nmod tests;\n").tests_from,
            None
        );
    }

    #[test]
    fn words_end_at_identifier_borders() {
        assert!(contains_word("a unsafe { }", "unsafe"));
        assert!(!contains_word("forbid(unsafe_code)", "unsafe"));
        assert!(!contains_word("an_unsafe", "unsafe"));
    }

    #[test]
    fn test_paths_are_known_by_folder_and_name() {
        for path in [
            "dataplane/wire/tests/a.rs",
            "dataplane/wire/src/tests.rs",
            "a/benches/b.rs",
        ] {
            assert!(is_test_path(path), "{path}");
        }
        for path in ["dataplane/wire/src/lib.rs", "benches/src/main.rs"] {
            assert!(!is_test_path(path), "{path}");
        }
    }
}
