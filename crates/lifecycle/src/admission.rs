//! Rules about AWS: is this instance ours, does a hook hold it, and for how long? Pure.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{
    ActionResult, Certname, Group, GroupName, Hook, HookName, LifecycleState, Location, Lookup, Machine, Mode,
    PROFILE_TAG, Place, ProfileName, Transition, Trouble,
};

use crate::deadline;
use crate::observation::{Began, LifecycleAction};
use crate::profile::Profile;
use crate::reason::{Code, Fact};
use crate::signing::AltNames;

/// What AWS says about the instance of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudView {
    /// The Auto Scaling group.
    pub group: Lookup<Arc<Group>>,
    /// The group's hooks.
    pub hooks: Lookup<Vec<Hook>>,
    /// The instance at EC2.
    pub machine: Lookup<Machine>,
}

/// Whether an action is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Auto Scaling confirms it, and it is ours.
    Ours(Box<PendingAction>),
    /// It waits, but there is nothing to do for it: complete with CONTINUE.
    Pass(Fact),
    /// It is not ours.
    Ignore(Fact),
    /// It must not be handled.
    Refuse(Fact),
    /// A service that could say is unavailable.
    Fail(Fact),
}

/// An action that AWS confirms and that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAction {
    /// The profile of its group.
    pub profile: Arc<Profile>,
    /// The certname that its profile gives it.
    pub expected: Result<Certname, Nameless>,
    /// The alternative names that its profile allows it.
    pub alt_names: AltNames,
    /// Whether its group has a warm pool, from which it may come.
    pub has_pool: bool,
    /// The account and Region of its group.
    pub home: Option<Location>,
    /// When EC2 launched it, or started it again.
    pub launched: Option<Timestamp>,
    /// Its addresses, as far as EC2 shows any, in the order in which they are tried.
    pub addresses: Vec<IpAddr>,
    /// Whether the hook may still hold it. If not, Auto Scaling has already ended the action, but Puppet must still be purged.
    pub waits: bool,
    /// Whether another tool's hook may hold it as well.
    pub other_hooks: bool,
    /// How long after its beginning it has to be decided, whatever is still missing.
    pub allowed: Duration,
    /// The hook's heartbeat timeout, where that is shorter than the profile's timeout.
    pub heartbeat: Option<Duration>,
    /// The result to complete the action with when the timeout has expired.
    pub on_timeout: ActionResult,
}

/// Why no certname can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nameless {
    /// EC2 is unavailable.
    Unavailable(Trouble),
    /// EC2 does not show what the name is made of.
    Unknown(String),
}

impl PendingAction {
    /// Keeps the times and the other tools' hooks as they were observed before: the hooks are unavailable now.
    pub fn keep_times_of(&mut self, before: &Self) {
        self.allowed = before.allowed;
        self.heartbeat = before.heartbeat;
        self.other_hooks = before.other_hooks;
    }

    /// Whether the timeout has expired.
    #[must_use]
    pub fn is_late(&self, began: Began, now: Timestamp) -> bool {
        self.is_over_in(Duration::ZERO, began, now)
    }

    /// Whether the timeout expires within this time.
    pub(crate) fn is_over_in(&self, left: Duration, began: Began, now: Timestamp) -> bool {
        began.time().is_some_and(|began| deadline::after(now, left) >= deadline::after(began, self.allowed))
    }
}

/// Rules about AWS, top to bottom: is it ours, and is it where it is said to be? With the mode of its group's profile, once that is known.
#[must_use]
pub fn admit(
    action: &LifecycleAction,
    cloud: &CloudView,
    profile_named: &dyn Fn(&ProfileName) -> Option<Arc<Profile>>,
) -> (Option<Mode>, Admission) {
    match profile_of(action, cloud, profile_named) {
        Ok((group, profile)) => (Some(profile.mode), admit_to(action, cloud, group, profile)),
        Err(admission) => (None, admission),
    }
}

