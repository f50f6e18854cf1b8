//! What AWS and Puppet say now about one instance. Plain values, no I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use crate::event::{Place, Transition};
use crate::signing::Request;
use crate::{Certname, GroupName, HookName, InstanceId};

/// The answer to a lookup, in which "absent" and "unavailable" can never be mixed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there, like this.
    Found(T),
    /// The service that knows says that it is not there.
    Absent,
    /// The service is unavailable, or its answer was not understood.
    Unavailable(Trouble),
}

impl<T> Lookup<T> {
    /// What was found, or `None` if it is absent; the trouble if that is not known.
    pub fn known(&self) -> Result<Option<&T>, &Trouble> {
        match self {
            Self::Found(value) => Ok(Some(value)),
            Self::Absent => Ok(None),
            Self::Unavailable(trouble) => Err(trouble),
        }
    }
}

/// Why something could not be found out or done: which service, and of what kind the failure was, which decides what happens
/// next. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// Of what kind it is.
    pub kind: TroubleKind,
    /// The service that was called.
    pub service: Service,
    /// What happened and what to do, for a person. Never holds a secret.
    pub text: String,
}

/// The kinds of trouble, by what a caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TroubleKind {
    /// No answer before the deadline of the call.
    Timeout,
    /// No connection, or none that lasted until the answer.
    Unreachable,
    /// The service answered that it cannot serve now: it starts, is overloaded, or throttles.
    Busy,
    /// The service does not accept the credentials, which may have been rotated: read them again.
    Unauthenticated,
    /// The service does not permit the call: an operator has to change something.
    NotPermitted,
    /// The service refuses what was asked for, and will refuse it again.
    Refused,
    /// An answer that was not understood.
    Unexpected,
    /// The configuration or the secret cannot be used: an operator has to change something.
    Unusable,
}

impl TroubleKind {
    /// Whether the same call may succeed later without any change by an operator.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable | Self::Busy)
    }
}

/// What kind of trouble an error of a client is.
pub trait Kind {
    /// The kind, by what a caller does next.
    fn kind(&self) -> TroubleKind;
}

impl Kind for Trouble {
    fn kind(&self) -> TroubleKind {
        self.kind
    }
}

impl Trouble {
    /// What an error of a client is to a decision.
    pub fn of(service: Service, error: &(impl Kind + std::fmt::Display)) -> Self {
        Self { kind: error.kind(), service, text: error.to_string() }
    }
}

/// The services that the controller calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// EC2 Auto Scaling.
    AutoScaling,
    /// EC2.
    Ec2,
    /// Secrets Manager.
    SecretsManager,
    /// SNS.
    Sns,
    /// The Puppet CA.
    Ca,
    /// PuppetDB.
    PuppetDb,
    /// Puppet Enterprise's orchestrator.
    Orchestrator,
    /// Puppet Enterprise's node classifier.
    Classifier,
    /// Puppet Enterprise's RBAC service.
    Rbac,
    /// A service on the instance itself.
    Node,
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AutoScaling => "Auto Scaling",
            Self::Ec2 => "EC2",
            Self::SecretsManager => "Secrets Manager",
            Self::Sns => "SNS",
            Self::Ca => "the Puppet CA",
            Self::PuppetDb => "PuppetDB",
            Self::Orchestrator => "the orchestrator",
            Self::Classifier => "the classifier",
            Self::Rbac => "the RBAC service",
            Self::Node => "the instance",
        })
    }
}

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

/// One identity of a lifecycle action everywhere: an instance at a hook of its group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionKey {
    /// The Auto Scaling group.
    pub group: GroupName,
    /// The hook.
    pub hook: HookName,
    /// The instance.
    pub instance: InstanceId,
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
        /// What an event said, if one did; never later than when the activities were read.
        said: Option<Timestamp>,
    },
}

impl Began {
    /// With what Auto Scaling's activities say now.
    #[must_use]
    pub fn confirm(self, recorded: Option<Timestamp>, now: Timestamp) -> Self {
        let said = match self {
            Self::Said(said) | Self::Confirmed { said: Some(said), .. } => Some(said.min(now)),
            Self::Unknown | Self::Confirmed { said: None, .. } => None,
        };
        Self::Confirmed { recorded, said }
    }

    /// The time, from either source. The activity begins before the hook is reached, so a later time from the event is
    /// the better one, and an earlier one cannot be true.
    #[must_use]
    pub fn time(self) -> Option<Timestamp> {
        match self {
            Self::Unknown => None,
            Self::Said(said) => Some(said),
            Self::Confirmed { recorded, said } => said.max(recorded),
        }
    }
}

/// An Auto Scaling group, as Auto Scaling describes it.
/// See [`AutoScalingGroup`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_AutoScalingGroup.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its instances and the state of each.
    pub members: BTreeMap<InstanceId, LifecycleState>,
    /// Whether it has a warm pool, in which instances rest before they are launched once more.
    pub has_pool: bool,
    /// Whether it returns instances to its warm pool when it scales in.
    pub reuses: bool,
    /// Where it is, by its ARN.
    pub location: Option<Location>,
}

/// An AWS account and Region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The account's number.
    pub account: String,
    /// The Region's code (`eu-west-1`).
    pub region: String,
}

