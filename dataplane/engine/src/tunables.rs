//! The values in force of the knobs, whose table is in [`control::knob`].
//!
//! A value out of range is not an error: it is moved to the
//! nearest allowed one, and [`Tunables::set`] says why. An unknown name or word is an error.
//!
//! Shards read the values with relaxed loads: a change is seen within a turn or two, and nothing
//! depends on two knobs changing together.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use control::knob::{Applies, Granule, Knob, TABLE, Tunable, Unit, help, markdown};

use crate::EngineError;
use crate::error::{Blame, ErrorKind};
use crate::transfer::{Checkpoint, Integrity};

/// Values in force, shared by every thread.
#[derive(Debug)]
pub struct Tunables {
    knobs: [KnobCell; TABLE.len()],
}

/// What was asked for and what is in force; they differ when it was clamped.
#[derive(Debug, Default)]
struct KnobCell {
    value: AtomicU64,
    requested: AtomicU64,
}

/// Values of `send_zc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendZc {
    /// The kernel copies what it sends.
    Off,
    /// Large batches to other machines go without a copy, as long as the kernel does not copy them after all.
    Auto,
    /// Every send over TCP asks for it.
    On,
}

/// One knob as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunableState {
    /// Its row.
    pub tunable: &'static Tunable,
    /// In force.
    pub value: u64,
    /// What was asked for.
    pub requested: u64,
    /// Why `value` is not `requested`.
    pub clamped: Option<String>,
}

impl Tunables {
    /// All defaults.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let tunables = Self {
            knobs: std::array::from_fn(|_| KnobCell::default()),
        };
        for (row, cell) in TABLE.iter().zip(&tunables.knobs) {
            cell.value.store(row.default, Ordering::Relaxed);
            cell.requested.store(row.default, Ordering::Relaxed);
        }
        Arc::new(tunables)
    }

    /// Every knob there is.
    #[must_use]
    pub fn table() -> &'static [Tunable] {
        &TABLE
    }

    /// The value in force; choices as their index. `None` for an unknown name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<u64> {
        index_of(name).map(|index| self.knobs[index].value.load(Ordering::Relaxed))
    }

    /// Sets a knob by number; choices by their index. `Ok(Some(reason))` when clamped.
    pub fn set(&self, name: &str, value: u64) -> Result<Option<String>, EngineError> {
        let index = index_of(name).ok_or_else(|| unknown_name(name))?;
        let row = &TABLE[index];
        if row.unit == Unit::Choice && row.choice_name(value).is_none() {
            return Err(refuse(row, &value.to_string()));
        }
        let (allowed, reason) = row.clamp(value);
        self.knobs[index].requested.store(value, Ordering::Relaxed);
        self.knobs[index].value.store(allowed, Ordering::Relaxed);
        Ok(reason)
    }

    /// Sets a knob by text: a number, a size like `256K`, or the word of a choice.
    pub fn set_text(&self, name: &str, text: &str) -> Result<Option<String>, EngineError> {
        let row = Tunable::by_name(name).ok_or_else(|| unknown_name(name))?;
        let value = row.parse(text).ok_or_else(|| refuse(row, text))?;
        self.set(name, value)
    }

    /// Every knob as it stands, in the order of the table.
    #[must_use]
    pub fn states(&self) -> Vec<TunableState> {
        let state = |(tunable, cell): (&'static Tunable, &KnobCell)| {
            let requested = cell.requested.load(Ordering::Relaxed);
            TunableState {
                tunable,
                value: cell.value.load(Ordering::Relaxed),
                requested,
                clamped: tunable.clamp(requested).1,
            }
        };
        TABLE.iter().zip(&self.knobs).map(state).collect()
    }

    #[inline]
    fn load(&self, knob: Knob) -> u64 {
        self.knobs[knob as usize].value.load(Ordering::Relaxed)
    }

    /// Every bound of the table fits `usize` where it is read as one; the tests walk it.
    #[inline]
    fn load_usize(&self, knob: Knob) -> usize {
        usize::try_from(self.load(knob)).unwrap_or(usize::MAX)
    }

    #[inline]
    fn load_u32(&self, knob: Knob) -> u32 {
        u32::try_from(self.load(knob)).unwrap_or(u32::MAX)
    }
}

/// Typed reads, one relaxed load each.
impl Tunables {
    /// Connections of a transfer.
    #[inline]
    #[must_use]
    pub fn connections(&self) -> usize {
        self.load_usize(Knob::Connections)
    }

