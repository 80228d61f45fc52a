//! Binding listeners, and accepting from them.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::task::{Context as Task, Poll};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::socket::Socket;
use crate::exit::{Exit, Failure};
use crate::serve::config::Address;
use crate::serve::limits::LISTEN_BACKLOG;

/// A bound listener.
pub(in crate::serve) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket in the file system that goes with its listener, unless somebody else has put another there.
pub(in crate::serve) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).ok() == Some(self.inode) {
            // A file that stays is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listening {
    /// Binds inside the runtime.
    pub(in crate::serve) fn bind(address: &Address) -> Result<Self, Failure> {
        match address {
            Address::Tcp(address) => bind_tcp(*address).map_err(|error| refused(address, &error)),
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path, Mode::from_bits_truncate(0o600))?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Where it listens, as clients write it.
    pub(in crate::serve) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| String::new(), |address| address.to_string()),
            Self::Unix(_, file) => file.path.display().to_string(),
        }
    }

    /// The next connection and who it is.
    pub(super) async fn accept(&self) -> io::Result<(Socket, String)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// A connection that waits already, if one does.
    pub(super) async fn accept_waiting(&self) -> Option<io::Result<(Socket, String)>> {
        poll_fn(|context| match self.poll_accept(context) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn poll_accept(&self, context: &mut Task<'_>) -> Poll<io::Result<(Socket, String)>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, address)| (Socket::Tcp(stream), canonical(address).to_string())),
            Self::Unix(listener, _) => listener.poll_accept(context).map_ok(|(stream, _)| {
                let peer = match sys::net::peer_credentials(&stream) {
                    Ok(peer) => format!("unix uid {} gid {} pid {}", peer.uid, peer.gid, peer.pid),
                    Err(_) => "unix".to_owned(),
                };
                (Socket::Unix(stream), peer)
            }),
        }
    }
}

/// IPv4 clients of a dual-stack listener look like IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listening> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = match socket {
        // A machine without IPv6 is reached by IPv4 alone.
        Err(error)
            if address.ip().is_unspecified()
                && error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) =>
        {
            tracing::warn!("this machine has no IPv6; listening on IPv4 alone");
            return bind_tcp(SocketAddr::from(([0, 0, 0, 0], address.port())));
        }
        socket => socket?,
    };
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG).map(Listening::Tcp)
}

fn refused(address: &SocketAddr, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there: stop it, or choose another address"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in a systemd unit)"
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        _ => "check the address",
    };
    let blame = engine::Blame::Operator;
    Failure::new(
        Exit::Usage,
        blame,
        "cannot listen",
        address.to_string(),
        remedy,
    )
    .caused_by(error)
}

/// Binds a socket in the file system with `mode`, in place of one that nobody serves any more.
pub(in crate::serve) fn bind_unix(
    path: &Path,
    mode: Mode,
) -> Result<(UnixListener, SocketFile), Failure> {
    let cannot = |error: &io::Error, remedy: &str| {
        let on = path.display().to_string();
        Failure::usage("cannot listen on a unix socket", on, remedy).caused_by(error)
    };
    let remedy =
        "check that its folder exists and may be written, and that the path has at most 107 bytes";
    remove_stale(path)?;
    // Between bind and chmod anybody could connect; with the mask there is no between.
    let before = umask(Mode::from_bits_truncate(0o777 & !mode.bits()));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(|error| cannot(&error, remedy))?;
    let inode = inode(path).map_err(|error| cannot(&error, remedy))?;
    Ok((
        listener,
        SocketFile {
            path: path.to_owned(),
            inode,
        },
    ))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Removes a socket that a dead process left. Anything else in its place is not ours to remove.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    let on = path.display().to_string();
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        let remedy = "choose another path, or remove it yourself";
        return Err(Failure::refused(
            "something that is no socket is in the way",
            on,
            remedy,
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| {
                let remedy = "remove it yourself";
                Failure::usage("a stale socket cannot be removed", on, remedy).caused_by(&error)
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => {
            let remedy = "stop the process that serves it, or choose another path";
            Err(Failure::refused("the socket is in use", on, remedy))
        }
    }
}
