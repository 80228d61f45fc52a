//! Control listeners: who is calling, and how many at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use sys::net::PeerCredentials;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::serve::door::SocketFile;
use crate::serve::limits::{CONTROL_CONNECTIONS_MAX, REOPEN_INTERVAL};
use crate::serve::transfers::Rights;

/// Who may use a socket, besides root and our own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nobody.
    Owner,
    /// Members of the group that owns the socket.
    Group(u32),
}

/// What a caller may do on a socket with this `access`; `None`: nothing.
///
/// The mode of the socket has already kept others out. This is the second lock: it holds when a mode was
/// changed by hand, or when a descriptor was passed on.
pub(super) fn rights(
    peer: PeerCredentials,
    own_uid: u32,
    access: Access,
    groups: impl FnOnce(i32) -> Vec<u32>,
) -> Option<Rights> {
    if peer.uid == 0 || peer.uid == own_uid {
        return Some(Rights::Owner);
    }
    match access {
        Access::Owner => None,
        Access::Group(gid) if peer.gid == gid || groups(peer.pid).contains(&gid) => {
            Some(Rights::Group)
        }
        Access::Group(_) => None,
    }
}

/// Supplementary groups of a process; the kernel tells only the first with the socket.
pub(super) fn groups_of(pid: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default()
        .split_whitespace()
        .filter_map(|gid| gid.parse().ok())
        .collect()
}

/// What is known of a caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(pub(super) Option<PeerCredentials>);

/// A control socket that takes a bounded number of connections at once.
pub(super) struct ControlListener {
    listener: UnixListener,
    places: Arc<Semaphore>,
    /// Goes when the listener goes.
    _file: SocketFile,
}

impl ControlListener {
    pub(super) fn new(listener: UnixListener, file: SocketFile) -> Self {
        let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
        Self {
            listener,
            places,
            _file: file,
        }
    }
}

impl Listener for ControlListener {
    type Io = Placed;
    type Addr = Caller;

    async fn accept(&mut self) -> (Placed, Caller) {
        loop {
            // The semaphore is never closed; without a place others wait in the kernel's queue.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let caller = Caller(sys::net::peer_credentials(&stream).ok());
                    return (
                        Placed {
                            stream,
                            _place: place,
                        },
                        caller,
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(REOPEN_INTERVAL).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller(None))
    }
}

impl Connected<IncomingStream<'_, ControlListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, ControlListener>) -> Self {
        *stream.remote_addr()
    }
}

/// A connection and its place.
pub(super) struct Placed {
    stream: UnixStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_our_own_user_may_everything_others_what_their_group_may() {
        let peer = |uid, gid| PeerCredentials { pid: 7, uid, gid };
        let none = |_| Vec::new();
        for access in [Access::Owner, Access::Group(50)] {
            assert_eq!(rights(peer(0, 0), 1000, access, none), Some(Rights::Owner));
            assert_eq!(
                rights(peer(1000, 9), 1000, access, none),
                Some(Rights::Owner)
            );
            assert_eq!(rights(peer(1001, 9), 1000, access, none), None);
        }
        assert_eq!(rights(peer(1001, 50), 1000, Access::Owner, none), None);
        assert_eq!(
            rights(peer(1001, 50), 1000, Access::Group(50), none),
            Some(Rights::Group)
        );
        let member = |pid| if pid == 7 { vec![4, 50] } else { vec![] };
        assert_eq!(
            rights(peer(1001, 9), 1000, Access::Group(50), member),
            Some(Rights::Group)
        );
    }

    #[test]
    fn our_own_groups_can_be_read() {
        let own = nix::unistd::getgroups().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(groups_of(pid).len(), own.len());
        assert!(groups_of(-1).is_empty());
    }
}
