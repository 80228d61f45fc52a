//! The table of knobs, and what it takes to keep a value inside its row.

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// Within a turn or two, under load.
    Live,
    /// For connections made from now on.
    NextConnection,
    /// For transfers started from now on.
    NextTransfer,
    /// When the process starts.
    Start,
}

impl Applies {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NextConnection => "next connection",
            Self::NextTransfer => "next transfer",
            Self::Start => "start",
        }
    }
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// Index into the choices of the row.
    Choice,
}

impl Unit {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes/s",
            Self::Seconds => "s",
            Self::Choice => "choice",
        }
    }
}

/// What a number must be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granule {
    /// Any number.
    One,
    /// A multiple.
    MultipleOf(u64),
    /// A power of two.
    PowerOfTwo,
}

/// One knob: everything about it but its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Tunable {
    /// Its name, unit last.
    pub name: &'static str,
    /// What its number counts.
    pub unit: Unit,
    /// Least value; 0 may be allowed besides, see `zero`.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// When nobody says otherwise.
    pub default: u64,
    /// What 0 means, when it is allowed below `min`.
    pub zero: Option<&'static str>,
    /// What the number must be made of.
    pub granule: Granule,
    /// The words of a choice, in order of their numbers.
    pub choices: &'static [&'static str],
    /// When a change takes effect.
    pub applies: Applies,
    /// What it does.
    pub effect: &'static str,
    /// Why not less.
    pub min_reason: &'static str,
    /// Why not more.
    pub max_reason: &'static str,
}

/// Names of the rows of [`TABLE`], in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the rows of the table say it")]
pub enum Knob {
    Connections,
    RequestBytes,
    WindowBytesMax,
    SendBatchBytes,
    SendZc,
    RecvBufferBytes,
    DeviceDepth,
    RateBytesPerS,
    ZeroScanBytes,
    CheckpointBytes,
    CheckpointS,
    Integrity,
    HugePages,
    Aead,
    Shards,
    Pin,
    Runtime,
}

const OFF_ON: &[&str] = &["off", "on"];

/// Fills what most rows leave at its simplest.
const ROW: Tunable = Tunable {
    name: "",
    unit: Unit::Count,
    min: 0,
    max: 0,
    default: 0,
    zero: None,
    granule: Granule::One,
    choices: &[],
    applies: Applies::Start,
    effect: "",
    min_reason: "",
    max_reason: "",
};

/// A choice: its numbers are 0 up to the last word.
const fn choice(
    name: &'static str,
    choices: &'static [&'static str],
    applies: Applies,
    effect: &'static str,
) -> Tunable {
    let max = (choices.len() - 1) as u64;
    Tunable {
        name,
        unit: Unit::Choice,
        max,
        choices,
        applies,
        effect,
        ..ROW
    }
}

