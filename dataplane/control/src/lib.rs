//! The types of the control sockets, and the exit codes, shared by the data plane, the control plane and the tools.
//!
//! Requests, answers, events and errors as they stand in JSON, the limits on each field, and the checks
//! that need nothing but the value itself. No sockets, no files, no clocks: a server that has parsed a
//! body and called its `validate` knows that the body is well-formed, not that its device exists.
//!
//! Invariants:
//! - a request with a key we do not know is an error, because a misspelt `serial` must not mean "any";
//! - an answer may grow new keys, so clients ignore the ones they do not know;
//! - every answer, errors included, carries [`API_VERSION`] and the `boot_id` of the process.
//!
//! The page for people is `docs/interfaces/control-socket.md`; its samples are tested against the types.
#![forbid(unsafe_code)]

mod answer;
mod data;
mod exit;
mod export;
mod invalid;
pub mod knob;
pub mod limits;
mod names;
mod status;
mod transfer;
mod tunable;

pub use answer::{API_VERSION, Answer, Blame, ErrorAnswer, ErrorBody, ErrorKind, Retry};
pub use data::{DeviceFacts, ExportFacts, FlushFacts, StoreKind, StreamState, TunableTrial};
pub use exit::Exit;
pub use export::{
    ExportList, ExportMode, ExportOrigin, ExportPut, ExportRemoved, ExportState, ExportTotals,
    ExportView, Flushed, HoldPut, HoldRemoved, HoldView,
};
pub use invalid::Invalid;
pub use names::{ClientRule, Fence, Fingerprint, HoldName, Serial, TransferId, check_export_name};
pub use status::{Connections, Listener, ListenerKind, Status};
pub use transfer::{
    EventGap, Extent, TransferEvent, TransferIntegrity, TransferList, TransferProgress,
    TransferReport, TransferRequest, TransferState, TransferView,
};
pub use tunable::{TunableList, TunablePatch, TunableValue, TunableView};
