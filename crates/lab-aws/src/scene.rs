//! The AWS part of a scene: groups, instances, secrets, topics and settings. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// What the simulated AWS holds at the start: the AWS part of a scene. Unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwsScene {
    /// The Auto Scaling groups with their instances.
    pub groups: Vec<Group>,
    /// EC2 instances outside every group.
    pub instances: Vec<Instance>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretString>,
    /// ARNs of the SNS topics that exist.
    pub topics: Vec<String>,
    /// How the simulated AWS behaves.
    pub settings: Settings,
}

/// An Auto Scaling group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Its lifecycle hooks.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Its instances.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// The state in which instances rest in its warm pool; `None`: it has no warm pool.
    #[serde(default)]
    pub warm_pool: Option<PoolState>,
    /// `InstanceReusePolicy.ReuseOnScaleIn`: whether `DescribeAutoScalingGroups` says that instances go back to the
    /// warm pool. Where one goes is said when it is terminated.
    #[serde(default)]
    pub reuse_on_scale_in: bool,
    /// `InstanceLifecyclePolicy.RetentionTriggers.TerminateHookAbandon = retain`: an abandoned termination
    /// leaves the instance in `Terminating:Retained`.
    #[serde(default)]
    pub retain_on_abandon: bool,
}

/// A lifecycle hook.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Which transition it stops.
    pub transition: Transition,
    /// How long the instance waits without a heartbeat, in seconds.
    #[serde(default = "default_heartbeat_timeout_s")]
    pub heartbeat_timeout_s: u32,
    /// What a timeout decides.
    #[serde(default)]
    pub default_result: ActionResult,
    /// `NotificationMetadata`.
    #[serde(default)]
    pub metadata: Option<String>,
    /// `NotificationTargetARN`, shown by `DescribeLifecycleHooks`; nothing is delivered there.
    #[serde(default)]
    pub notification_target: Option<String>,
}

fn default_heartbeat_timeout_s() -> u32 {
    3600
}

/// The two transitions that hooks can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`
    Launching,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`
    Terminating,
}

impl Transition {
    /// AWS's name for it.
    #[must_use]
    pub fn aws_name(self) -> &'static str {
        match self {
            Self::Launching => "autoscaling:EC2_INSTANCE_LAUNCHING",
            Self::Terminating => "autoscaling:EC2_INSTANCE_TERMINATING",
        }
    }
}

/// The result of a lifecycle action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ActionResult {
    /// Go on.
    Continue,
    /// Give up: a launching instance is terminated, a terminating one skips its other hooks.
    #[default]
    Abandon,
}

/// Where an instance comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Not existing yet, or no more.
    #[serde(rename = "EC2")]
    Ec2,
    /// In the group.
    AutoScalingGroup,
    /// In the group's warm pool.
    WarmPool,
}

impl Place {
    /// AWS's name for it.
    #[must_use]
    pub fn aws_name(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::AutoScalingGroup => "AutoScalingGroup",
            Self::WarmPool => "WarmPool",
        }
    }
}

/// The state in which a warm pool keeps its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolState {
    /// Stopped: the default of AWS.
    Stopped,
    /// Running.
    Running,
    /// Hibernated.
    Hibernated,
}

/// An instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// `i-` and 17 hexadecimal digits.
    pub id: String,
    /// The Auto Scaling lifecycle state, `InService` if absent. In a `…:Wait` state the group's hooks have just
    /// begun. Any text is taken, so that states which do not exist yet can be tried.
    #[serde(default)]
    pub state: Option<String>,
    /// The state that EC2 shows, where it is not what the lifecycle state implies; `unknown`: EC2 does not know
    /// the instance.
    #[serde(default)]
    pub ec2_state: Option<String>,
    /// The private IPv4 address; made up if absent.
    #[serde(default)]
    pub private_ip: Option<String>,
    /// The IPv6 address; none if absent.
    #[serde(default)]
    pub ipv6: Option<String>,
    /// Whether it is in a subnet with IPv6 alone, so that it has no IPv4 address.
    #[serde(default)]
    pub ipv6_only: bool,
    /// The private DNS name; follows from the address if absent.
    #[serde(default)]
    pub private_dns: Option<String>,
    /// The instance's tags. EC2 adds `aws:autoscaling:groupName`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When it was launched; an hour ago if absent.
    #[serde(default)]
    pub launch_time: Option<Timestamp>,
    /// Where it is coming from, for a `…:Wait` state in which that is not clear.
    #[serde(default)]
    pub origin: Option<Place>,
    /// Where it is going to, likewise.
    #[serde(default)]
    pub destination: Option<Place>,
    /// Tokens of the lifecycle actions of a `…:Wait` state, by hook name; made up if absent.
    #[serde(default)]
    pub tokens: BTreeMap<String, String>,
}

/// How the simulated AWS behaves; may be changed at any time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The propagation race: this many calls of `CompleteLifecycleAction` or `RecordLifecycleActionHeartbeat` are
    /// answered `No active Lifecycle Action found` although the instance already shows `…:Wait`. Counted for each
    /// action that begins from now on.
    pub race_calls: u32,
    /// How long an instance stays in `…:Proceed`, in seconds of the lab's time.
    pub proceed_s: u32,
    /// The Auto Scaling API's token bucket; `None`: no throttling.
    pub throttle: Option<Throttle>,
    /// Private addresses that are made up are on loopback, 127.x.y.z, so that simulated agents can listen there.
    pub loopback_addresses: bool,
}

/// A token bucket in the lab's time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// How many calls may come at once.
    pub burst: u32,
    /// How many calls come back each second.
    pub per_second: f64,
}
