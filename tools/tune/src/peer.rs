//! A client of `mk-data/1`: one connection, one request after the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::{Answer, ErrorAnswer, Exit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::de::DeserializeOwned;

use crate::ended;

/// Nobody waits longer for an answer; the server reads no medium for what is asked here.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is a page at most.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// `mk://HOST[:PORT]/EXPORT[?tls-certificates=DIR]`, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As it stands in the path: percent-encoded.
    pub(crate) export: String,
    pub(crate) tls_dir: Option<PathBuf>,
}

impl Place {
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        let rest = uri
            .strip_prefix("mk://")
            .with_context(|| format!("{uri} does not begin with mk://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest
            .split_once('/')
            .filter(|(_, export)| !export.is_empty() && !export.contains('/'))
            .with_context(|| format!("{uri} names no export; write mk://HOST/EXPORT"))?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest
                .split_once(']')
                .with_context(|| format!("{uri} has no ] behind its address"))?,
            None => authority
                .find(':')
                .map_or((authority, ""), |colon| authority.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port
                .parse()
                .with_context(|| format!("{uri} has no such port"))?,
            None => 443,
        };
        if host.is_empty() {
            bail!("{uri} names no host; write mk://HOST/EXPORT");
        }
        let mut tls_dir = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("tls-certificates", dir)) => tls_dir = Some(PathBuf::from(dir)),
                _ => bail!("{uri}: {pair} is not known here; only tls-certificates=DIR is"),
            }
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            export: export.to_owned(),
            tls_dir,
        })
    }
}

/// A connection. What was tried over it falls back when it ends.
pub(crate) struct Peer {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
}

impl Peer {
    /// `tls_dir` is used where the place names none.
    pub(crate) fn connect(place: &Place, tls_dir: Option<&Path>) -> Result<Self> {
        let dir = place.tls_dir.as_deref().or(tls_dir).context(
            "no certificates: give --tls-dir, the folder with ca-cert.pem, client-cert.pem and client-key.pem",
        )?;
        let config = Arc::new(config(dir)?);
        let name = ServerName::try_from(place.host.clone())
            .with_context(|| format!("{} is no name of a host", place.host))?;
        let tls = ClientConnection::new(config, name).context("tls")?;
        let socket = dial(place)?;
        Ok(Self {
            stream: BufReader::new(StreamOwned::new(tls, socket)),
            host: place.host.clone(),
        })
    }

    /// The answer to a GET.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.ask("GET", path, "")
    }

    /// Sends a request and reads its answer; an answer that is an error is one.
    pub(crate) fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<T> {
        let (status, answer) = self.exchange(method, path, body).map_err(|error| {
            let what = format!("mk-data/1 of {}: {error:#}", self.host);
            ended(Exit::ConnectionLost, what)
        })?;
        if (200..300).contains(&status) {
            let answer: Answer<T> = serde_json::from_slice(&answer)
                .with_context(|| format!("{} does not answer {path} as we know it", self.host))?;
            return Ok(answer.body);
        }
        match serde_json::from_slice::<Answer<ErrorAnswer>>(&answer) {
            Ok(told) => {
                let error = told.body.error;
                let exit = if status == 403 {
                    Exit::Tls
                } else {
                    Exit::Target
                };
                let what = format!("{}: {}; {}", self.host, error.what, error.remedy);
                Err(ended(exit, what))
            }
            Err(_) => bail!("{} answers {path} with status {status}", self.host),
        }
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        let len = body.len();
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{kind}Content-Length: {len}\r\n\r\n{body}",
            self.host
        );
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let line = self.line()?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .with_context(|| format!("{line:?} is no HTTP"))?;
        let mut len = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((key, value)) = line.split_once(':')
                && key.eq_ignore_ascii_case("content-length")
            {
                len = value.trim().parse().context("Content-Length")?;
            }
        }
        if len > ANSWER_BYTES_MAX {
            bail!("the answer has {len} bytes, too many for what was asked");
        }
        let mut answer = vec![0; usize::try_from(len)?];
        self.stream.read_exact(&mut answer)?;
        Ok((status, answer))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.by_ref().take(8192).read_line(&mut line)?;
        if read == 0 {
            bail!("the connection ended");
        }
        Ok(line.trim_end().to_owned())
    }
}

fn dial(place: &Place) -> Result<TcpStream> {
    let (host, port) = (place.host.as_str(), place.port);
    let failed = |error| {
        let what = format!("{host} port {port} cannot be reached: {error}; does the server run?");
        ended(Exit::ConnectionLost, what)
    };
    let mut last = std::io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn config(dir: &Path) -> Result<ClientConfig> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(&read(name)?)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{name} is no certificate"))
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("ca-cert.pem")? {
        roots.add(root).context("ca-cert.pem")?;
    }
    let key = PrivateKeyDer::from_pem_slice(&read("client-key.pem")?)
        .context("client-key.pem is no key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("client-cert.pem")?, key)
        .context("certificate and key of the client do not fit")?;
    config.alpn_protocols = vec![b"mk-data/1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_apart() {
        let place = Place::parse("mk://[2001:db8::1]:8443/a%20b?tls-certificates=/p").unwrap();
        assert_eq!((place.host.as_str(), place.port), ("2001:db8::1", 8443));
        assert_eq!(place.export, "a%20b");
        assert_eq!(place.tls_dir.as_deref(), Some(Path::new("/p")));
        assert_eq!(Place::parse("mk://host/x").unwrap().port, 443);
    }

    #[test]
    fn what_is_no_place_is_told() {
        for wrong in [
            "nbd://h/x",
            "mk://h",
            "mk://h/",
            "mk:///x",
            "mk://h:0x/x",
            "mk://h/x?a=b",
            "mk://[::1/x",
        ] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
