//! Which nodes have to run Puppet after a change, so that it is known everywhere? Pure.
//!
//! A target has learnt of a change when it ran Puppet from after the change on, whatever started the run. Its newest report
//! shows that it did; the orchestrator's jobs show that it is about to. Nothing else is stored, so any number of invocations
//! agree about it.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{Certname, Lookup, Trouble};

use crate::admission::PendingAction;
use crate::deadline;
use crate::decision::{Decision, Effect, Missing, Question, not_yet};
use crate::observation::LifecycleAction;
use crate::reason::{Code, Fact, Reason};

/// A run of Puppet that is over, as its report describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunView {
    /// When it began, by the node's clock.
    pub start: Timestamp,
    /// When it ended, by the node's clock.
    pub end: Timestamp,
    /// `changed`, `unchanged` or `failed`.
    pub status: String,
    /// Whether it was a noop run, which changes nothing.
    pub noop: bool,
    /// Whether it applied a cached catalog, not one that was compiled for it.
    pub cached: bool,
    /// Whether it had a catalog at all. It has none if none could be compiled.
    pub catalog: bool,
}

impl RunView {
    /// Whether it was successful.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self.status.as_str(), "changed" | "unchanged") && !self.noop && !self.cached
    }

    /// Whether it had a catalog that was compiled for it, however it ended.
    #[must_use]
    pub fn has_own_catalog(&self) -> bool {
        self.catalog && !self.cached
    }
}

/// An order to run Puppet on one node, as the orchestrator remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its job.
    pub job: String,
    /// When it was given or, once it has, when it began.
    pub began: Option<Timestamp>,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
}

impl Order {
    /// Whether it is still under way. One that has been for too long is lost, as orders are when the orchestrator's own
    /// services restart: it never ends.
    pub(crate) fn is_open(&self, now: Timestamp) -> bool {
        self.ended.is_none() && self.began.is_none_or(|began| now < deadline::after(began, LOST))
    }

    /// Whether it has ended, and so lately that its report may not be there yet.
    pub(crate) fn is_settling(&self, now: Timestamp) -> bool {
        self.ended.is_some_and(|ended| now < deadline::after(ended, SETTLING))
    }
}

/// The newest of these orders, by number: two may have begun in the same moment.
pub(crate) fn newest(orders: &[Order]) -> Option<&Order> {
    orders.iter().max_by_key(|order| order.job.parse::<u64>().unwrap_or(0))
}

/// What is known of a node that is to run Puppet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// Its name.
    pub certname: Certname,
    /// Whether the orchestrator says that it is not connected, so that an order could not reach it.
    pub disconnected: bool,
    /// Its newest run.
    pub run: Lookup<RunView>,
    /// Orders for it, old and new. `None` where there is no orchestrator.
    pub orders: Option<Lookup<Vec<Order>>>,
}

/// Whether a target has learnt of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has. Holds how that is known.
    Learnt(String),
    /// It will, or may, soon.
    Underway(String),
    /// A run has to be ordered.
    Needed(String),
    /// A service that could say is unavailable.
    Unknown(Trouble),
}

/// After the end of an order, its report may still be on its way into PuppetDB; and after a failure, the next try had
/// better not come at once.
pub(crate) const SETTLING: Duration = Duration::from_secs(60);

/// An order that has been under way for so long is not waited for any more. An agent waits up to ten minutes for another
/// run to end before it begins; see [`pxp-agent`](https://github.com/puppetlabs/pxp-agent).
pub(crate) const LOST: Duration = Duration::from_secs(20 * 60);

/// Whether this target has learnt of a change at this time.
#[must_use]
pub(crate) fn standing(target: &TargetView, change: Timestamp, now: Timestamp) -> Standing {
    let TargetView { certname, disconnected, run, orders } = target;
    let run = match run.known() {
        Err(trouble) => return Standing::Unknown(trouble.clone()),
        Ok(run) => run.filter(|run| run.start >= change),
    };
    if let Some(run) = run.filter(|run| run.is_good()) {
        return Standing::Learnt(format!("{certname} ran Puppet at {}", run.start));
    }
    if let Some(trouble) = orders.as_ref().and_then(|orders| orders.known().err()) {
        return Standing::Unknown(trouble.clone());
    }
    match under_way(target, change, now) {
        Some(order) if order.ended.is_none() => {
            Standing::Underway(format!("the Puppet run of {certname} (job {})", order.job))
        }
        Some(order) => Standing::Underway(format!("the report of {certname}'s Puppet run (job {})", order.job)),
        None if *disconnected => {
            Standing::Underway(format!("the next Puppet run of {certname}, which is not connected to the orchestrator"))
        }
        None => match run {
            Some(failed) if now < deadline::after(failed.end, SETTLING) => {
                Standing::Underway(format!("another try after the Puppet run of {certname} at {} failed", failed.start))
            }
            Some(failed) => {
                Standing::Needed(format!("another Puppet run of {certname}: the one at {} failed", failed.start))
            }
            None => Standing::Needed(format!("a Puppet run of {certname} since {change}")),
        },
    }
}

