//! Child processes and private folders that must not outlive us.
//!
//! A [`Workspace`] is a folder of mode 0700 and the children that work in it. It ends when it is dropped. Two
//! ways out of the process run no destructors, the second signal and a panic; both call [`end_all`].
//! A SIGKILL runs nothing at all; for that case the helpers we start end by themselves when our connection to
//! them closes.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Names to try for a folder before giving up; each is unlikely to be taken.
const NAMES_TRIED_MAX: u32 = 16;

static LIVE: Mutex<Vec<Live>> = Mutex::new(Vec::new());

/// What has to go when a workspace ends.
struct Live {
    dir: PathBuf,
    children: Vec<Child>,
}

impl Live {
    /// Ends the children first: they hold sockets in the folder.
    fn end(mut self) {
        for child in &mut self.children {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        // The folder is ours alone, so nothing but our own files can be in it.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A private folder and its children; both go when it is dropped.
#[derive(Debug)]
pub(crate) struct Workspace {
    dir: PathBuf,
}

impl Workspace {
    /// Makes the folder, in `TMPDIR` or `/tmp`.
    pub(crate) fn create() -> io::Result<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..NAMES_TRIED_MAX {
            let dir = base.join(folder_name(attempt));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {
                    lock().push(Live {
                        dir: dir.clone(),
                        children: Vec::new(),
                    });
                    return Ok(Self { dir });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "every name tried is taken",
        ))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Takes over a child: it ends with the workspace.
    pub(crate) fn adopt(&self, child: Child) {
        if let Some(live) = lock().iter_mut().find(|live| live.dir == self.dir) {
            live.children.push(child);
        }
    }

    /// How the first child that ended did so; `None` while all run.
    pub(crate) fn ended_child(&self) -> Option<ExitStatus> {
        let mut live = lock();
        let live = live.iter_mut().find(|live| live.dir == self.dir)?;
        live.children
            .iter_mut()
            .find_map(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let found = {
            let mut live = lock();
            let index = live.iter().position(|live| live.dir == self.dir);
            index.map(|index| live.swap_remove(index))
        };
        if let Some(live) = found {
            live.end();
        }
    }
}

/// Ends every workspace now: the process is about to end without running destructors.
pub(crate) fn end_all() {
    // Whoever holds the lock may be the thread that panicked, which will never let it go.
    let all = match LIVE.try_lock() {
        Ok(mut live) => std::mem::take(&mut *live),
        Err(_) => return,
    };
    for live in all {
        live.end();
    }
}

fn lock() -> MutexGuard<'static, Vec<Live>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder_name(attempt: u32) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    format!("migratekit-{}-{now:08x}{attempt:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_folder_is_private_and_goes_with_its_children() {
        let workspace = Workspace::create().unwrap();
        let dir = workspace.path().to_owned();
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        fs::write(dir.join("file"), "x").unwrap();
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        workspace.adopt(child);
        assert!(workspace.ended_child().is_none());
        assert!(Path::new(&format!("/proc/{id}")).exists());
        drop(workspace);
        assert!(!dir.exists());
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn two_workspaces_do_not_share_a_folder() {
        let (a, b) = (Workspace::create().unwrap(), Workspace::create().unwrap());
        assert_ne!(a.path(), b.path());
        drop(a);
        assert!(b.path().exists());
    }
}
