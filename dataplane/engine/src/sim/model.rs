//! What clients may expect of a disk, byte by byte, from nothing but what they asked and were answered.

use super::disk::Disk;
use wire::{Command, CommandFlags, NbdError};

/// How sure we are of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// One of two values: something failed in between, or it was trimmed.
    Either(u8),
    /// Anything.
    Any,
}

/// A request and what it carries.
pub(super) struct Asked {
    /// Its place in the order of all requests.
    pub number: u64,
    pub command: Command,
    pub flags: CommandFlags,
    pub offset: usize,
    pub len: usize,
    /// WRITE: the payload. READ: what has come.
    pub bytes: Vec<u8>,
    /// It lies inside the disk.
    pub valid: bool,
}

/// The disk as its clients know it.
pub(super) struct Model {
    bytes: Vec<u8>,
    doubts: Vec<Doubt>,
    /// The last request that changes this byte, and the last one that was answered.
    asked: Vec<u64>,
    answered: Vec<u64>,
    /// The first request that was made after that answer.
    settled: Vec<u64>,
    next_number: u64,
}

fn changes(command: Command) -> bool {
    matches!(
        command,
        Command::Write | Command::WriteZeroes | Command::Trim
    )
}

impl Model {
    pub(super) fn new(image: &[u8]) -> Self {
        Self {
            bytes: image.to_vec(),
            doubts: vec![Doubt::None; image.len()],
            asked: vec![0; image.len()],
            answered: vec![0; image.len()],
            settled: vec![0; image.len()],
            next_number: 1,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nobody is changing these bytes.
    pub(super) fn is_calm(&self, offset: usize, len: usize) -> bool {
        let range = offset..offset + len;
        self.asked[range.clone()] == self.answered[range]
    }

    /// A number for the next request; one that changes bytes must lie on calm ones.
    pub(super) fn ask(&mut self, command: Command, offset: usize, len: usize) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        if changes(command) {
            self.asked[offset..offset + len].fill(number);
        }
        number
    }

    fn fits(&self, at: usize, byte: u8) -> bool {
        match self.doubts[at] {
            Doubt::None => byte == self.bytes[at],
            Doubt::Either(other) => byte == self.bytes[at] || byte == other,
            Doubt::Any => true,
        }
    }

    /// Nothing changed this byte since the request with this number was sent, and nothing was about to.
    fn stood_still(&self, at: usize, number: u64) -> bool {
        self.asked[at] == self.answered[at] && self.settled[at] <= number
    }

    fn compare(
        &self,
        what: &str,
        found: &[u8],
        start: usize,
        which: impl Fn(usize) -> bool,
    ) -> Result<(), String> {
        let wrong = (start..start + found.len())
            .find(|at| which(*at) && !self.fits(*at, found[*at - start]));
        wrong.map_or(Ok(()), |at| {
            let (byte, known) = (found[at - start], self.bytes[at]);
            let doubt = self.doubts[at];
            Err(format!(
                "{what}: byte {at} is {byte:#04x} instead of {known:#04x} ({doubt:?})"
            ))
        })
    }

    /// The request was answered; says what is wrong with the answer or with the disk behind it.
    pub(super) fn answer(
        &mut self,
        asked: &Asked,
        result: Result<(), NbdError>,
        disk: &Disk,
    ) -> Result<(), String> {
        let Asked {
            number,
            command,
            offset,
            len,
            ..
        } = *asked;
        let range = offset..offset + len;
        if !asked.valid {
            return match result {
                Ok(()) => Err(format!("{command} outside of the disk succeeded")),
                Err(_) => Ok(()),
            };
        }
        if changes(command) {
            self.settle(asked, result.is_ok());
        }
        if result.is_err() {
            return Ok(());
        }
        match command {
            Command::Read => self.compare("read", &asked.bytes, offset, |at| {
                self.stood_still(at, number)
            }),
            Command::Flush => self.compare("durable after FLUSH", &disk.durable, 0, |at| {
                self.stood_still(at, number)
            }),
            Command::Write | Command::WriteZeroes | Command::Trim => {
                let image = &disk.image[range.clone()];
                self.compare("answered change", image, offset, |_| true)?;
                if asked.flags.contains(CommandFlags::FUA) {
                    self.compare("durable after FUA", &disk.durable[range], offset, |_| true)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Books a change: done, or perhaps done.
    fn settle(&mut self, asked: &Asked, done: bool) {
        for at in asked.offset..asked.offset + asked.len {
            let new = match asked.command {
                Command::Write => asked.bytes[at - asked.offset],
                _ => 0,
            };
            let sure = done && asked.command != Command::Trim;
            self.answered[at] = asked.number;
            self.settled[at] = self.next_number;
            if sure {
                self.bytes[at] = new;
                self.doubts[at] = Doubt::None;
            } else {
                self.doubts[at] = match self.doubts[at] {
                    Doubt::None => Doubt::Either(new),
                    Doubt::Either(other) if other == new || self.bytes[at] == new => {
                        self.doubts[at]
                    }
                    Doubt::Either(_) | Doubt::Any => Doubt::Any,
                };
            }
        }
    }

    /// The connection died before the answer: what it asked for may still happen, at any time.
    pub(super) fn forget(&mut self, asked: &Asked) {
        if changes(asked.command) && asked.valid {
            for at in asked.offset..asked.offset + asked.len {
                self.doubts[at] = Doubt::Any;
                // Never calm again.
                self.answered[at] = 0;
            }
        }
    }

    /// The disk at the end.
    pub(super) fn check_image(&self, image: &[u8]) -> Result<(), String> {
        self.compare("at the end", image, 0, |_| true)
    }
}
