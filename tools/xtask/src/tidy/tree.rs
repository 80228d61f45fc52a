//! The files of the repository as git sees them: tracked ones, and new ones that are not ignored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::rust_text::RustText;

pub(crate) struct Tree {
    root: PathBuf,
    files: BTreeMap<String, File>,
}

pub(crate) struct File {
    pub(crate) len_bytes: u64,
    pub(crate) executable: bool,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Text(String),
    Rust { source: String, text: RustText },
    Binary { elf: bool },
}

impl File {
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) | Content::Rust { source: text, .. } => Some(text),
            Content::Binary { .. } => None,
        }
    }
}

impl Tree {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root)
            .output()
            .context("git could not be started")?;
        ensure!(
            listed.status.success(),
            "git ls-files failed in {}: {}",
            root.display(),
            String::from_utf8_lossy(&listed.stderr).trim()
        );
        let mut files = BTreeMap::new();
        for path in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
            let full = root.join(path);
            // Deleted but not yet committed: gone for our purposes.
            let Ok(facts) = fs::symlink_metadata(&full) else {
                continue;
            };
            if !facts.is_file() {
                continue;
            }
            let bytes = fs::read(&full).with_context(|| format!("cannot read {path}"))?;
            files.insert(
                path.to_owned(),
                File::new(path, bytes, is_executable(&facts)),
            );
        }
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    pub(crate) fn text_files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files()
            .filter_map(|(path, file)| Some((path, file.text()?)))
    }

    pub(crate) fn rust_files(&self) -> impl Iterator<Item = (&str, &RustText)> {
        self.files().filter_map(|(path, file)| match &file.content {
            Content::Rust { text, .. } => Some((path, text)),
            _ => None,
        })
    }

    pub(crate) fn text_of(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    pub(crate) fn has_folder(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        self.files
            .range(inside.clone()..)
            .next()
            .is_some_and(|(file, _)| file.starts_with(&inside))
    }
}

impl File {
    fn new(path: &str, bytes: Vec<u8>, executable: bool) -> Self {
        let len_bytes = bytes.len() as u64;
        let elf = bytes.starts_with(b"\x7fELF");
        let content = match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => Content::Binary { elf },
            Ok(source) if path.ends_with(".rs") => {
                let text = RustText::parse(&source);
                Content::Rust { source, text }
            }
            Ok(text) => Content::Text(text),
            Err(_) => Content::Binary { elf },
        };
        Self {
            len_bytes,
            executable,
            content,
        }
    }
}

fn is_executable(facts: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    facts.permissions().mode() & 0o111 != 0
}

#[cfg(test)]
impl Tree {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let bytes: Vec<(&str, &[u8])> = files.iter().map(|(p, t)| (*p, t.as_bytes())).collect();
        Self::of_bytes(&bytes)
    }

    pub(crate) fn rooted_at(mut self, root: &Path) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    pub(crate) fn of_bytes(files: &[(&str, &[u8])]) -> Self {
        let file = |(path, bytes): &(&str, &[u8])| {
            ((*path).to_owned(), File::new(path, bytes.to_vec(), true))
        };
        Self {
            root: PathBuf::new(),
            files: files.iter().map(file).collect(),
        }
    }
}
