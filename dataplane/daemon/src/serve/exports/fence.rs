//! Who may change an export: pure decisions about fences.
//!
//! A fence is the number of the operation that asks. Operations overtake each other on their way here;
//! the number says which one is late.

use std::collections::{BTreeMap, VecDeque};

use control::Fence;
use control::limits::FENCES_REMEMBERED_MAX;

/// What a PUT comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutDecision {
    /// Nothing is there: make it.
    Create,
    /// It is there, exactly so: nothing to do.
    Same,
    /// An older one is there: close it, then make the new one.
    Replace,
    /// The asker is late; this is the fence it would have to reach.
    Stale(Fence),
    /// The same operation asks for something else: one of the two is a mistake.
    Conflict,
}

/// What is there now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    /// Fence of the operation that put it.
    pub(super) fence: Fence,
    /// The body of the new request equals the old one.
    pub(super) is_same_body: bool,
    /// It may be used: not failed, not on its way out.
    pub(super) is_sound: bool,
}

/// Decides about a PUT with fence `asked`. `last` is the highest fence that was ever seen for the name.
pub(super) fn decide_put(
    present: Option<Present>,
    last: Option<Fence>,
    asked: Fence,
) -> PutDecision {
    if let Some(last) = last.filter(|last| asked < *last) {
        return PutDecision::Stale(last);
    }
    match present {
        None => PutDecision::Create,
        Some(present) if asked < present.fence => PutDecision::Stale(present.fence),
        Some(present) if asked > present.fence => PutDecision::Replace,
        Some(present) if present.is_same_body && present.is_sound => PutDecision::Same,
        Some(_) => PutDecision::Conflict,
    }
}

/// Decides about a DELETE: `None` when it may go on, else the fence it would have to reach. A DELETE
/// without a fence is an order of a person and always goes on.
pub(super) fn decide_delete(
    present: Option<Fence>,
    last: Option<Fence>,
    asked: Option<Fence>,
) -> Option<Fence> {
    let asked = asked?;
    present.max(last).filter(|known| asked < *known)
}

/// The highest fence of each name, kept for a while after the thing itself is gone.
#[derive(Debug, Default)]
pub(super) struct FenceMemory {
    last: BTreeMap<String, Fence>,
    /// Names in the order in which they came, for forgetting.
    order: VecDeque<String>,
}

impl FenceMemory {
    /// The highest fence seen for `name`.
    pub(super) fn last(&self, name: &str) -> Option<Fence> {
        self.last.get(name).copied()
    }

    /// Remembers `fence` unless a higher one is known.
    pub(super) fn remember(&mut self, name: &str, fence: Fence) {
        if let Some(last) = self.last.get_mut(name) {
            *last = fence.max(*last);
            return;
        }
        if self.order.len() == FENCES_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
        self.last.insert(name.to_owned(), fence);
        self.order.push_back(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(fence: u64, is_same_body: bool) -> Option<Present> {
        Some(Present {
            fence: Fence(fence),
            is_same_body,
            is_sound: true,
        })
    }

    #[test]
    fn a_put_is_decided_by_fence_first_and_body_second() {
        use PutDecision::{Conflict, Create, Replace, Same, Stale};
        let cases = [
            (None, None, 5, Create),
            (None, Some(5), 5, Create),
            (None, Some(6), 5, Stale(Fence(6))),
            (present(5, true), Some(5), 5, Same),
            (present(5, false), Some(5), 5, Conflict),
            (present(5, true), Some(5), 4, Stale(Fence(5))),
            (present(5, true), None, 4, Stale(Fence(5))),
            (present(5, true), Some(5), 6, Replace),
            (present(5, false), Some(5), 6, Replace),
            // A DELETE with fence 7 came in between and was refused or is under way.
            (present(5, true), Some(7), 6, Stale(Fence(7))),
        ];
        for (there, last, asked, decision) in cases {
            assert_eq!(
                decide_put(there, last.map(Fence), Fence(asked)),
                decision,
                "{there:?} {last:?} {asked}"
            );
        }
    }

    #[test]
    fn a_failed_export_is_not_the_same_as_a_new_one() {
        let failed = Some(Present {
            fence: Fence(5),
            is_same_body: true,
            is_sound: false,
        });
        assert_eq!(
            decide_put(failed, Some(Fence(5)), Fence(5)),
            PutDecision::Conflict
        );
        assert_eq!(
            decide_put(failed, Some(Fence(5)), Fence(6)),
            PutDecision::Replace
        );
    }

    #[test]
    fn a_late_delete_does_not_touch_a_newer_export() {
        let decide = |present: Option<u64>, last: Option<u64>, asked: Option<u64>| {
            decide_delete(present.map(Fence), last.map(Fence), asked.map(Fence))
        };
        assert_eq!(decide(Some(5), Some(5), Some(5)), None);
        assert_eq!(decide(Some(5), Some(5), Some(6)), None);
        assert_eq!(decide(Some(5), Some(5), Some(4)), Some(Fence(5)));
        assert_eq!(decide(None, Some(5), Some(4)), Some(Fence(5)));
        assert_eq!(decide(Some(5), Some(5), None), None);
        assert_eq!(decide(None, None, Some(0)), None);
    }

    #[test]
    fn fences_outlive_their_export_and_never_sink() {
        let mut memory = FenceMemory::default();
        memory.remember("a", Fence(5));
        memory.remember("a", Fence(3));
        assert_eq!(memory.last("a"), Some(Fence(5)));
        for index in 0..FENCES_REMEMBERED_MAX {
            memory.remember(&format!("n{index}"), Fence(1));
        }
        assert_eq!(memory.last("a"), None, "the oldest is forgotten first");
        assert_eq!(memory.last.len(), FENCES_REMEMBERED_MAX);
        assert_eq!(memory.order.len(), FENCES_REMEMBERED_MAX);
    }
}
