//! The purge decision: an instance leaves; may Puppet forget it, and has it? Pure.
//!
//! It reads like the operator's checklist. [`admit`] asks what AWS says: is this instance leaving, and is it ours?
//! [`decide`] asks what Puppet says: what is left of it, and whose is it? Carrying a decision out and
//! asking again is the proof: an instance is done when there is nothing left to decide.

use std::time::Duration;

use jiff::Timestamp;

use crate::deadline;
use crate::event::{Place, Transition};
use crate::identity::{Purgeable, Whose, whose};
use crate::observation::{Began, Group, Hook, LifecycleState, Machine, NameView, NodeView, Reachable, Subject};
use crate::profile::{ActionResult, PROFILE_TAG, Profile, Protected};
use crate::{Certname, InstanceId, ProfileName};

/// What AWS says about the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudView {
    /// The Auto Scaling group.
    pub group: Reachable<Group>,
    /// The group's hooks.
    pub hooks: Reachable<Vec<Hook>>,
    /// The instance at EC2.
    pub machine: Reachable<Machine>,
}

/// Whether, and as what, an instance is dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is leaving, and ours to purge.
    Leaving(Leaving),
    /// It waits, but is not to be purged: complete with CONTINUE.
    Pass(String),
    /// None of our business.
    Ignore(String),
    /// Must not be done.
    Refuse(String),
    /// Could not be told.
    Fail(String),
}

/// An instance that leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The certname that its profile gives it.
    pub expected: Result<Certname, Nameless>,
    /// Whether the hook may still hold it. If not, Auto Scaling went on without us, and Puppet is still to be cleared.
    pub waits: bool,
    /// Whether another tool's hook may hold it as well.
    pub other_hooks: bool,
    /// How long after its beginning it has to be decided, whatever is still missing.
    pub allowed: Duration,
    /// What to answer then.
    pub on_timeout: ActionResult,
}

/// Why no certname can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nameless {
    /// EC2 could not be asked.
    Unreachable(String),
    /// EC2 does not show what the name is made of.
    Untellable(String),
}

/// Rules about AWS, top to bottom: is it ours, and is it leaving?
#[must_use]
pub fn admit(
    subject: &Subject,
    cloud: &CloudView,
    profile_named: &dyn Fn(&ProfileName) -> Option<Profile>,
) -> Admission {
    let Subject { instance, group: group_name, hook: hook_name, .. } = subject;
    if subject.transition == Transition::Launching {
        return Admission::Ignore(format!("{instance} is launching; this function deals with leaving instances"));
    }
    let group = match cloud.group.known() {
        Err(trouble) => return Admission::Fail(trouble.to_owned()),
        Ok(None) => {
            return Admission::Refuse(format!("Auto Scaling has no group {group_name} in this account and Region"));
        }
        Ok(Some(group)) => group,
    };
    let Some(tag) = group.tags.get(PROFILE_TAG) else {
        return Admission::Ignore(format!("group {group_name} has not opted in: it has no tag {PROFILE_TAG}"));
    };
    let Some(profile) = tag.parse().ok().and_then(|name| profile_named(&name)) else {
        return Admission::Fail(format!(
            "the tag {PROFILE_TAG} of group {group_name} names the profile {tag:?}, which the configuration does not have"
        ));
    };
    if !profile.owns(hook_name) {
        return Admission::Ignore(format!(
            "hook {hook_name} is another tool's: ours begin with {:?}",
            profile.hook_prefix
        ));
    }
    let to_the_pool = subject.destination == Some(Place::WarmPool) && group.reuses;
    let waits = match group.members.get(instance) {
        Some(LifecycleState::TerminatingWait | LifecycleState::WarmedPendingWait) if to_the_pool => {
            return Admission::Pass(format!(
                "{instance} goes to the warm pool, to be used again: it stays known to Puppet"
            ));
        }
        Some(LifecycleState::TerminatingWait) if group.reuses && subject.destination.is_none() => {
            return Admission::Fail(format!(
                "group {group_name} returns instances to its warm pool, and nothing says whether {instance} goes there"
            ));
        }
        Some(LifecycleState::TerminatingWait | LifecycleState::WarmedTerminatingWait | LifecycleState::Terminating) => {
            true
        }
        Some(LifecycleState::Past) => false,
        Some(LifecycleState::PendingWait | LifecycleState::WarmedPendingWait) => {
            return Admission::Refuse(format!("Auto Scaling shows {instance} as launching, not as terminating"));
        }
        Some(LifecycleState::Other(state)) => {
            return Admission::Refuse(format!("Auto Scaling shows {instance} as {state}, not as terminating"));
        }
        None => match cloud.machine.known() {
            Err(trouble) => return Admission::Fail(trouble.to_owned()),
            Ok(Some(machine)) if machine.is_gone_from(group_name) => false,
            Ok(_) => {
                return Admission::Refuse(format!(
                    "Auto Scaling shows no {instance} in group {group_name}, and EC2 does not say that it is gone from there"
                ));
            }
        },
    };
    // Hooks tell how much time there is. When they cannot be asked, patience alone does.
    let hooks = cloud.hooks.known().ok().flatten().map_or(&[][..], Vec::as_slice);
    let expected = match cloud.machine.known() {
        Err(trouble) if profile.certname.needs_machine() => Err(Nameless::Unreachable(trouble.to_owned())),
        machine => profile.certname.certname(instance, machine.ok().flatten()).map_err(Nameless::Untellable),
    };
    Admission::Leaving(Leaving {
        expected,
        waits,
        other_hooks: hooks.iter().any(|hook| hook.name != *hook_name && hook.transition != Some(Transition::Launching)),
        allowed: deadline::allowed(profile.purge_patience, hooks.iter().find(|hook| hook.name == *hook_name)),
        on_timeout: profile.on_terminate_timeout,
    })
}

