//! One target and one change. The change is at second 0, and the time is second 100 unless a test says otherwise.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::Lookup;

use crate::refresh::target::{Policy, TargetStanding, standing};
use crate::refresh::{CatalogView, LOST, Order, RunView, TargetView, newest};
use crate::world::{at, down, order, target};

fn ran(start: i64, end: i64, status: &str) -> RunView {
    RunView { end: at(end), received: at(end), ..crate::world::run(at(start), status) }
}

fn seen_at(target: &TargetView, now: i64) -> TargetStanding {
    standing(target, at(0), Policy::of_sweeps(Duration::from_secs(600)), at(now))
}

fn with(runs: Vec<RunView>, orders: Vec<Order>) -> TargetView {
    TargetView { runs: Lookup::Found(runs), ..target(None, Some(orders)) }
}

fn learnt(standing: &TargetStanding) -> Option<Timestamp> {
    match standing {
        TargetStanding::Learnt { end, .. } => Some(*end),
        _ => None,
    }
}

#[test]
fn a_run_that_began_after_the_change_proves_it_no_matter_who_ordered_it() {
    for (status, orders) in [("unchanged", vec![]), ("changed", vec![order("1", at(50), None)])] {
        assert_eq!(learnt(&seen_at(&with(vec![ran(0, 20, status)], orders), 100)), Some(at(20)));
    }
}

#[test]
fn it_has_learnt_of_it_also_if_some_resource_failed() {
    let applied = RunView { applying: Some(Duration::from_secs(10)), ..ran(0, 20, "failed") };
    assert!(learnt(&seen_at(&with(vec![applied], vec![]), 100)).is_some());
}

#[test]
fn a_failed_compilation_a_cached_catalog_and_a_noop_run_teach_nothing() {
    let run = ran(1, 2, "unchanged");
    for nothing in [
        RunView { noop: true, ..run.clone() },
        RunView { cached: true, ..run.clone() },
        RunView { catalog: None, ..ran(1, 2, "failed") },
        // Its catalog has a dependency cycle.
        RunView { applying: None, ..ran(1, 2, "failed") },
    ] {
        assert_eq!(learnt(&seen_at(&with(vec![nothing], vec![]), 100)), None);
    }
}

#[test]
fn what_was_learnt_is_not_unlearnt_by_a_later_run_that_fails() {
    let later = RunView { catalog: None, ..ran(50, 60, "failed") };
    assert_eq!(
        learnt(&seen_at(&with(vec![later, ran(5, 20, "changed"), ran(30, 40, "changed")], vec![]), 100)),
        Some(at(20))
    );
}

#[test]
fn a_run_that_began_before_the_change_proves_nothing_unless_its_catalog_was_compiled_after_it() {
    let run = RunView { retrieving: Some(Duration::from_secs(8)), ..ran(-30, 60, "changed") };
    let stored = |id: Option<String>, produced| Some(CatalogView { id, produced: at(produced), stored: None });
    let seen = |catalog| learnt(&seen_at(&TargetView { catalog, ..with(vec![run.clone()], vec![]) }, 100)).is_some();
    assert!(!seen(None));
    assert!(seen(stored(run.catalog.clone(), 8)), "its compilation began at 0 or later");
    assert!(!seen(stored(run.catalog.clone(), 7)), "it may have begun before");
    assert!(!seen(stored(Some("another".into()), 50)));
    // Once another catalog is stored, it counts by what the report says of the time before its own.
    let prepared = RunView { preparing: Some(Duration::from_secs(30)), ..run.clone() };
    let seen_of = |run: &RunView| {
        let catalog = stored(Some("another".into()), 50);
        learnt(&seen_at(&TargetView { catalog, ..with(vec![run.clone()], vec![]) }, 100)).is_some()
    };
    assert!(seen_of(&prepared));
    assert!(!seen_of(&RunView { preparing: Some(Duration::from_secs(29)), ..run.clone() }));
    let unknown = RunView { retrieving: None, ..run.clone() };
    let target = TargetView { catalog: stored(run.catalog.clone(), 50), ..with(vec![unknown], vec![]) };
    assert_eq!(learnt(&seen_at(&target, 100)), None, "nothing says how long the compilation took");
}

#[test]
fn without_a_run_since_one_is_ordered() {
    for runs in [vec![], vec![ran(-1, 20, "changed")]] {
        assert!(matches!(seen_at(&with(runs, vec![]), 10), TargetStanding::Needed { .. }));
    }
}

#[test]
fn an_order_by_which_it_will_learn_is_waited_for_as_long_as_the_refresh_may_take() {
    let lost = i64::try_from(LOST.as_secs()).unwrap();
    let target = with(vec![], vec![order("1", at(10), None)]);
    assert!(matches!(seen_at(&target, 10 + lost - 1), TargetStanding::Underway(_)));
    let patient = Policy::of_sweeps(LOST * 2 + Duration::from_secs(2));
    assert!(matches!(standing(&target, at(0), patient, at(10 + lost)), TargetStanding::Underway(_)));
    assert!(matches!(seen_at(&target, 10 + lost), TargetStanding::Needed { .. }), "it never ends");
}

