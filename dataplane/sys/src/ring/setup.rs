//! Making the ring: the richest flags first, fewer when the kernel refuses.
//!
//! Nothing is concluded from a version number: distributions backport, containers filter.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::{RingConfig, rx_multi};
use crate::{SetupError, SetupErrorKind, Tier, memory::Mapping};

/// A ring that is not yet enabled, and what was found on the way.
pub(super) struct Made {
    pub(super) uring: IoUring,
    /// No reason of ours decides: (name, present).
    pub(super) features: Vec<(String, bool)>,
}

pub(super) const SUBJECT: &str = "io_uring";

/// Flags in the order in which they are given up.
#[derive(Debug, Clone, Copy)]
struct Flags {
    no_sqarray: bool,
    defer_taskrun: bool,
    single_issuer: bool,
    coop_taskrun: bool,
}

impl Flags {
    fn richest(tier: Tier) -> Self {
        Self {
            // 6.6; what is newer than 6.1 belongs to the rich tier only.
            no_sqarray: tier == Tier::Rich,
            defer_taskrun: true,
            single_issuer: true,
            coop_taskrun: true,
        }
    }

    fn fewer(mut self) -> Option<Self> {
        let given_up = [
            &mut self.no_sqarray,
            &mut self.defer_taskrun,
            &mut self.single_issuer,
            &mut self.coop_taskrun,
        ]
        .into_iter()
        .find(|flag| **flag)?;
        *given_up = false;
        Some(self)
    }
}

pub(super) fn make(config: &RingConfig) -> Result<Made, SetupError> {
    let mut flags = Flags::richest(config.tier);
    let uring = loop {
        match build(config, flags) {
            Ok(uring) => break uring,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match flags.fewer() {
                Some(fewer) => flags = fewer,
                None => return Err(explain(error)),
            },
            Err(error) => return Err(explain(error)),
        }
    };
    let features = check_features(&uring, flags)?;
    Ok(Made { uring, features })
}

fn build(config: &RingConfig, flags: Flags) -> io::Result<IoUring> {
    // Room for every operation, an arming and a cancellation per socket, and the waker: internal entries
    // then never wait for room.
    let sockets = u32::from(config.sockets_max);
    let entries = (config.entries + sockets * 2 + 4).next_power_of_two();
    let mut builder = IoUring::builder();
    builder
        .setup_r_disabled()
        .setup_clamp()
        .setup_submit_all()
        // One completion per operation and arming, one per stretch of each receive ring. More
        // (many tiny receives) is kept by the kernel, only slower.
        .setup_cqsize((entries * 2 + sockets * u32::from(rx_multi::ENTRIES)).next_power_of_two());
    if flags.no_sqarray {
        builder.setup_no_sqarray();
    }
    if flags.single_issuer {
        builder.setup_single_issuer();
    }
    if flags.defer_taskrun && flags.single_issuer {
        builder.setup_defer_taskrun();
    } else if flags.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    builder.build(entries)
}

/// ENOSYS, EPERM and ENOMEM have different reasons and different remedies.
fn explain(error: io::Error) -> SetupError {
    let (kind, problem, remedy) = match error.raw_os_error().unwrap_or(0) {
        libc::ENOSYS => (
            SetupErrorKind::Unsupported,
            "not in this kernel, or a seccomp filter answers ENOSYS for it",
            "use a kernel of 6.1 or later, or allow it in the container's seccomp profile",
        ),
        libc::EPERM => (
            SetupErrorKind::Permission,
            "forbidden by the kernel.io_uring_disabled setting or by a seccomp filter (EPERM)",
            "set kernel.io_uring_disabled=0, or allow it in the container's seccomp profile",
        ),
        libc::ENOMEM => (
            SetupErrorKind::Resource,
            "no memory for the ring (ENOMEM); for an ordinary user it counts as locked memory",
            "raise the locked-memory limit (LimitMEMLOCK=infinity) or use shorter queues",
        ),
        libc::EMFILE | libc::ENFILE => (
            SetupErrorKind::Resource,
            "no descriptor left for the ring",
            "raise the limit of open files (LimitNOFILE)",
        ),
        _ => (
            SetupErrorKind::Unsupported,
            "the kernel refuses to set up a ring",
            "",
        ),
    };
    SetupError::new(kind, SUBJECT, problem)
        .with_remedy(remedy)
        .with_source(error)
}

fn check_features(uring: &IoUring, flags: Flags) -> Result<Vec<(String, bool)>, SetupError> {
    let params = uring.params();
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|error| {
            SetupError::from_io(SUBJECT, "the kernel does not list its operations", error)
        })?;
    let needed = [
        (
            "waiting with a time limit (5.11)",
            params.is_feature_ext_arg(),
        ),
        ("no lost completions (5.5)", params.is_feature_nodrop()),
        ("receive", probe.is_supported(opcode::Recv::CODE)),
        ("send", probe.is_supported(opcode::Send::CODE)),
        ("sendmsg", probe.is_supported(opcode::SendMsg::CODE)),
        ("read", probe.is_supported(opcode::Read::CODE)),
        ("write", probe.is_supported(opcode::Write::CODE)),
        ("fsync", probe.is_supported(opcode::Fsync::CODE)),
        ("fallocate", probe.is_supported(opcode::Fallocate::CODE)),
        ("cancel", probe.is_supported(opcode::AsyncCancel::CODE)),
    ];
    if let Some((name, _)) = needed.iter().find(|(_, present)| !present) {
        let problem = format!("this kernel's io_uring lacks: {name}");
        return Err(
            SetupError::new(SetupErrorKind::Unsupported, SUBJECT, problem)
                .with_remedy("use a kernel of 6.1 or later"),
        );
    }
    let found = [
        ("single_issuer", flags.single_issuer),
        ("defer_taskrun", flags.defer_taskrun && flags.single_issuer),
        ("no_sqarray", flags.no_sqarray),
        ("recvsend_bundle", params.is_feature_recvsend_bundle()),
        ("min_timeout", params.is_feature_min_timeout()),
    ];
    Ok(found
        .into_iter()
        .map(|(name, present)| (name.to_owned(), present))
        .collect())
}

/// Tries what no probe tells: a buffer ring that is consumed incrementally.
pub(super) fn try_incremental_buffers(uring: &IoUring, table: &Mapping) -> Result<(), SetupError> {
    let group = 0;
    rx_multi::register_group(uring, table, group).map_err(|error| {
        let problem = "no buffer rings with incremental consumption (6.12)";
        SetupError::new(SetupErrorKind::Unsupported, SUBJECT, problem)
            .with_remedy("use the plain tier")
            .with_source(error)
    })?;
    uring
        .submitter()
        .unregister_buf_ring(group)
        .map_err(|error| {
            SetupError::from_io(SUBJECT, "a buffer ring cannot be unregistered", error)
        })
}
