//! The plan, table by table. Each test changes the one thing that it is about.

use stagedoor_lifecycle::decision::RefreshOrder;
use stagedoor_lifecycle::onboard::Connection;
use stagedoor_lifecycle::profile::{Probe, Protected};
use stagedoor_types::{Mode, Service, Transition};

use super::*;

mod proofs;
mod refresh;
mod whole;
mod world;

use world::*;

// One plan for many actions.

#[test]
fn a_batch_without_actions_needs_nothing() {
    assert_eq!(launching(0).plan(), Plan::default());
}

#[test]
fn each_enrolled_instance_has_its_verdict() {
    let world = launching(3);
    assert_eq!(world.plan().verdicts.len(), 3);
    assert_eq!(world.verdict(1), (ActionResult::Continue, Code::Enrolled));
    assert!(world.plan().effects.is_empty() && world.plan().statuses.is_empty());
}

#[test]
fn each_terminating_instance_has_its_removal() {
    assert_eq!(terminating(3).effects(), vec![EffectKey::Remove; 3]);
}

#[test]
fn launches_and_terminations_are_planned_together() {
    let mixed = world(vec![Item::new(0, Transition::Launching), Item::new(1, Transition::Terminating)]);
    let plan = mixed.plan();
    assert_eq!((plan.verdicts.len(), plan.effects.len()), (1, 1));
    assert_eq!(plan.effects[0].key, mixed.key(1));
}

#[test]
fn nothing_is_done_for_the_launch_of_an_instance_that_terminates() {
    let mut both = world(vec![Item::new(0, Transition::Launching), Item::new(0, Transition::Terminating)]);
    both.items[0].asks();
    let plan = both.plan();
    assert_eq!(plan.effects.iter().map(|permitted| &permitted.key).collect::<Vec<_>>(), [&both.key(1)]);
    assert_eq!(both.code(0), (Outcome::Refused, Code::NotLaunching));
    both.items[1].unconfirmed = Some(Fact::new(Code::AutoScalingUnavailable, "it is down"));
    assert_eq!(both.plan().effects.len(), 1, "AWS does not confirm that it terminates");
}

#[test]
fn an_action_with_a_verdict_has_no_status_and_the_other_way_round() {
    let mut world = launching(2);
    world.items[1].asks();
    world.items[1].launch_view().request = Lookup::Absent;
    let plan = world.plan();
    assert!(plan.verdicts.contains_key(&world.key(0)) && !plan.statuses.contains_key(&world.key(0)));
    assert!(plan.statuses.contains_key(&world.key(1)) && !plan.verdicts.contains_key(&world.key(1)));
}

#[test]
fn one_damaged_name_stops_no_other() {
    let mut world = terminating(3);
    world.items[1].termination_view().certificate = down();
    world.items[1].termination_view().node = down();
    assert_eq!(world.code(1), (Outcome::Failed, Code::CaUnavailable));
    assert_eq!(world.effects().len(), 2);
}

#[test]
fn the_plan_is_the_same_in_whatever_order_the_actions_come() {
    let mut backwards = terminating(4);
    backwards.items.reverse();
    let sorted = |plan: Plan| {
        let mut effects = plan.effects;
        effects.sort_by(|one, other| one.key.cmp(&other.key));
        (plan.statuses, plan.verdicts, effects)
    };
    assert_eq!(sorted(backwards.plan()), sorted(terminating(4).plan()));
}

#[test]
fn a_protected_name_is_refused_and_others_go_on() {
    let mut world = launching(2);
    world.protected = Protected::new([name(0).as_str()]).unwrap();
    assert_eq!(world.code(0), (Outcome::Refused, Code::ProtectedName));
    assert_eq!(world.verdict(1), (ActionResult::Continue, Code::Enrolled));
}

