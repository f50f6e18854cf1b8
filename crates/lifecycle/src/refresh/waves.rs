//! Decides whether the refresh targets of a launch have learnt of it, wave after wave. Pure.

use jiff::{SignedDuration, Timestamp};
use stagedoor_types::Certname;
use stagedoor_types::broken::{Rule, is_broken};

use super::TargetView;
use super::target::{Policy, TargetStanding, standing};
use crate::deadline;
use crate::decision::RefreshOrder;
use crate::profile::{OnRefreshTimeout, Refresh};
use crate::reason::Fact;

/// What a launch waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refreshing<'a> {
    /// The profile's waves and timeout.
    pub(crate) refresh: &'a Refresh,
    /// What is known of the targets.
    pub(crate) targets: &'a [TargetView],
    /// The time of the change that they must learn of. It does not move.
    pub(crate) change: Timestamp,
    /// The latest time until which the launch can wait for them, because its own timeout expires soon after.
    pub(crate) until: Option<Timestamp>,
    /// The current time.
    pub(crate) now: Timestamp,
}

/// The progress of the waves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// For the targets that have learnt of the change: how that is known.
    pub(crate) learnt: Vec<String>,
    /// What the launch waited for until the timeout. It goes on without it.
    pub(crate) missed: Vec<String>,
    /// What the launch waits for.
    pub(crate) awaited: Vec<String>,
    /// Unavailable services that would show the targets' runs.
    pub(crate) troubles: Vec<Fact>,
    /// The order that is due.
    pub(crate) order: Option<RefreshOrder>,
    /// Whether the timeout of the refresh has expired.
    pub(crate) timed_out: bool,
}

impl Refreshing<'_> {
    /// A wave begins when the wave before has learnt of the change or was given up. Its own change is that time, so that its targets run
    /// afterwards. Both times are fixed, because only the first run by which each target learns of the change counts.
    ///
    /// If the launch may go on without targets, each wave has a share of the time, plus what the waves before it have left of theirs. So
    /// one failing target does not keep the next wave from running.
    pub(crate) fn standing(&self) -> Standing {
        let Self { refresh, change, now, .. } = *self;
        let proceeds = refresh.on_timeout == OnRefreshTimeout::Proceed;
        let mut all = Standing { timed_out: now >= self.gives_up(refresh.waves.len()), ..Standing::default() };
        let mut start = change;
        for (before, wave) in refresh.waves.iter().enumerate() {
            let give_up = self.gives_up(before + 1);
            let (mut awaited, mut troubles, mut needed) = (Vec::new(), Vec::new(), Vec::new());
            let mut ended = start;
            for name in wave {
                match self.of_target(name, start) {
                    TargetStanding::Learnt { end, how } => {
                        ended = ended.max(end);
                        all.learnt.push(how);
                    }
                    TargetStanding::Needed { due, what } => {
                        needed.push((name.clone(), due));
                        awaited.push(what);
                    }
                    TargetStanding::Underway(what) => awaited.push(what),
                    // A target's services may restart while it runs Puppet. They are then unavailable for a while.
                    TargetStanding::Unknown(trouble) => {
                        awaited.push(format!("{name}, of which too little is known"));
                        troubles.push(Fact::from(trouble));
                    }
                }
            }
            if awaited.is_empty() {
                start = if proceeds { ended.min(give_up) } else { ended };
            } else if proceeds && now >= give_up {
                all.missed.extend(awaited);
                all.troubles.extend(troubles);
                start = give_up;
            } else {
                (all.awaited, all.troubles) = (awaited, troubles);
                let due = needed.iter().map(|(_, due)| *due).max();
                let targets = needed.into_iter().map(|(name, _)| name).collect();
                all.order = due.map(|due| RefreshOrder { targets, change: start, due, awaited: true });
                break;
            }
        }
        all
    }

    fn of_target(&self, name: &Certname, start: Timestamp) -> TargetStanding {
        match self.targets.iter().find(|target| target.certname == *name) {
            Some(target) => standing(target, start, Policy::of_sweeps(self.refresh.timeout), self.now),
            None => TargetStanding::Underway(format!("{name}, which was not asked about")),
        }
    }

    /// When the time of this many waves is over.
    fn gives_up(&self, waves: usize) -> Timestamp {
        if is_broken(Rule::RefreshTimeout) {
            return Timestamp::MAX;
        }
        let end = deadline::after(self.change, self.refresh.timeout);
        let end = self.until.map_or(end, |until| end.min(until)).max(self.change);
        let count = |waves: usize| i32::try_from(waves).unwrap_or(i32::MAX);
        let share = end.duration_since(self.change) / count(self.refresh.waves.len()).max(1);
        let time = share.checked_mul(count(waves)).unwrap_or(SignedDuration::MAX);
        if waves == self.refresh.waves.len() {
            end
        } else {
            self.change.checked_add(time).map_or(end, |time| time.min(end))
        }
    }
}
