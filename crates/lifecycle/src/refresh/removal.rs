//! The refresh targets of a termination: they are ordered to run when the removal is proven, all waves together, and usually nothing waits
//! for that. Housekeeping makes good for orders that were lost. Pure.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{Certname, Lookup};

use super::target::{Policy, TargetOrders, TargetStanding, first_to_learn, standing};
use super::waves::{Refreshing, Standing};
use super::{LOST, MARGIN, TargetView};
use crate::deadline;
use crate::decision::{Question, RefreshOrder};
use crate::profile::{OnRefreshTimeout, Refresh};
use crate::reason::{Code, Fact, Reason};

/// For so long after an order for a target, terminations give it no other: housekeeping gives one for all of them afterwards.
const GATHERED: Duration = Duration::from_secs(300);

/// What is to be done about the targets of a termination whose removal is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AfterRemoval {
    /// Nothing. Holds what is known, where there are targets.
    Done(Option<Fact>),
    /// This must be known first.
    Ask(Question),
    /// An order is to be given, which the termination does not wait for.
    Order(RefreshOrder, Fact),
    /// The termination waits for the targets, and an order may be due.
    Wait(Option<RefreshOrder>, Reason),
}

/// What is to be done about the targets, of which the node was deactivated at the time `change`.
pub(crate) fn after_removal(
    refresh: &Refresh,
    targets: Option<&[TargetView]>,
    change: Timestamp,
    orchestrated: bool,
    now: Timestamp,
) -> AfterRemoval {
    if refresh.is_empty() {
        return AfterRemoval::Done(None);
    }
    if !orchestrated && !refresh.await_terminate {
        return AfterRemoval::Done(Some(at_next_run(refresh)));
    }
    let Some(targets) = targets else { return AfterRemoval::Ask(Question::Targets(searched_from(change))) };
    if refresh.await_terminate {
        awaited(refresh, targets, change, now)
    } else {
        at_once(refresh, targets, change, now)
    }
}

/// From when on PuppetDB is searched for runs that may show that a change at this time is known. By the hour, so that actions ask the same
/// question.
#[must_use]
pub fn searched_from(change: Timestamp) -> Timestamp {
    let from = deadline::before(change, MARGIN);
    Timestamp::from_second(from.as_second().div_euclid(3600) * 3600).unwrap_or(from)
}

/// Without an orchestrator no run can be ordered.
pub(crate) fn at_next_run(refresh: &Refresh) -> Fact {
    let names: Vec<&str> = refresh.targets().map(Certname::as_str).collect();
    let later = format!("{} will pick up the change at the next Puppet run", names.join(", "));
    Fact::new(Code::RefreshedAtNextRun, later)
}

/// All waves together: what is gone needs no order.
fn awaited(refresh: &Refresh, targets: &[TargetView], change: Timestamp, now: Timestamp) -> AfterRemoval {
    let together = Refresh {
        waves: vec![refresh.targets().cloned().collect()],
        // How long the termination waits is said by its own timeout.
        on_timeout: OnRefreshTimeout::Wait,
        ..refresh.clone()
    };
    let Standing { learnt, awaited, troubles, order, .. } =
        Refreshing { refresh: &together, targets, change, until: None, now }.standing();
    if awaited.is_empty() {
        return AfterRemoval::Done(Some(Fact::new(Code::Refreshed, learnt.join("; "))));
    }
    let awaited = Fact::new(Code::WaitingForRefresh, format!("waiting for {}", awaited.join("; ")));
    AfterRemoval::Wait(order, Reason::new(awaited, troubles))
}

fn at_once(refresh: &Refresh, targets: &[TargetView], change: Timestamp, now: Timestamp) -> AfterRemoval {
    let (mut learnt, mut left, mut needed) = (Vec::new(), Vec::new(), Vec::new());
    for name in refresh.targets() {
        let target = targets.iter().find(|target| target.certname == *name);
        match target.map(|target| need(target, change, now)) {
            Some(Need::Learnt(how)) => learnt.push(how),
            Some(Need::Order) => needed.push(name.clone()),
            Some(Need::Later) | None => left.push(name.as_str()),
        }
    }
    if needed.is_empty() && left.is_empty() {
        return AfterRemoval::Done(Some(Fact::new(Code::Refreshed, learnt.join("; "))));
    }
    let mut texts = Vec::new();
    if !needed.is_empty() {
        let names: Vec<&str> = needed.iter().map(Certname::as_str).collect();
        texts.push(format!("{} is to run Puppet now, which is not waited for", names.join(", ")));
    }
    if !left.is_empty() {
        let left = left.join(", ");
        texts.push(format!(
            "{left} learns of it by an order that was given just before, or by one of the next housekeeping"
        ));
    }
    let fact = Fact::new(Code::RefreshOrdered, texts.join("; "));
    if needed.is_empty() {
        return AfterRemoval::Done(Some(fact));
    }
    // Terminations that are proven together order the same.
    let slot = i64::try_from(GATHERED.as_secs()).unwrap_or(i64::MAX);
    let due = Timestamp::from_second(now.as_second().div_euclid(slot) * slot).unwrap_or(now);
    AfterRemoval::Order(RefreshOrder { targets: needed, change, due, awaited: false }, fact)
}

/// Whether a termination orders a target to run.
enum Need {
    /// It knows of it. Holds how that is known.
    Learnt(String),
    /// It does.
    Order,
    /// It does not: an order was given just before, no order would reach the target, or it cannot be known. Housekeeping looks again.
    Later,
}

fn need(target: &TargetView, change: Timestamp, now: Timestamp) -> Need {
    let Ok(runs) = target.runs.known() else { return Need::Later };
    let runs = runs.map_or(&[][..], Vec::as_slice);
    if let Some(run) = first_to_learn(runs, target.catalog.as_ref(), change) {
        return Need::Learnt(format!("{} ran Puppet at {}", target.certname, run.start));
    }
    let Some(Ok(orders)) = target.orders.as_ref().map(Lookup::known) else { return Need::Later };
    let orders = orders.map_or(&[][..], Vec::as_slice);
    let seen = TargetOrders { all: orders, runs, change, lost: LOST, now };
    let just_given = |time: Timestamp| now < deadline::after(time, GATHERED);
    let in_the_way = orders.iter().any(|order| seen.is_open(order) || order.began.is_some_and(just_given));
    if in_the_way || target.disconnected { Need::Later } else { Need::Order }
}

/// A refresh target that has not run since the newest deactivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Its name.
    pub certname: Certname,
    /// When the order became due that is to be given now.
    pub due: Timestamp,
}

/// The targets that housekeeping orders to run, because their last run predates the newest deactivation and no order for them is in
/// progress: an order that a termination gave was lost, or none was given because another one was given just before. What the
/// termination did counts as order 0; the others follow the schedule of `Due`. `every` is how often
/// housekeeping is done.
#[must_use]
pub fn overdue(
    targets: &[TargetView],
    newest_deactivation: Timestamp,
    every: Duration,
    now: Timestamp,
) -> Vec<Overdue> {
    let policy = Policy { timeout: LOST, every, at_least: 1 };
    let needed = |target: &TargetView| match standing(target, newest_deactivation, policy, now) {
        TargetStanding::Needed { due, .. } => Some(Overdue { certname: target.certname.clone(), due }),
        TargetStanding::Learnt { .. } | TargetStanding::Underway(_) | TargetStanding::Unknown(_) => None,
    };
    targets.iter().filter_map(needed).collect()
}
