//! What a removal is proven by.

use super::*;

#[test]
fn a_completed_removal_is_proven_by_the_look_that_completes_it() {
    let mut world = terminating(1).each(Item::gone);
    assert!(world.plan().proven.contains(&world.key(0)));
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::NotInPuppet), "nothing was removed");
    world.items[0].tried.removals.applied.insert(name(0), removal_of(0));
    assert!(matches!(world.verdict(0), (ActionResult::Continue, Code::Purged(_))));
    world.items[0].termination.at = at(149);
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::NotInPuppet), "it was observed before the removal");
}

#[test]
fn what_is_still_there_is_not_proven() {
    assert!(terminating(1).plan().proven.is_empty());
}

/// What is left of a terminating instance, removed at second 150.
fn removal_of(number: u32) -> Removal<Applied> {
    let mut plan = terminating(number + 1).plan();
    let Effect::Remove(mut removals) = plan.effects.remove(number as usize).effect else { panic!() };
    removals.remove(0).applied(at(150), true)
}

#[test]
fn the_removal_of_a_dead_owners_certificate_is_proven_when_it_shows_no_more() {
    let mut world = launching(1).each(|item| {
        item.asks();
        item.tried.removals.applied.insert(name(0), removal_of(0));
    });
    assert!(world.plan().proven.contains(&world.key(0)));
    world.items[0].launch_view().certificate = view(0).certificate;
    assert!(!world.plan().proven.contains(&world.key(0)), "it is still there");
}

#[test]
fn while_the_ca_is_unavailable_nothing_is_proven() {
    let world = launching(1).each(|item| {
        item.asks();
        item.launch_view().certificate = down();
        item.tried.removals.applied.insert(name(0), removal_of(0));
    });
    assert!(world.plan().proven.is_empty());
}

#[test]
fn another_certificate_under_the_name_proves_that_the_first_is_gone() {
    let world = launching(1).each(|item| {
        let Lookup::Found(certificate) = &mut item.launch_view().certificate else { panic!() };
        certificate.serial = "FFFF".into();
        certificate.holds.key_print = "another key".into();
        item.launch.run = Some(Lookup::Absent);
        item.tried.removals.applied.insert(name(0), removal_of(0));
    });
    assert!(world.plan().proven.contains(&world.key(0)));
}

#[test]
fn a_renewed_certificate_does_not_prove_that_the_one_before_is_gone() {
    let world = launching(1).each(|item| {
        let Lookup::Found(certificate) = &mut item.launch_view().certificate else { panic!() };
        certificate.serial = "FFFF".into();
        item.launch.run = Some(Lookup::Absent);
        item.tried.removals.applied.insert(name(0), removal_of(0));
    });
    assert!(!world.plan().proven.contains(&world.key(0)), "the same key");
}
