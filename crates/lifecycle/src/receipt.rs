//! The receipt: what was observed, changed and proven for one instance, and how long each took. No I/O.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stagedoor_types::{ActionKey, Certname, GroupName, HookName, InstanceId, Mode};

use crate::reason::Code;

/// How it ended, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The lifecycle action was completed with CONTINUE.
    Continued,
    /// The lifecycle action was completed with ABANDON.
    Abandoned,
    /// Something is missing; the hook holds the instance, and a later pass observes it again.
    Waiting,
    /// Not ours; nothing was done.
    Ignored,
    /// Must not be done as long as nothing changes; nothing was done.
    Refused,
    /// Could not be handled; nothing is lost, and it should be tried again.
    Failed,
}

impl Outcome {
    /// Its name, as in the receipt.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continued => "continued",
            Self::Abandoned => "abandoned",
            Self::Waiting => "waiting",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The version of the receipt's format. It only grows: fields are added, none is removed or changes its meaning.
pub const SCHEMA: u32 = 1;

/// What happened to one instance in one invocation. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of this format: [`SCHEMA`].
    pub schema: u32,
    /// The instance, where the event named one.
    pub instance_id: Option<InstanceId>,
    /// Its Auto Scaling group.
    pub group: Option<GroupName>,
    /// The hook.
    pub hook: Option<HookName>,
    /// Its certname, where it is known.
    pub certname: Option<Certname>,
    /// The mode of its group's profile, where that is known: in observe mode nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, as a stable code: `docs/codes.md` has the table.
    pub code: Code,
    /// Why, in a sentence for a person, which may change at any time.
    pub reason: String,
    /// Until when it has to be decided, where that is known and it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decide_by: Option<Timestamp>,
    /// Whether operators are notified although the action only waits; not part of the format.
    #[serde(skip)]
    pub announce: bool,
    /// What was observed, changed and proven, in order.
    pub steps: Vec<Step>,
}

impl Receipt {
    /// A receipt of which nothing is known but how it ended: no instance, no steps.
    #[must_use]
    pub fn bare(outcome: Outcome, code: Code, reason: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA,
            instance_id: None,
            group: None,
            hook: None,
            certname: None,
            mode: None,
            outcome,
            code,
            reason: reason.into(),
            decide_by: None,
            announce: false,
            steps: Vec::new(),
        }
    }

    /// The key of the action that it is about, if it is about one.
    #[must_use]
    pub fn key(&self) -> Option<ActionKey> {
        let Self { group, hook, instance_id, .. } = self;
        Some(ActionKey { group: group.clone()?, hook: hook.clone()?, instance: instance_id.clone()? })
    }
}

/// One thing that was observed, changed or proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What kind of step it is.
    pub kind: StepKind,
    /// What, in a sentence for a person.
    pub detail: String,
    /// How long it took, in milliseconds; work that is done for many instances at once counts in full for each.
    pub took_ms: u64,
}

impl Step {
    /// A step that took so long.
    #[must_use]
    pub fn new(kind: StepKind, took: Duration, detail: impl Into<String>) -> Self {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { kind, detail: detail.into(), took_ms }
    }
}

/// The kinds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Observed, without changing anything.
    Observed,
    /// Changed something.
    Applied,
    /// Would have changed something, but the controller only observes.
    Withheld,
    /// Observed again after a change, which shows it.
    Proven,
    /// Tried, and could not.
    Failed,
    /// Completed the lifecycle action.
    Completed,
}
