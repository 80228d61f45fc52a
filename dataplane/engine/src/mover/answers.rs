//! What servers answered to a mover's requests.

use super::{End, Mover, SOURCE_CONNECTION, TARGET_CONNECTION};
use crate::{
    client::Answer,
    ctx::Ctx,
    error::{Blame, EngineError, ErrorKind},
    transfer::shared::AckKind,
};
use std::sync::atomic::Ordering;
use sys::Backend;
use wire::{Command, NbdError};

impl Mover {
    /// Answers of both connections.
    pub(super) fn take_answers<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        while let End::Nbd(lane) = &mut self.source {
            let Some(answer) = lane.take_answer() else {
                break;
            };
            let Some(piece) = self.pieces.get_mut(answer.piece) else {
                if let Some(mut payload) = answer.payload {
                    payload.drain().for_each(|lease| self.hold.give(lease));
                }
                continue;
            };
            piece.payload = answer.payload;
            match answer.result {
                Ok(()) if !self.shared.failed.load(Ordering::Acquire) => {
                    self.handle_piece_read(ctx, answer.piece);
                }
                Ok(()) => self.drop_piece(answer.piece),
                Err(error) => {
                    let offset = piece.offset;
                    self.shared
                        .fail(answered(ErrorKind::SourceIo, "reading", offset, error));
                    self.drop_piece(answer.piece);
                }
            }
        }
        while let End::Nbd(lane) = &mut self.target {
            let Some(answer) = lane.take_answer() else {
                break;
            };
            ctx.stats.record_latency(answer.took);
            self.handle_target_answer(ctx, &answer);
        }
    }

    fn handle_target_answer<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, answer: &Answer) {
        let slot = answer.piece;
        if answer.command == Command::Flush {
            return match answer.result {
                Ok(()) => self.shared.flushed(self.flush_sent),
                Err(error) => self.shared.fail(
                    answered(ErrorKind::TargetIo, "flushing", 0, error)
                        .remedy("nothing written since the last good flush may be trusted"),
                ),
            };
        }
        let Some(piece) = self.pieces.get(slot) else {
            return;
        };
        match answer.result {
            Ok(()) => {
                let written = answer.command == Command::Write;
                let kind = if written {
                    AckKind::Data
                } else {
                    AckKind::Zero
                };
                self.acknowledge(ctx, slot, kind, answer.offset..answer.offset + answer.len);
            }
            Err(error) => {
                let kind = match error {
                    NbdError::NoSpace => ErrorKind::OutOfSpace,
                    _ => ErrorKind::TargetIo,
                };
                self.shared
                    .fail(answered(kind, "writing", piece.offset, error));
                self.end_write(ctx, slot);
            }
        }
    }
}

fn answered(kind: ErrorKind, what: &str, offset: u64, error: NbdError) -> EngineError {
    let side = if kind == ErrorKind::SourceIo {
        SOURCE_CONNECTION
    } else {
        TARGET_CONNECTION
    };
    if error == NbdError::Shutdown {
        let what = format!("{what} at byte {offset}: the server is shutting down");
        return EngineError::new(ErrorKind::ConnectionLost, Blame::Peer, what, side)
            .remedy("the copy goes on when the server is back");
    }
    EngineError::new(
        kind,
        Blame::Peer,
        format!("{what} at byte {offset} failed: the server answered {error}"),
        side,
    )
    .remedy("look at the server's own log for the cause")
}
