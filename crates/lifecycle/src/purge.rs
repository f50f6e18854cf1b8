//! The purge decision for a terminating instance: what does Puppet still hold of it, and have the refresh targets learnt that? Pure.
//!
//! It reads like the operator's checklist. Applying an effect and observing again is the proof: an action is completed when
//! there is nothing left to remove.

mod kept;

use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{ActionResult, Certname, InstanceId, Lookup, Observed, Trouble};

pub use self::kept::allowlist_lines_kept;
use crate::admission::{Nameless, PendingAction};
use crate::decision::{Decision, Effect, Missing, Question, Site, not_yet};
use crate::identity::{Purgeable, Whose, whose};
use crate::observation::{LifecycleAction, NameView};
use crate::reason::{Code, Fact, Reason};
use crate::refresh::{AfterRemoval, TargetView, after_removal};
use crate::removal::{Removal, Removals};

/// What Puppet says about a terminating instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminationView {
    /// Every name that was observed.
    pub names: Vec<NameView>,
    /// The names of the nodes, active or not, whose facts name this instance.
    pub known_as: Lookup<Vec<Certname>>,
    /// The profile's refresh targets, once they were looked up.
    pub targets: Option<Vec<TargetView>>,
}

/// Rules about Puppet, top to bottom: is something left that is ours to remove, of an instance that terminates; is everything
/// known; have the refresh targets learnt of it?
///
/// `removals` is what this invocation has removed so far.
#[must_use]
pub fn decide(
    action: &LifecycleAction,
    terminating: &PendingAction,
    observed: &Observed<TerminationView>,
    removals: &Removals,
    site: Site<'_>,
) -> Decision {
    let Site { protected, now, .. } = site;
    let instance = &action.instance;
    let Observed { value: seen, at } = observed;
    let late = terminating.is_late(action.began, now);
    let mut left = Vec::new();
    let mut unreachable = None;
    let mut unknown = None;
    let mut story: Vec<Fact> = Vec::new();
    for view in &seen.names {
        let name = &view.certname;
        if is_broken(Rule::Proof) && removals.applied.contains_key(name) {
            continue;
        }
        match whose(view, instance, protected) {
            Whose::Ours(purgeable) => {
                let (removal, trouble) = removal(purgeable, view, instance);
                left.extend(removal);
                unreachable = unreachable.or(trouble);
            }
            Whose::Nobody => {
                // After a removal, that nothing is there is its proof.
                let proof = removals.applied.get(name).and_then(|removal| removal.proof(view, *at));
                let nothing = || Fact::new(Code::NotInPuppet, format!("{name} is not in Puppet"));
                story.push(proof.map_or_else(nothing, |proof| proof.fact()));
            }
            Whose::Another(owner) => story.push(Fact::new(
                Code::OwnedByAnotherInstance,
                format!("{name} belongs to {owner} now and was left alone"),
            )),
            Whose::Protected(pattern) => story
                .push(Fact::new(Code::ProtectedName, format!("{name} is protected by {pattern} and was left alone"))),
            Whose::Unavailable(trouble) => unreachable = Some(trouble),
            Whose::Unknown => {
                let question = format!(
                    "nothing says whose {name} is: its certificate has no pp_instance_id and PuppetDB no ec2_metadata for it; \
                     if it was {instance}, clean it manually"
                );
                unknown = Some(Fact::new(Code::OwnerUnknown, question));
            }
        }
    }

    // What was tried without success is tried again while there is time.
    let given_up = removals.last.as_ref().filter(|_| late && !left.is_empty());
    if !left.is_empty() && given_up.is_none() {
        return Decision::Apply(Effect::Remove(left));
    }
    let trouble: Option<Reason> = match &seen.known_as {
        _ if given_up.is_some() => given_up.cloned(),
        Lookup::Unavailable(trouble) => Some(Fact::from(trouble).into()),
        Lookup::Found(names) => {
            let unseen = |name: &&Certname| seen.names.iter().all(|view| view.certname != **name);
            let more: Vec<Certname> = names.iter().filter(unseen).cloned().collect();
            if !more.is_empty() {
                return Decision::Ask(Question::Names(more));
            }
            None
        }
        Lookup::Absent => None,
    };
    let (unnamed, nameless) = match &terminating.expected {
        Err(Nameless::Unavailable(trouble)) => (Some(trouble.clone()), None),
        Err(Nameless::Unknown(why)) if seen.names.is_empty() && terminating.waits => {
            (None, Some(Fact::new(Code::CertnameUnknown, format!("its certname is unknown: {why}"))))
        }
        // Nothing holds it any more, and no later observation could find what this one did not.
        Err(Nameless::Unknown(_)) if seen.names.is_empty() => {
            story.push(Fact::new(Code::NotInPuppet, format!("{instance} is gone, and PuppetDB knows no node of it")));
            (None, None)
        }
        _ => (None, None),
    };
    let trouble = unreachable.map(|trouble| Fact::from(trouble).into()).or(trouble);
    let trouble = trouble.or_else(|| unnamed.map(|trouble| Fact::from(trouble).into()));
    let missing = match (trouble, unknown.or(nameless)) {
        (None, None) => {
            story.extend(kept::allowlist_lines(&terminating.profile, seen, removals));
            return refreshed(action, terminating, seen, story, site);
        }
        (Some(trouble), _) => Missing::Trouble(trouble.introduced("it is not proven purged: ")),
        (None, Some(question)) => Missing::NotYet(question.into()),
    };
    not_yet(action, terminating, missing, now)
}

