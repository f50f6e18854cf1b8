//! The loop: look, decide, act, look again. The page to read first. The stages that it calls do the I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::decision::{Decision, Effect, EffectKey, Question, Removal, expired};
use stagedoor_lifecycle::observation::{Began, LifecycleAction, Lookup, Trouble};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Receipt, Stage};
use stagedoor_lifecycle::{deadline, onboard, purge};

use crate::apply::apply;
use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::complete::complete;
use crate::context::{Context, Puppet};
use crate::heartbeat::Heartbeats;
use crate::observe::{PuppetSnapshot, answer, ask_when_it_began, look_at_aws, look_at_puppet};

/// Between two looks at first; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// More questions than there are, so that a question without an answer ends.
const QUESTIONS_IN_A_ROW: usize = 8;
/// How long hooks are answered before deeds are done.
const BEFORE_DEEDS: Duration = Duration::from_secs(3);
/// How long an order for refresh targets waits for others to join it.
const GATHERING: Duration = Duration::from_secs(15);

/// Deals with a set of instances until each is settled or the time is up.
pub(crate) async fn reconcile(context: &Context, actions: Vec<LifecycleAction>, budget: Budget) -> Vec<Receipt> {
    let mut batch = Batch::new(context.clock.now());
    batch.admit(actions);
    loop {
        let requeue = Box::pin(batch.pass(context, budget)).await;
        if requeue == Requeue::Over || !batch.rest(context, requeue, budget).await {
            return batch.into_cases().into_iter().map(WorkItem::into_receipt).collect();
        }
    }
}

/// The instances that an invocation deals with, and how far it is with them.
pub(crate) struct Batch {
    items: Vec<WorkItem>,
    pub(crate) beats: Heartbeats,
    pause: Duration,
    /// Whether the credentials were read anew.
    renewed: bool,
    /// The cases of which it was asked when they began.
    asked_began: BTreeSet<usize>,
}

/// How to go on after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requeue {
    /// It found out or changed something: look again at once, that look is the proof.
    AtOnce,
    /// Others have to do something first.
    AfterPause,
    /// Every case is settled, or the time is up.
    Over,
}

