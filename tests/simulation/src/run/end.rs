//! The end of a schedule: when it may end, and what must hold then.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::World;
use crate::schedule::Life;
use crate::watch::{DATABASE, Invariant, PRIMARY, Truth, is_too_many};

/// The time within which the refresh targets must have learnt of a removal, even if the order of the termination was lost.
const MADE_GOOD: SignedDuration = SignedDuration::from_mins(40);
/// The greatest number of orders for a refresh target for each launch or removal: four that the orchestrator shows, or, for those that it
/// has forgotten, as many as the schedule of orders has until the timeout of the refresh.
const ORDERS_PER_CHANGE: usize = 8;

impl World {
    /// Whether something of a terminated instance is left that housekeeping still has time to remove.
    pub(super) fn waits_for_housekeeping(&self) -> bool {
        self.watch().instances().iter().any(|(id, truth)| {
            let gone = self.watch().lifecycle_state(id).is_some_and(|state| state == "Terminated");
            gone && self.watch().is_left(id, truth) && self.watch().is_signed_late(truth)
        })
    }

    /// Whether the refresh targets ought to have learnt of the last removal; `None` if they have.
    pub(super) fn is_removal_unknown(&self) -> Option<bool> {
        let at = self.watch().unknown_removal().filter(|_| !self.schedule.site.observes)?;
        Some(self.now().duration_since(at) >= MADE_GOOD)
    }

    /// Whether everything that has happened so far has been dealt with, so that the schedule may end.
    pub(super) fn is_quiet(&self) -> bool {
        let is_under_way = |id: &String| {
            self.watch().lifecycle_state(id).is_some_and(|state| state.contains(':') && !state.starts_with("Warmed:"))
        };
        self.hidden.get() == 0
            && !self.watch().instances().keys().any(is_under_way)
            && self.is_removal_unknown().is_none()
            && !self.waits_for_housekeeping()
            && self.lacks_at_the_end().is_empty()
    }

    /// Checks the invariants that must hold at the end of a schedule.
    pub(super) fn check_the_end(&self) {
        for (invariant, what) in self.lacks_at_the_end() {
            self.watch().violate(invariant, what);
        }
    }

    /// The invariants that must hold at the end of a schedule and do not hold now, with what shows that.
    fn lacks_at_the_end(&self) -> Vec<(Invariant, String)> {
        let mut lacks = Vec::new();
        if self.is_removal_unknown() == Some(true) {
            lacks.push((Invariant::RemovalUnknown, "a refresh target has not run since the last removal".to_owned()));
        }
        let changes: usize = self.schedule.lives.iter().map(Life::changes).sum();
        for (name, count) in self.ordered() {
            if count > ORDERS_PER_CHANGE * changes {
                let what = format!("{count} orders for {name}, and {changes} launches and removals");
                lacks.push((Invariant::TooManyOrders, what));
            }
        }
        let instances = self.watch().instances();
        let left = |id: &str, truth: &Truth| {
            let gone = self.watch().lifecycle_state(id).is_some_and(|state| state == "Terminated");
            gone && self.watch().is_left(id, truth)
        };
        // More than housekeeping may remove at once: an alarm reports this.
        let breaker_is_open = |region: usize| {
            let mut fleet = instances.iter().filter(|(_, truth)| truth.region == region);
            let size = fleet.clone().count();
            let orphans = fleet.by_ref().filter(|(id, truth)| truth.waits_since.is_none() && left(id, truth)).count();
            is_too_many(orphans, size)
        };
        let breaker_is_open: Vec<bool> = (0..self.regions.len()).map(breaker_is_open).collect();
        for (id, hook) in self.regions.iter().flat_map(|region| region.aws.timed_out()) {
            lacks.push((Invariant::HookTimedOut, format!("{id} has waited for the timeout of {hook}")));
        }
        for (id, truth) in instances {
            let state = self.watch().lifecycle_state(&id).unwrap_or_default();
            let pooled = state.starts_with("Warmed:");
            if state.ends_with(":Wait") {
                lacks.push((Invariant::Stranded, format!("{id} is still {state}")));
            } else if state == "Terminated" {
                // Without an active node, only the CA's list shows a certificate. The list fails while a file is damaged, which an alarm
                // reports.
                let site = &self.schedule.site;
                let only_listed = truth.waits_since.is_none() || self.watch().was_signed_late(&truth).is_some();
                let no_list = site.damaged && site.foreign > 0 && only_listed;
                let is_listed = !no_list || self.puppet.is_active(&truth.certname) == Some(true);
                let is_held = breaker_is_open[truth.region] && truth.waits_since.is_none();
                if is_listed && !is_held && left(&id, &truth) && !self.watch().is_signed_late(&truth) {
                    lacks.push((
                        Invariant::LeftBehind,
                        format!("{id} is gone, but something of {} is left", truth.certname),
                    ));
                }
                let stays = self.schedule.lives.iter().any(|life| life.id() == id && life.stays());
                if truth.fit && stays {
                    lacks
                        .push((Invariant::NotInService, format!("{id} is {state}, but should have stayed in service")));
                }
            } else if truth.fit && state != "InService" && !pooled {
                lacks.push((Invariant::NotInService, format!("{id} is {state}")));
            }
        }
        lacks
    }

    /// Checks that the number of calls about each name is bounded: four for each second that actions may wait.
    pub(super) fn check_calls(&self) {
        let mut calls: BTreeMap<String, u64> = BTreeMap::new();
        for entry in self.site.back.journal.entries() {
            if let Some(subject) = entry.subject.filter(|_| entry.service != "agent") {
                *calls.entry(subject).or_default() += 1;
            }
        }
        let timeouts: u64 = if self.site.required.len() > 1 { 75 * 60 + 600 } else { 30 * 60 + 600 };
        let seconds = timeouts.min(self.elapsed_s());
        let instances = self.schedule.lives.iter().map(Life::certname);
        for (name, count) in calls {
            // A name that is used again is as many instances.
            let instances = u64::try_from(instances.clone().filter(|of| *of == name).count()).unwrap_or(u64::MAX);
            if instances > 0 && count > 4 * seconds * instances {
                self.watch().violate(Invariant::TooManyCalls, format!("{count} calls about {name}"));
            }
        }
    }

    /// How many runs of each refresh target have been ordered.
    pub(super) fn ordered(&self) -> BTreeMap<&'static str, usize> {
        [PRIMARY, DATABASE].map(|name| (name, self.puppet.times_ordered(name))).into()
    }
}