#[test]
fn every_action_of_a_batch_is_answered_for() {
    let mut world = launching(6);
    world.items[0].asks();
    world.items[1].launch.run = Some(Lookup::Absent);
    world.items[2].launch_view().certificate = down();
    world.items[3].profile().ready = vec![Probe::Tcp(1)];
    world.items.push(Item::new(8, Transition::Terminating));
    let plan = world.plan();
    for item in &world.items {
        let key = item.action.key();
        let has_effect = plan.effects.iter().any(|permitted| permitted.key == key);
        assert!(has_effect || plan.verdicts.contains_key(&key) || plan.statuses.contains_key(&key), "{key:?}");
    }
}

// Effects.

#[test]
fn a_request_that_passes_is_signed() {
    let world = launching(2).each(Item::asks);
    assert_eq!(world.effects(), [EffectKey::Sign(name(0)), EffectKey::Sign(name(1))]);
}

#[test]
fn a_request_that_fails_a_check_is_deleted() {
    let world = launching(1).each(|item| {
        item.asks();
        let Lookup::Found(request) = &mut item.launch_view().request else { panic!() };
        request.asks.signature = stagedoor_lifecycle::signing::Signature::Wrong;
    });
    assert_eq!(world.effects(), [EffectKey::Delete(name(0))]);
}

#[test]
fn a_missing_pin_is_set() {
    let world = launching(1).each(|item| {
        item.profile().pin = vec!["Canaries".into()];
        item.launch.node_groups = Some(Lookup::Found(["Canaries".to_owned()].into()));
    });
    assert_eq!(world.effects(), [EffectKey::Pin(name(0), vec!["Canaries".into()])]);
}

#[test]
fn a_node_is_pinned_before_its_request_is_signed() {
    let mut world = launching(1).each(|item| {
        item.asks();
        item.profile().pin = vec!["Canaries".into()];
        item.launch.node_groups = Some(Lookup::Found(["Canaries".to_owned()].into()));
    });
    assert_eq!(world.effects(), [EffectKey::Pin(name(0), vec!["Canaries".into()])]);
    world.items[0].launch_view().pins = Lookup::Found(vec!["Canaries".into()]);
    assert_eq!(world.effects(), [EffectKey::Sign(name(0))]);
}

#[test]
fn a_node_that_has_not_run_is_ordered_to_where_there_is_an_orchestrator() {
    let mut world = launching(1).each(|item| {
        item.launch.run = Some(Lookup::Absent);
        item.launch.connection = Some(Connection { connected: Lookup::Found(()), orders: Lookup::Found(Vec::new()) });
    });
    world.orchestrated = true;
    assert_eq!(world.effects(), [EffectKey::Run(name(0))]);
    world.orchestrated = false;
    assert_eq!(world.effects(), []);
}

#[test]
fn the_key_of_an_effect_leaves_out_what_may_differ_between_two_looks() {
    let refresh = |change, due| {
        let targets = vec![PRIMARY.parse().unwrap()];
        Effect::Refresh(RefreshOrder { targets, change: at(change), due: at(due), awaited: true }).key()
    };
    assert_eq!(refresh(1, 5), refresh(2, 5));
    assert_ne!(refresh(1, 5), refresh(1, 6), "the next order");
    let run = |order: &str| Effect::Run(name(1), order.into()).key();
    assert_eq!(run("one"), run("two"));
    assert_ne!(run("one"), Effect::Run(name(2), "one".into()).key());
}

// What was just done.

#[test]
fn what_was_just_done_is_not_done_again_before_a_pause() {
    let world = launching(1).each(|item| {
        item.asks();
        item.tried.effect = Some(EffectKey::Sign(name(0)));
    });
    assert_eq!(world.effects(), []);
    assert_eq!(world.code(0), (Outcome::Failed, Code::NotSeenYet));
}

#[test]
fn what_went_wrong_with_it_is_the_reason() {
    let world = launching(1).each(|item| {
        item.asks();
        item.tried.effect = Some(EffectKey::Sign(name(0)));
        item.tried.trouble = Some(trouble(Service::PuppetDb));
    });
    assert_eq!(world.code(0), (Outcome::Failed, Code::PuppetDbUnavailable));
}

