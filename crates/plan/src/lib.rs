//! Merges the decisions about a batch of lifecycle actions into one plan. Pure: no I/O, no clock, no SDK.
//!
//! `stagedoor-lifecycle` decides about one action. Here the decisions of a batch become what the controller does next: the
//! lookups that are still needed, the effects to apply, the verdicts to complete actions with, and the status of each action.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::admission::PendingAction;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::decision::{Decision, Effect, EffectKey, Missing, Question, Site, not_seen_yet, not_yet};
use stagedoor_lifecycle::observation::{Began, LifecycleAction};
use stagedoor_lifecycle::onboard::{self, LaunchView};
use stagedoor_lifecycle::purge::{self, TerminationView};
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::Outcome;
use stagedoor_lifecycle::removal::{Applied, Removal, Removals};
use stagedoor_types::{ActionKey, ActionResult, Certname, Fresh, Lookup, Observed, Trouble, WritePermit};

/// How long an order for refresh targets waits for other changes that the same run could serve.
pub(crate) const GATHERING: Duration = Duration::from_secs(30);

/// What Puppet says about the instance of an action.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// It launches.
    Launch(&'a LaunchView),
    /// It terminates.
    Termination(&'a Observed<TerminationView>),
}

/// One action of the batch, as it is now.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The action.
    pub action: &'a LifecycleAction,
    /// What AWS confirmed of it, now or before.
    pub pending: &'a PendingAction,
    /// The same, if AWS confirms it now, or why it cannot: nothing is changed on the strength of what AWS said a while ago.
    pub confirmed: Result<Fresh<'a, PendingAction>, Fact>,
    /// What Puppet says.
    pub seen: Seen<'a>,
    /// What this invocation has tried.
    pub tried: &'a Tried,
}

/// What an invocation has tried for an action so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// The effect that was applied since the last pause.
    pub effect: Option<EffectKey>,
    /// The orders for refresh targets that this invocation has given: the orchestrator may not show them.
    pub ordered: BTreeSet<EffectKey>,
    /// What went wrong with it.
    pub trouble: Option<Trouble>,
    /// What was removed, and the result of that.
    pub removals: Removals,
    /// Why the CA will not sign the request, if it has said so.
    pub refused: Option<Fact>,
}

/// How an action is doing: the receipt's outcome and reason, until a later pass or the end replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The outcome.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
}

impl Status {
    /// A status.
    #[must_use]
    pub fn new(outcome: Outcome, reason: impl Into<Reason>) -> Self {
        Self { outcome, reason: reason.into() }
    }
}

/// How an action is to be completed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// CONTINUE or ABANDON.
    pub result: ActionResult,
    /// Why.
    pub reason: Reason,
}

/// An effect of an action that AWS confirms now, and whose profile is in act mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermittedEffect {
    /// The action.
    pub key: ActionKey,
    /// What to change.
    pub effect: Effect,
    /// The permit of its profile's mode.
    pub permit: WritePermit,
}

/// What to do next for a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The status of each action that has no verdict, no effect and no new names. That of an action with a question stands only if no
    /// answer comes before the invocation ends.
    pub statuses: BTreeMap<ActionKey, Status>,
    /// The actions that can be completed.
    pub verdicts: BTreeMap<ActionKey, Verdict>,
    /// What to change at Puppet.
    pub effects: Vec<PermittedEffect>,
    /// What has to be looked up first, each with the actions that need it: the batch shares a lookup.
    pub questions: BTreeMap<Question, BTreeSet<ActionKey>>,
    /// Names to look at besides, at once.
    pub names: Vec<(ActionKey, Vec<Certname>)>,
    /// The actions whose start has to be confirmed by Auto Scaling.
    pub start_times: BTreeSet<ActionKey>,
    /// The actions for which what was removed has to be compared with this observation: what is gone is proven.
    pub proven: BTreeSet<ActionKey>,
    /// What would be changed if the controller acted; these actions are finished.
    pub withheld: BTreeMap<ActionKey, Vec<String>>,
}