/// What Puppet says about a leaving instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PuppetView {
    /// Every name that was looked at.
    pub names: Vec<NameView>,
    /// The names of the nodes, living or not, whose facts name this instance.
    pub known_as: Reachable<Vec<Certname>>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// PuppetDB knows the instance by these names too: look at them before anything is decided.
    Look(Vec<Certname>),
    /// Patience seems to be over: ask Auto Scaling when the action really began, then decide again.
    AskWhenItBegan,
    /// Remove this, then look again.
    Purge(Vec<Removal>),
    /// Answer the hook.
    Complete(ActionResult, String),
    /// Nothing can be done yet; look again later.
    Wait(String),
    /// Somebody could not be asked; try again.
    Fail(String),
}

/// What is left of a leaving instance under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The name, known to be the leaving instance's.
    pub name: Purgeable,
    /// The serial number of its certificate, which is to be revoked and removed.
    pub certificate: Option<String>,
    /// Whether its own certificate request is pending.
    pub request: bool,
    /// Its node, if PuppetDB counts it among the living.
    pub node: Option<NodeView>,
}

/// Rules about Puppet, top to bottom: is something left that is ours to remove; is everything known; is it over?
///
/// `tried` says what came of it when it was last tried to remove what is left, if it was.
#[must_use]
pub fn decide(
    subject: &Subject,
    leaving: &Leaving,
    seen: &PuppetView,
    protected: &Protected,
    tried: Option<&str>,
    now: Timestamp,
) -> Decision {
    let instance = &subject.instance;
    let late = subject.began.time().is_some_and(|began| now >= deadline::after(began, leaving.allowed));
    let mut left = Vec::new();
    let mut unreachable = None;
    let mut unknown = None;
    let mut story = Vec::new();
    for view in &seen.names {
        let name = &view.certname;
        match whose(view, instance, protected) {
            Whose::Ours(purgeable) => {
                let (removal, trouble) = removal(purgeable, view, instance);
                if removal.is_none() && trouble.is_none() {
                    story.push(format!("{name} is gone from Puppet"));
                }
                left.extend(removal);
                unreachable = unreachable.or(trouble);
            }
            Whose::Nobody => story.push(format!("{name} is not in Puppet")),
            Whose::Another(owner) => story.push(format!("{name} belongs to {owner} now and was left alone")),
            Whose::Protected(pattern) => story.push(format!("{name} is protected by {pattern} and was left alone")),
            Whose::Unreachable(trouble) => unreachable = Some(trouble),
            Whose::Unknown => {
                unknown = Some(format!(
                    "nothing tells whose {name} is: its certificate has no pp_instance_id and PuppetDB no ec2_metadata for it; \
                     if it was {instance}, clean it by hand"
                ));
            }
        }
    }

    // What was tried without success is tried again while there is time.
    let given_up = tried.filter(|_| late && !left.is_empty());
    if !left.is_empty() && given_up.is_none() {
        return Decision::Purge(left);
    }
    let trouble = match &seen.known_as {
        _ if given_up.is_some() => given_up.map(str::to_owned),
        Reachable::Unreachable(trouble) => Some(trouble.clone()),
        Reachable::Found(names) => {
            let unseen = |name: &&Certname| seen.names.iter().all(|view| view.certname != **name);
            let more: Vec<Certname> = names.iter().filter(unseen).cloned().collect();
            if !more.is_empty() {
                return Decision::Look(more);
            }
            None
        }
        Reachable::Absent => None,
    };
    let (unnamed, nameless) = match &leaving.expected {
        Err(Nameless::Unreachable(trouble)) => (Some(trouble.clone()), None),
        Err(Nameless::Untellable(why)) if seen.names.is_empty() && leaving.waits => {
            (None, Some(format!("its certname cannot be told: {why}")))
        }
        // Nothing holds it any more, and no later look could find what this one did not.
        Err(Nameless::Untellable(_)) if seen.names.is_empty() => {
            story.push(format!("{instance} is gone, and PuppetDB knows no node of it"));
            (None, None)
        }
        _ => (None, None),
    };
    match (unreachable.or(trouble).or(unnamed), unknown.or(nameless)) {
        (None, None) => Decision::Complete(ActionResult::Continue, story.join("; ")),
        _ if !matches!(subject.began, Began::Confirmed(_)) && (late || subject.began == Began::Unknown) => {
            Decision::AskWhenItBegan
        }
        (trouble, question) if late => {
            let missing = trouble.or(question).unwrap_or_default();
            Decision::Complete(leaving.on_timeout, format!("patience is over before it was proven purged: {missing}"))
        }
        (Some(trouble), _) => Decision::Fail(trouble),
        (None, Some(question)) => Decision::Wait(question),
    }
}

/// What is left under a name that is ours, as far as it is known; and the trouble, when somebody could not be asked.
fn removal(name: Purgeable, view: &NameView, instance: &InstanceId) -> (Option<Removal>, Option<String>) {
    let (certificate, request, node) = (view.certificate.known(), view.request.known(), view.node.known());
    let removal = Removal {
        name,
        certificate: certificate.ok().flatten().map(|certificate| certificate.serial.clone()),
        request: request.ok().flatten().is_some_and(|request| request.instance.as_ref() == Some(instance)),
        node: node.ok().flatten().filter(|node| node.active).copied(),
    };
    let something = removal.certificate.is_some() || removal.request || removal.node.is_some();
    let trouble = [certificate.err(), request.err(), node.err()].into_iter().flatten().next();
    (something.then_some(removal), trouble.map(str::to_owned))
}

#[cfg(test)]
mod tests;
