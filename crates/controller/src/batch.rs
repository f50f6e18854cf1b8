//! One instance on its way through an invocation: what is known of it, and what has been done. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::admission::PendingAction;
use stagedoor_lifecycle::decision::{EffectKey, Removal};
use stagedoor_lifecycle::event::Transition;
use stagedoor_lifecycle::observation::{LifecycleAction, Lookup, Trouble};
use stagedoor_lifecycle::onboard::LaunchView;
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::purge::TerminationView;
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Receipt, SCHEMA, Stage, Step};
use stagedoor_lifecycle::{Certname, deadline};
use stagedoor_puppet::Certificate;

use crate::observe::issued;

/// An instance that is being dealt with.
#[derive(Debug)]
pub(crate) struct WorkItem {
    pub(crate) action: LifecycleAction,
    /// What AWS said, once it was found to be ours to deal with, and when.
    pub(crate) held: Option<(PendingAction, Timestamp)>,
    /// Names to look at besides the expected one.
    pub(crate) extra_names: Vec<Certname>,
    /// What Puppet says of a leaving instance.
    pub(crate) seen: TerminationView,
    /// What Puppet says of an arriving instance.
    pub(crate) launch: LaunchView,
    /// The certificates that were seen.
    pub(crate) certificates: BTreeMap<Certname, Certificate>,
    /// What was tried to be removed, and waits for its proof; with the certificate that the CRL must hold then.
    pub(crate) removed: BTreeMap<Certname, (Removal, Option<Certificate>)>,
    /// The names whose certificate the CA has said to have revoked.
    pub(crate) cleaned: BTreeSet<Certname>,
    /// What came of the last attempt to remove what is left.
    pub(crate) tried: Option<Reason>,
    /// What was done since the last pause.
    pub(crate) just_did: Option<EffectKey>,
    /// What went wrong with it.
    pub(crate) trouble: Option<Trouble>,
    /// Why AWS cannot be asked how it stands now, if it cannot; `held` is then what it said before.
    pub(crate) blind: Option<Fact>,
    /// Why the CA will not sign its request, if it has said so.
    pub(crate) refused: Option<Fact>,
    /// Whether it is decided, and only the hook has to be answered.
    pub(crate) ready: Option<(ActionResult, Reason)>,
    /// Whether Auto Scaling has accepted our answer.
    pub(crate) answered: bool,
    /// How it ended, or how it would end if the invocation ended now.
    pub(crate) outcome: Outcome,
    reason: Reason,
    finished: bool,
    /// What was seen and told already.
    told: BTreeSet<String>,
    steps: Vec<Step>,
}

impl WorkItem {
    pub(crate) fn new(action: LifecycleAction) -> Self {
        Self {
            action,
            held: None,
            extra_names: Vec::new(),
            seen: TerminationView { names: Vec::new(), known_as: Lookup::Absent, targets: None },
            launch: LaunchView::default(),
            told: BTreeSet::new(),
            certificates: BTreeMap::new(),
            removed: BTreeMap::new(),
            cleaned: BTreeSet::new(),
            tried: None,
            just_did: None,
            trouble: None,
            blind: None,
            refused: None,
            ready: None,
            answered: false,
            outcome: Outcome::Failed,
            reason: Fact::new(Code::InvocationEnded, "the invocation ended before this instance was looked at").into(),
            finished: false,
            steps: Vec::new(),
        }
    }

    /// The names that are to be looked at.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Certname> {
        let expected = self.held.iter().filter_map(|(held, _)| held.expected.as_ref().ok());
        expected.chain(&self.extra_names)
    }

    /// Has these names looked at besides.
    pub(crate) fn look_at_too(&mut self, names: Vec<Certname>) {
        let new: Vec<Certname> = names.into_iter().filter(|name| self.names().all(|known| known != name)).collect();
        self.extra_names.extend(new);
    }

    pub(crate) fn is_launching(&self) -> bool {
        self.action.transition == Transition::Launching
    }

    pub(crate) fn step(&mut self, stage: Stage, took: Duration, detail: impl Into<String>) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.steps.push(Step { stage, detail: detail.into(), took_ms });
    }

    /// Tells what was seen, unless it was told before.
    pub(crate) fn saw(&mut self, took: Duration, detail: String) {
        if self.told.insert(detail.clone()) {
            self.step(Stage::Seen, took, detail);
        }
    }

    /// The certificate under the expected name, if it was seen and is the instance's own.
    pub(crate) fn own_certificate(&self) -> Option<&Certificate> {
        let certificate = self.certificates.get(self.names().next()?)?;
        (certificate.instance_id().as_ref() == Some(&self.action.instance)).then_some(certificate)
    }

    /// The same, if it was issued in this launch. One from before may be of a lost key, so it is read anew each time.
    pub(crate) fn certificate_of_this_launch(&self) -> Option<&Certificate> {
        let began = self.action.began.time()?;
        self.own_certificate().filter(|certificate| issued(certificate) >= began)
    }

    /// Sets the provisional status; a later pass may replace it.
    pub(crate) fn set_status(&mut self, outcome: Outcome, reason: impl Into<Reason>) {
        self.outcome = outcome;
        self.reason = reason.into();
    }

    /// It is over for this invocation.
    pub(crate) fn finish(&mut self, outcome: Outcome, reason: impl Into<Reason>) {
        self.set_status(outcome, reason);
        self.finished = true;
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.finished
    }

    /// Whether there is something to decide yet.
    pub(crate) fn is_undecided(&self) -> bool {
        self.is_open() && self.ready.is_none()
    }

    pub(crate) fn into_receipt(self) -> Receipt {
        let certname = self.names().next().cloned();
        let held = self.held.as_ref().filter(|(held, _)| {
            held.waits && matches!(self.outcome, Outcome::Waiting | Outcome::Refused | Outcome::Failed)
        });
        let began = self.action.began.time();
        let decide_by = held.zip(began).map(|((held, _), began)| deadline::after(began, held.allowed));
        Receipt {
            instance_id: Some(self.action.instance),
            group: Some(self.action.group),
            hook: Some(self.action.hook),
            certname,
            schema: SCHEMA,
            outcome: self.outcome,
            code: self.reason.code(),
            reason: self.reason.to_string(),
            decide_by,
            steps: self.steps,
        }
    }
}