/// The group, and the profile that its tag names; or why the action is not handled.
fn profile_of<'a>(
    action: &LifecycleAction,
    cloud: &'a CloudView,
    profile_named: &dyn Fn(&ProfileName) -> Option<Arc<Profile>>,
) -> Result<(&'a Group, Arc<Profile>), Admission> {
    let group_name = &action.group;
    let group = match cloud.group.known() {
        Err(trouble) => return Err(Admission::Fail(trouble.into())),
        Ok(None) => {
            let nowhere = format!("Auto Scaling has no group {group_name} in this account and Region");
            return Err(Admission::Refuse(Fact::new(Code::GroupNotFound, nowhere)));
        }
        Ok(Some(group)) => group,
    };
    let Some(tag) = group.tags.get(PROFILE_TAG) else {
        let untagged = format!("group {group_name} has not opted in: it has no tag {PROFILE_TAG}");
        return Err(Admission::Ignore(Fact::new(Code::NotOptedIn, untagged)));
    };
    let Some(profile) = tag.parse().ok().and_then(|name| profile_named(&name)) else {
        let unknown = Fact::new(Code::ProfileUnknown, no_such_profile(group_name, tag));
        return Err(Admission::Fail(unknown));
    };
    Ok((group, profile))
}

/// The rules for an action of a group with this profile.
fn admit_to(action: &LifecycleAction, cloud: &CloudView, group: &Group, profile: Arc<Profile>) -> Admission {
    let hook_name = &action.hook;
    if !profile.owns(hook_name) {
        let other = format!("hook {hook_name} is another tool's: ours begin with {:?}", profile.hook_prefix);
        return Admission::Ignore(Fact::new(Code::OtherHook, other));
    }
    let hold = match action.transition {
        Transition::Launching => launching(action, group),
        Transition::Terminating => terminating(action, group, cloud),
    };
    match hold {
        Ok(hold) => Admission::Ours(Box::new(held(action, cloud, profile, group, hold))),
        Err(admission) => admission,
    }
}

/// The reason for a group whose tag names a profile that the configuration does not have.
fn no_such_profile(group: &GroupName, tag: &str) -> String {
    let remedy = match tag.parse::<ProfileName>() {
        Ok(name) => format!("add [profile.{name}] there, or correct the tag"),
        Err(_) => "correct the tag".to_owned(),
    };
    format!(
        "the tag {PROFILE_TAG} of group {group} names the profile {tag:?}, which the configuration does not have: {remedy}"
    )
}

/// How an instance is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// A hook holds it, or is about to.
    Waits,
    /// Auto Scaling has ended the action itself.
    Gone,
}

/// How the terminating instance is held; or why it is not handled as one. An instance that returns to the warm pool waits in
/// `Warmed:Pending:Wait`, so `Terminating:Wait` is final
/// (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html>).
fn terminating(action: &LifecycleAction, group: &Group, cloud: &CloudView) -> Result<Hold, Admission> {
    let LifecycleAction { instance, group: group_name, .. } = action;
    if is_broken(Rule::Confirmation) {
        return Ok(Hold::Waits);
    }
    let to_the_pool = action.destination == Some(Place::WarmPool) && group.reuses;
    Err(match group.members.get(instance) {
        Some(LifecycleState::WarmedPendingWait) if to_the_pool => Admission::Pass(Fact::new(
            Code::ReturnsToWarmPool,
            format!("{instance} goes to the warm pool and stays known to Puppet"),
        )),
        Some(LifecycleState::ReplacingRootVolumeWait) => Admission::Pass(Fact::new(
            Code::RootVolumeReplaced,
            format!("{instance} gets a new root volume and stays known to Puppet"),
        )),
        Some(LifecycleState::TerminatingWait | LifecycleState::WarmedTerminatingWait | LifecycleState::Terminating) => {
            return Ok(Hold::Waits);
        }
        Some(LifecycleState::Past) => return Ok(Hold::Gone),
        Some(LifecycleState::Pending | LifecycleState::PendingWait | LifecycleState::WarmedPendingWait) => {
            Admission::Refuse(Fact::new(
                Code::NotTerminating,
                format!("Auto Scaling shows {instance} as launching, not as terminating"),
            ))
        }
        Some(LifecycleState::Other(state)) => Admission::Refuse(Fact::new(
            Code::NotTerminating,
            format!("Auto Scaling shows {instance} as {state}, not as terminating"),
        )),
        None => match cloud.machine.known() {
            Err(trouble) => Admission::Fail(trouble.into()),
            Ok(Some(machine)) if machine.is_gone_from(group_name) => return Ok(Hold::Gone),
            Ok(_) => Admission::Refuse(Fact::new(
                Code::NotTerminating,
                format!(
                    "Auto Scaling shows no {instance} in group {group_name}, and EC2 does not show it as terminated there"
                ),
            )),
        },
    })
}

