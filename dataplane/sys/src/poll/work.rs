//! The threads that do file operations.

use std::{
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::{DeviceFile, IoFault, Op, Outcome, SetupError, SetupErrorKind, Via, Waker, slab::Key};

/// An operation on its way to a thread.
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) file: Arc<DeviceFile>,
    pub(super) op: Op,
}

/// An operation on its way back.
pub(super) struct Done {
    pub(super) key: Key,
    pub(super) outcome: Outcome,
    pub(super) op: Op,
}

pub(super) struct Workers {
    /// None once the threads are to end.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Both queues hold `entries` operations, all there can be: sending never blocks.
    pub(super) fn start(count: usize, entries: usize, waker: &Waker) -> Result<Self, SetupError> {
        let (jobs, to_do) = bounded::<Job>(entries);
        let (finished, done) = bounded::<Done>(entries);
        let stopping = Arc::new(AtomicBool::new(false));
        let mut workers = Self {
            jobs: Some(jobs),
            done,
            stopping,
            threads: Vec::with_capacity(count),
        };
        for number in 0..count {
            let (to_do, finished) = (to_do.clone(), finished.clone());
            let (waker, stopping) = (waker.clone(), Arc::clone(&workers.stopping));
            let thread = thread::Builder::new()
                .name(format!("file-{number}"))
                .spawn(move || work(&to_do, &finished, &waker, &stopping))
                .map_err(|error| {
                    SetupError::new(
                        SetupErrorKind::Resource,
                        "file threads",
                        "cannot be started",
                    )
                    .with_remedy("allow more threads, or use fewer")
                    .with_source(error)
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub(super) fn give(&self, job: Job) {
        let sent = self.jobs.as_ref().map(|jobs| jobs.try_send(job).is_ok());
        assert_eq!(
            sent,
            Some(true),
            "the queue holds every operation there can be"
        );
    }

    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    pub(super) fn take_done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

impl Drop for Workers {
    /// What a thread has begun is finished; what waits is given up.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has aborted the process already, or is a test's.
            let _ = thread.join();
        }
    }
}

fn work(to_do: &Receiver<Job>, finished: &Sender<Done>, waker: &Waker, stopping: &AtomicBool) {
    while let Ok(Job { key, file, mut op }) = to_do.recv() {
        if stopping.load(Ordering::Relaxed) {
            continue;
        }
        let outcome = perform(&file, &mut op);
        // Closed before the completion is seen: who gets it may count on the file being released.
        drop(file);
        if finished.send(Done { key, outcome, op }).is_err() {
            return;
        }
        waker.wake();
    }
}

/// Blocks in one system call; may be short, like io_uring's.
fn perform(file: &DeviceFile, op: &mut Op) -> Outcome {
    let kind = op.kind();
    let result = match op {
        Op::Read {
            lease,
            at,
            len,
            offset,
            via,
            ..
        } => {
            let buf = &mut lease.bytes_mut()[*at as usize..][..*len as usize];
            again(|| file.file(*via).read_at(buf, *offset))
        }
        Op::Write {
            lease,
            at,
            len,
            offset,
            via,
            dsync,
            ..
        } => {
            let buf = &lease.bytes()[*at as usize..][..*len as usize];
            let file = file.file(*via);
            if *dsync {
                again(|| write_dsync(file, buf, *offset))
            } else {
                again(|| file.write_at(buf, *offset))
            }
        }
        // Once, whatever it says: the kernel reports a lost write once.
        Op::Flush { .. } => file.file(Via::Direct).sync_data().map(|()| 0),
        Op::Zero {
            offset, len, mode, ..
        } => {
            let flags = FallocateFlags::from_bits_retain(mode.fallocate_mode());
            again(|| {
                let too_far = |_| io::Error::from_raw_os_error(libc::EFBIG);
                let offset = i64::try_from(*offset).map_err(too_far)?;
                let len = i64::try_from(*len).map_err(too_far)?;
                Ok(fallocate(file.file(Via::Direct), flags, offset, len).map(|()| 0)?)
            })
        }
        Op::Recv { .. } | Op::Send { .. } => unreachable!("sockets stay with the shard"),
    };
    match result {
        Ok(len) => Ok(u32::try_from(len).expect("no longer than asked, which is a u32")),
        Err(error) => Err(IoFault {
            op: kind,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }),
    }
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn write_dsync(file: &std::fs::File, buf: &[u8], offset: u64) -> io::Result<usize> {
    let piece = libc::iovec {
        iov_base: buf.as_ptr().cast_mut().cast(),
        iov_len: buf.len(),
    };
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is open (`file` borrows it); one piece, which is `buf`, alive during the call
    // and only read.
    let result = unsafe {
        libc::pwritev2(
            file.as_raw_fd(),
            &raw const piece,
            1,
            offset,
            libc::RWF_DSYNC,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