/// Plans for all these actions.
#[must_use]
pub fn plan<'a>(site: Site<'_>, situations: impl IntoIterator<Item = Situation<'a>>) -> Plan {
    let mut plan = Plan::default();
    let mut about_to_change = false;
    let situations: Vec<_> = situations.into_iter().collect();
    let terminates = |situation: &&Situation<'_>| situation.confirmed.is_ok() && !situation.action.is_launching();
    let terminating: BTreeSet<_> = situations.iter().filter(terminates).map(|one| &one.action.instance).collect();
    for situation in &situations {
        if situation.action.is_launching() && terminating.contains(&situation.action.instance) {
            plan.superseded(situation.action);
            continue;
        }
        let decision = decide(site, situation);
        if let Seen::Launch(seen) = situation.seen {
            about_to_change |= onboard::is_about_to_change(&decision, seen);
        }
        plan.add(site, situation, decision);
    }
    plan.hold_refreshes(about_to_change, site.now);
    plan
}

fn decide(site: Site<'_>, situation: &Situation<'_>) -> Decision {
    let Situation { action, pending, tried, .. } = situation;
    match situation.seen {
        Seen::Launch(seen) => onboard::decide(action, pending, seen, site),
        Seen::Termination(seen) => purge::decide(action, pending, seen, &tried.removals, site),
    }
}

impl Plan {
    /// A launch that AWS confirmed before the instance began to terminate. What is done for it now would be left in Puppet; the next
    /// observation of AWS ends it.
    fn superseded(&mut self, action: &LifecycleAction) {
        let text = format!("{} terminates: its launch is over", action.instance);
        self.status(action.key(), Outcome::Refused, Fact::new(Code::NotLaunching, text));
    }

    fn add(&mut self, site: Site<'_>, situation: &Situation<'_>, decision: Decision) {
        let Situation { action, tried, .. } = situation;
        let key = action.key();
        if let Seen::Launch(seen) = situation.seen
            && !tried.removals.applied.is_empty()
            && !shows_what_was_removed(seen, &tried.removals.applied)
        {
            self.proven.insert(key.clone());
        }
        self.follow(site, situation, key, decision);
    }

    /// What to do about one action, by its decision.
    fn follow(&mut self, site: Site<'_>, situation: &Situation<'_>, key: ActionKey, decision: Decision) {
        match decision {
            Decision::Ask(Question::Names(names)) => self.names.push((key, names)),
            Decision::Ask(Question::Began) => {
                let unknown = "could not read the scaling activities: the action's start time and deadline are unknown";
                self.status(key.clone(), Outcome::Failed, Fact::new(Code::StartTimeUnknown, unknown));
                self.start_times.insert(key);
            }
            Decision::Ask(question) => {
                let unanswered = format!("{} could not be found out in time", question.describe());
                self.status(key.clone(), Outcome::Failed, Fact::new(Code::LookupUnanswered, unanswered));
                self.questions.entry(question).or_default().insert(key);
            }
            Decision::Apply(effect) => self.apply(site, situation, key, effect),
            Decision::Complete(result, reason) => {
                self.proven.insert(key.clone());
                self.verdicts.insert(key, Verdict { result, reason });
            }
            Decision::CompleteAndOrder(result, reason, order) => {
                // Nothing waits for the order: where it cannot be given now, housekeeping gives it.
                let permit =
                    situation.confirmed.as_ref().ok().and_then(|confirmed| confirmed.profile.mode.write_permit());
                let effect = Effect::Refresh(order);
                self.effects.extend(permit.map(|permit| PermittedEffect { key: key.clone(), effect, permit }));
                self.follow(site, situation, key, Decision::Complete(result, reason));
            }
            Decision::Wait(reason) => self.status(key, Outcome::Waiting, reason),
            Decision::Refuse(reason) => self.status(key, Outcome::Refused, reason),
            Decision::Fail(reason) => self.status(key, Outcome::Failed, reason),
        }
    }