#[test]
fn an_order_from_before_the_change_is_waited_for_but_not_for_long() {
    let target = with(vec![], vec![order("1", at(-10), None)]);
    assert!(matches!(seen_at(&target, 359), TargetStanding::Underway(_)));
    assert!(matches!(seen_at(&target, 360), TargetStanding::Needed { .. }), "one in progress and one pending");
    let two = with(vec![], vec![order("1", at(-10), None), order("2", at(-5), None)]);
    assert!(matches!(seen_at(&two, 400), TargetStanding::Underway(_)), "no more than one pending");
}

#[test]
fn a_pending_order_begins_when_the_one_before_it_has_ended() {
    let orders = vec![order("1", at(-100), Some(at(20))), order("2", at(-50), None)];
    assert!(matches!(seen_at(&with(vec![], orders), 1000), TargetStanding::Underway(_)), "it began at 20");
}

#[test]
fn the_report_of_its_job_shows_that_an_order_is_over_which_the_orchestrator_has_lost_track_of() {
    let failed = RunView { catalog: None, job: Some("1".into()), ..ran(5, 30, "failed") };
    let target = with(vec![failed], vec![order("1", at(3), None)]);
    assert!(matches!(seen_at(&target, 119), TargetStanding::Underway(_)), "the next order is not due");
    assert_eq!(due(&seen_at(&target, 120)), Some(at(120)));
}

fn due(standing: &TargetStanding) -> Option<Timestamp> {
    match standing {
        TargetStanding::Needed { due, .. } => Some(*due),
        _ => None,
    }
}

#[test]
fn the_report_of_an_order_that_has_just_ended_is_waited_for() {
    let ended = |began, ended| with(vec![], vec![order("1", at(began), Some(at(ended)))]);
    assert!(matches!(seen_at(&ended(10, 100), 159), TargetStanding::Underway(_)));
    assert_eq!(due(&seen_at(&ended(10, 100), 160)), Some(at(160)));
    assert_eq!(
        due(&seen_at(&ended(-10, 100), 100)),
        Some(at(100)),
        "it began too early, and its report proves nothing"
    );
}

#[test]
fn a_run_of_a_job_that_the_orchestrator_forgot_was_ordered_as_well() {
    let forgotten = RunView { catalog: None, job: Some("1".into()), ..ran(2, 4, "failed") };
    assert_eq!(due(&seen_at(&with(vec![forgotten.clone()], vec![]), 30)), None);
    assert_eq!(
        due(&seen_at(&with(vec![RunView { job: None, ..forgotten }], vec![]), 30)),
        Some(at(0)),
        "its daemon's run"
    );
}

#[test]
fn an_order_that_fails_in_the_second_of_the_change_is_not_repeated_at_once() {
    let change = at(0) + jiff::SignedDuration::from_millis(700);
    // The orchestrator shows whole seconds. The target's agent is disabled.
    let target = with(vec![], vec![order("1", at(0), Some(at(0)))]);
    let standing = standing(&target, change, Policy::of_sweeps(Duration::from_secs(600)), at(2));
    assert!(matches!(standing, TargetStanding::Underway(_)), "{standing:?}");
}

#[test]
fn an_order_from_earlier_in_the_second_of_the_change_does_not_delay_another_one() {
    let change = at(0) + jiff::SignedDuration::from_millis(700);
    let ran = RunView { job: Some("1".into()), ..crate::world::run(at(0), "unchanged") };
    let ran = RunView { end: at(0), received: at(0), ..ran };
    let target = with(vec![ran], vec![order("1", at(0), Some(at(0)))]);
    let standing = standing(&target, change, Policy::of_sweeps(Duration::from_secs(600)), at(2));
    assert!(matches!(standing, TargetStanding::Needed { .. }), "{standing:?}");
}

#[test]
fn the_newest_order_is_the_last_one_given_even_if_they_began_together() {
    let orders = ["9", "10", "8"].map(|job| order(job, at(-50), Some(at(-40))));
    assert_eq!(newest(&orders).map(|order| order.job.as_str()), Some("10"));
}

#[test]
fn a_target_without_connection_is_given_no_order() {
    let target = TargetView { disconnected: true, ..with(vec![], vec![]) };
    assert!(matches!(seen_at(&target, 10), TargetStanding::Underway(_)));
}

#[test]
fn a_service_that_is_unavailable_is_not_the_same_as_no_run_or_no_order() {
    let target = with(vec![], vec![]);
    for unknown in [TargetView { runs: down(), ..target.clone() }, TargetView { orders: Some(down()), ..target }] {
        assert!(matches!(seen_at(&unknown, 10), TargetStanding::Unknown(_)));
    }
}
