//! What AWS and Puppet say now about one instance. Plain values, no I/O.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{ActionKey, Certname, GroupName, HookName, InstanceId, Lookup, Place, Transition, Trouble};

use crate::signing::Request;

/// A lifecycle action, as an event or a sweep reports it.
///
/// Shapes of events: [EventBridge](https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html)
/// and [SNS or SQS](https://docs.aws.amazon.com/autoscaling/ec2/userguide/prepare-for-lifecycle-notifications.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleAction {
    /// The instance.
    pub instance: InstanceId,
    /// The Auto Scaling group it is said to be in.
    pub group: GroupName,
    /// The hook it is said to wait at.
    pub hook: HookName,
    /// The transition that it is said to be in.
    pub transition: Transition,
    /// Where it is said to come from, if that was said.
    pub origin: Option<Place>,
    /// Where it is said to go to, if that was said.
    pub destination: Option<Place>,
    /// When the action began, as far as known.
    pub began: Began,
}

impl LifecycleAction {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        ActionKey { group: self.group.clone(), hook: self.hook.clone(), instance: self.instance.clone() }
    }

    /// Whether the instance launches.
    #[must_use]
    pub fn is_launching(&self) -> bool {
        self.transition == Transition::Launching
    }
}

/// When an action began, and from which source. An event may be old, replayed or forged, so that no timeout expires by an event
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// Not known yet.
    Unknown,
    /// As an event says.
    Said(Timestamp),
    /// As Auto Scaling's scaling activities say.
    Confirmed {
        /// When the newest activity with the instance began, if there is one.
        recorded: Option<Timestamp>,
        /// When EC2 launched the instance or last started it, if the instance launches. The newest activity may not be visible yet. But an
        /// operator may also have stopped and started the instance, so this time alone costs it nothing.
        launched: Option<Timestamp>,
        /// What an event said, if one did; never later than when the activities were read.
        said: Option<Timestamp>,
    },
}

impl Began {
    /// Adds the times that Auto Scaling's activities and EC2 show now.
    #[must_use]
    pub fn confirm(self, recorded: Option<Timestamp>, launched: Option<Timestamp>, now: Timestamp) -> Self {
        let said = match self {
            Self::Said(said) | Self::Confirmed { said: Some(said), .. } => Some(said.min(now)),
            Self::Unknown | Self::Confirmed { said: None, .. } => None,
        };
        Self::Confirmed { recorded, launched, said }
    }

    /// The time, from either source. The activity begins before the hook is reached, so a later time from the event is
    /// the better one, and an earlier one cannot be true.
    #[must_use]
    pub fn time(self) -> Option<Timestamp> {
        match self {
            Self::Unknown => None,
            Self::Said(said) => Some(said),
            Self::Confirmed { recorded, launched, said } => said.max(recorded).max(launched),
        }
    }
}

/// What the Puppet CA and PuppetDB say about one certname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameView {
    /// The name that was asked about.
    pub certname: Certname,
    /// The certificate under that name.
    pub certificate: Lookup<CertificateView>,
    /// The certificate request that is pending under that name.
    pub request: Lookup<RequestView>,
    /// The node under that name in PuppetDB.
    pub node: Lookup<NodeView>,
    /// The instance that the node's facts name; `Absent` when no fact says, or when they contradict each other.
    pub fact_instance: Lookup<InstanceId>,
    /// The node groups that the name is pinned to; empty where there is no classifier.
    pub pins: Lookup<Vec<String>>,
}

impl NameView {
    /// What is known about a name while Puppet is unavailable.
    #[must_use]
    pub fn unavailable(certname: Certname, trouble: &Trouble) -> Self {
        fn unavailable<T>(trouble: &Trouble) -> Lookup<T> {
            Lookup::Unavailable(trouble.clone())
        }
        Self {
            certname,
            certificate: unavailable(trouble),
            request: unavailable(trouble),
            node: unavailable(trouble),
            fact_instance: unavailable(trouble),
            pins: unavailable(trouble),
        }
    }
}

/// A certificate: whose it is, and which. A renewed certificate has another serial number and the same key, and is the same
/// certificate wherever the identity of its owner matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateView {
    /// Serial number, hexadecimal, upper case.
    pub serial: String,
    /// The extension `pp_instance_id`; a certificate need not have a usable one.
    pub instance: Option<InstanceId>,
    /// When it was issued, by the CA's own clock, which facts are dated by as well.
    pub issued_by_ca: Timestamp,
    /// When it was issued, by the controller's clock as far as the CA's could be compared with it.
    pub issued: Timestamp,
    /// By how much that may be wrong.
    pub tolerance: Duration,
    /// Whether this invocation has seen that there was none under the name, and then this one: so it is of this launch, whatever
    /// its dates say.
    pub appeared: bool,
    /// Everything that it certifies.
    pub holds: Request,
}

/// A pending certificate request: whose it says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestView {
    /// The requested extension `pp_instance_id`.
    pub instance: Option<InstanceId>,
    /// Everything that it asks for.
    pub asks: Request,
}

/// A node in PuppetDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeView {
    /// Whether it is active in PuppetDB: neither deactivated nor expired.
    pub active: bool,
    /// When it was deactivated, if it was.
    pub deactivated: Option<Timestamp>,
    /// When PuppetDB stored its newest facts, by PuppetDB's clock.
    pub facts: Option<Timestamp>,
    /// When PuppetDB stored its newest catalog, by PuppetDB's clock.
    pub catalog: Option<Timestamp>,
    /// The newest time that any of its facts, catalogs and reports bears. A deactivation that bears an older one
    /// is ignored by PuppetDB, and reported as a success.
    pub newest: Option<Timestamp>,
}
