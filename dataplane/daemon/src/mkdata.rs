//! The client of `mk-data/1`: which device is behind an export of a target, and digests of what it holds.
//!
//! Blocking: a session owns a small runtime of one thread, the caller's. The certificates, the server's name and the
//! connect limit are those of the `mk://` endpoint.

mod connect;

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use control::{Answer, DeviceFacts, ErrorAnswer, ExportFacts, Retry, StoreKind};
use engine::digest::{CHUNK_BYTES, Cv, Digest, GRAIN_BYTES, GRAINS_PER_CHUNK};
use engine::export::{MEDIUM_BYTES_MAX, MEDIUM_DIGESTS_MAX, StreamChunk};
use engine::transfer::{TargetFacts, TargetService, TargetSession, VerifiedBy};
use engine::{Blame, Endpoint, EngineError, ErrorKind, NbdEndpoint, TlsMode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

/// Time for one question, waiting for a busy range included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(180);
/// Time for one exchange: a slow disk reads a GiB in it.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// First and longest pause before a question is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest answer of JSON.
const JSON_BYTES_MAX: usize = 256 << 10;
/// Bytes of the medium asked for at once.
const ASK_BYTES: u64 = 256 << 20;
/// Chunks or grains of a stream asked for at once.
const ASK_STREAM: u64 = 16_384;
/// A state byte and a digest or a chaining value.
const ENTRY_BYTES: usize = 33;

const _: () = assert!(ASK_BYTES <= MEDIUM_BYTES_MAX);
const _: () = assert!(ASK_STREAM * GRAIN_BYTES <= MEDIUM_BYTES_MAX);

/// The side channel to the target of an `mk://` endpoint.
#[derive(Clone)]
pub(crate) struct DataService {
    endpoint: NbdEndpoint,
    /// Time for one question, waiting for a busy range included.
    answer_deadline: Duration,
}

impl DataService {
    pub(crate) const fn new(endpoint: NbdEndpoint) -> Self {
        Self {
            endpoint,
            answer_deadline: ANSWER_DEADLINE,
        }
    }

    /// One that asks nothing twice.
    #[cfg(test)]
    pub(crate) const fn impatient(endpoint: NbdEndpoint) -> Self {
        Self {
            endpoint,
            answer_deadline: Duration::ZERO,
        }
    }

    /// Connects. `ErrorKind::Unsupported` when the server has no such service.
    pub(crate) fn connect(&self) -> Result<DataSession, EngineError> {
        let (runtime, sender) = connect::connect(&self.endpoint)?;
        let name = utf8_percent_encode(&self.endpoint.export, NON_ALPHANUMERIC).to_string();
        Ok(DataSession {
            runtime: Some(runtime),
            sender,
            service: self.clone(),
            path: format!("/v1/exports/{name}"),
            is_streaming: false,
            met: None,
        })
    }
}

/// The service of a target, where one may be: behind TLS that begins at once, on the port of the disk itself.
pub(crate) fn service_of(target: &Endpoint) -> Option<Arc<dyn TargetService>> {
    match target {
        Endpoint::Nbd(endpoint) if matches!(endpoint.tls, TlsMode::First { .. }) => {
            Some(Arc::new(DataService::new(endpoint.clone())))
        }
        _ => None,
    }
}

impl TargetService for DataService {
    fn connect(&self) -> Result<Box<dyn TargetSession>, EngineError> {
        Ok(Box::new(Self::connect(self)?))
    }
}

impl TargetSession for DataSession {
    fn facts(&mut self) -> Result<TargetFacts, EngineError> {
        let facts = Self::facts(self)?.body;
        let identity = facts.identity;
        Ok(TargetFacts {
            is_file: identity.kind == StoreKind::File,
            size_bytes: facts.size_bytes,
            logical_block: facts.logical_block_bytes,
            serial: identity.serial,
            wwid: identity.wwid,
            diskseq: identity.diskseq,
            dev: identity.dev.unwrap_or_default(),
            inode: identity.inode.unwrap_or_default(),
            born_ns: identity.born_ns,
            boot_id: facts.machine_boot_id,
            discarded: facts.discarded,
        })
    }

    fn hashes(&mut self, range: Range<u64>, chunk_bytes: u64) -> Result<Vec<Digest>, EngineError> {
        Self::hashes(self, range, chunk_bytes)
    }

    fn start_stream(&mut self) -> Result<(), EngineError> {
        Self::start_stream(self)
    }

    fn stream(&mut self, first_chunk: u64, count: u64) -> Result<Vec<Option<Digest>>, EngineError> {
        let chunks = Self::stream(self, first_chunk, count)?;
        Ok(chunks
            .into_iter()
            .map(|chunk| match chunk {
                StreamChunk::Complete(digest) => Some(digest),
                StreamChunk::Grains { .. } | StreamChunk::Unknown => None,
            })
            .collect())
    }

    fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError> {
        Self::grains(self, range)
    }

    fn name(&self) -> VerifiedBy {
        VerifiedBy::Target
    }
}

/// One connection to the service.
pub(crate) struct DataSession {
    /// There until the session is dropped.
    runtime: Option<Runtime>,
    sender: SendRequest<Full<Bytes>>,
    service: DataService,
    /// Of the export.
    path: String,
    is_streaming: bool,
    /// Who told its facts first.
    met: Option<Met>,
}

/// A process that had the export, and the device behind it.
#[derive(Clone, PartialEq, Eq)]
struct Met {
    boot_id: String,
    device: DeviceFacts,
}

impl From<&Answer<ExportFacts>> for Met {
    fn from(facts: &Answer<ExportFacts>) -> Self {
        Self {
            boot_id: facts.boot_id.clone(),
            device: facts.body.identity.clone(),
        }
    }
}

/// What came back.
struct Reply {
    status: StatusCode,
    body: Bytes,
}

impl DataSession {
    /// Which device it is, and which process and boot answered.
    pub(crate) fn facts(&mut self) -> Result<Answer<ExportFacts>, EngineError> {
        let body = self.ask(&Method::GET, "", JSON_BYTES_MAX)?;
        let facts: Answer<ExportFacts> = self.understand(&body)?;
        self.met.get_or_insert_with(|| Met::from(&facts));
        Ok(facts)
    }

    fn understand<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, EngineError> {
        serde_json::from_slice(body).map_err(|error| {
            self.broke("its answer is not what it should be")
                .cause(error)
        })
    }

    /// One digest for each `chunk_bytes` of `range`, read from the medium.
    pub(crate) fn hashes(
        &mut self,
        range: Range<u64>,
        chunk_bytes: u64,
    ) -> Result<Vec<Digest>, EngineError> {
        let step = ASK_BYTES.min(MEDIUM_DIGESTS_MAX.saturating_mul(chunk_bytes));
        let mut digests = Vec::new();
        for (offset, len) in pieces(range, step.max(1)) {
            let query = format!("/hashes?offset={offset}&len={len}&chunk={chunk_bytes}");
            let count = len.div_ceil(chunk_bytes.max(1));
            let body = self.ask_exactly(&query, count, 32)?;
            let (found, _) = body.as_chunks::<32>();
            digests.extend(found.iter().map(|bytes| Digest(*bytes)));
        }
        Ok(digests)
    }

    /// From now on the target hashes what is written to the export, until this session ends.
    pub(crate) fn start_stream(&mut self) -> Result<(), EngineError> {
        self.ask(&Method::PUT, "/stream", JSON_BYTES_MAX)?;
        self.is_streaming = true;
        Ok(())
    }

    /// What the target hashed while the bytes arrived, for each 4 MiB chunk from `first_chunk` on.
    pub(crate) fn stream(
        &mut self,
        first_chunk: u64,
        count: u64,
    ) -> Result<Vec<StreamChunk>, EngineError> {
        let mut chunks = Vec::new();
        let end = first_chunk.saturating_add(count);
        for (first, count) in pieces(first_chunk..end, ASK_STREAM) {
            let query = query("/stream", first, count, CHUNK_BYTES);
            let body = self.ask_exactly(&query, count, ENTRY_BYTES)?;
            for (chunk, entry) in (first..).zip(body.chunks(ENTRY_BYTES)) {
                chunks.push(match entry {
                    [0, ..] => StreamChunk::Unknown,
                    [1, digest @ ..] => StreamChunk::Complete(Digest(bytes_of(digest))),
                    [2, ..] => self.stream_grains(chunk)?,
                    _ => return Err(self.broke("it named a state that we do not know")),
                });
            }
        }
        Ok(chunks)
    }

    /// The grains of one chunk that are known.
    fn stream_grains(&mut self, chunk: u64) -> Result<StreamChunk, EngineError> {
        let count = GRAINS_PER_CHUNK as u64;
        let query = query("/grains", chunk * count, count, GRAIN_BYTES) + "&from=stream";
        let body = self.ask_exactly(&query, count, ENTRY_BYTES)?;
        let (mut have, mut cvs) = (0, Box::new([Cv([0; 32]); GRAINS_PER_CHUNK]));
        for (position, entry) in body.chunks(ENTRY_BYTES).enumerate() {
            if let [1, cv @ ..] = entry {
                have |= 1 << position;
                cvs[position] = Cv(bytes_of(cv));
            }
        }
        Ok(match have {
            0 => StreamChunk::Unknown,
            have => StreamChunk::Grains { have, cvs },
        })
    }

    /// Chaining values of the 64 KiB grains of `range`, read from the medium.
    pub(crate) fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError> {
        let mut cvs = Vec::new();
        for (offset, len) in pieces(range, ASK_BYTES) {
            let query = format!("/grains?offset={offset}&len={len}&from=medium");
            let body = self.ask_exactly(&query, len.div_ceil(GRAIN_BYTES), ENTRY_BYTES)?;
            for entry in body.chunks(ENTRY_BYTES) {
                match entry {
                    [1, cv @ ..] => cvs.push(Cv(bytes_of(cv))),
                    _ => return Err(self.broke("it left out a grain of the medium")),
                }
            }
        }
        Ok(cvs)
    }

    /// A binary answer of `count` entries.
    fn ask_exactly(
        &mut self,
        query: &str,
        count: u64,
        entry_bytes: usize,
    ) -> Result<Bytes, EngineError> {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX) * entry_bytes;
        let body = self.ask(&Method::GET, query, wanted.max(JSON_BYTES_MAX))?;
        if body.len() == wanted {
            return Ok(body);
        }
        let len = body.len();
        Err(self.broke(&format!("it answered {len} bytes where {wanted} are due")))
    }

    /// The body of a good answer. What may succeed in a moment is asked again, until the deadline.
    fn ask(&mut self, method: &Method, tail: &str, bytes_max: usize) -> Result<Bytes, EngineError> {
        let deadline = Instant::now() + self.service.answer_deadline;
        let mut pause = PAUSE_MIN;
        loop {
            let reply = self.exchange_or_reconnect(method, tail, bytes_max)?;
            if reply.status.is_success() {
                return Ok(reply.body);
            }
            let error = serde_json::from_slice::<Answer<ErrorAnswer>>(&reply.body);
            let may_succeed = match &error {
                Ok(answer) => matches!(answer.body.error.retry, Retry::Now | Retry::AfterMs(_)),
                Err(_) => false,
            };
            if !may_succeed {
                return Err(self.refused(reply.status, error.ok().map(|answer| answer.body)));
            }
            if Instant::now() + pause > deadline {
                // It is there and has too much to do: that passes, and nothing it said before is wrong.
                return Err(self.lost("it was busy all the time"));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A server closes connections that were silent for long. Without a stream nothing is lost with one, as long as the
    /// next one ends at the same process: another may stand before another device, or have lost what it had not flushed.
    fn exchange_or_reconnect(
        &mut self,
        method: &Method,
        tail: &str,
        bytes_max: usize,
    ) -> Result<Reply, EngineError> {
        match self.exchange(method, tail, bytes_max) {
            Err(error) if error.kind == ErrorKind::ConnectionLost && !self.is_streaming => {
                let mut next = self.service.connect()?;
                if let Some(met) = &self.met {
                    next.met = Some(met.clone());
                    next.is_still(met, &error)?;
                }
                *self = next;
                self.exchange(method, tail, bytes_max)
            }
            outcome => outcome,
        }
    }

    /// Whether it is still `met` that answers. `was` broke the connection to that one.
    fn is_still(&mut self, met: &Met, was: &EngineError) -> Result<(), EngineError> {
        let reply = self.exchange(&Method::GET, "", JSON_BYTES_MAX)?;
        if !reply.status.is_success() {
            let error = serde_json::from_slice::<Answer<ErrorAnswer>>(&reply.body);
            return Err(self.refused(reply.status, error.ok().map(|answer| answer.body)));
        }
        let facts: Answer<ExportFacts> = self.understand(&reply.body)?;
        if Met::from(&facts) == *met {
            return Ok(());
        }
        Err(self.lost(&format!(
            "another server or device answers after that: {was}"
        )))
    }

    fn exchange(
        &mut self,
        method: &Method,
        tail: &str,
        bytes_max: usize,
    ) -> Result<Reply, EngineError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{tail}", self.path))
            .header(hyper::header::HOST, "mk-data")
            .body(Full::default())
            .map_err(|error| self.broke("the request cannot be written").cause(error))?;
        let Some(runtime) = &self.runtime else {
            return Err(EngineError::bug("a session without runtime", self.uri()));
        };
        let sender = &mut self.sender;
        let exchange = async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), bytes_max)
                .collect()
                .await;
            Ok::<_, hyper::Error>((status, body))
        };
        let outcome =
            runtime.block_on(async { tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await });
        match outcome {
            Err(_) => Err(self.lost("it did not answer in time")),
            Ok(Err(error)) => Err(self.lost("the connection broke").cause(error)),
            Ok(Ok((_, Err(error)))) => Err(self
                .broke("its answer cannot be taken")
                .cause(std::io::Error::other(error))),
            Ok(Ok((status, Ok(body)))) => Ok(Reply {
                status,
                body: body.to_bytes(),
            }),
        }
    }

    fn uri(&self) -> &str {
        &self.service.endpoint.uri
    }

    fn broke(&self, what: &str) -> EngineError {
        let what = format!("the target's mk-data service broke its rules: {what}");
        EngineError::new(ErrorKind::Protocol, Blame::Peer, what, self.uri())
            .remedy("check which program and version serves there")
    }

    fn lost(&self, what: &str) -> EngineError {
        let what = format!("the target's mk-data service was lost: {what}");
        EngineError::new(
            ErrorKind::ConnectionLost,
            Blame::Environment,
            what,
            self.uri(),
        )
        .remedy("check the network and the target's log")
    }

    fn refused(&self, status: StatusCode, answer: Option<ErrorAnswer>) -> EngineError {
        let Some(ErrorAnswer { error }) = answer else {
            return self.broke(&format!("it answered {status}"));
        };
        let kind = match status {
            // It was there: a server that was started anew gets its exports one by one.
            StatusCode::NOT_FOUND if self.met.is_some() => ErrorKind::TargetConnect,
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => ErrorKind::Authorisation,
            // The stream that this session began is gone: the export was replaced.
            StatusCode::CONFLICT if self.is_streaming => ErrorKind::ConnectionLost,
            StatusCode::SERVICE_UNAVAILABLE => ErrorKind::ConnectionLost,
            StatusCode::BAD_REQUEST => ErrorKind::Config,
            _ => ErrorKind::TargetIo,
        };
        let blame = match error.blame {
            control::Blame::Peer => Blame::Peer,
            control::Blame::Operator => Blame::Operator,
            control::Blame::Environment => Blame::Environment,
            control::Blame::Bug => Blame::Bug,
        };
        EngineError::new(
            kind,
            blame,
            format!("the target says: {}", error.what),
            self.uri(),
        )
        .remedy(error.remedy)
    }
}

impl Drop for DataSession {
    fn drop(&mut self) {
        // A name that is still being looked up is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `range` in steps, as starts and lengths.
fn pieces(range: Range<u64>, step: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let len = range.end.saturating_sub(at).min(step);
        let piece = (at, len);
        at += len;
        (len > 0).then_some(piece)
    })
}

/// `count` units from unit `first` on. The service cuts it to the export.
fn query(path: &str, first: u64, count: u64, unit: u64) -> String {
    let (offset, len) = (first.saturating_mul(unit), count.saturating_mul(unit));
    format!("{path}?offset={offset}&len={len}")
}

/// Exactly 32 bytes, by `ENTRY_BYTES`.
fn bytes_of(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().unwrap_or([0; 32])
}
