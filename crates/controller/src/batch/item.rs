//! One action on its way through an invocation: what is known of it and what was done. No I/O.

mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::admission::PendingAction;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_lifecycle::onboard::LaunchView;
use stagedoor_lifecycle::profile::Probe;
use stagedoor_lifecycle::purge::TerminationView;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, Receipt, SCHEMA, Stage, Step};
use stagedoor_lifecycle::removal::{Applied, Removal};
use stagedoor_plan::{PermittedEffect, Seen, Situation, Status, Tried, Verdict};
use stagedoor_puppet::Certificate;
use stagedoor_types::{Certname, Lookup, Mode, Observed, WritePermit};

use super::{Decided, Query, Report, Task, Waiting};
use crate::snapshot::{PuppetSnapshot, issued, revocation};

/// How far an action is.
#[derive(Debug)]
enum State {
    /// There is something to decide.
    Open,
    /// It is decided, and has to be completed.
    Decided(Verdict),
    /// It is over for this invocation.
    Finished,
}

/// An action that an invocation works on. Only [`Batch`](super::Batch) changes one.
#[derive(Debug)]
pub(crate) struct WorkItem {
    pub(super) action: LifecycleAction,
    /// What AWS confirmed, once the action was found to be ours.
    pub(super) pending: Option<Observed<PendingAction>>,
    /// The mode of its group's profile, once that is known.
    mode: Option<Mode>,
    /// Why AWS cannot confirm it now, if it cannot; `pending` is then what it confirmed before.
    unconfirmed: Option<Fact>,
    /// Names to observe besides the expected one.
    more_names: Vec<Certname>,
    /// What Puppet says of a terminating instance.
    termination: Observed<TerminationView>,
    /// What Puppet says of a launching instance.
    launch: LaunchView,
    /// The certificates that were seen.
    certificates: BTreeMap<Certname, Certificate>,
    /// Of what was removed and is not proven yet: the certificate that the CRL must hold then.
    revoked: BTreeMap<Certname, Certificate>,
    /// What this invocation has tried.
    pub(super) tried: Tried,
    state: State,
    status: Status,
    /// Whether Auto Scaling has accepted the completion.
    completed: bool,
    /// What was reported as seen already.
    reported: BTreeSet<String>,
    steps: Vec<Step>,
}

impl WorkItem {
    pub(super) fn new(action: LifecycleAction) -> Self {
        let ended = Fact::new(Code::InvocationEnded, "the invocation ended before this instance was looked at");
        Self {
            action,
            pending: None,
            mode: None,
            unconfirmed: None,
            more_names: Vec::new(),
            termination: Observed { value: observe::nothing(Lookup::Absent), at: Timestamp::MIN },
            launch: LaunchView::default(),
            certificates: BTreeMap::new(),
            revoked: BTreeMap::new(),
            tried: Tried::default(),
            state: State::Open,
            status: Status::new(Outcome::Failed, ended),
            completed: false,
            reported: BTreeSet::new(),
            steps: Vec::new(),
        }
    }

    /// The action.
    pub(crate) fn action(&self) -> &LifecycleAction {
        &self.action
    }

    /// What AWS confirmed of it.
    pub(crate) fn pending(&self) -> Option<&PendingAction> {
        self.pending.as_ref().map(|observed| &observed.value)
    }

    /// Whether Auto Scaling has accepted the completion.
    pub(crate) fn is_completed(&self) -> bool {
        self.completed
    }

