//! Whole plans as snapshots: a change of what else is in a plan shows in the difference, also where no test looks for it.

use stagedoor_lifecycle::observation::RequestView;

use super::refresh::gathering;
use super::*;

#[test]
fn everything_that_is_left_of_a_terminating_instance_is_removed() {
    let world = terminating(1).each(|item| {
        let request = RequestView { instance: Some(id(0)), asks: says(0) };
        item.termination_view().request = Lookup::Found(request);
        item.termination_view().pins = Lookup::Found(vec!["Canaries".into()]);
    });
    insta::assert_debug_snapshot!("purge", world.plan());
}

#[test]
fn a_launching_instance_is_signed() {
    insta::assert_debug_snapshot!("sign", launching(1).each(Item::asks).plan());
}

#[test]
fn a_refresh_is_held_back_while_the_rest_of_the_batch_goes_on() {
    let mut world = gathering();
    world.items.push(Item::new(7, Transition::Terminating));
    world.items.push(Item::new(8, Transition::Launching));
    insta::assert_debug_snapshot!("refresh_held_back", world.plan());
}

#[test]
fn observe_mode_withholds_effects() {
    let mut world = world(vec![Item::new(0, Transition::Launching), Item::new(1, Transition::Terminating)]);
    world.items[0].asks();
    world.items.iter_mut().for_each(observing);
    insta::assert_debug_snapshot!("observe_mode", world.plan());
}

#[test]
fn a_launch_is_abandoned_when_its_timeout_has_expired() {
    let mut world = launching(1).each(|item| {
        item.confirmed();
        item.launch.run = Some(Lookup::Absent);
    });
    world.now = at(1801);
    insta::assert_debug_snapshot!("timeout_expired", world.plan());
}