#[test]
fn another_effect_than_the_one_just_done_is_applied() {
    let world = launching(1).each(|item| {
        item.asks();
        item.tried.effect = Some(EffectKey::Remove);
    });
    assert_eq!(world.effects(), [EffectKey::Sign(name(0))]);
}

#[test]
fn a_removal_that_still_shows_something_says_what_and_why() {
    let world = terminating(1).each(|item| {
        item.tried.effect = Some(EffectKey::Remove);
        item.tried.removals.last = Some(Fact::from(trouble(Service::Ca)).into());
    });
    assert_eq!(world.code(0), (Outcome::Failed, Code::CaUnavailable));
    let status = &world.plan().statuses[&world.key(0)];
    assert_eq!(status.reason.codes(), [Code::CaUnavailable, Code::StillThere]);
}

#[test]
fn a_removal_is_recognised_although_less_is_left() {
    let world = terminating(1).each(|item| {
        item.tried.effect = Some(EffectKey::Remove);
        item.termination_view().certificate = Lookup::Absent;
    });
    assert_eq!((world.effects(), world.code(0)), (vec![], (Outcome::Failed, Code::StillThere)));
}

#[test]
fn what_the_ca_refuses_to_sign_is_not_tried_again() {
    let world = launching(1).each(|item| {
        item.asks();
        item.tried.refused = Some(Fact::new(Code::SignatureRefused, "allow-subject-alt-names"));
    });
    assert_eq!((world.effects(), world.code(0)), (vec![], (Outcome::Refused, Code::SignatureRefused)));
}

#[test]
fn the_cas_refusal_outlives_a_pause_and_comes_before_what_was_just_done() {
    let world = launching(1).each(|item| {
        item.asks();
        item.tried.effect = Some(EffectKey::Sign(name(0)));
        item.tried.refused = Some(Fact::new(Code::SignatureRefused, "allow-subject-alt-names"));
    });
    assert_eq!(world.code(0), (Outcome::Refused, Code::SignatureRefused));
}

// Unconfirmed by AWS.

#[test]
fn nothing_is_changed_on_the_strength_of_what_aws_said_a_while_ago() {
    let unconfirmed = || Some(Fact::new(Code::AutoScalingUnavailable, "throttled"));
    let world = terminating(2).each(|item| item.unconfirmed = unconfirmed());
    assert_eq!(world.effects(), []);
    assert_eq!(world.code(0), (Outcome::Failed, Code::AutoScalingUnavailable));
}

#[test]
fn an_unconfirmed_action_ends_when_its_timeout_has_expired() {
    let mut world = terminating(1).each(|item| {
        item.confirmed();
        item.unconfirmed = Some(Fact::new(Code::AutoScalingUnavailable, "throttled"));
    });
    world.now = at(601);
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::TimeoutExpired));
}

#[test]
fn an_unconfirmed_action_without_a_confirmed_start_asks_for_it_and_does_not_end() {
    let mut world = terminating(1).each(|item| {
        item.unconfirmed = Some(Fact::new(Code::AutoScalingUnavailable, "throttled"));
    });
    world.now = at(601);
    assert!(world.plan().verdicts.is_empty());
    assert!(world.plan().start_times.contains(&world.key(0)));
}

#[test]
fn an_unconfirmed_action_that_needs_no_change_is_completed_all_the_same() {
    let world = launching(1).each(|item| {
        item.unconfirmed = Some(Fact::new(Code::AutoScalingUnavailable, "throttled"));
    });
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::Enrolled));
}

// Observe mode.

fn observing(item: &mut Item) {
    item.profile().mode = Mode::Observe;
}

/// How many effects are withheld of each action. The snapshot `observe_mode` shows how they are described.
fn withheld_effects(plan: &Plan) -> Vec<(&ActionKey, usize)> {
    plan.withheld.iter().map(|(key, effects)| (key, effects.len())).collect()
}

#[test]
fn observe_mode_has_no_effects_and_says_what_they_would_be() {
    let world = terminating(2).each(observing);
    let plan = world.plan();
    assert!(plan.effects.is_empty());
    assert_eq!(withheld_effects(&plan), [(&world.key(0), 1), (&world.key(1), 1)]);
}