/// It is gone; now the refresh targets are to run Puppet, which the action waits for only if its profile says so.
fn refreshed(
    action: &LifecycleAction,
    terminating: &PendingAction,
    seen: &TerminationView,
    mut story: Vec<Fact>,
    site: Site<'_>,
) -> Decision {
    let Site { orchestrated, sweeps, now, .. } = site;
    let purged = |mut facts: Vec<Fact>| {
        // What was removed comes before what was left alone.
        facts.sort_by_key(|fact| !matches!(fact.code, Code::Purged(_)));
        let mut facts = facts.into_iter();
        let nothing = || Fact::new(Code::NotInPuppet, "Puppet knows nothing of it");
        let first = facts.next().unwrap_or_else(nothing);
        Reason::new(first, facts.collect())
    };
    let deactivated = seen.names.iter().filter_map(|view| view.node.known().ok().flatten()?.deactivated).max();
    // No node was deactivated, so no other node's catalog can have changed.
    let Some(change) = deactivated else { return Decision::Complete(ActionResult::Continue, purged(story)) };
    let late = terminating.is_late(action.began, now);
    match after_removal(&terminating.profile.refresh, seen.targets.as_deref(), change, orchestrated, now) {
        AfterRemoval::Done(known) => {
            story.extend(known);
            Decision::Complete(ActionResult::Continue, purged(story))
        }
        AfterRemoval::Order(order, fact) => {
            story.push(fact);
            Decision::CompleteAndOrder(ActionResult::Continue, purged(story), order)
        }
        AfterRemoval::Ask(question) => Decision::Ask(question),
        // Sweeps run one at a time, so that instances that terminate together cost the targets one run.
        AfterRemoval::Wait(Some(order), _) if orchestrated && sweeps && !late => {
            Decision::Apply(Effect::Refresh(order))
        }
        AfterRemoval::Wait(_, awaited) => not_yet(action, terminating, Missing::NotYet(awaited), now),
    }
}

/// What is left under a name that is ours, as far as it is known; and the trouble, when a service is unavailable.
pub(crate) fn removal(name: Purgeable, view: &NameView, instance: &InstanceId) -> (Option<Removal>, Option<Trouble>) {
    let (certificate, request) = (view.certificate.known(), view.request.known());
    let (node, pins) = (view.node.known(), view.pins.known());
    let mut removal = Removal::of(name);
    if let Some(certificate) = certificate.ok().flatten() {
        removal.take(certificate);
    }
    removal.request = request.ok().flatten().is_some_and(|request| request.instance.as_ref() == Some(instance));
    removal.node = node.ok().flatten().filter(|node| node.active).copied();
    removal.pins = pins.ok().flatten().cloned().unwrap_or_default();
    let trouble = [certificate.err(), request.err(), node.err(), pins.err()].into_iter().flatten().next();
    ((!removal.is_empty()).then_some(removal), trouble.cloned())
}

#[cfg(test)]
mod tests;
