//! One action on its way through an invocation: what is known of it and what was done. No I/O.

mod take_in;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::admission::PendingAction;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::decision::{Question, not_seen_yet};
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_lifecycle::onboard::{self, LaunchView, Refused};
use stagedoor_lifecycle::profile::{Protected, RefreshAfter};
use stagedoor_lifecycle::purge::TerminationView;
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Receipt, SCHEMA, Step, StepKind};
use stagedoor_lifecycle::removal::{Applied, Removal};
use stagedoor_plan::{PermittedEffect, Seen, Situation, Status, Tried, Verdict};
use stagedoor_puppet::Certificate;
use stagedoor_types::{ActionResult, Certname, Lookup, Mode, Observed, WritePermit};

use super::progress::Progress;
use super::{Decided, LeftPinned, Query, Report, Task, Waiting};
use crate::context::Run;
use crate::snapshot::{PuppetSnapshot, issued, revocation};

/// How far an action is.
#[derive(Debug)]
enum State {
    /// AWS has not confirmed it yet.
    New,
    /// AWS has confirmed it, and it is to be decided.
    Active,
    /// It is decided, and has to be completed.
    Decided(Decided),
    /// It is over for this invocation.
    Finished(Status),
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
    /// Certificates that were removed and are not proven gone yet; the CRL must list them.
    revoked: BTreeMap<Certname, Certificate>,
    /// The names under which there was no certificate: one that appears there is of this launch.
    vacant: BTreeSet<Certname>,
    /// By how much the CA's clock is ahead of ours, as far as known.
    ca_ahead: Option<SignedDuration>,
    /// When a Puppet Server received the newest report that was seen while it had no certificate.
    run_of_another: Option<Timestamp>,
    /// The last request that was refused.
    refused: Option<Refused>,
    /// What this invocation has tried.
    pub(super) tried: Tried,
    state: State,
    progress: Progress,
    /// Whether what an abandoned launch has left pinned was dealt with.
    unpinned: bool,
    /// Whether Auto Scaling has accepted the completion.
    completed: bool,
    /// What was reported as seen already.
    reported: BTreeSet<String>,
    steps: Vec<Step>,
}

impl WorkItem {
    pub(super) fn new(action: LifecycleAction) -> Self {
        Self {
            action,
            pending: None,
            mode: None,
            unconfirmed: None,
            more_names: Vec::new(),
            termination: Observed { value: take_in::nothing(Lookup::Absent), at: Timestamp::MIN },
            launch: LaunchView::default(),
            certificates: BTreeMap::new(),
            revoked: BTreeMap::new(),
            vacant: BTreeSet::new(),
            ca_ahead: None,
            run_of_another: None,
            refused: None,
            tried: Tried::default(),
            state: State::New,
            progress: Progress::new(),
            unpinned: false,
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
        !matches!(self.state, State::Finished(_))
    }

    /// Whether there is something to decide yet.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.state, State::New | State::Active)
    }

    /// Whether AWS has confirmed it and it is to be decided.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Active)
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

    /// The names whose certificate the CA has just revoked, which is not proven yet.
    pub(crate) fn unproven(&self) -> impl Iterator<Item = &Certname> {
        self.tried
            .removals
            .applied
            .values()
            .filter(|removal| removal.is_revoked())
            .map(|removal| removal.name.certname())
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
        let of_this_launch =
            |certificate: &&Certificate| self.has_appeared() || issued(certificate, self.ca_ahead) >= began;
        self.own_certificate().filter(of_this_launch)
    }

    /// Whether there was no certificate under the expected name before the one that is there.
    fn has_appeared(&self) -> bool {
        self.names().next().is_some_and(|name| self.vacant.contains(name))
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
        let probes = pending.profile.ready.iter().filter(|probe| !probe.is_report());
        Some(Query {
            key: self.action.key(),
            question,
            certname: self.names().next().cloned(),
            certificate: self.own_certificate().cloned(),
            addresses: pending.addresses.clone(),
            classified: pending.profile.classified.clone(),
            targets: pending.profile.refresh.targets().cloned().collect(),
            after_catalog: pending.profile.refresh.after == RefreshAfter::Catalog,
            probes: probes.cloned().collect(),
        })
    }

    /// If it waits to be completed.
    pub(super) fn decided(&self) -> Option<Decided> {
        if let State::Decided(decided) = &self.state { Some(decided.clone()) } else { None }
    }

    /// What it leaves pinned, if it is about to be abandoned: that is removed first.
    pub(super) fn left_pinned(&self, protected: &Protected) -> Option<LeftPinned> {
        let State::Decided(decided) = &self.state else { return None };
        if decided.verdict.result != ActionResult::Abandon || self.unpinned || !self.is_launching() {
            return None;
        }
        let (certname, groups) = onboard::pins_left(&self.action, self.pending()?, &self.launch, protected)?;
        Some(LeftPinned { key: self.action.key(), certname, groups, permit: decided.permit? })
    }

