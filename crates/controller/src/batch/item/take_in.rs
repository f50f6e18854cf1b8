//! Takes in what AWS and Puppet say of an action. No I/O.

use jiff::Timestamp;
use stagedoor_lifecycle::admission::{Admission, CloudView};
use stagedoor_lifecycle::observation::NameView;
use stagedoor_lifecycle::onboard::LaunchView;
use stagedoor_lifecycle::purge::TerminationView;
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_plan::{Status, Verdict};
use stagedoor_types::{ActionResult, Certname, Lookup, Mode, Observed, Trouble};

use super::{State, WorkItem};
use crate::batch::Answer;
use crate::snapshot::{AwsSnapshot, PuppetSnapshot, describe};

impl WorkItem {
    /// AWS says this of it.
    pub(in crate::batch) fn admit(
        &mut self,
        mode: Option<Mode>,
        admission: Admission,
        view: &CloudView,
        aws: &AwsSnapshot,
    ) {
        let (at, took) = (aws.at, aws.took);
        self.mode = mode.or(self.mode);
        let shown = view.group.known().ok().flatten().and_then(|group| group.members.get(&self.action.instance));
        let shown = shown.map_or_else(|| "not in the group".to_owned(), ToString::to_string);
        self.unconfirmed = None;
        match admission {
            Admission::Ours(mut pending) => {
                if let (Lookup::Unavailable(_), Some(before)) = (&view.hooks, self.pending()) {
                    pending.keep_times_of(before);
                }
                if self.pending.is_none() {
                    let machine = view.machine.known().ok().flatten().map_or("unknown", |machine| &machine.state);
                    self.step(StepKind::Observed, took, format!("Auto Scaling: {shown}; EC2: {machine}"));
                }
                self.pending = Some(Observed { value: *pending, at });
                if matches!(self.state, State::New) {
                    self.state = State::Active;
                }
            }
            Admission::Pass(reason) => {
                self.step(StepKind::Observed, took, format!("Auto Scaling: {shown}"));
                // Whether it still waits, and at which hooks, is not known.
                let verdict = Verdict { result: ActionResult::Continue, reason: reason.into() };
                self.set_decided(verdict, true, true, Some(at));
            }
            Admission::Ignore(reason) => self.finish(Status::new(Outcome::Ignored, reason)),
            Admission::Refuse(reason) => self.finish(Status::new(Outcome::Refused, reason)),
            Admission::Fail(reason) => {
                // What AWS confirmed before still says when the timeout expires.
                self.unconfirmed = self.pending.is_some().then(|| reason.clone());
                self.plan(Status::new(Outcome::Failed, reason));
            }
        }
    }

    /// Puppet says this of it.
    pub(in crate::batch) fn take_in(&mut self, snapshot: &PuppetSnapshot) {
        self.ca_ahead = snapshot.ca_ahead;
        if self.is_launching() {
            self.look_at_launch(snapshot);
        } else {
            self.look_at_termination(snapshot);
        }
        // The certificates, which the CRL must hold later on, when they are gone themselves.
        let seen = self.names().filter_map(|name| Some((name.clone(), snapshot.certificate(name)?.clone())));
        let seen: Vec<_> = seen.collect();
        self.certificates.extend(seen);
    }

    fn look_at_launch(&mut self, snapshot: &PuppetSnapshot) {
        let name = self.names().next().cloned();
        let own = self.certificate_of_this_launch();
        let run = name.as_ref().map(|name| snapshot.run(name));
        let mut seen = Vec::new();
        let view = match (&name, own) {
            (Some(name), Some(own)) => {
                seen.push(format!("{name}: certificate {} of {}", own.serial(), self.action.instance));
                if let Some(Lookup::Found(run)) = &run {
                    seen.push(format!("its Puppet run at {} ended as {}", run.start, run.status));
                }
                Some(snapshot.view_with(name, own, self.has_appeared()))
            }
            (Some(name), None) => {
                let mut view = snapshot.view(name);
                seen.push(describe(&view));
                if let Lookup::Found(certificate) = &mut view.certificate {
                    certificate.appeared = self.has_appeared();
                }
                Some(view)
            }
            (None, _) => None,
        };
        for what in seen {
            self.saw(snapshot.took, what);
        }
        if let Some(name) = name.filter(|_| view.as_ref().is_some_and(|view| view.certificate == Lookup::Absent)) {
            // A certificate that was seen under the name before has been removed, by this invocation or by another.
            self.certificates.remove(&name);
            self.vacant.insert(name);
        }
        let without = |view: &NameView| match &view.certificate {
            Lookup::Found(certificate) => {
                certificate.instance.as_ref().is_some_and(|owner| *owner != self.action.instance)
            }
            Lookup::Absent => true,
            Lookup::Unavailable(_) => false,
        };
        if let Some(Lookup::Found(run)) = run.as_ref().filter(|_| view.as_ref().is_some_and(without)) {
            self.run_of_another = self.run_of_another.max(Some(run.received));
        }
        // Where it is under another name is looked for once in an invocation.
        let (node_groups, elsewhere) = (snapshot.node_groups(), self.launch.elsewhere.take());
        let refused = self.refused.clone();
        let located = view.as_ref().and_then(|view| snapshot.located(&view.certname));
        let run_of_another = self.run_of_another;
        self.launch = LaunchView {
            name: view,
            puppetdb_ahead: snapshot.puppetdb_ahead,
            run,
            run_of_another,
            refused,
            located,
            node_groups,
            elsewhere,
            ..LaunchView::default()
        };
    }

    fn look_at_termination(&mut self, snapshot: &PuppetSnapshot) {
        let names: Vec<NameView> = self.names().map(|name| snapshot.view(name)).collect();
        for view in names.iter().skip(self.termination.value.names.len()) {
            self.saw(snapshot.took, describe(view));
        }
        let known_as = snapshot.known_as(&self.action.instance);
        let value = TerminationView { names, known_as, targets: None };
        self.termination = Observed { value, at: snapshot.at };
    }

    pub(in crate::batch) fn puppet_is_unavailable(&mut self, trouble: &Trouble) {
        self.termination.value = nothing(Lookup::Unavailable(trouble.clone()));
        let name = self.names().next().map(|name| NameView::unavailable(name.clone(), trouble));
        self.launch = LaunchView { name, ..LaunchView::default() };
    }

    pub(in crate::batch) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Owner(owner, machine) => self.launch.owner = Some((owner, machine)),
            Answer::Classification(classification) => self.launch.classification = Some(classification),
            Answer::Connection(connection) => self.launch.connection = Some(connection),
            Answer::History(history) => self.launch.history = Some(history),
            Answer::Targets(targets) if self.is_launching() => self.launch.targets = Some(targets),
            Answer::Targets(targets) => self.termination.value.targets = Some(targets),
            Answer::Poll(poll, polls) => {
                self.launch.poll = Some(poll);
                self.launch.successful_polls = polls;
            }
            Answer::Elsewhere(found) => self.launch.elsewhere = Some(found),
        }
    }

    /// Sets when the action began, from Auto Scaling's record and, for a launch, from EC2.
    pub(in crate::batch) fn started(&mut self, recorded: Option<Timestamp>, now: Timestamp) {
        let launched = self.pending().filter(|_| self.is_launching()).and_then(|pending| pending.launched);
        self.action.began = self.action.began.confirm(recorded, launched, now);
    }
}

/// What is known of a terminating instance before any name of it was observed.
pub(super) fn nothing(known_as: Lookup<Vec<Certname>>) -> TerminationView {
    TerminationView { names: Vec::new(), known_as, targets: None }
}
