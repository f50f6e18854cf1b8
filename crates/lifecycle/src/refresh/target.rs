//! Decides whether one refresh target has learnt of a change, is about to, or needs an order. Pure.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{Certname, Lookup, Trouble};

use super::schedule::{Due, Given, PENDING_FROM, SWEEPS, due};
use super::{CatalogView, LOST, Order, RunView, SETTLING, TargetView};
use crate::deadline;

/// Whether a target has learnt of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetStanding {
    /// It has learnt of the change.
    Learnt {
        /// When PuppetDB stored the report of the first run by which it learnt of the change.
        end: Timestamp,
        /// How that is known.
        how: String,
    },
    /// It will or may learn of the change soon. Holds what the action waits for.
    Underway(String),
    /// A run must be ordered.
    Needed {
        /// When the order became due.
        due: Timestamp,
        /// What the action waits for.
        what: String,
    },
    /// Unknown, because a service is unavailable.
    Unknown(Trouble),
}

/// The earliest time at which the compilation of a run's catalog can have begun. The catalog reflects what PuppetDB had stored before then.
///
/// An agent asks for its catalog after it has synchronized its plug-ins and collected its facts. The report says how long that took. It is
/// counted from the beginning of the run by the node's clock or, if that is earlier, by the clock of the Puppet Server that received the
/// report. If the catalog is still the stored one, by its `catalog_uuid`, its compilation also began no earlier than `config_retrieval`
/// before its `producer_timestamp`: this metric is how long the run waited for its catalog, which includes the compilation. Therefore, a
/// run that began before a change and whose catalog was compiled after it also counts, and still does so once another catalog is stored.
pub(super) fn compiled(run: &RunView, stored: Option<&CatalogView>) -> Timestamp {
    if is_broken(Rule::Compilation) {
        return run.received;
    }
    let began = deadline::after(run.start, run.starting.unwrap_or_default()).min(run.began_by_server());
    let asked = deadline::after(began, run.preparing.unwrap_or_default());
    let same = stored.filter(|stored| stored.id.is_some() && stored.id == run.catalog);
    let by_catalog = same.zip(run.retrieving).map(|(stored, took)| deadline::before(stored.produced, took));
    by_catalog.map_or(asked, |by_catalog| by_catalog.max(asked))
}

/// The run by which a target first learnt of a change, if it has: the run applied a catalog that was compiled since, even if some resource
/// failed. A failed compilation, a cached catalog and a noop run do not count.
pub(super) fn first_to_learn(runs: &[RunView], stored: Option<&CatalogView>, change: Timestamp) -> Option<RunView> {
    let learnt = runs.iter().filter(|run| run.has_applied() && compiled(run, stored) >= change);
    learnt.min_by_key(|run| run.received).cloned()
}

/// The orders for a target, with regard to a change.
pub(super) struct TargetOrders<'a> {
    pub(super) all: &'a [Order],
    pub(super) runs: &'a [RunView],
    pub(super) change: Timestamp,
    /// The time after which an order counts as lost.
    pub(super) lost: Duration,
    pub(super) now: Timestamp,
}

