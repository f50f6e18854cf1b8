//! Onboarding, the refresh targets' part: what must they learn of this launch, and have they? Pure.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};

use super::{CLOCKS_DIFFER, NotYet, Rules, ask, news, trouble};
use crate::deadline;
use crate::decision::{Decision, Effect, Missing, Question};
use crate::observation::{Began, CertificateView, NameView};
use crate::profile::{AwaitedRun, OnRefreshTimeout, RefreshAfter};
use crate::reason::{Code, Fact, Reason};
use crate::refresh::{self, Refreshing, RunView, Standing};

/// So long before the launch's own timeout expires, it goes on without the targets: a fit instance is not abandoned because of them.
const LEFT_FOR_THE_REST: Duration = Duration::from_secs(120);

/// What became of the refresh targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refreshed {
    /// That they have learnt of it, or will.
    pub(super) learnt: Option<Fact>,
    /// Without which of them the launch goes on.
    pub(super) missed: Option<Fact>,
}

impl Rules<'_> {
    /// The nodes that must learn of it have run Puppet since, as far as there is anything to learn yet. Without a Puppet run among
    /// `ready`, nothing says when that would be, and no launch waits for them.
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
        // Otherwise every run would seem to have begun too early, and another be ordered at once.
        if change > self.now {
            let ahead = format!("waiting for {change}, the time of the change by a clock that is ahead of ours");
            return Err(news(Code::ClockAhead, ahead));
        }
        let Some(targets) = self.seen.targets.as_deref() else {
            return ask(Question::Targets(refresh::searched_from(change)));
        };
        let until = self.until()?;
        let standing = Refreshing { refresh, targets, change, until, now: self.now }.standing();
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
        // The sweep runs one at a time, so that launches together cost the targets one run.
        if let Some(order) = order.as_ref().filter(|_| self.orchestrated && self.sweeps && !late) {
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

    /// When that happened which the targets must learn; `None` if it has not happened.
    fn change(
        &self,
        name: &NameView,
        certificate: &CertificateView,
        own: Option<&RunView>,
    ) -> Result<Option<Timestamp>, NotYet> {
        let since = self.runs_count_since(certificate);
        let Some(history) = &self.seen.history else { return ask(Question::History(refresh::searched_from(since))) };
        let runs = history.runs.known().map_err(trouble)?.map_or(&[][..], Vec::as_slice);
        let (after, of_this_launch) = (self.launching.profile.refresh.after, deadline::before(since, CLOCKS_DIFFER));
        // A run that began before its certificate was issued is a predecessor's.
        let by_it = self.is_by_it(name)?;
        let first = runs.iter().filter(|run| run.start >= of_this_launch && by_it(run));
        let stored = match after {
            RefreshAfter::SuccessfulRun => None,
            RefreshAfter::Catalog => history.catalog.known().map_err(trouble)?,
        };
        let stored = stored.filter(|stored| stored.produced >= of_this_launch);
        // PuppetDB may have forgotten the first one.
        let newest = own.filter(|run| match after {
            RefreshAfter::SuccessfulRun => run.is_good(),
            RefreshAfter::Catalog => run.has_own_catalog(),
        });
        Ok(refresh::change(after, first, stored).or(newest.map(|run| run.end)))
    }

    /// Until when the launch can wait for the targets, if it goes on without them. An event alone never shows that it has expired.
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
