//! Telling systemd how we are (sd_notify): one datagram per fact, to the socket it names.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::time::{ClockId, clock_gettime};

/// Where to tell, if anybody wants to know.
pub(super) struct Notifier(Option<OsString>);

impl Notifier {
    /// Reads `NOTIFY_SOCKET`.
    pub(super) fn from_environment() -> Self {
        Self(env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()))
    }

    /// Listening and ready to serve.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reading certificates and configuration again; `ready` ends it.
    pub(super) fn reloading(&self) {
        // Units of Type=notify-reload match this time against that of their signal.
        let stamp = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
            time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_nsec().unsigned_abs() / 1_000
        });
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={stamp}"));
    }

    /// Draining.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    fn tell(&self, message: &str) {
        let Some(path) = &self.0 else { return };
        let send = || -> io::Result<()> {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(path)?,
            };
            UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
            Ok(())
        };
        if let Err(error) = send() {
            tracing::warn!(%error, "the service manager cannot be told how we are");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_reach_the_socket_as_systemd_expects_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier(Some(path.into_os_string()));
        let mut buffer = [0; 256];
        notifier.ready("serving");
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1\nSTATUS=serving");
        notifier.reloading();
        let len = socket.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..len]).unwrap();
        let stamp = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(stamp.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        Notifier(None).ready("");
    }
}
