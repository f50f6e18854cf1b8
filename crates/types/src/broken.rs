//! Rules that a simulation can break deliberately, to show that its checks detect it. Compiled only with the feature `broken-rules`;
//! without it, [`is_broken`] is a constant and nothing of this is in a program. No I/O.

#[cfg(all(feature = "broken-rules", not(debug_assertions)))]
compile_error!("the feature broken-rules is for the simulation; it must not be in a release build");

/// A rule of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// What is under a name is removed only if it belongs to the terminating instance.
    NameCheck,
    /// Nothing is purged unless AWS says that the instance terminates: an event alone is not enough.
    Confirmation,
    /// A termination is completed only after the removal is proven.
    Proof,
    /// "Unavailable" is not "absent".
    Unavailable,
    /// Too many orphans at once are not removed.
    Breaker,
    /// An orphan must have been in this account and Region.
    Home,
    /// A request with the certificate's own key does not show that the key is lost.
    SameKey,
    /// A node is pinned before its request is signed.
    PinFirst,
    /// What refresh targets must learn of a launch does not move with later Puppet runs of the node.
    FixedChange,
    /// A launch waits until the refresh targets have run Puppet since the change.
    Refresh,
    /// Hooks whose timeout is shorter than the profile's get heartbeats.
    Heartbeats,
}

#[cfg(feature = "broken-rules")]
mod state {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Breaks this rule on this thread, in place of the one that was broken before; `None`: none is broken.
    pub fn break_rule(rule: Option<Rule>) {
        BROKEN.set(rule);
    }

    /// Whether this rule is broken on this thread.
    #[must_use]
    pub fn is_broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }
}

#[cfg(feature = "broken-rules")]
pub use state::{break_rule, is_broken};

/// Whether this rule is broken: never.
#[cfg(not(feature = "broken-rules"))]
#[must_use]
pub const fn is_broken(_: Rule) -> bool {
    false
}