    /// Longest request of a transfer, bytes.
    #[inline]
    #[must_use]
    pub fn request_bytes(&self) -> u32 {
        self.load_u32(Knob::RequestBytes)
    }

    /// Data in flight on one connection at most, bytes.
    #[inline]
    #[must_use]
    pub fn window_bytes_max(&self) -> usize {
        self.load_usize(Knob::WindowBytesMax)
    }

    /// Sealed bytes handed to the socket at once.
    #[inline]
    #[must_use]
    pub fn send_batch_bytes(&self) -> usize {
        self.load_usize(Knob::SendBatchBytes)
    }

    /// Which sends go without a copy in the kernel.
    #[inline]
    #[must_use]
    pub fn send_zc(&self) -> SendZc {
        match self.load(Knob::SendZc) {
            1 => SendZc::Auto,
            2 => SendZc::On,
            _ => SendZc::Off,
        }
    }

    /// Receive buffer of one connection, bytes; a power of two.
    #[inline]
    #[must_use]
    pub fn recv_buffer_bytes(&self) -> usize {
        self.load_usize(Knob::RecvBufferBytes)
    }

    /// Operations one device has in flight on one shard.
    #[inline]
    #[must_use]
    pub fn device_depth(&self) -> usize {
        self.load_usize(Knob::DeviceDepth)
    }

    /// Data rate of all transfers together; `None` without limit.
    #[inline]
    #[must_use]
    pub fn rate_bytes_per_s(&self) -> Option<u64> {
        Some(self.load(Knob::RateBytesPerS)).filter(|rate| *rate != 0)
    }

    /// Granule of the search for zeroes in data, bytes; 0 when off.
    #[inline]
    #[must_use]
    pub fn zero_scan_bytes(&self) -> u32 {
        self.load_u32(Knob::ZeroScanBytes)
    }

    /// When a transfer flushes in between.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            bytes: self.load(Knob::CheckpointBytes),
            every: Duration::from_secs(self.load(Knob::CheckpointS)),
        }
    }

    /// What a transfer compares; `None`: what it can in passing.
    #[must_use]
    pub fn integrity(&self) -> Option<Integrity> {
        match self.load(Knob::Integrity) {
            1 => Some(Integrity::None),
            2 => Some(Integrity::Stream),
            3 => Some(Integrity::Media),
            _ => None,
        }
    }

    /// Back the arena with huge pages.
    #[inline]
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.load(Knob::HugePages) != 0
    }

    /// IANA name of the suite to offer first; `None` lets the CPU decide.
    #[must_use]
    pub fn aead(&self) -> Option<&'static str> {
        match self.load(Knob::Aead) {
            1 => Some("TLS_AES_128_GCM_SHA256"),
            2 => Some("TLS_AES_256_GCM_SHA384"),
            3 => Some("TLS_CHACHA20_POLY1305_SHA256"),
            _ => None,
        }
    }

    /// Number of shards; `None` lets the CPUs decide.
    #[must_use]
    pub fn shards(&self) -> Option<usize> {
        Some(self.load_usize(Knob::Shards)).filter(|shards| *shards != 0)
    }

    /// Pin each shard to a CPU.
    #[must_use]
    pub fn pin(&self) -> bool {
        self.load(Knob::Pin) != 0
    }

    /// Which tier to run.
    #[must_use]
    pub fn runtime(&self) -> sys::RuntimeChoice {
        match self.load(Knob::Runtime) {
            1 => sys::RuntimeChoice::Rich,
            2 => sys::RuntimeChoice::Plain,
            3 => sys::RuntimeChoice::Epoll,
            _ => sys::RuntimeChoice::Auto,
        }
    }
}

fn index_of(name: &str) -> Option<usize> {
    TABLE.iter().position(|row| row.name == name)
}

fn unknown_name(name: &str) -> EngineError {
    let names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
    EngineError::new(
        ErrorKind::Config,
        Blame::Operator,
        "there is no such tunable",
        name,
    )
    .remedy(format!("the tunables are {}", names.join(", ")))
}

/// A text that is no value of this knob.
fn refuse(row: &Tunable, text: &str) -> EngineError {
    let remedy = match row.unit {
        Unit::Choice => format!("use one of {}", row.choices.join(", ")),
        Unit::Count | Unit::Seconds => "write a number".to_owned(),
        Unit::Bytes | Unit::BytesPerSecond => {
            "write bytes, or a number with K, M, G or T".to_owned()
        }
    };
    let what = format!("{text:?} is not a value of this tunable");
    EngineError::new(ErrorKind::Config, Blame::Operator, what, row.name).remedy(remedy)
}
