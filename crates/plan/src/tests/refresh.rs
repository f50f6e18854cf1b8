//! Orders for refresh targets: merged, and held back for a little while.

use stagedoor_lifecycle::refresh::{History, TargetView};

use super::*;

fn target() -> TargetView {
    TargetView {
        certname: PRIMARY.parse().unwrap(),
        disconnected: false,
        runs: Lookup::Found(Vec::new()),
        catalog: None,
        orders: Some(Lookup::Found(Vec::new())),
    }
}

/// Launching instances whose first successful runs ended at second 110, and all need the primary to learn of them; it is second 145.
fn refreshing(count: u32) -> World {
    let mut world = launching(count).each(|item| {
        item.profile().refresh.waves = vec![vec![PRIMARY.parse().unwrap()]];
        item.launch.history = Some(History { runs: Lookup::Found(vec![ran(100)]), catalog: Lookup::Absent });
        item.launch.targets = Some(vec![target()]);
    });
    world.orchestrated = true;
    world.now = at(145);
    world
}

fn refresh() -> EffectKey {
    EffectKey::Refresh(vec![PRIMARY.parse().unwrap()], at(110))
}

#[test]
fn a_refresh_is_ordered_for_each_change_and_merged_where_it_is_applied() {
    assert_eq!(refreshing(2).effects(), vec![refresh(); 2]);
}

#[test]
fn only_the_sweep_orders_it_for_a_launch() {
    let mut world = refreshing(1);
    world.sweeps = false;
    assert_eq!(world.effects(), []);
    assert_eq!(world.code(0), (Outcome::Waiting, Code::WaitingForRefresh));
}

#[test]
fn an_order_that_this_invocation_has_given_is_not_given_again_where_it_is_not_shown() {
    let world = refreshing(1).each(|item| item.tried.ordered = [refresh()].into());
    assert_eq!(world.effects(), []);
    assert_eq!(world.code(0), (Outcome::Waiting, Code::WaitingForRefresh));
}

#[test]
fn a_termination_is_completed_and_its_targets_are_ordered_besides_by_any_function() {
    let mut world = terminating(1).each(|item| {
        item.gone();
        item.profile().refresh.waves = vec![vec![PRIMARY.parse().unwrap()]];
        item.termination.value.targets = Some(vec![target()]);
    });
    (world.orchestrated, world.sweeps) = (true, false);
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::NotInPuppet));
    assert!(matches!(&world.effects()[..], [EffectKey::Refresh(..)]), "{:?}", world.effects());
    let observing = world.each(|item| item.profile().mode = Mode::Observe);
    assert_eq!(observing.effects(), []);
}

/// The second one has its certificate, and has not reported.
pub(super) fn gathering() -> World {
    let mut world = refreshing(2);
    world.items[1].launch.run = Some(Lookup::Absent);
    world.items[1].launch.connection =
        Some(Connection { connected: Lookup::Absent, orders: Lookup::Found(Vec::new()) });
    world.now = at(112);
    world
}

#[test]
fn a_refresh_waits_a_little_for_others_that_are_about_to_report() {
    let world = gathering();
    assert_eq!(world.effects(), []);
    assert_eq!(world.code(0), (Outcome::Waiting, Code::WaitingForRefresh));
}

#[test]
fn what_a_termination_orders_does_not_wait_for_others() {
    let mut world = gathering();
    let mut gone = Item::new(7, Transition::Terminating);
    gone.gone();
    gone.profile().refresh.waves = vec![vec![PRIMARY.parse().unwrap()]];
    gone.termination.value.targets = Some(vec![target()]);
    world.items.push(gone);
    assert_eq!(world.effects().len(), 1);
    assert_eq!(world.verdict(2), (ActionResult::Continue, Code::NotInPuppet));
}

#[test]
fn a_refresh_waits_no_longer_than_that() {
    let mut world = gathering();
    world.now = at(110 + 30);
    assert_eq!(world.effects(), [refresh()]);
}

#[test]
fn a_refresh_does_not_wait_for_instances_without_a_certificate() {
    let mut world = gathering();
    world.items[1].asks();
    world.items[1].launch_view().request = Lookup::Absent;
    assert_eq!(world.effects(), [refresh()]);
}

#[test]
fn other_effects_do_not_wait_with_a_refresh() {
    let mut world = gathering();
    world.items.push(Item::new(7, Transition::Terminating));
    assert_eq!(world.effects(), [EffectKey::Remove]);
}