/// How the launching instance is held; or why it is not handled as one.
fn launching(action: &LifecycleAction, group: &Group) -> Result<Hold, Admission> {
    let LifecycleAction { instance, group: group_name, .. } = action;
    Err(match group.members.get(instance) {
        Some(LifecycleState::PendingWait | LifecycleState::WarmedPendingWait) => return Ok(Hold::Waits),
        Some(LifecycleState::Pending) => Admission::Fail(Fact::new(
            Code::NotVisibleYet,
            format!("Auto Scaling does not hold {instance} at a hook yet: it shows it as Pending"),
        )),
        Some(
            LifecycleState::Terminating
            | LifecycleState::TerminatingWait
            | LifecycleState::WarmedTerminatingWait
            | LifecycleState::Past,
        ) => Admission::Refuse(Fact::new(
            Code::NotLaunching,
            format!("Auto Scaling shows {instance} as terminating, not as launching"),
        )),
        Some(LifecycleState::ReplacingRootVolumeWait) => Admission::Ignore(Fact::new(
            Code::RootVolumeReplaced,
            format!("{instance} is about to get a new root volume; its launch comes after that"),
        )),
        // An event may come late or twice: the launch is over.
        Some(LifecycleState::Other(state)) => Admission::Ignore(Fact::new(
            Code::NotLaunching,
            format!("Auto Scaling shows {instance} as {state}: no launch hook holds it"),
        )),
        None => Admission::Refuse(Fact::new(
            Code::NotLaunching,
            format!("Auto Scaling shows no {instance} in group {group_name}"),
        )),
    })
}

fn held(
    action: &LifecycleAction,
    cloud: &CloudView,
    profile: Arc<Profile>,
    group: &Group,
    hold: Hold,
) -> PendingAction {
    // Hooks say how much time there is. While they are unavailable, the profile's timeout alone does.
    let hooks = cloud.hooks.known().ok().flatten().map_or(&[][..], Vec::as_slice);
    let ours = hooks.iter().find(|hook| hook.name == action.hook);
    let guards = |hook: &&Hook| hook.transition.is_none_or(|transition| transition == action.transition);
    let another = |hook: &HookName| *hook != action.hook;
    let machine = cloud.machine.known();
    let expected = match machine {
        Err(trouble) if profile.certname.needs_machine() => Err(Nameless::Unavailable(trouble.clone())),
        machine => profile.certname.certname(&action.instance, machine.ok().flatten()).map_err(Nameless::Unknown),
    };
    let (timeout, on_timeout) = match action.transition {
        Transition::Launching => (profile.launch_timeout, profile.on_launch_timeout),
        Transition::Terminating => (profile.terminate_timeout, profile.on_terminate_timeout),
    };
    let deadline::Allowance { allowed, heartbeat } = deadline::allowance(timeout, ours);
    PendingAction {
        expected,
        alt_names: AltNames::of(&profile.rules.alt_names, &action.instance, &cloud.machine),
        has_pool: group.has_pool,
        home: group.location.clone(),
        launched: machine.ok().flatten().and_then(|machine| machine.launched),
        addresses: machine.ok().flatten().map(Machine::addresses).unwrap_or_default(),
        waits: hold == Hold::Waits,
        other_hooks: hooks.iter().filter(guards).any(|hook| another(&hook.name)),
        allowed,
        heartbeat,
        on_timeout,
        profile,
    }
}

#[cfg(test)]
mod tests;