    pub(crate) fn is_launching(&self) -> bool {
        self.action.is_launching()
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Finished)
    }

    /// Whether there is something to decide yet.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// The names to observe.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Certname> {
        let expected = self.pending().and_then(|pending| pending.expected.as_ref().ok());
        expected.into_iter().chain(&self.more_names)
    }

    /// The certificates that were removed and are not proven to be gone.
    pub(crate) fn removed_certificates(&self) -> impl Iterator<Item = &Certificate> {
        let applied = self.tried.removals.applied.iter().filter(|(_, removal)| removal.certificate.is_some());
        applied.filter_map(|(name, _)| self.revoked.get(name))
    }

    /// The names under which something was removed that is not proven yet.
    pub(crate) fn unproven(&self) -> impl Iterator<Item = &Certname> {
        self.tried.removals.applied.keys()
    }

    /// The certificate under the expected name, if it was seen and is the instance's own.
    fn own_certificate(&self) -> Option<&Certificate> {
        let certificate = self.certificates.get(self.names().next()?)?;
        (certificate.instance_id().as_ref() == Some(&self.action.instance)).then_some(certificate)
    }

    /// The same, if the instance launches and it was issued in this launch. One from before may be of a lost key, so it is read
    /// anew each time.
    pub(crate) fn certificate_of_this_launch(&self) -> Option<&Certificate> {
        let began = self.action.began.time().filter(|_| self.is_launching())?;
        self.own_certificate().filter(|certificate| issued(certificate) >= began)
    }

    /// What has to be decided about it; `None` until AWS has confirmed it. What AWS confirmed before `fresh_since` counts no more.
    pub(super) fn situation(&self, fresh_since: Timestamp) -> Option<Situation<'_>> {
        let seen = if self.is_launching() { Seen::Launch(&self.launch) } else { Seen::Termination(&self.termination) };
        let pending = self.pending.as_ref()?;
        let old = || Fact::new(Code::NotSeenYet, "AWS confirmed the action a while ago; it is asked again");
        Some(Situation {
            action: &self.action,
            pending: &pending.value,
            confirmed: match &self.unconfirmed {
                Some(unconfirmed) => Err(unconfirmed.clone()),
                None => pending.fresh(fresh_since).ok_or_else(old),
            },
            seen,
            tried: &self.tried,
        })
    }

    /// What is needed to answer a question about it.
    pub(super) fn query(&self, question: Question) -> Option<Query> {
        let pending = self.pending()?;
        let probes = pending.profile.ready.iter().filter(|probe| **probe != Probe::Report);
        Some(Query {
            key: self.action.key(),
            question,
            certname: self.names().next().cloned(),
            certificate: self.own_certificate().cloned(),
            address: pending.address,
            targets: pending.profile.refresh.clone(),
            probes: probes.copied().collect(),
        })
    }

    /// If it waits to be completed.
    pub(super) fn decided(&self) -> Option<Decided> {
        let State::Decided(verdict) = &self.state else { return None };
        Some(Decided {
            action: self.action.clone(),
            verdict: verdict.clone(),
            waits: self.pending().is_none_or(|pending| pending.waits),
            other_hooks: self.pending().is_none_or(|pending| pending.other_hooks),
            permit: self.permit(),
        })
    }

    /// If its hook would time out before the profile's timeout, and it may be kept alive.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let timeout = self.pending().filter(|pending| pending.waits && self.is_undecided())?.heartbeat?;
        Some(Waiting { key: self.action.key(), timeout, permit: self.permit()? })
    }

    /// The permit of its profile's mode.
    fn permit(&self) -> Option<WritePermit> {
        self.mode?.write_permit()
    }

    /// An effect that is about to be applied, which counts as just applied from now on.
    pub(super) fn task(&mut self, permitted: PermittedEffect) -> Task {
        let PermittedEffect { key, effect, permit } = permitted;
        self.tried.effect = Some(effect.key());
        Task {
            key,
            launching: self.is_launching(),
            began: self.action.began.time(),
            tried_before: self.tried.removals.last.is_some(),
            effect,
            permit,
        }
    }

    /// What was done.
    pub(super) fn absorb(&mut self, report: Report) {
        let Report { steps, status, finished, verdict, trouble, removal, refused, removed, may_repeat, completed } =
            report;
        self.steps.extend(steps);
        for removal in removed {
            self.removed(removal);
        }
        self.tried.trouble = trouble.or(self.tried.trouble.take());
        self.tried.removals.last = removal.or(self.tried.removals.last.take());
        self.tried.refused = refused.or(self.tried.refused.take());
        if may_repeat {
            self.tried.effect = None;
        }
        self.completed |= completed;
        if let Some(status) = status {
            self.set_status(status);
        }
        if let Some(verdict) = verdict {
            self.decide(verdict);
        }
        if let Some(status) = finished {
            self.finish(status);
        }
    }

    fn removed(&mut self, removal: Removal<Applied>) {
        let name = removal.name.certname().clone();
        if let Some(certificate) = self.certificates.get(&name) {
            self.revoked.insert(name.clone(), certificate.clone());
        }
        if self.is_launching() {
            // What was seen under the name is not there any more, and is read again.
            self.certificates.remove(&name);
        }
        self.tried.removals.applied.insert(name, removal);
    }

    /// Records what a snapshot proves of what was removed before it.
    pub(super) fn prove(&mut self, snapshot: &PuppetSnapshot) {
        for (name, removal) in std::mem::take(&mut self.tried.removals.applied) {
            let certificate = self.revoked.remove(&name);
            let revocation =
                revocation(snapshot.crl.as_ref(), certificate.as_ref(), removal.is_revoked(), snapshot.enterprise);
            for part in removal.gone(&snapshot.view(&name), snapshot.at) {
                self.step(Stage::Proven, snapshot.took, part.describe(&name, revocation));
            }
        }
    }

    /// Adds names to observe.
    pub(super) fn look_at_too(&mut self, names: &[Certname]) {
        let new: Vec<Certname> =
            names.iter().filter(|name| self.names().all(|known| known != *name)).cloned().collect();
        self.more_names.extend(new);
    }

    /// Observe mode: what would be done.
    pub(super) fn withhold(&mut self, withheld: &[String]) {
        for what in withheld {
            self.step(Stage::Would, Duration::ZERO, what.clone());
        }
        let observes = "observe mode: nothing was changed and the action was not completed";
        self.finish(Status::new(Outcome::Waiting, Fact::new(Code::ObserveMode, observes)));
    }

    /// It is decided.
    pub(super) fn decide(&mut self, verdict: Verdict) {
        if !self.is_undecided() {
            return;
        }
        if self.is_launching() && verdict.reason.code() == Code::Enrolled {
            for fact in verdict.reason.facts() {
                self.step(Stage::Proven, Duration::ZERO, fact.text.clone());
            }
        }
        self.state = State::Decided(verdict);
    }

    /// Sets the provisional status; a later pass may replace it.
    pub(super) fn set_status(&mut self, status: Status) {
        if self.is_open() {
            self.status = status;
        }
    }

    /// It is over for this invocation.
    fn finish(&mut self, status: Status) {
        self.set_status(status);
        self.state = State::Finished;
    }

    fn step(&mut self, stage: Stage, took: Duration, detail: impl Into<String>) {
        self.steps.push(Step::new(stage, took, detail));
    }

    /// Reports what was seen, unless it was reported before.
    fn saw(&mut self, took: Duration, detail: String) {
        if self.reported.insert(detail.clone()) {
            self.step(Stage::Seen, took, detail);
        }
    }

    pub(super) fn into_receipt(self) -> Receipt {
        let certname = self.names().next().cloned();
        let open = matches!(self.status.outcome, Outcome::Waiting | Outcome::Refused | Outcome::Failed);
        let pending = self.pending().filter(|pending| pending.waits && open);
        let decide_by = pending.zip(self.action.began.time());
        let decide_by = decide_by.map(|(pending, began)| deadline::after(began, pending.allowed));
        Receipt {
            schema: SCHEMA,
            instance_id: Some(self.action.instance),
            group: Some(self.action.group),
            hook: Some(self.action.hook),
            certname,
            mode: self.mode,
            outcome: self.status.outcome,
            code: self.status.reason.code(),
            reason: self.status.reason.to_string(),
            decide_by,
            steps: self.steps,
        }
    }
}
