//! Apply: changes Puppet. The only module that writes to it. Every write may safely be repeated. Returns a report for each action.

mod enrol;
mod orders;
mod remove;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::Certname;
use stagedoor_lifecycle::decision::{Effect, Rejection, Removal};
use stagedoor_lifecycle::observation::{ActionKey, Trouble};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::reason::{Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Stage, Step};
use stagedoor_plan::{Status, Verdict};

pub(crate) use remove::{Removed, carry_out};

use crate::context::{PuppetWriter, Run};
use crate::observe::PuppetSnapshot;

/// What became of one write: what was done or what went wrong, and how long it took.
pub(crate) type Done = (Result<String, Trouble>, Duration);

/// An effect to apply, with what is needed for it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) key: ActionKey,
    pub(crate) effect: Effect,
    /// Whether the instance launches.
    pub(crate) launching: bool,
    /// When the action began, as far as known.
    pub(crate) began: Option<Timestamp>,
    /// Whether a removal was tried in this invocation.
    pub(crate) tried_before: bool,
}

/// What came of what was done for an action: changes of its work item.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) steps: Vec<Step>,
    /// The provisional status.
    pub(crate) status: Option<Status>,
    /// The status with which the action is over for this invocation.
    pub(crate) finished: Option<Status>,
    pub(crate) verdict: Option<Verdict>,
    /// What went wrong.
    pub(crate) trouble: Option<Trouble>,
    /// What came of a removal.
    pub(crate) removal: Option<Reason>,
    /// Why the CA will not sign the request.
    pub(crate) refused: Option<Fact>,
    /// What was removed, and waits for its proof.
    pub(crate) removed: Vec<Removal>,
    /// The names whose certificate the CA has said to have revoked.
    pub(crate) cleaned: Vec<Certname>,
    /// Whether the effect may be applied again at once.
    pub(crate) again: bool,
    /// Whether Auto Scaling has accepted the completion.
    pub(crate) completed: bool,
}

impl Report {
    pub(crate) fn step(&mut self, stage: Stage, took: Duration, detail: impl Into<String>) {
        self.steps.push(Step::new(stage, took, detail));
    }

    pub(crate) fn status(&mut self, outcome: Outcome, reason: impl Into<Reason>) {
        self.status = Some(Status::new(outcome, reason));
    }

    fn abandon(&mut self, reason: Fact) {
        self.verdict = Some(Verdict { result: ActionResult::Abandon, reason: reason.into() });
    }

    /// Writes down what became of one write; whether it succeeded.
    fn record(&mut self, took: Duration, result: Result<String, Trouble>) -> bool {
        match result {
            Ok(what) => {
                self.step(Stage::Done, took, what);
                true
            }
            Err(trouble) => {
                self.step(Stage::Failed, took, trouble.text.clone());
                self.status(Outcome::Failed, Fact::from(&trouble));
                self.trouble = Some(trouble);
                false
            }
        }
    }
}

/// A report for each action.
#[derive(Debug, Default)]
pub(crate) struct Reports(BTreeMap<ActionKey, Report>);

impl Reports {
    pub(crate) fn of(&mut self, key: &ActionKey) -> &mut Report {
        self.0.entry(key.clone()).or_default()
    }

    pub(crate) fn into_inner(self) -> BTreeMap<ActionKey, Report> {
        self.0
    }
}

/// What came of a set of effects.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) reports: Reports,
    /// Whether anything may have changed, and so is to be looked at again.
    pub(crate) changed: bool,
}

/// Applies all these effects, the same for many in one call wherever there is one.
pub(crate) async fn apply(run: Run<'_>, writer: &PuppetWriter, snapshot: &PuppetSnapshot, tasks: Vec<Task>) -> Applied {
    let (mut removals, mut signs, mut requests, mut pins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut runs, mut refreshes, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
    for Task { key, effect, launching, began, tried_before } in tasks {
        let removal =
            |all: Vec<Removal>, key: ActionKey| remove::Task { key, removals: all, launching, began, tried_before };
        match effect {
            Effect::Remove(all) => removals.push(removal(all, key)),
            Effect::Sign(signable) => signs.push((key, signable)),
            Effect::Reject(Rejection::Request(name, reason)) => requests.push((key, name, reason)),
            Effect::Reject(Rejection::Certificate(certificate, reason)) => {
                removals.push(removal(vec![certificate], key.clone()));
                rejected.push((key, reason));
            }
            Effect::Pin(name, groups) => pins.push((key, name, groups)),
            Effect::Run(name, order) => runs.push((key, name, order)),
            Effect::Refresh(targets, _) => refreshes.push((key, targets)),
        }
    }
    let mut applied = Applied::default();
    if !removals.is_empty() {
        let complete = remove::remove(run, writer, snapshot, removals, &mut applied).await;
        for (key, reason) in rejected.into_iter().filter(|(key, _)| complete.contains(key)) {
            applied.reports.of(&key).abandon(reason);
        }
    }
    enrol::reject(run, writer, requests, &mut applied).await;
    enrol::sign(run, writer, signs, &mut applied).await;
    enrol::pin(run, writer, snapshot, pins, &mut applied).await;
    // What was ordered takes its time; looking at once would see nothing new.
    orders::run(run, writer, runs, &mut applied.reports).await;
    orders::refresh(run, writer, refreshes, &mut applied.reports).await;
    applied
}
