//! How fast one core seals and opens records with each suite, through the record layer that copies use.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tls::handshake::{ClientHandshake, HandshakeStep, ServerHandshake};
use tls::{Credentials, Session, SessionLimits, TlsError, TlsPolicy};

use crate::credentials::{ALPN_NBD, SUITES};
use crate::exit::Failure;

/// Each direction of each suite is measured so long: enough for a few hundred records.
const MEASURE_FOR: Duration = Duration::from_millis(10);
/// Plaintext of a full record.
const RECORD_BYTES: usize = tls::session::RECORD_PLAINTEXT_MAX;
/// Messages a handshake of ours takes at most, both ways.
const FLIGHTS_MAX: usize = 16;

/// Speed of one suite on one core, plaintext bytes per second.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CipherSpeed {
    pub(super) suite: &'static str,
    pub(super) seal_bytes_per_s: u64,
    pub(super) open_bytes_per_s: u64,
    pub(super) handshake_us: u64,
    /// True when this is what the CPU makes us offer first.
    pub(super) preferred: bool,
}

impl CipherSpeed {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        use crate::size::format_size;
        format!(
            "{:<28} seal {}/s, open {}/s, handshake {} us{}",
            self.suite,
            format_size(self.seal_bytes_per_s),
            format_size(self.open_bytes_per_s),
            self.handshake_us,
            if self.preferred { ", preferred" } else { "" }
        )
    }
}

/// Measures every suite.
pub(super) fn measure() -> Result<Vec<CipherSpeed>, Failure> {
    let failed = |error| Failure::tls("measuring the ciphers", &error);
    let site = Site::make().map_err(failed)?;
    let preferred = site.pair(None).map_err(failed)?.client.suite_name();
    let speed = |suite| site.speed(suite, suite == preferred).map_err(failed);
    SUITES.into_iter().map(speed).collect()
}

/// Seals, opens and forges a record with every suite; the name of what does not hold.
pub(super) fn check() -> Result<(), String> {
    let site = Site::make().map_err(|error| error.to_string())?;
    SUITES
        .into_iter()
        .try_for_each(|suite| site.check(suite).map_err(|what| format!("{suite}: {what}")))
}

/// Certificates for a handshake with ourselves.
struct Site {
    server: Credentials,
    client: Credentials,
}

/// Two ends of one connection.
struct Pair {
    client: Session,
    server: Session,
    handshake: Duration,
}

impl Site {
    fn make() -> Result<Self, TlsError> {
        let files = tls::pki::new_site(&["localhost".to_owned()], 1, SystemTime::now())?;
        let pem = |wanted: &str| {
            let file = files.iter().find(|(name, ..)| *name == wanted);
            file.map(|(_, text, _)| text.clone().into_bytes())
        };
        let ca_pem = pem("ca-cert.pem").unwrap_or_default();
        Ok(Self {
            server: Credentials {
                ca_pem: ca_pem.clone(),
                cert_pem: pem("server-cert.pem"),
                key_pem: pem("server-key.pem"),
            },
            client: Credentials {
                ca_pem,
                cert_pem: pem("client-cert.pem"),
                key_pem: pem("client-key.pem"),
            },
        })
    }

    /// A whole handshake in memory; `None` lets the CPU choose the suite.
    fn pair(&self, suite: Option<&'static str>) -> Result<Pair, TlsError> {
        let policy = TlsPolicy {
            alpn: vec![ALPN_NBD.to_vec()],
            client_certificate_required: true,
            suites: suite.map(|suite| vec![suite]),
        };
        let client_config = tls::client_config(&self.client, &policy)?;
        let server_config = tls::server_config(&self.server, &policy)?;
        let begun = Instant::now();
        let limits = SessionLimits::default();
        let mut client = ClientHandshake::new(client_config, "localhost", limits)?;
        let mut server = ServerHandshake::new(server_config, limits)?;
        let (mut client_done, mut server_done) = (None, None);
        // What comes behind the end of one side's handshake is none of ours: we send nothing there.
        for _ in 0..FLIGHTS_MAX {
            let to_server = client.take_output();
            if server_done.is_none()
                && let HandshakeStep::Done(done) = server.handle_input(&to_server)?
            {
                server_done = Some(done.session);
            }
            let to_client = server.take_output();
            if client_done.is_none()
                && let HandshakeStep::Done(done) = client.handle_input(&to_client)?
            {
                client_done = Some(done.session);
            }
            if server_done.is_some() && client_done.is_some() {
                break;
            }
        }
        match (client_done, server_done) {
            (Some(client), Some(server)) => Ok(Pair {
                client,
                server,
                handshake: begun.elapsed(),
            }),
            _ => Err(TlsError::ClosedInHandshake),
        }
    }