    /// Set if the hook would time out before the profile's timeout, and heartbeats may be sent.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let timeout = self.pending().filter(|pending| pending.waits && self.is_active())?.heartbeat?;
        Some(Waiting { key: self.action.key(), timeout, permit: self.permit()? })
    }

    /// How it is doing.
    fn status(&self) -> &Status {
        if let State::Finished(status) = &self.state { status } else { self.progress.status() }
    }

    /// Whether its hook holds the instance when the invocation ends, as far as AWS has shown.
    pub(super) fn still_waits(&self) -> bool {
        let open = matches!(self.status().outcome, Outcome::Waiting | Outcome::Refused | Outcome::Failed);
        open && !self.completed && self.pending().is_some_and(|pending| pending.waits)
    }

    /// The permit of its profile's mode.
    fn permit(&self) -> Option<WritePermit> {
        self.mode?.write_permit()
    }

    /// An effect that is about to be applied, which counts as just applied from now on.
    pub(super) fn task(&mut self, permitted: PermittedEffect) -> Task {
        let PermittedEffect { key, effect, permit } = permitted;
        self.tried.effect = Some(effect.key());
        // A decided action does not wait for what is ordered besides.
        if self.is_active() {
            self.progress.plan(Status::new(Outcome::Failed, not_seen_yet(&effect)));
        }
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
        if !self.is_open() {
            // What was ordered besides is done after the action was completed.
            self.steps.extend(report.steps);
            return;
        }
        let Report {
            steps,
            status,
            finished,
            trouble,
            removal,
            refused,
            refused_request,
            removed,
            unpinned,
            pins_left,
            may_repeat,
            ordered,
            completed,
        } = report;
        self.steps.extend(steps);
        for removal in removed {
            self.removed(removal);
        }
        self.tried.trouble = trouble.or(self.tried.trouble.take());
        self.tried.removals.last = removal.or(self.tried.removals.last.take());
        self.tried.refused = refused.or(self.tried.refused.take());
        self.refused = refused_request.or(self.refused.take());
        self.tried.ordered.extend(ordered);
        if may_repeat {
            self.tried.effect = None;
        }
        self.completed |= completed;
        self.unpinned |= unpinned;
        if let (State::Decided(decided), Some(left)) = (&mut self.state, pins_left) {
            decided.verdict.reason = decided.verdict.reason.clone().and(left);
        }
        if let Some(status) = status {
            self.report(status);
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
        let removal = match self.tried.removals.applied.remove(&name) {
            Some(earlier) => removal.after(earlier),
            None => removal,
        };
        self.tried.removals.applied.insert(name, removal);
    }

    /// Records what a snapshot proves of what was removed before it.
    pub(super) fn prove(&mut self, snapshot: &PuppetSnapshot) {
        for (name, removal) in std::mem::take(&mut self.tried.removals.applied) {
            let certificate = self.revoked.remove(&name);
            let revocation =
                revocation(snapshot.crl.as_ref(), certificate.as_ref(), removal.is_revoked(), snapshot.enterprise);
            for part in removal.gone(&snapshot.view(&name), snapshot.at) {
                self.step(StepKind::Proven, snapshot.took, part.describe(&name, revocation));
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
            self.step(StepKind::Withheld, Duration::ZERO, what.clone());
        }
        let observes = "observe mode: nothing was changed and the action was not completed";
        self.finish(Status::new(Outcome::Waiting, Fact::new(Code::ObserveMode, observes)));
    }

    /// It is decided, if it was to be.
    pub(super) fn decide(&mut self, verdict: Verdict) {
        let Some((true, pending)) = self.pending().map(|pending| (self.is_active(), pending)) else { return };
        let (waits, other_hooks) = (pending.waits, pending.other_hooks);
        if self.is_launching() && verdict.reason.codes().contains(&Code::Enrolled) {
            for fact in verdict.reason.facts().filter(|fact| fact.code != Code::RefreshTimedOut) {
                self.step(StepKind::Proven, Duration::ZERO, fact.text.clone());
            }
        }
        self.set_decided(verdict, waits, other_hooks, None);
    }

    /// It has to be completed; see [`Decided`].
    fn set_decided(&mut self, verdict: Verdict, waits: bool, other_hooks: bool, seen: Option<Timestamp>) {
        if !self.is_open() {
            return;
        }
        let result = verdict.result.as_str();
        let open =
            Fact::new(Code::CompletionPending, format!("it is to be completed with {result}, which was not done yet"));
        self.progress.plan(Status::new(Outcome::Failed, Reason::new(open, verdict.reason.facts().cloned().collect())));
        let (action, permit) = (self.action.clone(), self.permit());
        self.state = State::Decided(Decided { action, verdict, waits, other_hooks, seen, permit });
    }

    pub(super) fn begin_pass(&mut self) {
        self.progress.begin_pass();
    }

    /// The status that was planned; see [`Progress`].
    pub(super) fn plan(&mut self, status: Status) {
        self.progress.plan(status);
    }

    /// The status that a step reports; see [`Progress`].
    pub(super) fn report(&mut self, status: Status) {
        self.progress.report(status);
    }

    /// It is over for this invocation.
    fn finish(&mut self, status: Status) {
        if self.is_open() {
            self.state = State::Finished(status);
        }
    }

    fn step(&mut self, kind: StepKind, took: Duration, detail: impl Into<String>) {
        self.steps.push(Step::new(kind, took, detail));
    }

    /// Reports what was seen, unless it was reported before.
    fn saw(&mut self, took: Duration, detail: String) {
        if self.reported.insert(detail.clone()) {
            self.step(StepKind::Observed, took, detail);
        }
    }

    pub(super) fn into_receipt(self, run: Run<'_>) -> Receipt {
        let certname = self.names().next().cloned();
        let pending = self.pending().filter(|_| self.still_waits());
        let status = self.status();
        let (outcome, code, reason) = (status.outcome, status.reason.code(), status.reason.to_string());
        let decide_by = pending.zip(self.action.began.time());
        let decide_by = decide_by.map(|(pending, began)| deadline::after(began, pending.allowed));
        let announces = deadline::announces_refusal(run.sweeps, self.action.began.time(), run.budget.began);
        Receipt {
            schema: SCHEMA,
            instance_id: Some(self.action.instance),
            group: Some(self.action.group),
            hook: Some(self.action.hook),
            certname,
            mode: self.mode,
            outcome,
            code,
            reason,
            decide_by,
            announce: announces && self.refused.is_some(),
            steps: self.steps,
        }
    }
}
