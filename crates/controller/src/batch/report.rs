//! What the steps report: changes of work items, as values. No I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use stagedoor_lifecycle::decision::EffectKey;
use stagedoor_lifecycle::onboard::Refused;
use stagedoor_lifecycle::reason::{Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Step, StepKind};
use stagedoor_lifecycle::removal::{Applied, Removal};
use stagedoor_plan::Status;
use stagedoor_types::{ActionKey, Trouble};

/// What the steps did for an action: changes of its work item.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) steps: Vec<Step>,
    /// The provisional status.
    pub(crate) status: Option<Status>,
    /// The status with which the action is over for this invocation.
    pub(crate) finished: Option<Status>,
    /// What went wrong.
    pub(crate) trouble: Option<Trouble>,
    /// The result of a removal.
    pub(crate) removal: Option<Reason>,
    /// Why the CA will not sign the request.
    pub(crate) refused: Option<Fact>,
    /// A request that was refused.
    pub(crate) refused_request: Option<Refused>,
    /// What was removed, and waits for its proof.
    pub(crate) removed: Vec<Removal<Applied>>,
    /// Whether what an abandoned launch has left pinned was dealt with.
    pub(crate) unpinned: bool,
    /// What is left pinned all the same.
    pub(crate) pins_left: Option<Fact>,
    /// Whether the effect may be applied again at once.
    pub(crate) may_repeat: bool,
    /// The order for refresh targets that was given, if the action waits for it.
    pub(crate) ordered: Option<EffectKey>,
    /// Whether Auto Scaling has accepted the completion.
    pub(crate) completed: bool,
}

impl Report {
    pub(crate) fn step(&mut self, kind: StepKind, took: Duration, detail: impl Into<String>) {
        self.steps.push(Step::new(kind, took, detail));
    }

    pub(crate) fn status(&mut self, outcome: Outcome, reason: impl Into<Reason>) {
        self.status = Some(Status::new(outcome, reason));
    }

    /// Records that a request was refused; the launch waits for another. `left` is the key of one that was not deleted.
    pub(crate) fn refuse(&mut self, reason: Fact, left: Option<String>) {
        self.status(Outcome::Waiting, reason.clone());
        self.refused_request = Some(Refused { reason, left });
        self.may_repeat = true;
    }

    /// Records the result of one write; returns whether it succeeded.
    pub(crate) fn record(&mut self, took: Duration, result: Result<String, Trouble>) -> bool {
        match result {
            Ok(what) => {
                self.step(StepKind::Applied, took, what);
                true
            }
            Err(trouble) => {
                self.step(StepKind::Failed, took, trouble.text.clone());
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
