//! Onboarding, refresh targets: decides what they must learn of this launch, and whether they have. Pure.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};

use super::{NotYet, Rules, ask, news, trouble};
use crate::deadline;
use crate::decision::{Decision, Effect, Missing, Question};
use crate::observation::{Began, CertificateView, NameView};
use crate::profile::{AwaitedRun, OnRefreshTimeout, RefreshAfter};
use crate::reason::{Code, Fact, Reason};
use crate::refresh::{self, CatalogView, History, Refreshing, RunView, Standing};

/// How long before its own timeout expires a launch goes on without the targets, so that no fit instance is abandoned because of them.
const LEFT_FOR_THE_REST: Duration = Duration::from_secs(120);

/// The state of the refresh targets, for a launch that need not wait for them any longer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refreshed {
    /// That targets have learnt of the launch, or will.
    pub(super) learnt: Option<Fact>,
    /// The targets without which the launch goes on.
    pub(super) missed: Option<Fact>,
}

impl Rules<'_> {
    /// Requires that the refresh targets have run Puppet since the change, if it has happened yet. If `ready` requires no Puppet run, the
    /// time of a change is unknown, and the launch does not wait for the targets.
    pub(super) fn refreshed(
        &self,
        name: &NameView,
        certificate: &CertificateView,
        own: Option<&RunView>,
    ) -> Result<Refreshed, NotYet> {
        let refresh = &self.launching.profile.refresh;
        if refresh.is_empty() || self.launching.profile.awaited_run() == AwaitedRun::None || is_broken(Rule::Refresh) {
            return Ok(Refreshed::default());
        }
        if !self.orchestrated && !refresh.await_launch {
            return Ok(Refreshed { learnt: Some(refresh::at_next_run(refresh)), missed: None });
        }
        self.launch_is_known()?;
        let Some(change) = self.change(name, certificate, own)? else { return Ok(Refreshed::default()) };
        // Otherwise, every run would appear to have begun too early, and another one would be ordered at once.
        let now = self.by_puppetdb(self.now);
        if change > now {
            let ahead = format!("waiting for {change}, the time of the change by a clock that is ahead of ours");
            return Err(news(Code::ClockAhead, ahead));
        }
        let Some(targets) = self.seen.targets.as_deref() else {
            return ask(Question::Targets(refresh::searched_from(change)));
        };
        let until = self.until()?.map(|until| self.by_puppetdb(until));
        let together = is_broken(Rule::Waves).then(|| refresh.in_one_wave());
        let refresh = together.as_ref().unwrap_or(refresh);
        let standing = Refreshing { refresh, targets, change, until, now }.standing();
        self.follow(standing)
    }

    fn follow(&self, standing: Standing) -> Result<Refreshed, NotYet> {
        let Standing { learnt, missed, awaited, troubles, order, timed_out } = standing;
        if awaited.is_empty() {
            let learnt = (!learnt.is_empty()).then(|| Fact::new(Code::Refreshed, learnt.join("; ")));
            let without = || format!("the timeout of the refresh has expired; going on without {}", missed.join("; "));
            let missed = (!missed.is_empty()).then(|| Fact::new(Code::RefreshTimedOut, without()));
            return Ok(Refreshed { learnt, missed });
        }
        let late = self.launching.is_late(self.action.began, self.now);
        // Sweeps run one at a time, so that instances that launch together cost the targets one run.
        let orders = self.sweeps || is_broken(Rule::SweepsOrder);
        if let Some(order) = order.as_ref().filter(|_| self.orchestrated && orders && !late) {
            return Err(Decision::Apply(Effect::Refresh(order.clone())).into());
        }
        let by_the_sweep = if order.is_some() && !self.sweeps { "; the sweep orders it" } else { "" };
        let waiting = format!("waiting for {}{by_the_sweep}", awaited.join("; "));
        let awaited = if timed_out {
            Fact::new(Code::RefreshTimedOut, format!("the timeout of the refresh has expired; {waiting}"))
        } else {
            Fact::new(Code::WaitingForRefresh, waiting)
        };
        Err(NotYet::Missing(Missing::NotYet(Reason::new(awaited, troubles))))
    }

    /// The time of the change that the targets must learn of; `None` if it has not happened.
    fn change(
        &self,
        name: &NameView,
        certificate: &CertificateView,
        own: Option<&RunView>,
    ) -> Result<Option<Timestamp>, NotYet> {
        let history = self.history(certificate)?;
        let of_this_launch = self.is_of_this_launch(certificate);
        let runs = history.runs.known().map_err(trouble)?.map_or(&[][..], Vec::as_slice);
        let after = self.launching.profile.refresh.after;
        // A run that began before the certificate was issued belongs to a predecessor.
        let by_it = self.is_by_it(name)?;
        let its = runs.iter().filter(|run| of_this_launch(run.began_by_server()) && by_it(run));
        let stored = match after {
            RefreshAfter::SuccessfulRun => None,
            RefreshAfter::Catalog => self.stored_catalog(name, certificate)?,
        };
        // The newest is among them, unless it was received outside the time that was searched.
        Ok(refresh::change(after, its.chain(own), stored))
    }

    /// The runs and the catalog under its name.
    fn history(&self, certificate: &CertificateView) -> Result<&History, NotYet> {
        match &self.seen.history {
            Some(history) => Ok(history),
            None => ask(Question::History(refresh::searched_from(self.runs_count_since(certificate)))),
        }
    }

    /// Its stored catalog, if that is of this launch. It is compiled after the facts of the same run were sent.
    fn stored_catalog(&self, name: &NameView, certificate: &CertificateView) -> Result<Option<&CatalogView>, NotYet> {
        let by_another = self.is_by_another(name)?;
        let of_this_launch = self.is_of_this_launch(certificate);
        let stored = self.history(certificate)?.catalog.known().map_err(trouble)?;
        Ok(stored.filter(|stored| !by_another && of_this_launch(stored.produced)))
    }

    /// Whether PuppetDB has the node's facts of this launch before its first report: facts are sent before the catalog is stored. With
    /// `refresh_after = "catalog"`, the first run may not end before the targets have run, so nothing may wait for its report.
    pub(super) fn has_sent_facts(&self, name: &NameView, certificate: &CertificateView) -> Result<bool, NotYet> {
        let profile = &self.launching.profile;
        if profile.classified.is_empty() || profile.refresh.is_empty() || profile.refresh.after != RefreshAfter::Catalog
        {
            return Ok(false);
        }
        Ok(self.stored_catalog(name, certificate)?.is_some())
    }

    /// The latest time until which the launch can wait for the targets, if it may go on without them. An event alone never shows that this
    /// time has passed.
    fn until(&self) -> Result<Option<Timestamp>, NotYet> {
        if self.launching.profile.refresh.on_timeout == OnRefreshTimeout::Wait {
            return Ok(None);
        }
        let left = LEFT_FOR_THE_REST.min(self.launching.allowed / 4);
        let Some(began) = self.action.began.time() else { return Ok(None) };
        let until = deadline::after(began, self.launching.allowed.saturating_sub(left));
        match self.action.began {
            Began::Confirmed { .. } => Ok(Some(until)),
            _ if self.now >= until => ask(Question::Began),
            _ => Ok(Some(until)),
        }
    }
}