impl TargetOrders<'_> {
    /// Whether an order is in progress. A report of its job shows that it has ended, even if the orchestrator has lost track of it.
    pub(super) fn is_open(&self, order: &Order) -> bool {
        order.is_open(self.lost, self.now) && !self.runs.iter().any(|run| run.job.as_ref() == Some(&order.job))
    }

    /// The earliest time at which the run of an order can have begun: not before the end of the run that was in progress when it was given.
    fn began(&self, order: &Order) -> Timestamp {
        let began = order.began.unwrap_or(Timestamp::MIN);
        let before = self.all.iter().filter(|other| other.number() < order.number());
        before.filter_map(|other| other.ended).fold(began, Timestamp::max)
    }

    /// Whether the run of this order begins late enough for the target to learn of the change.
    fn may_know(&self, order: &Order) -> bool {
        self.began(order) >= self.change
    }

    /// What must end before another order is given, if anything: an order by which the target will learn of the change, or two orders, of
    /// which the second will run once the first has ended. An order from before the change delays the next one too, but not for long:
    /// another one may be queued behind it.
    fn underway(&self, certname: &Certname) -> Option<String> {
        let open: Vec<&Order> = self.all.iter().filter(|order| self.is_open(order)).collect();
        if let Some(order) = open.iter().find(|order| self.may_know(order)).or(open.get(1)) {
            return Some(format!("the Puppet run of {certname} (job {})", order.job));
        }
        let order = open.first().filter(|_| self.now < deadline::after(self.change, PENDING_FROM))?;
        Some(format!("the end of an earlier Puppet run of {certname} (job {})", order.job))
    }

    /// The orders since the change, for the schedule. A run whose job the orchestrator does not show counts as an order too.
    ///
    /// The orchestrator shows times in whole seconds. An order of the same second as the change counts, although it shows an earlier time,
    /// unless its report shows that its run began before the change.
    fn given(&self, at_least: usize) -> Given {
        let second = Timestamp::from_second(self.change.as_second()).unwrap_or(self.change);
        let since = |time: Option<Timestamp>| time.is_some_and(|time| time >= second);
        let began_before = |order: &Order| {
            let of_it = |run: &&RunView| run.job.as_ref() == Some(&order.job);
            self.runs.iter().filter(of_it).any(|run| run.began_by_server() < self.change)
        };
        let given = self.all.iter().filter(|order| since(order.began) && !began_before(order));
        let forgotten = self
            .runs
            .iter()
            .filter(|run| run.began_by_server() >= self.change && !run.noop)
            .filter(|run| run.job.as_ref().is_some_and(|job| self.all.iter().all(|order| order.job != *job)));
        let count = given.count() + forgotten.count();
        let freed = self.all.iter().filter(|order| since(order.ended)).filter_map(|order| {
            // The report of an order from before the change would prove nothing, so the next order does not wait for it.
            let settles = if self.may_know(order) { SETTLING } else { Duration::ZERO };
            order.ended.map(|ended| deadline::after(ended, settles))
        });
        let free = freed.max();
        Given { count: count.max(at_least), any_shown: count > 0 || free.is_some(), free }
    }
}

/// How orders for a target are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// How long the target may take. An order does not count as lost before half of that, so that there is time for another one.
    pub(super) timeout: Duration,
    /// The interval at which it is checked whether an order is due.
    pub(super) every: Duration,
    /// The least number of orders that count as given.
    pub(super) at_least: usize,
}

impl Policy {
    /// For actions that wait for the target.
    pub(super) fn of_sweeps(timeout: Duration) -> Self {
        Self { timeout, every: SWEEPS, at_least: 0 }
    }
}

/// Whether this target has learnt of a change, which for a later wave is the end of the wave before.
#[must_use]
pub(super) fn standing(target: &TargetView, change: Timestamp, policy: Policy, now: Timestamp) -> TargetStanding {
    let TargetView { certname, disconnected, runs, catalog, orders } = target;
    let runs = match runs.known() {
        Err(trouble) => return TargetStanding::Unknown(trouble.clone()),
        Ok(runs) => runs.map_or(&[][..], Vec::as_slice),
    };
    if let Some(run) = first_to_learn(runs, catalog.as_ref(), change) {
        let how = format!("{certname} ran Puppet at {}", run.start);
        return TargetStanding::Learnt { end: run.received.max(run.stored), how };
    }
    // The reason why the newest run since the change does not count.
    let ran = runs.iter().filter(|run| run.began_by_server() >= change).max_by_key(|run| run.received);
    let what = match ran {
        None => format!("a Puppet run of {certname} since {change}"),
        Some(run) => format!("another Puppet run of {certname}: the one at {} {}", run.start, flaw(run)),
    };
    let orders = match orders.as_ref().map(Lookup::known) {
        None => return TargetStanding::Underway(what),
        Some(Err(trouble)) => return TargetStanding::Unknown(trouble.clone()),
        Some(Ok(orders)) => orders.map_or(&[][..], Vec::as_slice),
    };
    let orders = TargetOrders { all: orders, runs, change, lost: (policy.timeout / 2).max(LOST), now };
    if let Some(underway) = orders.underway(certname) {
        return TargetStanding::Underway(underway);
    }
    if *disconnected {
        let next = format!("the next Puppet run of {certname}, which is not connected to the orchestrator");
        return TargetStanding::Underway(next);
    }
    match due(change, orders.given(policy.at_least), policy.every, now) {
        Due::Now(due) => TargetStanding::Needed { due, what },
        Due::At(next) => TargetStanding::Underway(format!("{what}; the next order is due at {next}")),
        Due::Never => TargetStanding::Underway(format!("{what}; no further run is ordered")),
    }
}

/// Why the target has not learnt of the change by a run since the change.
fn flaw(run: &RunView) -> &'static str {
    if run.cached {
        "applied a cached catalog"
    } else if run.noop {
        "was a noop run"
    } else {
        "had no catalog, because none could be compiled"
    }
}
