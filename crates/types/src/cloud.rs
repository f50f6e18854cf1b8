//! What EC2 Auto Scaling and EC2 say, in their own terms. No I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use crate::{GroupName, HookName, InstanceId};

/// The Auto Scaling group tag by which a group opts in; its value names the profile.
pub const PROFILE_TAG: &str = "stagedoor:profile";

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

/// The two lifecycle transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`
    Launching,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`
    Terminating,
}

impl Transition {
    /// Reads the API's value.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "autoscaling:EC2_INSTANCE_LAUNCHING" => Some(Self::Launching),
            "autoscaling:EC2_INSTANCE_TERMINATING" => Some(Self::Terminating),
            _ => None,
        }
    }
}

/// Where an instance comes from, or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// EC2: a new instance, or one that terminates.
    Ec2,
    /// The group, where it is in service.
    AutoScalingGroup,
    /// The group's warm pool.
    WarmPool,
    /// A value that is not known yet.
    Other,
}

impl Place {
    /// Reads the API's value.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "EC2" => Self::Ec2,
            "AutoScalingGroup" => Self::AutoScalingGroup,
            "WarmPool" => Self::WarmPool,
            _ => Self::Other,
        }
    }
}

/// The result with which a lifecycle action is completed.
/// See [`CompleteLifecycleAction`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionResult {
    /// `CONTINUE`: a launching instance goes into service, a terminating one terminates.
    Continue,
    /// `ABANDON`: a launching instance is terminated; a terminating one skips the other hooks.
    Abandon,
}

impl ActionResult {
    /// The API's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
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
    /// Its private IPv4 address. None at EC2 once it is terminated, and none in a subnet that has IPv6 alone.
    pub private_ip: Option<IpAddr>,
    /// Its IPv6 address, if it has one: the primary one, where EC2 says which that is.
    pub ipv6: Option<IpAddr>,
    /// When it was launched, or last started.
    pub launched: Option<Timestamp>,
    /// When its termination began, where EC2 says so in `StateTransitionReason`. It does not for every cause.
    pub terminated: Option<Timestamp>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Machine {
    /// The addresses at which the controller reaches its services, in the order in which they are tried.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.private_ip.into_iter().chain(self.ipv6).collect()
    }

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
