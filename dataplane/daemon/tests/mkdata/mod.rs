//! A client of `mk-data/1` that is not ours: rustls, and HTTP by hand.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use crate::common::Bed;
use crate::server::{PATIENCE, Server, client_config, connect};

/// One connection.
pub struct Data {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

/// What it answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The body, after asserting status and the keys of every answer.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}\n{text}", self.head);
        let value: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(value["api"], 1);
        assert!(value["boot_id"].is_string());
        value
    }

    /// The kind of the error.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        let value = self.json(status);
        for key in ["what", "blame", "remedy"] {
            assert!(value["error"][key].is_string(), "{value}");
        }
        value["error"]["kind"].as_str().unwrap().to_owned()
    }

    /// 32 bytes each, after asserting success.
    #[track_caller]
    pub fn digests(&self) -> Vec<[u8; 32]> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert!(
            self.head.contains("application/octet-stream"),
            "{}",
            self.head
        );
        let (digests, rest) = self.body.as_chunks::<32>();
        assert!(rest.is_empty());
        digests.to_vec()
    }
}

impl Data {
    /// Connects with the client certificate of `pki`.
    pub fn connect(server: &Server, pki: &Path) -> Self {
        Self::offering(server, pki, &[b"mk-data/1"])
    }

    pub fn offering(server: &Server, pki: &Path, alpn: &[&[u8]]) -> Self {
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(client_config(pki, alpn), name).unwrap();
        let stream = StreamOwned::new(tls, connect(server.tls.unwrap()));
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    /// No more bytes from us, without a good-bye.
    pub fn shut(&mut self) {
        self.stream
            .get_mut()
            .sock
            .shutdown(Shutdown::Write)
            .unwrap();
    }

    /// One request and its answer.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let len = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
        self.send(format!("{head}{body}").as_bytes()).unwrap();
        self.reply().unwrap()
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, "")
    }

    #[track_caller]
    pub fn hashes(&mut self, export: &str, offset: u64, len: u64, chunk: u64) -> Reply {
        self.get(&format!(
            "/v1/exports/{export}/hashes?offset={offset}&len={len}&chunk={chunk}"
        ))
    }

    /// The next answer.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let len = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_len = name.eq_ignore_ascii_case("content-length");
            is_len.then(|| value.trim().parse::<usize>().unwrap())
        });
        let mut body = vec![0; len.unwrap_or(0)];
        self.stream.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok(Reply { status, head, body })
    }

    /// Everything until the server closes, however it does.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // An end without a good-bye is an end.
        let _ = self.stream.read_to_end(&mut all);
        all
    }
}

/// A folder with another client certificate of the authority of `pki`.
pub fn other_client(bed: &Bed, pki: &str, name: &str) -> PathBuf {
    bed.run(&["pki", "issue-client", pki, name]).done();
    bed.path(pki).join("clients").join(name)
}

/// The digests that `b3sum` would print.
pub fn digests_of(bytes: &[u8], chunk: usize) -> Vec<[u8; 32]> {
    let hash = |chunk| *blake3::hash(chunk).as_bytes();
    bytes.chunks(chunk).map(hash).collect()
}

/// NBD by hand up to the point where requests may be sent.
pub fn raw_nbd(server: &Server, export: &str) -> UnixStream {
    let mut nbd = UnixStream::connect(server.unix.as_ref().unwrap()).unwrap();
    nbd.set_read_timeout(Some(PATIENCE)).unwrap();
    nbd.read_exact(&mut [0; 18]).unwrap();
    // Fixed newstyle, no zeroes behind the answer; EXPORT_NAME.
    let mut hello = vec![0, 0, 0, 3];
    hello.extend_from_slice(b"IHAVEOPT");
    hello.extend_from_slice(&1u32.to_be_bytes());
    hello.extend_from_slice(&u32::try_from(export.len()).unwrap().to_be_bytes());
    hello.extend_from_slice(export.as_bytes());
    nbd.write_all(&hello).unwrap();
    nbd.read_exact(&mut [0; 10]).unwrap();
    nbd
}

/// Header of a request: 1 WRITE, 4 TRIM, 6 WRITE_ZEROES.
pub fn nbd_header(command: u8, offset: u64, len: u32) -> Vec<u8> {
    let mut header = 0x2560_9513_u32.to_be_bytes().to_vec();
    header.extend_from_slice(&[0, 0, 0, command]);
    header.extend_from_slice(&7u64.to_be_bytes());
    header.extend_from_slice(&offset.to_be_bytes());
    header.extend_from_slice(&len.to_be_bytes());
    header
}
