//! One connection's bytes, both directions, over TLS or plain.
//!
//! `Rx` takes bytes from the socket and asks the protocol (a `Receiver`) where each goes; `Tx` turns replies or
//! requests into sealed batches. Payload is touched once: decrypted into the lease the device writes from, or sealed
//! out of the lease the device read into.

mod rx;
mod tx;
mod zero_copy;

pub(crate) use rx::{Receiver, Rx, RxState, RxWant};
pub(crate) use tx::{Tx, TxItem};