/// Every knob, in the order of [`Knob`].
pub static TABLE: [Tunable; TABLE_LEN] = [
    Tunable {
        name: "connections",
        min: 1,
        max: 64,
        default: 4,
        applies: Applies::NextTransfer,
        effect: "Connections of one transfer. One TLS stream is encrypted by one core at a time, so \
                 more connections use more cores.",
        min_reason: "a transfer needs a connection",
        max_reason: "more connections only share the same memory and cores",
        ..ROW
    },
    Tunable {
        name: "request_bytes",
        unit: Unit::Bytes,
        min: 64 * KIB,
        max: 4 * MIB,
        default: 256 * KIB,
        granule: Granule::MultipleOf(4096),
        applies: Applies::NextTransfer,
        effect: "Longest READ or WRITE of a transfer. Larger requests cost less per byte until they \
                 leave the CPU cache.",
        min_reason: "smaller requests spend their time on headers",
        max_reason: "it is one lease group of the arena",
        ..ROW
    },
    Tunable {
        name: "window_bytes_max",
        unit: Unit::Bytes,
        min: MIB,
        max: 64 * MIB,
        default: 16 * MIB,
        granule: Granule::MultipleOf(4096),
        applies: Applies::NextTransfer,
        effect: "Most data in flight on one connection. The window begins at 2M and follows twice the \
                 rate times the shortest round trip, so that a far peer gets what the line holds and \
                 a near one stays in the caches; below 2M this is a fixed window.",
        min_reason: "less cannot hide even a local round trip",
        max_reason: "the arena has to hold the windows of all connections",
        ..ROW
    },
    Tunable {
        name: "send_batch_bytes",
        unit: Unit::Bytes,
        min: 16 * KIB,
        max: MIB,
        default: MIB,
        granule: Granule::MultipleOf(4096),
        applies: Applies::Live,
        effect: "Bytes sealed and handed to a socket at once. Larger batches mean fewer system \
                 calls and longer waits of the other connections.",
        min_reason: "a batch holds at least one full TLS record",
        max_reason: "one connection must not keep the shard for long",
        ..ROW
    },
    choice(
        "send_zc",
        &["off", "auto", "on"],
        Applies::Live,
        "Send from our memory instead of a copy in the kernel. Auto does so for large batches to \
         other machines, until the kernel says that it copied after all; on is for measuring. Memory \
         that was sent is in use until the peer acknowledged it.",
    ),
    Tunable {
        name: "recv_buffer_bytes",
        unit: Unit::Bytes,
        min: 64 * KIB,
        max: 4 * MIB,
        default: 512 * KIB,
        granule: Granule::PowerOfTwo,
        applies: Applies::NextConnection,
        effect: "Receive buffer of one connection. Larger buffers mean fewer records cut in two \
                 and more memory for each idle connection.",
        min_reason: "it holds at least three full TLS records",
        max_reason: "every connection has one, idle or not",
        ..ROW
    },
    Tunable {
        name: "device_depth",
        min: 1,
        max: 256,
        default: 64,
        applies: Applies::Live,
        effect: "Operations that one shard keeps in flight on its devices. More helps fast disks; \
                 too much only makes flushes wait.",
        min_reason: "an operation has to be in flight for anything to move",
        max_reason: "the ring and the arena have no room for more",
        ..ROW
    },
    Tunable {
        name: "rate_bytes_per_s",
        unit: Unit::BytesPerSecond,
        min: 64 * KIB,
        max: 1 << 40,
        default: 0,
        zero: Some("unlimited"),
        applies: Applies::Live,
        effect: "Data rate of all transfers together. Zeroes count when they had to be read; those of \
                 the source's map and skipped ranges do not.",
        min_reason: "slower than this, requests run into their deadlines",
        max_reason: "no link is faster; use 0 for no limit",
        ..ROW
    },
    Tunable {
        name: "zero_scan_bytes",
        unit: Unit::Bytes,
        min: 4 * KIB,
        max: MIB,
        default: 64 * KIB,
        zero: Some("off"),
        granule: Granule::PowerOfTwo,
        applies: Applies::NextTransfer,
        effect: "Granule of the search for zeroes in data. Blocks of zeroes of this size travel as \
                 WRITE_ZEROES and cost no TLS bytes.",
        min_reason: "smaller holes cost more requests than they save",
        max_reason: "larger runs of zeroes inside data are too rare to look for",
        ..ROW
    },
    Tunable {
        name: "checkpoint_bytes",
        unit: Unit::Bytes,
        min: 4 * MIB,
        max: 16 * GIB,
        default: 4 * GIB,
        granule: Granule::MultipleOf(4096),
        applies: Applies::NextTransfer,
        effect: "Bytes after which a transfer flushes, compares and writes its journal while it goes on. What a \
                 lost connection or a crash costs is at most that much.",
        min_reason: "less than a chunk cannot be compared",
        max_reason: "the digests of more are not kept, and would be read from the disks again",
        ..ROW
    },
    Tunable {
        name: "checkpoint_s",
        unit: Unit::Seconds,
        min: 1,
        max: 3600,
        default: 60,
        applies: Applies::NextTransfer,
        effect: "Seconds after which a transfer flushes, compares and writes its journal, when it wrote anything.",
        min_reason: "flushes would be all that the disk does",
        max_reason: "nobody wants to copy more than an hour again",
        ..ROW
    },
    choice(
        "integrity",
        &["auto", "none", "stream", "media"],
        Applies::NextTransfer,
        "What a transfer compares at its checkpoints. Auto takes stream where the target can tell digests, \
         else none. Stream is what was read with what arrived, media is what was read with what the target's \
         medium holds after the flush.",
    ),
    choice(
        "huge_pages",
        OFF_ON,
        Applies::Start,
        "Back the arena with 2 MiB pages: fewer page table walks, when the machine has such pages \
         free.",
    ),
    choice(
        "aead",
        &["auto", "aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"],
        Applies::Start,
        "Cipher offered and chosen first. Auto takes AES-128-GCM where the CPU has AES \
         instructions.",
    ),
    Tunable {
        name: "shards",
        min: 1,
        max: 256,
        default: 0,
        zero: Some("auto"),
        applies: Applies::Start,
        effect: "Threads that move data. Auto takes one for each CPU of the affinity mask and cgroup \
                 quota.",
        min_reason: "somebody has to do the work",
        max_reason: "each shard has a ring and an arena of its own",
        ..ROW
    },
    choice(
        "pin",
        OFF_ON,
        Applies::Start,
        "Bind each shard to one CPU. Helps on machines that do nothing else; hurts where the \
         scheduler must move threads away from a busy CPU.",
    ),
    choice(
        "runtime",
        &["auto", "rich", "plain", "epoll"],
        Applies::Start,
        "Which kernel interface moves the data. Auto takes the best that works; rich needs \
         multishot receive and buffer rings, plain runs on Linux 6.1, epoll needs no io_uring.",
    ),
];

impl Tunable {
    /// The row of a name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|row| row.name == name)
    }

    /// True when a change is seen under load.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.applies, Applies::Live)
    }

    /// The word of a choice; `None` for other units and unknown numbers.
    #[must_use]
    pub fn choice_name(&self, value: u64) -> Option<&'static str> {
        self.choices.get(usize::try_from(value).ok()?).copied()
    }

    /// The nearest allowed value, and why it is another one than asked for.
    #[must_use]
    pub fn clamp(&self, value: u64) -> (u64, Option<String>) {
        if value == 0 && self.zero.is_some() {
            return (0, None);
        }
        if value < self.min {
            let reason = format!("at least {}: {}", self.format(self.min), self.min_reason);
            return (self.min, Some(reason));
        }
        if value > self.max {
            let reason = format!("at most {}: {}", self.format(self.max), self.max_reason);
            return (self.max, Some(reason));
        }
        let (allowed, rule) = match self.granule {
            Granule::One => (value, String::new()),
            Granule::MultipleOf(step) => (value - value % step, format!("multiples of {step}")),
            Granule::PowerOfTwo => (1 << value.ilog2(), "powers of two".to_owned()),
        };
        let reason = (allowed != value).then(|| {
            format!(
                "rounded down to {}: only {rule} are possible",
                self.format(allowed)
            )
        });
        (allowed, reason)
    }
}

// A knob reads the row with its own name: the last one keeps the count, the tests keep the order.
const _: () = assert!(Knob::Runtime as usize + 1 == TABLE_LEN);
const TABLE_LEN: usize = 17;
