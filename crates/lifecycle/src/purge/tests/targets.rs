//! The refresh targets, which must learn that an instance is gone.

use super::*;
use crate::world::{order, run, target};

/// Purged at second 0, with a refresh target and an orchestrator; the time is second 100.
fn purged_with_target() -> World {
    let mut world = world().purged();
    world.view().node = Lookup::Found(NodeView { deactivated: Some(at(0)), ..node(false) });
    world.aws.profile.refresh = vec![PRIMARY.parse().unwrap()];
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

#[test]
fn once_it_is_gone_the_targets_are_asked_about() {
    assert_eq!(purged_with_target().decide(), Decision::Ask(Question::Targets));
    let mut world = purged_with_target();
    world.view().certificate = Lookup::Found(certificate(Some(OURS)));
    assert_purges(&world.decide());
}

#[test]
fn a_target_that_has_not_run_puppet_since_the_deactivation_is_told_to() {
    let mut world = purged_with_target();
    world.puppet.targets = Some(vec![target(Some(run(at(-1), "changed")), Some(vec![]))]);
    assert_eq!(world.decide(), Decision::Apply(Effect::Refresh(vec![PRIMARY.parse().unwrap()], at(0))));
}

#[test]
fn a_run_that_is_under_way_is_waited_for() {
    let mut world = purged_with_target();
    world.puppet.targets = Some(vec![target(None, Some(vec![order("81", at(50), None)]))]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
    world.puppet.targets = Some(vec![TargetView { orders: Some(down()), ..target(None, None) }]);
    assert_eq!(
        waits(world.decide()).codes(),
        [Code::WaitingForRefresh, Code::CaUnavailable],
        "its services may restart"
    );
}

#[test]
fn a_target_that_ran_puppet_since_lets_it_go() {
    let mut world = purged_with_target();
    world.puppet.targets = Some(vec![target(Some(run(at(1), "unchanged")), Some(vec![]))]);
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::Refreshed]);
}

#[test]
fn without_an_orchestrator_the_profile_says_whether_to_wait_for_the_targets() {
    let mut world = purged_with_target();
    world.orchestrated = false;
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet, Code::RefreshedAtNextRun]);
    world.aws.profile.await_refresh = true;
    assert_eq!(world.decide(), Decision::Ask(Question::Targets));
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

#[test]
fn a_target_that_does_not_run_holds_it_no_longer_than_the_timeout() {
    let mut world = purged_with_target().late();
    world.puppet.targets = Some(vec![target(None, Some(vec![]))]);
    assert_eq!(completed(world.decide()).codes(), [Code::TimeoutExpired, Code::WaitingForRefresh]);
}
