//! Where bytes come from and where they go.

use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Command,
};

/// A loop device over a file; gone with the value.
#[derive(Debug)]
pub struct Loop {
    device: String,
}

impl Loop {
    /// `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.device
    }

    /// Attaches a file, with direct I/O.
    ///
    /// # Errors
    /// When this machine has none, or we may not.
    pub fn attach(file: &Path) -> Result<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .output()
            .context("losetup")?;
        if !output.status.success() {
            bail!(
                "losetup: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(Self {
            device: String::from_utf8(output.stdout)?.trim().to_owned(),
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _reported_by_losetup = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// Writes a file of incompressible bytes, whole MiB.
///
/// # Errors
/// When it cannot be written.
pub fn make_source(path: &Path, bytes: u64) -> Result<()> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut file = fs::File::create(path)?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        random.read_exact(&mut block)?;
        file.write_all(&block)?;
    }
    Ok(())
}