impl Batch {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            items: Vec::new(),
            beats: Heartbeats::new(now),
            pause: FIRST_PAUSE,
            renewed: false,
            asked_began: BTreeSet::new(),
        }
    }

    /// Takes these on, unless they are known already: whoever was answered may be shown as waiting for a little longer.
    pub(crate) fn admit(&mut self, actions: Vec<LifecycleAction>) {
        let key = |action: &LifecycleAction| (action.group.clone(), action.hook.clone(), action.instance.clone());
        let mut known: BTreeSet<_> = self.items.iter().map(|item| key(&item.action)).collect();
        let new: Vec<WorkItem> =
            actions.into_iter().filter(|action| known.insert(key(action))).map(WorkItem::new).collect();
        if !new.is_empty() {
            self.pause = FIRST_PAUSE;
        }
        self.items.extend(new);
    }

    /// Whether any case is not settled yet.
    pub(crate) fn is_open(&self) -> bool {
        self.items.iter().any(WorkItem::is_open)
    }

    /// Looks, decides, acts.
    pub(crate) async fn pass(&mut self, context: &Context, budget: Budget) -> Requeue {
        let Self { items, beats, renewed, asked_began, .. } = self;
        // Boxed, as below: futures of this size are copied about otherwise.
        let puppet = Box::pin(look_at_aws(context, items, budget)).await;
        beats.watch(items, context.clock.now());
        let again =
            beats.beside(context, budget, Box::pin(act(context, puppet, items, renewed, asked_began, budget))).await;
        if !self.is_open() || context.clock.now() >= budget.calls {
            Requeue::Over
        } else if again {
            Requeue::AtOnce
        } else {
            Requeue::AfterPause
        }
    }

    /// Waits as long as it is good before the next pass; whether there is time for one.
    pub(crate) async fn rest(&mut self, context: &Context, requeue: Requeue, budget: Budget) -> bool {
        if requeue == Requeue::AtOnce {
            return true;
        }
        if deadline::after(context.clock.now(), self.pause) >= budget.passes {
            return false;
        }
        self.beats.beside(context, budget, tokio::time::sleep(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        for item in &mut self.items {
            item.just_did = None;
            item.trouble = None;
        }
        true
    }

    pub(crate) fn into_cases(self) -> Vec<WorkItem> {
        self.items
    }
}

/// What a pass does once AWS was looked at; whether to look again at once.
async fn act(
    context: &Context,
    puppet: Result<Arc<Puppet>, Trouble>,
    items: &mut [WorkItem],
    renewed: &mut bool,
    asked_began: &mut BTreeSet<usize>,
    budget: Budget,
) -> bool {
    let mut snapshot = look_at_puppet(context, puppet, items, budget).await;
    let mut next = settle_what_is_decided(context, &snapshot, items);
    for _ in 0..QUESTIONS_IN_A_ROW {
        if next.questions.is_empty() {
            break;
        }
        answer(context, &mut snapshot, items, next.questions, budget).await;
        let (again, began) = (next.look_again, next.ask_when_it_began);
        next = settle_what_is_decided(context, &snapshot, items);
        next.look_again |= again;
        next.ask_when_it_began.extend(began);
    }

    let mut again = next.look_again;
    let effects = hold_refreshes(next.effects, next.about_to_report, items, context.clock.now());
    if let (Some(puppet), false) = (snapshot.puppet.clone(), effects.is_empty()) {
        // Not when it is decided: the answer to another case's question has everything decided once more.
        for (index, effect) in &effects {
            items[*index].just_did = Some(effect.key());
        }
        // What is decided must not wait for others' deeds, nor these so long that what was seen is not true any more.
        complete(context, items, budget, deadline::after(context.clock.now(), BEFORE_DEEDS)).await;
        again |= apply(context, &puppet, &snapshot, items, effects, budget).await;
    }
    again |= ask_when_they_began(context, items, &next.ask_when_it_began, asked_began, budget).await;
    if snapshot.stale && !*renewed {
        *renewed = true;
        again |= snapshot.reopen(context, budget).await;
    }
    complete(context, items, budget, budget.calls).await;
    again
}

/// Asks Auto Scaling once for each case that has to know it since when it waits. One call answers for a whole group, so
/// those that nobody has told anything are asked about as well; whether anything is known now that was not.
async fn ask_when_they_began(
    context: &Context,
    items: &mut [WorkItem],
    wanted: &[usize],
    asked: &mut BTreeSet<usize>,
    budget: Budget,
) -> bool {
    if wanted.iter().all(|index| asked.contains(index)) {
        return false;
    }
    let unknown = |item: &WorkItem| item.is_open() && item.held.is_some() && item.action.began == Began::Unknown;
    let unknown = items.iter().enumerate().filter(|(_, item)| unknown(item)).map(|(index, _)| index);
    let which: BTreeSet<usize> = unknown.chain(wanted.iter().copied()).filter(|index| !asked.contains(index)).collect();
    let which: Vec<usize> = which.into_iter().collect();
    let answered = ask_when_it_began(context, items, &which, budget).await;
    asked.extend(&answered);
    !answered.is_empty()
}

/// What a pass has to do before the next.
#[derive(Default)]
struct Next {
    effects: Vec<(usize, Effect)>,
    questions: Vec<(usize, Question)>,
    look_again: bool,
    ask_when_it_began: Vec<usize>,
    /// Whether arriving nodes are about to make another change that refresh targets have to learn of.
    about_to_report: bool,
}

/// Decides about every open case; what needs I/O is returned.
fn settle_what_is_decided(context: &Context, snapshot: &PuppetSnapshot, items: &mut [WorkItem]) -> Next {
    let mut next = Next::default();
    let now = context.clock.now();
    let orchestrated = context.config.orchestrator.is_some();
    let protected = snapshot.protected(context);
    for (index, item) in items.iter_mut().enumerate().filter(|(_, item)| item.is_undecided()) {
        let Some((held, _)) = &item.held else { continue };
        let confirmed = matches!(item.action.began, Began::Confirmed { .. });
        let over = (confirmed && held.is_late(item.action.began, now)).then_some(held.on_timeout);
        let decision = if item.is_launching() {
            onboard::decide(&item.action, held, &item.launch, protected, orchestrated, now)
        } else {
            purge::decide(&item.action, held, &item.seen, protected, item.tried.as_ref(), orchestrated, now)
        };
        next.about_to_report |= onboard::is_about_to_report(&decision, &item.launch);
        if item.is_launching() && !item.removed.is_empty() && !shows_what_was_removed(item) {
            snapshot.prove(item);
        }
        match decision {
            Decision::Ask(Question::Names(names)) => {
                item.look_at_too(names);
                next.look_again = true;
            }
            Decision::Ask(Question::Began) => {
                let unknown = "could not read the scaling activities: the action's start time and deadline are unknown";
                item.set_status(Outcome::Failed, Fact::new(Code::StartTimeUnknown, unknown));
                next.ask_when_it_began.push(index);
            }
            Decision::Ask(question) => {
                let unanswered = format!("{} could not be found out in time", question.describe());
                item.set_status(Outcome::Failed, Fact::new(Code::LookupUnanswered, unanswered));
                next.questions.push((index, question));
            }
            // Nothing is changed on the strength of what AWS said a while ago.
            Decision::Apply(_) if item.blind.is_some() => {
                let blind = item.blind.clone().into_iter().map(Reason::from).next();
                match (over, blind) {
                    (Some(result), Some(blind)) => item.ready = Some((result, expired(&blind))),
                    (None, Some(blind)) => item.set_status(Outcome::Failed, blind),
                    (_, None) => {}
                }
            }
            Decision::Apply(effect) if !context.acts() => {
                match &effect {
                    Effect::Remove(removals) => {
                        for removal in removals {
                            item.step(Stage::Would, Duration::ZERO, format!("remove {}", removal.describe()));
                        }
                    }
                    effect => item.step(Stage::Would, Duration::ZERO, effect.describe()),
                }
                let observes = "observe mode: nothing was changed and the action was not completed";
                item.finish(Outcome::Waiting, Fact::new(Code::ObserveMode, observes));
            }
            Decision::Apply(Effect::Remove(removals)) if item.just_did == Some(EffectKey::Remove) => {
                // The look that follows still shows something: not at once again, but after a pause.
                let left: Vec<_> = removals.iter().map(Removal::describe).collect();
                let left = Fact::new(Code::StillThere, format!("still there: {}", left.join("; ")));
                let reason = match item.tried.clone() {
                    Some(tried) => tried.and(left),
                    None => left.into(),
                };
                item.set_status(Outcome::Failed, reason);
            }
            // What the CA will not sign it will not sign a moment later either.
            Decision::Apply(Effect::Sign(_)) if item.refused.is_some() => {
                if let Some(refused) = item.refused.clone() {
                    item.set_status(Outcome::Refused, refused);
                }
            }
            Decision::Apply(effect) if item.just_did == Some(effect.key()) => {
                let unseen = || {
                    let unseen = format!("it was just done, and is not seen yet: {}", effect.describe());
                    Fact::new(Code::NotSeenYet, unseen)
                };
                let reason = item.trouble.clone().map_or_else(unseen, Fact::from);
                item.set_status(Outcome::Failed, reason);
            }
            Decision::Apply(effect) => {
                // So that the timeout can expire, also if this never succeeds.
                if item.action.began == Began::Unknown {
                    next.ask_when_it_began.push(index);
                }
                next.effects.push((index, effect));
            }
            Decision::Complete(result, reason) => {
                if item.is_launching() && result == ActionResult::Continue {
                    for fact in reason.facts() {
                        item.step(Stage::Proven, Duration::ZERO, fact.text.clone());
                    }
                }
                snapshot.prove(item);
                item.ready = Some((result, reason));
            }
            Decision::Wait(reason) => item.set_status(Outcome::Waiting, reason),
            Decision::Refuse(reason) => item.set_status(Outcome::Refused, reason),
            Decision::Fail(reason) => item.set_status(Outcome::Failed, reason),
        }
    }
    next
}

/// Whether a look still shows the certificate or request that was removed.
fn shows_what_was_removed(item: &WorkItem) -> bool {
    let Some(view) = &item.launch.name else { return true };
    item.removed.get(&view.certname).is_some_and(|(removal, _)| {
        let same = |serial: &String| matches!(&view.certificate, Lookup::Found(now) if now.serial == *serial);
        let unknown = view.certificate.known().is_err();
        unknown || removal.certificate.as_ref().is_some_and(same)
    })
}

/// Holds orders for refresh targets back for a little while, as long as other nodes are about to make a change that the
/// same run could serve.
fn hold_refreshes(
    effects: Vec<(usize, Effect)>,
    about_to_report: bool,
    items: &mut [WorkItem],
    now: Timestamp,
) -> Vec<(usize, Effect)> {
    let oldest = effects
        .iter()
        .filter_map(|(_, effect)| if let Effect::Refresh(_, change) = effect { Some(*change) } else { None });
    let hold = about_to_report && oldest.min().is_some_and(|oldest| now < deadline::after(oldest, GATHERING));
    if !hold {
        return effects;
    }
    let (postponed, rest): (Vec<_>, Vec<_>) =
        effects.into_iter().partition(|(_, effect)| matches!(effect, Effect::Refresh(..)));
    for (index, effect) in postponed {
        let what = format!("about to {}, for this and what else is about to change", effect.describe());
        items[index].set_status(Outcome::Waiting, Fact::new(Code::WaitingForRefresh, what));
    }
    rest
}
