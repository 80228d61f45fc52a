//! Waiting until a disk appears or is gone, woken by the kernel, with a deadline.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::discovery::{Disk, Failed, Roots, find};
use crate::identity::Serial;

/// sysfs sends no events, so it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waiting that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum WaitFailed {
    /// Looking failed, or two disks have the serial.
    #[error(transparent)]
    Search(#[from] Failed),
    /// The deadline passed first.
    #[error(
        "serial {serial} {missing} by the deadline; see the kernel's log of the appliance and the volume in CloudStack"
    )]
    TooLate {
        /// The serial.
        serial: Serial,
        /// What did not happen.
        missing: &'static str,
    },
    /// The kernel gives no events.
    #[error("cannot watch for disks: {0}; raise fs.inotify.max_user_instances or max_user_watches")]
    Watch(#[from] io::Error),
}

/// Waits until there is a disk with this serial. Blocks the thread.
///
/// # Errors
/// When the deadline passes, two disks have the serial, or the machine cannot be watched.
pub fn appeared(roots: &Roots, serial: &Serial, deadline: Instant) -> Result<Disk, WaitFailed> {
    until(roots, serial, deadline, "did not appear", |disk| disk)
}

/// Waits until there is no disk with this serial. Blocks the thread.
///
/// # Errors
/// When the deadline passes, two disks have the serial, or the machine cannot be watched.
pub fn gone(roots: &Roots, serial: &Serial, deadline: Instant) -> Result<(), WaitFailed> {
    until(roots, serial, deadline, "did not go away", |disk| {
        disk.is_none().then_some(())
    })
}

fn until<T>(
    roots: &Roots,
    serial: &Serial,
    deadline: Instant,
    missing: &'static str,
    done: impl Fn(Option<Disk>) -> Option<T>,
) -> Result<T, WaitFailed> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(os)?;
    loop {
        // Watch before looking, or what happens between the two goes unseen. Anew each time, because udev
        // makes the folder with the first disk; a folder that is watched already stays watched once.
        watch(&inotify, &roots.by_id)?;
        watch(&inotify, roots.by_id.parent().unwrap_or(&roots.by_id))?;
        watch(&inotify, &roots.dev)?;
        if let Some(value) = done(find(roots, serial)?) {
            return Ok(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WaitFailed::TooLate {
                serial: serial.clone(),
                missing,
            });
        }
        wait(&inotify, left.min(LOOK_AGAIN))?;
    }
}

fn watch(inotify: &Inotify, folder: &Path) -> io::Result<()> {
    let events = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM;
    match inotify.add_watch(folder, events) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(os(errno)),
    }
}

/// Until something happens in a watched folder, or the time is over; takes the events off the queue.
fn wait(inotify: &Inotify, at_most: Duration) -> io::Result<()> {
    let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    // Rounded up: a wait of no milliseconds would spin until the deadline.
    let millis = at_most.as_millis().saturating_add(1);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(os(errno)),
    }
    match inotify.read_events() {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
        Err(errno) => Err(os(errno)),
    }
}

fn os(errno: Errno) -> io::Error {
    errno.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::tests::{Machine, serial};
    use std::fs;
    use std::thread;

    const LINK: &str = "virtio-6033803592fb4d2798d4";

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_disk_that_comes_and_goes_is_noticed() {
        let machine = Machine::new();
        machine.node("vdb", 512);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| appeared(&machine.roots, &serial(), soon()));
            machine.link(LINK, "vdb");
            assert_eq!(waiter.join().unwrap().unwrap().size_bytes, 512);
            let waiter = scope.spawn(|| gone(&machine.roots, &serial(), soon()));
            fs::remove_file(machine.roots.by_id.join(LINK)).unwrap();
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_folder_itself_may_come_late() {
        let machine = Machine::new();
        machine.node("vdb", 512);
        fs::remove_dir(&machine.roots.by_id).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| appeared(&machine.roots, &serial(), soon()));
            fs::create_dir(&machine.roots.by_id).unwrap();
            machine.link(LINK, "vdb");
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_deadline_is_a_deadline() {
        let machine = Machine::new();
        let error = appeared(&machine.roots, &serial(), Instant::now()).unwrap_err();
        assert!(matches!(error, WaitFailed::TooLate { .. }), "{error}");
        gone(&machine.roots, &serial(), Instant::now()).unwrap();
    }
}
