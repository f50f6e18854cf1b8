//! The invariants, and what is recorded when one of them is violated. No I/O.

use jiff::Timestamp;

/// A violation of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The violated invariant.
    pub invariant: Invariant,
    /// When it was violated.
    pub at: Timestamp,
    /// What happened.
    pub what: String,
}

/// The invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// The certificate that a live instance uses is never revoked or removed.
    CertificateInUse,
    /// The node of a live instance that has run Puppet is never deactivated.
    NodeInUse,
    /// A live instance is never unpinned from its node groups.
    PinInUse,
    /// A protected name is never purged.
    Protected,
    /// Only a request from the instance's own agent is signed.
    StrangerSigned,
    /// On Puppet Enterprise, a node is pinned before its request is signed.
    SignedUnpinned,
    /// No more than the allowed share of the fleet is removed at once without a lifecycle action.
    TooManyAtOnce,
    /// No launch is completed with CONTINUE unless the instance has run Puppet successfully with its own certificate.
    AdmittedUnfit,
    /// On Puppet Enterprise, no launch is completed with CONTINUE before the primary has run Puppet since the instance's first
    /// successful run, or, for compilers, before they are admitted to the database, to file sync and as brokers; unless the timeout of
    /// the refresh has expired.
    AdmittedUnknown,
    /// The timeout of a refresh does not expire while nothing is wrong with the refresh targets.
    RefreshStarved,
    /// No refresh target has more than two orders in progress: one by which it learns of a change, and one that waits for it to end. A
    /// second Region with a controller may add one.
    OrdersPileUp,
    /// Where PostgreSQL has a host of its own, the primary is ordered to run for launches only after that host has learnt of one of them.
    WaveTooEarly,
    /// The number of orders for a refresh target is bounded by the number of launches and removals.
    TooManyOrders,
    /// At the end, the refresh targets have run Puppet since the last node was deactivated.
    RemovalUnknown,
    /// No termination is completed before the removal is proven.
    CompletedUnproven,
    /// The launch of a fit instance is never abandoned.
    FitAbandoned,
    /// At the end, no action still waits.
    Stranded,
    /// At the end, nothing is left of a terminated instance.
    LeftBehind,
    /// At the end, every fit instance that is not meant to terminate is in service.
    NotInService,
    /// No lifecycle action ends because its hook timed out.
    HookTimedOut,
    /// A profile that only observes writes nothing.
    ObserverWrote,
    /// The number of calls about one name is bounded.
    TooManyCalls,
    /// Every invocation returns within the function's time limit, without a panic.
    InvocationFailed,
}

impl Invariant {
    /// All invariants.
    pub const ALL: [Self; 23] = [
        Self::CertificateInUse,
        Self::NodeInUse,
        Self::PinInUse,
        Self::Protected,
        Self::StrangerSigned,
        Self::SignedUnpinned,
        Self::TooManyAtOnce,
        Self::AdmittedUnfit,
        Self::AdmittedUnknown,
        Self::RefreshStarved,
        Self::OrdersPileUp,
        Self::WaveTooEarly,
        Self::TooManyOrders,
        Self::RemovalUnknown,
        Self::CompletedUnproven,
        Self::FitAbandoned,
        Self::Stranded,
        Self::LeftBehind,
        Self::NotInService,
        Self::HookTimedOut,
        Self::ObserverWrote,
        Self::TooManyCalls,
        Self::InvocationFailed,
    ];
}
