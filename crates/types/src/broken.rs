//! Rules that a simulation can break deliberately, to show that its checks detect the violation. Effective only with the feature
//! `broken-rules`. Without it, [`is_broken`] is always false, and programs contain no code for breaking rules: the packages for Lambda are
//! built so. A debug build of the whole workspace has the feature, because the simulation is part of it, but breaks no rule. No I/O.

#[cfg(all(feature = "broken-rules", not(debug_assertions)))]
compile_error!("the feature broken-rules is for the simulation; it must not be in a release build");

/// A rule of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// What is found under a name is removed only if it belongs to the terminating instance.
    NameCheck,
    /// Nothing is purged unless AWS confirms that the instance is terminating: an event alone is not enough.
    Confirmation,
    /// A termination is completed only after the removal is proven.
    Proof,
    /// "Unavailable" is never read as "absent".
    Unavailable,
    /// Protected names are never touched.
    Protected,
    /// Between two passes in which nothing changes, an invocation pauses.
    Pauses,
    /// An invocation ends before the platform ends it.
    Budget,
    /// If there are too many orphans at once, none is removed.
    Breaker,
    /// An orphan must have been in this account and Region.
    Home,
    /// A request with the certificate's own key does not show that the key is lost.
    SameKey,
    /// A node is pinned before its request is signed.
    PinFirst,
    /// Later Puppet runs of a launching node do not move the change that refresh targets must learn of.
    FixedChange,
    /// A later catalog of a launching node does not move the change either.
    FixedCatalog,
    /// A run of a refresh target counts if its catalog was compiled since the change, not if the run ended since.
    Compilation,
    /// A launch waits until the refresh targets have run Puppet since the change.
    Refresh,
    /// What other nodes must learn of before a launching node can run is its first catalog, not its first successful run.
    CatalogFirst,
    /// Heartbeats are sent for hooks whose timeout is shorter than the profile's.
    Heartbeats,
    /// Only sweeps, which run one at a time, order the Puppet runs of refresh targets that an action waits for.
    SweepsOrder,
    /// An order for a refresh target that still has not learnt of a change is repeated on a schedule.
    BackOff,
    /// The refresh targets of a launch run in waves.
    Waves,
    /// A launch goes on without refresh targets when the timeout of the refresh has expired.
    RefreshTimeout,
    /// If an order that a termination gave was lost, housekeeping gives it again.
    LostOrders,
}

#[cfg(feature = "broken-rules")]
mod state {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Breaks this rule on this thread, and restores the one that was broken before; `None` restores all rules.
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

/// Whether this rule is broken: never without the feature `broken-rules`.
#[cfg(not(feature = "broken-rules"))]
#[must_use]
pub const fn is_broken(_: Rule) -> bool {
    false
}
