//! The refresh targets of a termination. When the removal is proven, one run of all waves together is ordered, and usually the termination
//! does not wait for it. Housekeeping replaces orders that were lost. Pure.

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

/// How long after an order for a target terminations order no further run of it. Housekeeping then orders one for all of them.
const GATHERED: Duration = Duration::from_secs(300);

/// What to do about the targets of a termination whose removal is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AfterRemoval {
    /// Nothing. Holds what is known of the targets, if there are any.
    Done(Option<Fact>),
    /// The answer to this question is required first.
    Ask(Question),
    /// Give an order, for which the termination does not wait.
    Order(RefreshOrder, Fact),
    /// Wait for the targets. An order may be due.
    Wait(Option<RefreshOrder>, Reason),
}

/// What to do about the targets. The node was deactivated at the time `change`.
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

/// The time from which PuppetDB is searched for runs that may show that targets have learnt of a change at this time. Rounded down to the
/// hour, so that actions ask the same question.
#[must_use]
pub fn searched_from(change: Timestamp) -> Timestamp {
    let from = deadline::before(change, MARGIN);
    Timestamp::from_second(from.as_second().div_euclid(3600) * 3600).unwrap_or(from)
}

/// The fact for a profile without an orchestrator: no run can be ordered.
pub(crate) fn at_next_run(refresh: &Refresh) -> Fact {
    let names: Vec<&str> = refresh.targets().map(Certname::as_str).collect();
    let later = format!("{} will pick up the change at the next Puppet run", names.join(", "));
    Fact::new(Code::RefreshedAtNextRun, later)
}

/// All waves together: for a node that is gone, the order of the waves does not matter.
fn awaited(refresh: &Refresh, targets: &[TargetView], change: Timestamp, now: Timestamp) -> AfterRemoval {
    // The timeout of the termination itself limits how long it waits.
    let together = Refresh { on_timeout: OnRefreshTimeout::Wait, ..refresh.in_one_wave() };
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
    // Terminations whose removal is proven in the same slot give the same order.
    let slot = i64::try_from(GATHERED.as_secs()).unwrap_or(i64::MAX);
    let due = Timestamp::from_second(now.as_second().div_euclid(slot) * slot).unwrap_or(now);
    AfterRemoval::Order(RefreshOrder { targets: needed, change, due, awaited: false }, fact)
}

/// Whether a termination orders a target to run.
enum Need {
    /// No: the target has learnt of the removal. Holds how that is known.
    Learnt(String),
    /// Yes.
    Order,
    /// No: an order was given just before, no order would reach the target, or its state is unknown. Housekeeping looks again.
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
    /// When the order that must be given now became due.
    pub due: Timestamp,
}

/// The targets for which housekeeping orders a run, because their last run predates the newest deactivation and no order for them is in
/// progress: either the order of a termination was lost, or none was given because another one was given just before. The order of the
/// termination counts as order 0; the others follow the schedule of `Due`. `every` is the interval of housekeeping.
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
