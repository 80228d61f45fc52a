//! Places that connections take at the door, given back when they leave it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use control::Fingerprint;
use tls::Established;

use super::fault::DoorFault;
use super::preauth::PreauthId;
use crate::serve::context::Context;
use crate::serve::limits::NEGOTIATING_CONNECTIONS_MAX;

/// The place of a connection that has not authenticated.
pub(super) struct PreauthPlace {
    context: Arc<Context>,
    id: PreauthId,
}

impl PreauthPlace {
    pub(super) const fn new(context: Arc<Context>, id: PreauthId) -> Self {
        Self { context, id }
    }

    /// The ClientHello is complete: silent ones go before this one.
    pub(super) fn greeted(&self) {
        self.context
            .preauth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .greeted(self.id);
    }

    /// Who the client is; from now on it takes another kind of place.
    pub(super) fn authenticated(
        self,
        established: &Established,
    ) -> Result<(Fingerprint, NegotiatingPlace), DoorFault> {
        let fingerprint = established
            .peer_fingerprint
            .ok_or(DoorFault::NoCertificate)?;
        let place = NegotiatingPlace::take(&self.context)?;
        Ok((Fingerprint(fingerprint), place))
    }
}

impl Drop for PreauthPlace {
    fn drop(&mut self) {
        self.context
            .preauth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.id);
        self.context.preauth_freed.notify_one();
    }
}

/// The place of a connection that negotiates.
pub(super) struct NegotiatingPlace(Arc<Context>);

impl NegotiatingPlace {
    pub(super) fn take(context: &Arc<Context>) -> Result<Self, DoorFault> {
        let count = context.negotiating.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Self(Arc::clone(context));
        if count > NEGOTIATING_CONNECTIONS_MAX {
            return Err(DoorFault::TooManyNegotiating { count });
        }
        Ok(place)
    }
}

impl Drop for NegotiatingPlace {
    fn drop(&mut self) {
        self.0.negotiating.fetch_sub(1, Ordering::Relaxed);
    }
}
