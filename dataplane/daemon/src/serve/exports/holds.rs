//! Holds: devices kept open from attach to detach, whether or not they are exported.

use std::path::Path;
use std::sync::Arc;

use control::limits::HOLDS_MAX;
use control::{ErrorBody, ErrorKind, ExportMode, Fence, HoldName, HoldPut, HoldRemoved, HoldView};

use super::change::{PutOutcome, conflict, not_found, stale};
use super::fence::{Present, PutDecision, decide_delete, decide_put};
use super::open::{self, Expected};
use super::{Hold, Registry};
use crate::serve::problem;

impl Registry {
    /// Opens a whole device exclusively and keeps it, or finds that it is held.
    pub(in crate::serve) fn hold(
        &self,
        name: &HoldName,
        put: &HoldPut,
    ) -> Result<(PutOutcome, HoldView), ErrorBody> {
        put.validate().map_err(|error| problem::invalid(&error))?;
        let _claim = self.claim("hold", name.as_str())?;
        match self.decide_hold(name.as_str(), put)? {
            PutDecision::Same => {
                return Ok((PutOutcome::Unchanged, self.hold_view(name.as_str())?));
            }
            PutDecision::Stale(last) => return Err(stale("hold", name.as_str(), put.fence, last)),
            PutDecision::Conflict => return Err(conflict("hold", name.as_str(), put.fence)),
            PutDecision::Create | PutDecision::Replace => {}
        }
        let path = Path::new(&put.device);
        let held = self
            .lock()
            .holds
            .get(name.as_str())
            .map(|hold| Arc::clone(&hold.file));
        let file = match held.filter(|file| open::is_same_device(path, file)) {
            // The same device under a newer operation: letting go of it, even for a moment, is what a
            // hold is there to prevent.
            Some(file) => {
                file.revalidate().map_err(|error| problem::setup(&error))?;
                file
            }
            None => {
                self.refuse_used(name.as_str())?;
                drop(self.lock().holds.remove(name.as_str()));
                let opened =
                    open::device(path, ExportMode::Rw).map_err(|error| problem::setup(&error))?;
                Arc::new(opened)
            }
        };
        open::refuse_partition(&file)?;
        open::check(
            &file,
            Expected {
                size_bytes: put.size_bytes,
                serial: put.serial.as_ref(),
            },
        )?;
        let hold = Hold {
            file,
            asked: put.clone(),
        };
        self.lock().holds.insert(name.as_str().to_owned(), hold);
        tracing::info!(hold = name.as_str(), device = put.device, "device is held");
        Ok((PutOutcome::Made, self.hold_view(name.as_str())?))
    }

    fn decide_hold(&self, name: &str, put: &HoldPut) -> Result<PutDecision, ErrorBody> {
        let mut inner = self.lock();
        if inner.is_draining {
            return Err(problem::draining());
        }
        let present = inner.holds.get(name).map(|hold| Present {
            fence: hold.asked.fence,
            is_same_body: hold.asked == *put,
            is_sound: true,
        });
        let decision = decide_put(present, inner.hold_fences.last(name), put.fence);
        if decision == PutDecision::Create && inner.holds.len() >= HOLDS_MAX {
            let what = format!("{HOLDS_MAX} devices are held, and there is no room for one more");
            return Err(problem::refuse(
                ErrorKind::TooMany,
                what,
                "release those that are done",
            ));
        }
        if matches!(decision, PutDecision::Create | PutDecision::Replace) {
            inner.hold_fences.remember(name, put.fence);
        }
        Ok(decision)
    }

    /// Lets go of a device. Refused while an export uses it.
    pub(in crate::serve) fn release(
        &self,
        name: &HoldName,
        fence: Option<Fence>,
    ) -> Result<HoldRemoved, ErrorBody> {
        let name = name.as_str();
        let _claim = self.claim("hold", name)?;
        self.refuse_used(name)?;
        let mut inner = self.lock();
        let present = inner.holds.get(name).map(|hold| hold.asked.fence);
        let known = decide_delete(present, inner.hold_fences.last(name), fence);
        if let Some(known) = known {
            return Err(stale("hold", name, fence.unwrap_or_default(), known));
        }
        if let Some(fence) = fence {
            inner.hold_fences.remember(name, fence);
        }
        let was_present = inner.holds.remove(name).is_some();
        drop(inner);
        if was_present {
            tracing::info!(hold = name, "device is released");
        }
        Ok(HoldRemoved {
            name: name.to_owned(),
            was_present,
        })
    }

    /// A device with an export on it stays held.
    fn refuse_used(&self, hold: &str) -> Result<(), ErrorBody> {
        let inner = self.lock();
        let user = inner
            .exports
            .iter()
            .find(|(_, entry)| entry.hold.as_deref() == Some(hold));
        match user {
            None => Ok(()),
            Some((export, _)) => Err(problem::later(
                ErrorKind::Busy,
                format!("the device of hold {hold} is in use by export {export}"),
                "delete the export first",
            )),
        }
    }

    pub(super) fn hold_view(&self, name: &str) -> Result<HoldView, ErrorBody> {
        let inner = self.lock();
        let hold = inner
            .holds
            .get(name)
            .ok_or_else(|| not_found("hold", name))?;
        Ok(super::view::hold(&inner, name, hold))
    }
}
