//! Socket options, and what a socket is.

use std::{
    ffi::OsString,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{
        SetSockOpt, SockaddrStorage, getpeername, getsockname, getsockopt, setsockopt, sockopt,
    },
};

use crate::{SetupError, SetupErrorKind};

/// What a TCP connection that carries payload should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// First probe after this much silence.
    pub keepalive_idle: Duration,
    /// Between probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes before the connection counts as dead.
    pub keepalive_count: u32,
    /// Unacknowledged data older than this breaks the connection; zero: the kernel's default (a quarter hour).
    pub user_timeout: Duration,
    /// SO_SNDBUF; None leaves the kernel's tuning on.
    pub send_buffer_bytes: Option<usize>,
    /// SO_RCVBUF; None leaves the kernel's tuning on.
    pub receive_buffer_bytes: Option<usize>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keepalive_idle: Duration::from_secs(15),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 4,
            user_timeout: Duration::from_secs(30),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        }
    }
}

/// Whoever is behind a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What may carry NBD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A Unix stream socket.
    Unix,
}

const SOCKET: &str = "socket";

/// Refuses everything but a TCP or Unix stream socket that is not listening. A descriptor handed in by
/// somebody else can be anything; on most kinds our operations would hang or mix messages.
pub fn require_stream(socket: &impl AsFd) -> Result<StreamKind, SetupError> {
    let failed = |error| SetupError::from_io(SOCKET, "cannot be examined", error);
    let get = |option| socket_option(socket, option).map_err(failed);
    let (domain, kind, protocol) = (
        get(libc::SO_DOMAIN)?,
        get(libc::SO_TYPE)?,
        get(libc::SO_PROTOCOL)?,
    );
    let stream = match (domain, kind, protocol) {
        (libc::AF_UNIX, libc::SOCK_STREAM, _) => StreamKind::Unix,
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP) => StreamKind::Tcp,
        _ => {
            let problem = format!(
                "domain {domain}, type {kind}, protocol {protocol} is neither TCP nor a Unix stream"
            );
            return Err(SetupError::new(SetupErrorKind::Invalid, SOCKET, problem));
        }
    };
    if get(libc::SO_ACCEPTCONN)? != 0 {
        let problem = "is listening, not connected";
        return Err(SetupError::new(SetupErrorKind::Invalid, SOCKET, problem));
    }
    Ok(stream)
}

/// Sets everything in `options` and TCP_NODELAY: headers must not wait for payload.
pub fn configure_tcp(socket: &impl AsFd, options: &TcpOptions) -> Result<(), SetupError> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
    let user_timeout = u32::try_from(options.user_timeout.as_millis()).unwrap_or(u32::MAX);
    set(socket, "TCP_NODELAY", sockopt::TcpNoDelay, &true)?;
    set(socket, "SO_KEEPALIVE", sockopt::KeepAlive, &true)?;
    set(
        socket,
        "TCP_KEEPIDLE",
        sockopt::TcpKeepIdle,
        &seconds(options.keepalive_idle),
    )?;
    set(
        socket,
        "TCP_KEEPINTVL",
        sockopt::TcpKeepInterval,
        &seconds(options.keepalive_interval),
    )?;
    set(
        socket,
        "TCP_KEEPCNT",
        sockopt::TcpKeepCount,
        &options.keepalive_count,
    )?;
    set(
        socket,
        "TCP_USER_TIMEOUT",
        sockopt::TcpUserTimeout,
        &user_timeout,
    )?;
    stop_pacing(socket)?;
    set_buffers(
        socket,
        options.send_buffer_bytes,
        options.receive_buffer_bytes,
    )
}

/// What takes the place of BBR where there is no path to learn; the first one that the kernel admits.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// Takes BBR off a connection that stays on this machine. BBR sends on a timer at the rate it believes the path has;
/// where both ends share the CPUs that estimate is of the scheduler, and one connection settles, by chance, at half
/// of what it could carry. Connections to other machines keep what the administrator chose.
fn stop_pacing(socket: &impl AsFd) -> Result<(), SetupError> {
    if is_remote(socket) {
        return Ok(());
    }
    let current = getsockopt(socket, sockopt::TcpCongestion)
        .map_err(|errno| SetupError::from_io(SOCKET, "TCP_CONGESTION cannot be read", errno))?;
    if !current.to_string_lossy().starts_with("bbr") {
        return Ok(());
    }
    for name in UNPACED {
        match setsockopt(socket, sockopt::TcpCongestion, &OsString::from(name)) {
            // Not in this kernel, or not for us (net.ipv4.tcp_allowed_congestion_control).
            Err(Errno::ENOENT | Errno::EPERM) => {}
            other => {
                return other.map_err(|errno| {
                    let problem = format!("TCP_CONGESTION cannot be set to {name}");
                    SetupError::from_io(SOCKET, problem, errno)
                });
            }
        }
    }
    Ok(())
}