/// An order for this node that is under way, or has just ended and began after the change. While one is, no other is
/// given: however many changes there are, one run is in progress and the next one serves them all.
fn under_way(target: &TargetView, change: Timestamp, now: Timestamp) -> Option<&Order> {
    let orders = target.orders.as_ref()?.known().ok().flatten()?;
    let may_know = |order: &Order| order.began.is_some_and(|began| began >= change);
    orders.iter().find(|order| order.is_open(now) || order.is_settling(now) && may_know(order))
}

/// Whether all targets of the profile have learnt of the change; else what is to be done about it. Without an
/// orchestrator no run can be ordered, and the profile says whether to wait for the targets' own runs.
pub(crate) fn all(
    action: &LifecycleAction,
    pending: &PendingAction,
    targets: Option<&[TargetView]>,
    change: Timestamp,
    orchestrated: bool,
    now: Timestamp,
) -> Result<Option<Fact>, Box<Decision>> {
    let profile = &pending.profile;
    if profile.refresh.is_empty() {
        return Ok(None);
    }
    if !orchestrated && !profile.await_refresh {
        let names: Vec<&str> = profile.refresh.iter().map(Certname::as_str).collect();
        let later = format!("{} will pick up the change at the next Puppet run", names.join(", "));
        return Ok(Some(Fact::new(Code::RefreshedAtNextRun, later)));
    }
    // Otherwise every run would seem to have begun too early, and another be ordered at once.
    if change > now {
        let ahead = format!("waiting for {change}, the time of the change by a clock that is ahead of ours");
        return Err(Box::new(not_yet(
            action,
            pending,
            Missing::NotYet(Fact::new(Code::ClockAhead, ahead).into()),
            now,
        )));
    }
    let targets = targets.ok_or_else(|| Box::new(Decision::Ask(Question::Targets)))?;
    let (mut learnt, mut needed, mut awaited, mut troubles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in &profile.refresh {
        let standing = match targets.iter().find(|target| target.certname == *name) {
            Some(target) => standing(target, change, now),
            None => Standing::Underway(format!("{name}, which was not asked about")),
        };
        match standing {
            Standing::Learnt(how) => learnt.push(how),
            Standing::Needed(why) => {
                needed.push(name.clone());
                awaited.push(why);
            }
            Standing::Underway(what) => awaited.push(what),
            // A target's services may restart while it runs Puppet, and are then unavailable for a while.
            Standing::Unknown(trouble) => {
                awaited.push(format!("{name}, of which too little is known"));
                troubles.push(Fact::from(trouble));
            }
        }
    }
    if awaited.is_empty() {
        return Ok(Some(Fact::new(Code::Refreshed, learnt.join("; "))));
    }
    let awaited = Fact::new(Code::WaitingForRefresh, format!("waiting for {}", awaited.join("; ")));
    let awaited = Reason::new(awaited, troubles);
    let late = pending.is_late(action.began, now);
    if orchestrated && !needed.is_empty() && !late {
        return Err(Box::new(Decision::Apply(Effect::Refresh(needed, change))));
    }
    Err(Box::new(not_yet(action, pending, Missing::NotYet(awaited), now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn ran(start: i64, end: i64, status: &str) -> Lookup<RunView> {
        Lookup::Found(RunView {
            start: at(start),
            end: at(end),
            status: status.into(),
            noop: false,
            cached: false,
            catalog: true,
        })
    }

    fn order(began: i64, ended: Option<i64>) -> Order {
        Order { job: "7".into(), began: Some(at(began)), ended: ended.map(at) }
    }

    /// What is known at second 100 of a change at second 0.
    fn standing_of(run: Lookup<RunView>, orders: Vec<Order>) -> Standing {
        let certname = "puppet.example.com".parse().unwrap();
        let orders = Some(Lookup::Found(orders));
        standing(&TargetView { certname, disconnected: false, run, orders }, at(0), at(100))
    }

    #[test]
    fn a_successful_run_that_began_after_the_change_proves_it_no_matter_who_ordered_it() {
        assert!(matches!(standing_of(ran(0, 20, "unchanged"), vec![]), Standing::Learnt(_)));
        assert!(matches!(standing_of(ran(0, 20, "changed"), vec![order(50, None)]), Standing::Learnt(_)));
    }

    #[test]
    fn a_run_that_began_before_the_change_proves_nothing() {
        assert!(matches!(standing_of(ran(-1, 20, "changed"), vec![]), Standing::Needed(_)));
        assert!(matches!(standing_of(Lookup::Absent, vec![]), Standing::Needed(_)));
    }

    #[test]
    fn a_run_without_effect_proves_nothing() {
        let run =
            RunView { start: at(1), end: at(2), status: "unchanged".into(), noop: false, cached: false, catalog: true };
        let standing = |run: RunView| standing_of(Lookup::Found(run), vec![]);
        assert!(matches!(standing(run.clone()), Standing::Learnt(_)));
        assert!(!matches!(standing(RunView { noop: true, ..run.clone() }), Standing::Learnt(_)));
        assert!(
            !matches!(standing(RunView { cached: true, ..run }), Standing::Learnt(_)),
            "it does not know the new one"
        );
    }

    #[test]
    fn while_an_order_is_under_way_no_other_is_given() {
        for began in [-50, 50] {
            assert!(matches!(standing_of(ran(-99, -98, "changed"), vec![order(began, None)]), Standing::Underway(_)));
        }
    }

    #[test]
    fn an_order_that_nobody_ever_ends_is_not_waited_for_forever() {
        let lost = i64::try_from(LOST.as_secs()).unwrap();
        let under_way = |began| standing_of(Lookup::Absent, vec![order(began, None)]);
        assert!(matches!(under_way(101 - lost), Standing::Underway(_)));
        assert!(matches!(under_way(100 - lost), Standing::Needed(_)));
    }

    #[test]
    fn the_report_of_an_order_that_has_just_ended_is_waited_for() {
        assert!(matches!(standing_of(Lookup::Absent, vec![order(50, Some(70))]), Standing::Underway(_)));
        assert!(matches!(standing_of(Lookup::Absent, vec![order(10, Some(39))]), Standing::Needed(_)));
        assert!(
            matches!(standing_of(Lookup::Absent, vec![order(-10, Some(70))]), Standing::Needed(_)),
            "began too early"
        );
    }

    #[test]
    fn a_failed_run_is_tried_again_but_not_at_once() {
        assert!(matches!(standing_of(ran(10, 70, "failed"), vec![]), Standing::Underway(_)));
        assert!(matches!(standing_of(ran(10, 39, "failed"), vec![]), Standing::Needed(_)));
    }

    #[test]
    fn the_newest_order_is_the_last_one_given_even_if_they_began_together() {
        let orders = ["9", "10", "8"].map(|job| Order { job: job.into(), ..order(-50, Some(-40)) });
        assert_eq!(newest(&orders).map(|order| order.job.as_str()), Some("10"));
    }

    #[test]
    fn a_target_without_connection_is_given_no_order() {
        let certname = "puppet.example.com".parse().unwrap();
        let orders = Some(Lookup::Found(vec![]));
        let target = TargetView { certname, disconnected: true, run: Lookup::Absent, orders };
        assert!(matches!(standing(&target, at(0), at(100)), Standing::Underway(_)));
        let connected = TargetView { disconnected: false, ..target };
        assert!(matches!(standing(&connected, at(0), at(100)), Standing::Needed(_)));
    }

    #[test]
    fn nobody_to_ask_is_not_the_same_as_no_run() {
        assert!(matches!(standing_of(crate::world::down(), vec![]), Standing::Unknown(_)));
        let certname = "puppet.example.com".parse().unwrap();
        let orders = Some(crate::world::down());
        let target = TargetView { certname, disconnected: false, run: Lookup::Absent, orders };
        assert!(matches!(standing(&target, at(0), at(100)), Standing::Unknown(_)));
    }
}
