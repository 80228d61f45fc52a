//! Access to the journal's file: the seam that tests put faults into, and the calls that make files and names durable.

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::fcntl::OFlag;

/// What appending needs.
pub(super) trait Disk: fmt::Debug + Send {
    /// Writes at the end; may be short.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Everything written is on the medium when it returns.
    fn sync(&mut self) -> io::Result<()>;
}

impl Disk for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A new file that only its owner may read: names of exports and serials are nobody else's business.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create_new(true);
    options.mode(0o600).open(path)
}

/// An existing regular file; a fifo or a device is an error instead of a wait.
pub(super) fn open_existing(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    let file = options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// True when `path` leads to this very file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(found)) => place(file) == place(found),
        _ => false,
    }
}

/// Makes a name in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
