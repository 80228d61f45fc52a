//! The one place that decides whether a request is valid, and which error answers it if not.

use super::{Request, ServerParams};
use crate::WireError;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::proto::{Command, CommandFlags, Mode, NbdError, RequestHeader, TransmissionFlags};

/// What was negotiated, as far as it decides about requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) size_bytes: u64,
    flags: TransmissionFlags,
    /// 1 unless the client asked for block sizes: only then must it obey them.
    block_bytes_min: u64,
    payload_bytes_max: u32,
    pub(super) mode: Mode,
    /// Context id of base:allocation.
    pub(super) base_allocation: Option<u32>,
}

/// A judged request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judgement {
    pub(super) request: Request,
    pub(super) verdict: Result<(), NbdError>,
    /// Bytes that follow the header, whatever the verdict.
    pub(super) payload_len: u32,
}

impl Rules {
    pub(super) fn new(params: &ServerParams) -> Self {
        let block = params.info.block;
        Self {
            size_bytes: params.info.size_bytes,
            flags: params.info.flags,
            block_bytes_min: if params.block_sizes_negotiated {
                u64::from(block.min.max(1))
            } else {
                1
            },
            payload_bytes_max: block.payload_bytes_max(),
            mode: params.mode,
            base_allocation: params.base_allocation,
        }
    }

    /// Judges a request.
    ///
    /// # Errors
    /// Where the framing cannot be trusted, or skipping the payload would cost too much.
    pub(super) fn judge(&self, header: &RequestHeader) -> Result<Judgement, WireError> {
        let payload_len = self.payload_len(header)?;
        let mut request = Request {
            cookie: header.cookie,
            command: header.command,
            flags: header.flags,
            offset: header.offset,
            len: header.len,
        };
        let verdict = self.check(header);
        if verdict.is_ok() {
            request.flags = request.flags.without(CommandFlags::PAYLOAD_LEN);
        }
        Ok(Judgement {
            request,
            verdict,
            payload_len,
        })
    }

    /// How many bytes follow the header. This depends on framing only, never on validity.
    fn payload_len(&self, header: &RequestHeader) -> Result<u32, WireError> {
        let is_write = header.command == Command::Write;
        let is_flagged = header.flags.contains(CommandFlags::PAYLOAD_LEN);
        let follows = match self.mode {
            Mode::Simple | Mode::Structured => is_write,
            // The flag is mandatory on WRITE, and QEMU's client (seen in 10.0.2) leaves it out. A WRITE
            // has its payload either way, and QEMU's server takes it so, too.
            Mode::Extended => is_flagged || is_write,
        };
        if !follows {
            return Ok(0);
        }
        let too_long = WireError::PayloadTooLong {
            found: header.len,
            max: PAYLOAD_BYTES_MAX,
        };
        match u32::try_from(header.len) {
            Ok(len) if len <= PAYLOAD_BYTES_MAX => Ok(len),
            _ => Err(too_long),
        }
    }

    /// The checks in the order in which their errors take precedence.
    fn check(&self, header: &RequestHeader) -> Result<(), NbdError> {
        self.check_command(header.command)?;
        self.check_flags(header)?;
        if header.command == Command::Flush {
            // "reserved, MUST be set to all-zero"
            let reserved = header.offset | header.len;
            return if reserved == 0 {
                Ok(())
            } else {
                Err(NbdError::Inval)
            };
        }
        self.check_range(header)?;
        self.check_payload_size(header)
    }

    /// Known, offered and allowed?
    fn check_command(&self, command: Command) -> Result<(), NbdError> {
        let is_writing = matches!(
            command,
            Command::Write | Command::Trim | Command::WriteZeroes
        );
        if is_writing && self.offers(TransmissionFlags::READ_ONLY) {
            return Err(NbdError::Perm);
        }
        let is_offered = match command {
            Command::Read | Command::Write => true,
            Command::Flush => self.offers(TransmissionFlags::SEND_FLUSH),
            Command::Trim => self.offers(TransmissionFlags::SEND_TRIM),
            Command::Cache => self.offers(TransmissionFlags::SEND_CACHE),
            Command::WriteZeroes => self.offers(TransmissionFlags::SEND_WRITE_ZEROES),
            Command::BlockStatus => self.base_allocation.is_some() && self.mode != Mode::Simple,
            Command::Disconnect | Command::Unknown(_) => false,
        };
        if is_offered {
            Ok(())
        } else {
            Err(NbdError::Inval)
        }
    }

    /// Only flags that belong to the command and were offered.
    fn check_flags(&self, header: &RequestHeader) -> Result<(), NbdError> {
        let mut allowed = match header.command {
            Command::Read if self.offers(TransmissionFlags::SEND_DF) => CommandFlags::DF,
            Command::Write if self.mode == Mode::Extended => CommandFlags::PAYLOAD_LEN,
            Command::WriteZeroes if self.offers(TransmissionFlags::SEND_FAST_ZERO) => {
                CommandFlags::NO_HOLE.union(CommandFlags::FAST_ZERO)
            }
            Command::WriteZeroes => CommandFlags::NO_HOLE,
            Command::BlockStatus => CommandFlags::REQ_ONE,
            _ => CommandFlags::NONE,
        };
        // Once offered, FUA is accepted on any command, READ included.
        if self.offers(TransmissionFlags::SEND_FUA) {
            allowed = allowed.union(CommandFlags::FUA);
        }
        if allowed.contains(header.flags) {
            Ok(())
        } else {
            Err(NbdError::Inval)
        }
    }

    /// Not empty, inside the export, aligned where alignment was negotiated.
    fn check_range(&self, header: &RequestHeader) -> Result<(), NbdError> {
        // Zero length is undefined in the protocol; EINVAL keeps the special case out of everything
        // behind this line.
        if header.len == 0 {
            return Err(NbdError::Inval);
        }
        let past_end = match header.command {
            Command::Write | Command::WriteZeroes => NbdError::NoSpace,
            _ => NbdError::Inval,
        };
        let end = header.offset.checked_add(header.len).ok_or(past_end)?;
        if end > self.size_bytes {
            return Err(past_end);
        }
        let min = self.block_bytes_min;
        let is_aligned = header.offset.is_multiple_of(min) && header.len.is_multiple_of(min);
        if is_aligned {
            Ok(())
        } else {
            Err(NbdError::Inval)
        }
    }

    /// READ and WRITE within the largest payload we stated.
    fn check_payload_size(&self, header: &RequestHeader) -> Result<(), NbdError> {
        let has_payload = matches!(header.command, Command::Read | Command::Write);
        if !has_payload || header.len <= u64::from(self.payload_bytes_max) {
            return Ok(());
        }
        // EOVERFLOW is what a client that set DF understands as "split it yourself".
        if header.flags.contains(CommandFlags::DF) {
            return Err(NbdError::Overflow);
        }
        Err(NbdError::Inval)
    }

    const fn offers(&self, flag: TransmissionFlags) -> bool {
        self.flags.contains(flag)
    }
}