/// Fixes the kernel's buffers of any socket; None leaves the tuning on.
pub fn set_buffers(
    socket: &impl AsFd,
    send_bytes: Option<usize>,
    receive_bytes: Option<usize>,
) -> Result<(), SetupError> {
    if let Some(bytes) = send_bytes {
        set(socket, "SO_SNDBUF", sockopt::SndBuf, &bytes)?;
    }
    if let Some(bytes) = receive_bytes {
        set(socket, "SO_RCVBUF", sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}

/// Who is at the other end of a Unix socket.
pub fn peer_credentials(socket: &impl AsFd) -> Result<PeerCredentials, SetupError> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials)
        .map_err(|errno| SetupError::from_io(SOCKET, "does not tell its peer", errno))?;
    Ok(PeerCredentials {
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

/// True for a TCP peer on another machine, as far as addresses tell: neither a loopback address nor our own.
pub fn is_remote(socket: &impl AsFd) -> bool {
    let fd = socket.as_fd().as_raw_fd();
    let (Ok(ours), Ok(theirs)) = (
        getsockname::<SockaddrStorage>(fd),
        getpeername::<SockaddrStorage>(fd),
    ) else {
        return false;
    };
    match (ip_of(&ours), ip_of(&theirs)) {
        (Some(ours), Some(theirs)) => !theirs.is_loopback() && ours != theirs,
        _ => false,
    }
}

/// IPv4 also where it comes mapped into IPv6, as on a dual-stack listener.
fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
    v4.or(v6).map(|ip| ip.to_canonical())
}

/// Blocking mode of a descriptor.
pub(crate) fn set_nonblocking(socket: &impl AsFd, nonblocking: bool) -> Result<(), SetupError> {
    let failed = |errno| SetupError::from_io(SOCKET, "blocking mode cannot be set", errno);
    let flags = fcntl(socket, FcntlArg::F_GETFL)
        .map(OFlag::from_bits_retain)
        .map_err(failed)?;
    let mut wanted = flags;
    wanted.set(OFlag::O_NONBLOCK, nonblocking);
    if wanted != flags {
        fcntl(socket, FcntlArg::F_SETFL(wanted)).map_err(failed)?;
    }
    Ok(())
}

/// No address, no control data.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: a msghdr is integers and pointers; all-zero is the valid empty one.
    unsafe { std::mem::zeroed() }
}

fn set<O: SetSockOpt>(
    socket: &impl AsFd,
    name: &str,
    option: O,
    value: &O::Val,
) -> Result<(), SetupError> {
    setsockopt(socket, option, value)
        .map_err(|errno| SetupError::from_io(SOCKET, format!("{name} cannot be set"), errno))
}

fn socket_option(socket: &impl AsFd, option: i32) -> io::Result<i32> {
    let mut value = 0i32;
    // The size of `value`.
    let mut len: libc::socklen_t = 4;
    // SAFETY: the descriptor is open (`socket` is borrowed); the kernel writes at most `len` bytes to
    // `value` and the length to `len`, both on our stack.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::net::{UnixDatagram, UnixStream},
    };

    #[test]
    fn only_connected_streams_are_taken() {
        let (one, _two) = UnixStream::pair().unwrap();
        assert_eq!(require_stream(&one).unwrap(), StreamKind::Unix);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            require_stream(&listener).unwrap_err().kind(),
            SetupErrorKind::Invalid
        );
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(require_stream(&stream).unwrap(), StreamKind::Tcp);
        let (datagram, _) = UnixDatagram::pair().unwrap();
        assert!(require_stream(&datagram).is_err());
        assert!(require_stream(&UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
        assert!(require_stream(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn a_peer_on_this_machine_is_not_remote() {
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(!is_remote(&one));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Machines without IPv6 prove the half that they can.
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert!(!is_remote(&stream), "{address}");
            assert!(!is_remote(&listener), "{address}: not connected");
        }
    }

    #[test]
    fn a_mapped_address_is_read_as_what_it_maps() {
        let ip = |text: &str| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            ip_of(&SockaddrStorage::from(address)).unwrap()
        };
        assert!(ip("[::ffff:127.0.0.1]:1").is_loopback());
        assert_eq!(ip("[::ffff:192.0.2.1]:1"), ip("192.0.2.1:2"));
    }

    #[test]
    fn all_tcp_options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let options = TcpOptions {
            send_buffer_bytes: Some(1 << 16),
            ..TcpOptions::default()
        };
        configure_tcp(&stream, &options).unwrap();
        assert!(getsockopt(&stream, sockopt::TcpNoDelay).unwrap());
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), 15);
        assert_eq!(
            getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(),
            30_000
        );
        assert!(getsockopt(&stream, sockopt::SndBuf).unwrap() >= 1 << 16);
    }

    #[test]
    fn a_connection_that_stays_here_is_not_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let congestion = || getsockopt(&stream, sockopt::TcpCongestion).unwrap();
        if setsockopt(&stream, sockopt::TcpCongestion, &OsString::from("bbr")).is_err() {
            println!("SKIP: kernel has no bbr, or not for us; nothing to take off");
        }
        configure_tcp(&stream, &TcpOptions::default()).unwrap();
        assert!(!congestion().to_string_lossy().starts_with("bbr"));
        // Whatever else an administrator chose stays.
        setsockopt(&stream, sockopt::TcpCongestion, &OsString::from("reno")).unwrap();
        configure_tcp(&stream, &TcpOptions::default()).unwrap();
        assert!(congestion().to_string_lossy().starts_with("reno"));
    }

    #[test]
    fn a_unix_peer_is_known() {
        let (one, _two) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&one).unwrap();
        assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
    }
}