    /// An effect, unless something speaks against applying it now.
    fn apply(&mut self, site: Site<'_>, situation: &Situation<'_>, key: ActionKey, effect: Effect) {
        let Situation { action, pending, confirmed, tried, .. } = situation;
        let confirmed = match confirmed {
            Ok(confirmed) => confirmed,
            Err(unconfirmed) => {
                let missing = Missing::Trouble(unconfirmed.clone().into());
                return self.follow(site, situation, key, not_yet(action, pending, missing, site.now));
            }
        };
        let Some(permit) = confirmed.profile.mode.write_permit() else {
            self.withheld.insert(key, withheld(&effect));
            return;
        };
        // What the CA will not sign it will not sign a moment later either.
        if let (Effect::Sign(_), Some(refused)) = (&effect, &tried.refused) {
            self.status(key, Outcome::Refused, refused.clone());
            return;
        }
        if tried.ordered.contains(&effect.key()) {
            self.status(key, Outcome::Waiting, Fact::new(Code::WaitingForRefresh, not_seen_yet(&effect).text));
            return;
        }
        if tried.effect == Some(effect.key()) {
            self.status(key, Outcome::Failed, not_again(&effect, tried));
            return;
        }
        // So that the timeout can expire, also if this never succeeds.
        if action.began == Began::Unknown {
            self.start_times.insert(key.clone());
        }
        self.effects.push(PermittedEffect { key, effect, permit });
    }

    fn status(&mut self, key: ActionKey, outcome: Outcome, reason: impl Into<Reason>) {
        self.statuses.insert(key, Status::new(outcome, reason));
    }

    /// Holds orders of launches for refresh targets back for a little while, as long as other nodes are about to make a change that the
    /// same run could serve.
    fn hold_refreshes(&mut self, about_to_change: bool, now: Timestamp) {
        let change = |permitted: &PermittedEffect| match &permitted.effect {
            Effect::Refresh(order) if order.awaited => Some(order.change),
            _ => None,
        };
        let oldest = self.effects.iter().filter_map(change).min();
        if !(about_to_change && oldest.is_some_and(|oldest| now < deadline::after(oldest, GATHERING))) {
            return;
        }
        let (postponed, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.effects).into_iter().partition(|permitted| change(permitted).is_some());
        self.effects = rest;
        for PermittedEffect { key, effect, .. } in postponed {
            let what =
                format!("waiting up to {} s for other changes, then: {}", GATHERING.as_secs(), effect.describe());
            self.status(key, Outcome::Waiting, Fact::new(Code::WaitingForRefresh, what));
        }
    }
}

/// What an effect would change, for observe mode.
fn withheld(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::Remove(removals) => removals.iter().map(|removal| format!("remove {}", removal.describe())).collect(),
        effect => vec![effect.describe()],
    }
}

/// Why an effect that was just applied is not applied again at once: it is after a pause.
fn not_again(effect: &Effect, tried: &Tried) -> Reason {
    if let Effect::Remove(removals) = effect {
        let left: Vec<_> = removals.iter().map(Removal::describe).collect();
        let left = Fact::new(Code::StillThere, format!("still there: {}", left.join("; ")));
        return match tried.removals.last.clone() {
            Some(removal) => removal.and(left),
            None => left.into(),
        };
    }
    if let Some(trouble) = &tried.trouble {
        return Fact::from(trouble).into();
    }
    not_seen_yet(effect).into()
}

/// Whether a look still shows the certificate that was removed, or cannot say.
fn shows_what_was_removed(seen: &LaunchView, removed: &BTreeMap<Certname, Removal<Applied>>) -> bool {
    let Some(view) = &seen.name else { return true };
    removed.get(&view.certname).is_some_and(|removal| match &view.certificate {
        Lookup::Found(now) => removal.is_of_key(now),
        Lookup::Absent => false,
        Lookup::Unavailable(_) => true,
    })
}

#[cfg(test)]
mod tests;