#[test]
fn observe_mode_withholds_a_signature() {
    let asking = launching(1).each(Item::asks).each(observing);
    let plan = asking.plan();
    assert!(plan.effects.is_empty());
    assert_eq!(withheld_effects(&plan), [(&asking.key(0), 1)]);
}

#[test]
fn a_profile_that_observes_does_not_stop_another_from_acting() {
    let mut world = terminating(2);
    observing(&mut world.items[0]);
    let plan = world.plan();
    assert!(plan.withheld.contains_key(&world.key(0)));
    assert_eq!(plan.effects.iter().map(|permitted| &permitted.key).collect::<Vec<_>>(), [&world.key(1)]);
}

#[test]
fn observe_mode_still_asks_and_still_decides() {
    let mut world = launching(1).each(observing);
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::Enrolled));
    world.items[0].profile().ready = vec![Probe::Tcp(8140)];
    assert_eq!(world.plan().questions, [(Question::Probes, [world.key(0)].into())].into());
}

// Questions.

#[test]
fn each_action_asks_its_own_questions() {
    let world = launching(2).each(|item| item.profile().ready = vec![Probe::Tcp(8140)]);
    let plan = world.plan();
    assert_eq!(plan.questions, [(Question::Probes, [world.key(0), world.key(1)].into())].into());
    assert_eq!(world.code(0), (Outcome::Failed, Code::LookupUnanswered), "as long as there is no answer");
}

#[test]
fn another_name_of_an_instance_is_looked_at() {
    let world = terminating(1).each(|item| {
        item.gone();
        item.termination.value.known_as = Lookup::Found(vec![name(0), name(9)]);
    });
    assert_eq!(world.plan().names, [(world.key(0), vec![name(9)])]);
}

#[test]
fn when_an_action_began_is_asked_for_before_its_timeout_counts() {
    let mut world = launching(1).each(|item| {
        item.launch.run = Some(Lookup::Absent);
        item.action.began = Began::Said(at(0));
    });
    world.now = at(1801);
    assert!(world.plan().start_times.contains(&world.key(0)));
    assert_eq!(world.code(0), (Outcome::Failed, Code::StartTimeUnknown));
}

#[test]
fn an_effect_of_an_action_whose_start_is_unknown_asks_for_that_as_well() {
    let world = terminating(1).each(|item| item.action.began = Began::Unknown);
    let plan = world.plan();
    assert_eq!(plan.effects.len(), 1);
    assert!(plan.start_times.contains(&world.key(0)));
}

#[test]
fn an_effect_of_an_action_whose_start_is_known_asks_for_nothing() {
    assert!(terminating(1).plan().start_times.is_empty());
}

// Timeouts.

#[test]
fn a_launch_whose_timeout_has_expired_is_abandoned_with_what_was_missing() {
    let mut world = launching(1).each(|item| {
        item.confirmed();
        item.launch.run = Some(Lookup::Absent);
    });
    world.now = at(1801);
    assert_eq!(world.verdict(0), (ActionResult::Abandon, Code::TimeoutExpired));
    let reason = &world.plan().verdicts[&world.key(0)].reason;
    assert_eq!(reason.codes(), [Code::TimeoutExpired, Code::WaitingForRun]);
}

#[test]
fn a_termination_whose_timeout_has_expired_is_still_removed_if_it_can_be() {
    let mut world = terminating(1).each(Item::confirmed);
    world.now = at(601);
    assert_eq!(world.effects(), [EffectKey::Remove]);
}

#[test]
fn a_removal_that_failed_ends_with_the_timeout() {
    let mut world = terminating(1).each(|item| {
        item.confirmed();
        item.tried.removals.last = Some(Fact::from(trouble(Service::Ca)).into());
    });
    world.now = at(601);
    assert_eq!(world.verdict(0), (ActionResult::Continue, Code::TimeoutExpired));
}
