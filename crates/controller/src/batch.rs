//! The set of actions that an invocation works on. The only place that changes a work item. No I/O.

mod item;
mod progress;
mod report;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::admission::admit;
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::observation::{Began, LifecycleAction};
use stagedoor_lifecycle::profile::Protected;
use stagedoor_lifecycle::reason::Fact;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};
use stagedoor_plan::{PermittedEffect, Plan, Situation, Status};
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{ActionKey, Certname, Trouble};

pub(crate) use item::WorkItem;
pub(crate) use report::{Report, Reports};
pub(crate) use request::{Answer, Decided, LeftPinned, Query, Task, Waiting, Wanted};

use crate::context::{Context, Run};
use crate::snapshot::{AwsSnapshot, PuppetSnapshot};

/// How long an answer of AWS is used without asking again. Long enough that the pass that proves a removal asks Puppet alone.
const AWS_KEPT: SignedDuration = SignedDuration::from_secs(30);
/// The first pause between two passes; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The actions that an invocation works on, and how far each of them is.
pub(crate) struct Batch {
    items: BTreeMap<ActionKey, WorkItem>,
    /// In the order in which they came, which is the order of the receipts.
    order: Vec<ActionKey>,
    pause: Duration,
    /// The actions whose start Auto Scaling was asked for.
    asked_start: BTreeSet<ActionKey>,
    /// Anything AWS confirmed before this time is too old to act on in this pass.
    fresh_since: Timestamp,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            order: Vec::new(),
            pause: FIRST_PAUSE,
            asked_start: BTreeSet::new(),
            fresh_since: Timestamp::MAX,
        }
    }

    /// Adds these actions, unless they are here already: an action that was completed may be shown as waiting for a little
    /// longer.
    pub(crate) fn add(&mut self, actions: Vec<LifecycleAction>) {
        for action in actions {
            let key = action.key();
            if !self.items.contains_key(&key) {
                self.items.insert(key.clone(), WorkItem::new(action));
                self.order.push(key);
                self.pause = FIRST_PAUSE;
            }
        }
    }

    /// Whether any action is not finished yet.
    pub(crate) fn is_open(&self) -> bool {
        self.items.values().any(WorkItem::is_open)
    }

    /// The actions of which AWS has to be asked: those without a verdict whose view is not fresh any more.
    pub(crate) fn to_look_at(&self, now: Timestamp) -> Vec<LifecycleAction> {
        let limit = earliest_fresh(now);
        let fresh = |item: &&WorkItem| item.pending.as_ref().is_some_and(|observed| observed.fresh(limit).is_some());
        let undecided = self.items.values().filter(|item| item.is_undecided());
        undecided.filter(|item| !fresh(item)).map(|item| item.action.clone()).collect()
    }

    /// Takes in what AWS says: which actions are ours, and how much time they have; see `WorkItem::admit`.
    pub(crate) fn admit(&mut self, aws: &AwsSnapshot, context: &Context) {
        self.fresh_since = earliest_fresh(aws.at);
        self.items.values_mut().for_each(WorkItem::begin_pass);
        for (key, view) in &aws.views {
            if let Some(item) = self.items.get_mut(key) {
                let (mode, admission) = admit(&item.action, view, &|name| context.profile(name));
                item.admit(mode, admission, view, aws);
            }
        }
    }

    /// The undecided actions that are ours.
    fn ours(&self) -> impl Iterator<Item = &WorkItem> {
        self.items.values().filter(|item| item.is_active())
    }

    fn ours_mut(&mut self) -> impl Iterator<Item = &mut WorkItem> {
        self.items.values_mut().filter(|item| item.is_active())
    }

    /// What Puppet has to be asked.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted::of(self.ours())
    }

    /// Takes in what Puppet says, or why it is unavailable; see `WorkItem::take_in`.
    pub(crate) fn take_in(&mut self, puppet: Result<&PuppetSnapshot, &Trouble>) {
        for item in self.ours_mut() {
            match puppet {
                Ok(snapshot) => item.take_in(snapshot),
                Err(trouble) => item.puppet_is_unavailable(trouble),
            }
        }
    }

    /// What has to be decided about.
    pub(crate) fn situations(&self) -> impl Iterator<Item = Situation<'_>> {
        self.ours().filter_map(|item| item.situation(self.fresh_since))
    }

    /// Takes in a plan: statuses, verdicts, what is proven.
    pub(crate) fn record(&mut self, plan: &Plan, puppet: Option<&PuppetSnapshot>) {
        for key in &plan.proven {
            if let (Some(item), Some(snapshot)) = (self.items.get_mut(key), puppet) {
                item.prove(snapshot);
            }
        }
        for (key, status) in &plan.statuses {
            self.change(key, |item| item.plan(status.clone()));
        }
        for (key, verdict) in &plan.verdicts {
            self.change(key, |item| item.decide(verdict.clone()));
        }
        for (key, names) in &plan.names {
            self.change(key, |item| item.look_at_too(names));
        }
        for (key, withheld) in &plan.withheld {
            self.change(key, |item| item.withhold(withheld));
        }
    }

    /// What is needed to answer these questions.
    pub(crate) fn queries(&self, questions: &BTreeMap<Question, BTreeSet<ActionKey>>) -> Vec<Query> {
        let each = questions.iter().flat_map(|(question, keys)| keys.iter().map(move |key| (question, key)));
        each.filter_map(|(question, key)| self.items.get(key)?.query(question.clone())).collect()
    }

    /// Takes in answers.
    pub(crate) fn answered(&mut self, answers: Vec<(ActionKey, Answer)>) {
        for (key, answer) in answers {
            self.change(&key, |item| item.answered(answer));
        }
    }

    /// The effects of a plan with what is needed to apply them. From now on they count as just applied.
    pub(crate) fn tasks(&mut self, effects: Vec<PermittedEffect>) -> Vec<Task> {
        let task = |permitted: PermittedEffect| Some(self.items.get_mut(&permitted.key)?.task(permitted));
        effects.into_iter().filter_map(task).collect()
    }

    /// Takes in what was done.
    pub(crate) fn absorb(&mut self, reports: BTreeMap<ActionKey, Report>) {
        for (key, report) in reports {
            self.change(&key, |item| item.absorb(report));
        }
    }

    /// The actions that wait to be completed, and have left nothing that is to be removed before.
    pub(crate) fn decided(&self, protected: &Protected) -> Vec<Decided> {
        let left_nothing = |item: &&WorkItem| item.left_pinned(protected).is_none();
        self.items.values().filter(left_nothing).filter_map(WorkItem::decided).collect()
    }

    /// The launches that are about to be abandoned, and have left pins.
    pub(crate) fn left_pinned(&self, protected: &Protected) -> Vec<LeftPinned> {
        self.items.values().filter_map(|item| item.left_pinned(protected)).collect()
    }

    /// The names of the instances that launch.
    pub(crate) fn launching_names(&self) -> BTreeSet<Certname> {
        self.items.values().filter(|item| item.is_launching()).flat_map(WorkItem::names).cloned().collect()
    }

    /// Actions whose start time to request. One call answers for a whole group, so as soon as one start is needed, all other unknown
    /// ones are requested too.
    pub(crate) fn starts_to_ask(&self, wanted: &BTreeSet<ActionKey>) -> Vec<LifecycleAction> {
        if wanted.iter().all(|key| self.asked_start.contains(key)) {
            return Vec::new();
        }
        let unknown =
            |item: &&WorkItem| item.is_open() && item.pending.is_some() && item.action.began == Began::Unknown;
        let unknown: BTreeSet<ActionKey> = self.items.values().filter(unknown).map(|item| item.action.key()).collect();
        let asked = unknown.union(wanted).filter(|key| !self.asked_start.contains(key));
        asked.filter_map(|key| Some(self.items.get(key)?.action.clone())).collect()
    }

    /// Takes in when actions began, by Auto Scaling's record; whether any answer was one.
    pub(crate) fn started(
        &mut self,
        starts: BTreeMap<ActionKey, Result<Option<Timestamp>, Trouble>>,
        now: Timestamp,
    ) -> bool {
        let mut any = false;
        for (key, start) in starts {
            let Some(item) = self.items.get_mut(&key) else { continue };
            match start {
                Ok(recorded) => {
                    item.started(recorded, now);
                    self.asked_start.insert(key);
                    any = true;
                }
                Err(trouble) => item.report(Status::new(Outcome::Failed, Fact::from(trouble))),
            }
        }
        any
    }

    /// The actions to keep alive.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        self.items.values().filter_map(WorkItem::waiting).collect()
    }

    /// How long the oldest of the actions that still wait has waited, as far as it is known when they began.
    pub(crate) fn oldest_waiting(&self, now: Timestamp) -> Option<Duration> {
        let began = self.items.values().filter(|item| item.still_waits()).filter_map(|item| item.action.began.time());
        began.min().map(|began| Duration::try_from(now.duration_since(began)).unwrap_or_default())
    }

    /// How long to pause before the next pass. Effects tried before the pause may be tried again after it.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = if is_broken(Rule::Pauses) { Duration::ZERO } else { self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        for item in self.items.values_mut() {
            item.tried.effect = None;
            item.tried.trouble = None;
        }
        pause
    }

    /// How long the next pause will be.
    pub(crate) fn next_pause(&self) -> Duration {
        self.pause
    }

    /// The receipts of the actions that pass the filter.
    pub(crate) fn into_receipts(mut self, run: Run<'_>, wanted: impl Fn(&WorkItem) -> bool) -> Vec<Receipt> {
        let items = std::mem::take(&mut self.order).into_iter().filter_map(|key| self.items.remove(&key));
        items.filter(wanted).map(|item| item.into_receipt(run)).collect()
    }

    fn change(&mut self, key: &ActionKey, change: impl FnOnce(&mut WorkItem)) {
        if let Some(item) = self.items.get_mut(key) {
            change(item);
        }
    }
}

/// When AWS must have been asked, at the earliest, so that its answer still counts at this time.
fn earliest_fresh(now: Timestamp) -> Timestamp {
    now.checked_sub(AWS_KEPT).unwrap_or(Timestamp::MIN)
}
