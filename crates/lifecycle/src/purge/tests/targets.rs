//! The refresh targets, which must learn that an instance is gone.

use std::time::Duration;

use super::*;
use crate::decision::RefreshOrder;
use crate::refresh::RunView;
use crate::world::{order, primary, run, target};

/// Purged at second 0, with a refresh target and an orchestrator; the time is second 100.
fn purged_with_target() -> World {
    let mut world = world().purged();
    world.view().node = Lookup::Found(NodeView { deactivated: Some(at(0)), ..node(false) });
    world.aws.profile.refresh.waves = primary();
    world.orchestrated = true;
    world.now = at(100);
    world
}

fn waits(decision: Decision) -> Reason {
    match decision {
        Decision::Wait(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// It is completed, and this is ordered besides.
fn ordered(decision: Decision) -> (Reason, RefreshOrder) {
    match decision {
        Decision::CompleteAndOrder(ActionResult::Continue, reason, order) => (reason, order),
        other => panic!("{other:?}"),
    }
}

#[test]
fn once_it_is_gone_the_targets_are_asked_about() {
    assert!(matches!(purged_with_target().decide(), Decision::Ask(Question::Targets(_))));
    let mut world = purged_with_target();
    world.view().certificate = Lookup::Found(certificate(Some(OURS)));
    assert_purges(&world.decide());
}

#[test]
fn it_completes_when_the_removal_is_proven_and_the_run_of_the_targets_is_not_waited_for() {
    let mut world = purged_with_target();
    world.puppet.targets = Some(vec![target(Some(run(at(-1), "changed")), Some(vec![]))]);
    let (reason, order) = ordered(world.decide());
    assert_eq!(reason.codes(), [Code::NotInPuppet, Code::RefreshOrdered]);
    assert_eq!((order.targets, order.change, order.awaited), (vec![PRIMARY.parse().unwrap()], at(0), false));
}

#[test]
fn all_waves_are_ordered_together() {
    let mut world = purged_with_target();
    world.aws.profile.refresh.waves.push(vec!["balancer.example.com".parse().unwrap()]);
    let balancer = TargetView { certname: "balancer.example.com".parse().unwrap(), ..target(None, Some(vec![])) };
    world.puppet.targets = Some(vec![target(None, Some(vec![])), balancer]);
    assert_eq!(ordered(world.decide()).1.targets.len(), 2);
}

#[test]
fn while_an_order_is_in_progress_or_was_given_just_before_no_other_is_given() {
    let mut world = purged_with_target();
    for orders in [
        vec![order("81", at(50), None)],
        vec![order("81", at(-100), None)],
        vec![order("81", at(-190), Some(at(-130)))],
    ] {
        world.puppet.targets = Some(vec![target(None, Some(orders))]);
        assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::RefreshOrdered]);
    }
    world.puppet.targets = Some(vec![target(None, Some(vec![order("81", at(-200), Some(at(-130)))]))]);
    ordered(world.decide());
}

#[test]
fn a_target_of_which_too_little_is_known_or_that_no_order_reaches_holds_nothing() {
    let mut world = purged_with_target();
    for target in [
        TargetView { orders: Some(down()), ..target(None, None) },
        TargetView { runs: down(), ..target(None, Some(vec![])) },
        TargetView { disconnected: true, ..target(None, Some(vec![])) },
    ] {
        world.puppet.targets = Some(vec![target]);
        assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::RefreshOrdered]);
    }
}

#[test]
fn a_target_that_ran_puppet_since_needs_no_order() {
    let mut world = purged_with_target();
    for status in ["unchanged", "failed"] {
        let run = RunView { applying: Some(Duration::from_secs(5)), ..run(at(1), status) };
        world.puppet.targets = Some(vec![target(Some(run), Some(vec![]))]);
        assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::Refreshed]);
    }
}

// Where a load balancer must drop a member before it terminates.

fn awaiting() -> World {
    let mut world = purged_with_target();
    world.aws.profile.refresh.await_terminate = true;
    world
}

#[test]
fn the_profile_may_wait_for_the_targets() {
    let mut world = awaiting();
    world.now = at(30);
    world.puppet.targets = Some(vec![target(Some(run(at(-1), "changed")), Some(vec![]))]);
    let Decision::Apply(Effect::Refresh(order)) = world.decide() else { panic!("{:?}", world.decide()) };
    assert!(order.awaited);
    world.sweeps = false;
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh], "the sweep orders it");
    world.sweeps = true;
    world.puppet.targets = Some(vec![target(None, Some(vec![self::order("81", at(25), None)]))]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
    world.puppet.targets = Some(vec![TargetView { orders: Some(down()), ..target(None, None) }]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh, Code::CaUnavailable]);
    world.puppet.targets = Some(vec![target(Some(run(at(1), "unchanged")), Some(vec![]))]);
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::Refreshed]);
}

#[test]
fn a_target_that_does_not_run_holds_it_no_longer_than_the_timeout() {
    let mut world = awaiting().late();
    world.puppet.targets = Some(vec![target(None, Some(vec![]))]);
    assert_eq!(completed(world.decide()).codes(), [Code::TimeoutExpired, Code::WaitingForRefresh]);
}

#[test]
fn without_an_orchestrator_the_profile_says_whether_to_wait_for_the_targets_own_runs() {
    let mut world = purged_with_target();
    world.orchestrated = false;
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::RefreshedAtNextRun]);
    world.aws.profile.refresh.await_terminate = true;
    assert!(matches!(world.decide(), Decision::Ask(Question::Targets(_))));
    world.puppet.targets = Some(vec![target(None, None)]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
}

#[test]
fn where_no_node_was_deactivated_nobody_has_to_learn_anything() {
    for node in [Lookup::Absent, Lookup::Found(node(false))] {
        let mut world = purged_with_target();
        world.view().node = node;
        completed(world.decide());
    }
}
