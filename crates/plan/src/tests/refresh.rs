//! Orders for refresh targets: merged, and held back for a little while.

use stagedoor_lifecycle::refresh::TargetView;

use super::*;

/// Launching instances of which the first has reported at second 100, and all need the primary to learn of them.
fn refreshing(count: u32) -> World {
    let mut world = launching(count).each(|item| {
        item.profile().refresh = vec![PRIMARY.parse().unwrap()];
        item.launch.targets = Some(vec![TargetView {
            certname: PRIMARY.parse().unwrap(),
            disconnected: false,
            run: Lookup::Absent,
            orders: Some(Lookup::Found(Vec::new())),
        }]);
    });
    world.orchestrated = true;
    world
}

fn refresh() -> EffectKey {
    EffectKey::Refresh(vec![PRIMARY.parse().unwrap()])
}

#[test]
fn a_refresh_is_ordered_for_each_change_and_merged_where_it_is_applied() {
    assert_eq!(refreshing(2).effects(), vec![refresh(); 2]);
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
fn a_refresh_waits_no_longer_than_that() {
    let mut world = gathering();
    world.now = at(110 + 15);
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
