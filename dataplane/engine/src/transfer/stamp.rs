//! In which state a local source is: what tells it from one that was changed or replaced meanwhile.

use std::{
    fs::Metadata,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    EngineError,
    digest::Digest,
    error::{Blame, ErrorKind},
    journal::Source,
};

/// Which file or device it is, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    dev: u64,
    inode: u64,
    rdev: u64,
    size_bytes: u64,
    /// Files only: a device node's times say nothing about its content.
    modified_ns: Option<i64>,
}

impl Stamp {
    /// Of what is at `path` now. `size_bytes`: of a device, whose metadata do not tell.
    pub(super) fn of(path: &Path, size_bytes: Option<u64>) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let is_device = metadata.file_type().is_block_device();
        Ok(Self {
            dev: metadata.dev(),
            inode: metadata.ino(),
            rdev: metadata.rdev(),
            size_bytes: match size_bytes {
                Some(size_bytes) if is_device => size_bytes,
                _ => metadata.len(),
            },
            modified_ns: (!is_device).then(|| modified_ns(&metadata)),
        })
    }

    /// When a file was last modified, nanoseconds since 1970 UTC.
    pub(super) fn mtime_ns(&self) -> Option<i64> {
        self.modified_ns
    }
}

fn modified_ns(metadata: &Metadata) -> i64 {
    metadata
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(metadata.mtime_nsec())
}

/// The files and devices of this machine that another program reads to serve a source, each with its state when it was
/// opened: the image, the files that it stands on, its parts.
#[derive(Debug, Clone)]
pub struct SourceFiles {
    /// The image itself first; the others in no order.
    files: Vec<(PathBuf, Stamp)>,
}

impl SourceFiles {
    /// Stamps the image and the others it is read together with.
    ///
    /// # Errors
    /// `SourceConnect` when one of them cannot be examined.
    pub fn stamp(image: &Path, others: &[PathBuf]) -> Result<Self, EngineError> {
        let others = others.iter().map(PathBuf::as_path);
        let files = std::iter::once(image)
            .chain(others.filter(|other| *other != image))
            .map(|path| Ok((path.to_owned(), examine(path, ErrorKind::SourceConnect)?)));
        Ok(Self {
            files: files.collect::<Result<_, EngineError>>()?,
        })
    }

    /// How a journal names them: the image in clear, all of them together as a digest.
    #[must_use]
    pub fn journal_source(&self, format: &str) -> Source {
        let (_, image) = &self.files[0];
        Source::Image {
            format: format.to_owned(),
            dev: image.dev,
            inode: image.inode,
            size_bytes: image.size_bytes,
            mtime_ns: image.mtime_ns().unwrap_or(0),
            files: self.digest(),
        }
    }

    /// Equal when they are the same files in the same state, whatever their order.
    fn digest(&self) -> Digest {
        let mut stamps: Vec<Stamp> = self.files.iter().map(|(_, stamp)| *stamp).collect();
        stamps.sort_unstable();
        let mut bytes = Vec::with_capacity(stamps.len() * 41);
        for stamp in stamps {
            for number in [stamp.dev, stamp.inode, stamp.rdev, stamp.size_bytes] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.push(u8::from(stamp.modified_ns.is_some()));
            bytes.extend_from_slice(&stamp.modified_ns.unwrap_or(0).to_le_bytes());
        }
        Digest::of(&bytes)
    }

    /// The first that is not what it was, or not there any more.
    ///
    /// # Errors
    /// `SourceIo` when one cannot be examined.
    pub(super) fn changed(&self) -> Result<Option<&Path>, EngineError> {
        for (path, stamp) in &self.files {
            if !path.exists() || examine(path, ErrorKind::SourceIo)? != *stamp {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

fn examine(path: &Path, kind: ErrorKind) -> Result<Stamp, EngineError> {
    Stamp::of(path, None).map_err(|cause| {
        let what = "a file of the source cannot be examined";
        EngineError::new(kind, Blame::Environment, what, path.display().to_string()).cause(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image {
        dir: tempfile::TempDir,
    }

    impl Image {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["image", "base", "part"] {
                std::fs::write(dir.path().join(name), name).unwrap();
            }
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn files(&self, others: [&str; 2]) -> SourceFiles {
            SourceFiles::stamp(&self.path("image"), &others.map(|name| self.path(name))).unwrap()
        }
    }

    #[test]
    fn each_of_the_files_counts_and_their_order_does_not() {
        let image = Image::new();
        let files = image.files(["base", "part"]);
        let source = files.journal_source("qcow2");
        assert_eq!(
            source,
            image.files(["part", "base"]).journal_source("qcow2")
        );
        assert_eq!(files.changed().unwrap(), None);
        for name in ["part", "base", "image"] {
            let before = image.files(["base", "part"]);
            std::fs::write(image.path(name), "longer than it was").unwrap();
            assert_eq!(before.changed().unwrap(), Some(&*image.path(name)));
            let now = image.files(["base", "part"]);
            assert_ne!(now.journal_source("qcow2"), before.journal_source("qcow2"));
        }
    }

    #[test]
    fn one_that_is_gone_or_made_anew_has_changed() {
        let image = Image::new();
        let files = image.files(["base", "part"]);
        std::fs::rename(image.path("base"), image.path("old")).unwrap();
        assert_eq!(files.changed().unwrap(), Some(&*image.path("base")));
        std::fs::copy(image.path("old"), image.path("base")).unwrap();
        assert_eq!(files.changed().unwrap(), Some(&*image.path("base")));
    }

    #[test]
    fn the_image_is_stamped_once_however_it_is_listed() {
        let image = Image::new();
        let twice = image.files(["image", "part"]);
        let once = SourceFiles::stamp(&image.path("image"), &[image.path("part")]).unwrap();
        assert_eq!(twice.journal_source("vmdk"), once.journal_source("vmdk"));
    }

    #[test]
    fn a_missing_one_is_told_by_its_name() {
        let error = SourceFiles::stamp(Path::new("/no/image"), &[]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::SourceConnect);
        assert!(error.on.contains("/no/image"), "{error:?}");
    }
}