    fn speed(&self, suite: &'static str, preferred: bool) -> Result<CipherSpeed, TlsError> {
        let Pair {
            mut client,
            mut server,
            handshake,
        } = self.pair(Some(suite))?;
        let plain = vec![0xa5; RECORD_BYTES];
        let mut wire = vec![0; Session::sealed_len(RECORD_BYTES)];
        let mut sealed = Vec::new();
        let seal_bytes_per_s = rate_of(|| {
            let len = client.seal(&plain, &mut wire)?;
            Ok(len)
        })?;
        // The receiver opens records in the order they were sealed: the first pair has gone on, so a new
        // one prepares enough of them for the time.
        let Pair {
            client: mut sender,
            server: mut receiver,
            ..
        } = self.pair(Some(suite))?;
        std::mem::swap(&mut server, &mut receiver);
        let records = records_for(seal_bytes_per_s);
        for _ in 0..records {
            let len = sender.seal(&plain, &mut wire)?;
            sealed.push(wire[..len].to_vec());
        }
        let mut out = vec![0; RECORD_BYTES + 1];
        let begun = Instant::now();
        for record in &sealed {
            server.open(begun, record, &mut out)?;
        }
        Ok(CipherSpeed {
            suite,
            seal_bytes_per_s,
            open_bytes_per_s: per_second(records, begun.elapsed()),
            handshake_us: u64::try_from(handshake.as_micros()).unwrap_or(u64::MAX),
            preferred,
        })
    }

    fn check(&self, suite: &'static str) -> Result<(), String> {
        let Pair {
            mut client,
            mut server,
            ..
        } = self.pair(Some(suite)).map_err(|error| error.to_string())?;
        let plain: Vec<u8> = (0..=u8::MAX).cycle().take(RECORD_BYTES).collect();
        let mut wire = vec![0; Session::sealed_len(RECORD_BYTES)];
        let mut out = vec![0; RECORD_BYTES + 1];
        let now = Instant::now();
        for _ in 0..2 {
            let len = client
                .seal(&plain, &mut wire)
                .map_err(|error| error.to_string())?;
            server
                .open(now, &wire[..len], &mut out)
                .map_err(|error| error.to_string())?;
            if out[..RECORD_BYTES] != plain {
                return Err("an opened record differs".to_owned());
            }
        }
        let len = client
            .seal(&plain, &mut wire)
            .map_err(|error| error.to_string())?;
        wire[len / 2] ^= 1;
        match server.open(now, &wire[..len], &mut out) {
            Err(TlsError::BadRecordMac) => Ok(()),
            _ => Err("a forged record was accepted".to_owned()),
        }
    }
}

/// Records that one core seals in the measuring time, and not more than memory that a probe may take.
fn records_for(bytes_per_s: u64) -> u64 {
    const RECORDS_MAX: u64 = 4096;
    let bytes = u128::from(bytes_per_s) * MEASURE_FOR.as_micros() / 1_000_000;
    u64::try_from(bytes / RECORD_BYTES as u128)
        .unwrap_or(RECORDS_MAX)
        .clamp(8, RECORDS_MAX)
}

/// Repeats `work`, one record a time, for the measuring time.
fn rate_of(mut work: impl FnMut() -> Result<usize, TlsError>) -> Result<u64, TlsError> {
    let begun = Instant::now();
    let mut records = 0;
    while begun.elapsed() < MEASURE_FOR {
        work()?;
        records += 1;
    }
    Ok(per_second(records, begun.elapsed()))
}

fn per_second(records: u64, time: Duration) -> u64 {
    crate::size::rate(records * RECORD_BYTES as u64, time.as_secs_f64()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_measured_and_one_is_preferred() {
        let speeds = measure().unwrap();
        assert_eq!(speeds.len(), 3);
        assert_eq!(speeds.iter().filter(|speed| speed.preferred).count(), 1);
        assert!(
            speeds
                .iter()
                .all(|s| s.seal_bytes_per_s > 0 && s.open_bytes_per_s > 0)
        );
    }

    #[test]
    fn every_suite_holds() {
        assert_eq!(check(), Ok(()));
    }
}