impl Location {
    /// The account and Region that an ARN names.
    /// See [ARNs](https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html).
    #[must_use]
    pub fn of_arn(arn: &str) -> Option<Self> {
        let mut parts = arn.split(':').skip(3);
        let (region, account) = (parts.next()?, parts.next()?);
        let told = !region.is_empty() && !account.is_empty();
        told.then(|| Self { account: account.to_owned(), region: region.to_owned() })
    }
}

/// A lifecycle hook.
/// See [`LifecycleHook`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHook.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name, unique within the group.
    pub name: HookName,
    /// The transition that it is for; `None` for a value that is not known yet.
    pub transition: Option<Transition>,
    /// How long an action lives without a heartbeat.
    pub heartbeat_timeout: std::time::Duration,
    /// How long an action lives at the most.
    pub global_timeout: std::time::Duration,
}

/// The lifecycle state of an instance in its group, as far as it matters here.
/// See [instance lifecycle](https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifecycleState {
    /// `Terminating`: its hooks are about to hold it, if this is not just an old view.
    Terminating,
    /// `Terminating:Wait`: held while it terminates, or returns to the warm pool.
    TerminatingWait,
    /// `Warmed:Terminating:Wait`: held while it terminates from the warm pool.
    WarmedTerminatingWait,
    /// Terminating and past every hook: `…:Proceed`, `…:Retained`, `Terminated`.
    Past,
    /// `Pending`, `Warmed:Pending`: launching; its hooks are about to hold it, if this is not just an old view.
    Pending,
    /// `Pending:Wait`: held while it launches.
    PendingWait,
    /// `Warmed:Pending:Wait`: held while it launches into the warm pool.
    WarmedPendingWait,
    /// `ReplacingRootVolume:Wait`: held before it gets a new root volume. It stays the same instance.
    ReplacingRootVolumeWait,
    /// Any other, among them those that AWS has not invented yet: not ours to act on.
    Other(String),
}

impl std::fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminating => "Terminating",
            Self::TerminatingWait => "Terminating:Wait",
            Self::WarmedTerminatingWait => "Warmed:Terminating:Wait",
            Self::Past => "terminating, past every hook",
            Self::Pending => "Pending",
            Self::PendingWait => "Pending:Wait",
            Self::WarmedPendingWait => "Warmed:Pending:Wait",
            Self::ReplacingRootVolumeWait => "ReplacingRootVolume:Wait",
            Self::Other(state) => state,
        })
    }
}

impl LifecycleState {
    /// Reads the API's value.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "Terminating" | "Warmed:Terminating" => Self::Terminating,
            "Terminating:Wait" => Self::TerminatingWait,
            "Warmed:Terminating:Wait" => Self::WarmedTerminatingWait,
            "Pending" | "Warmed:Pending" => Self::Pending,
            "Pending:Wait" => Self::PendingWait,
            "Warmed:Pending:Wait" => Self::WarmedPendingWait,
            "ReplacingRootVolume:Wait" => Self::ReplacingRootVolumeWait,
            _ => match text.strip_prefix("Warmed:").unwrap_or(text) {
                "Terminating:Proceed" | "Terminating:Retained" | "Terminated" => Self::Past,
                _ => Self::Other(text.to_owned()),
            },
        }
    }

    /// Whether a hook holds the instance, or is about to.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        !matches!(self, Self::Past | Self::Other(_))
    }
}

/// An EC2 instance, as EC2 describes it.
/// See [`Instance`](https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its id.
    pub instance: InstanceId,
    /// EC2's name of its state (`running`, `shutting-down`, `terminated` …).
    pub state: String,
    /// Its private DNS name. Empty at EC2 once it is terminated, `None` here.
    pub private_dns: Option<String>,
    /// Its private address, by which the controller reaches its services. None at EC2 once it is terminated.
    pub private_ip: Option<IpAddr>,
    /// When it was launched, or last started.
    pub launched: Option<Timestamp>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Machine {
    /// Whether EC2 itself says that it is terminated, or about to be.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state.as_str(), "shutting-down" | "terminated")
    }

    /// Whether EC2 itself says that it is terminated, or about to be, and that it was of this group.
    #[must_use]
    pub fn is_gone_from(&self, group: &GroupName) -> bool {
        self.is_gone() && self.tags.get("aws:autoscaling:groupName").is_some_and(|name| name == group.as_str())
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
        fn nobody<T>(trouble: &Trouble) -> Lookup<T> {
            Lookup::Unavailable(trouble.clone())
        }
        Self {
            certname,
            certificate: nobody(trouble),
            request: nobody(trouble),
            node: nobody(trouble),
            fact_instance: nobody(trouble),
            pins: nobody(trouble),
        }
    }
}

/// A certificate: whose it is, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateView {
    /// Serial number, hexadecimal, upper case.
    pub serial: String,
    /// The extension `pp_instance_id`; a certificate need not have a usable one.
    pub instance: Option<InstanceId>,
    /// When it was issued.
    pub issued: Timestamp,
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
    /// When its newest facts were collected.
    pub facts: Option<Timestamp>,
    /// The newest time that any of its facts, catalogs and reports bears. A deactivation that bears an older one
    /// is ignored by PuppetDB, and reported as a success.
    pub newest: Option<Timestamp>,
}
