//! Pins and classification.

use super::*;
use crate::onboard::pins_left;

fn groups(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn classified(in_groups: &[&str], known: &[&str]) -> Lookup<Classified> {
    let (groups, known) = (groups(in_groups), groups(known));
    Lookup::Found(Classified { groups, known, with_facts: true, ..Classified::default() })
}

fn to_be_pinned() -> World {
    let mut world = world();
    world.aws.profile.pin = vec!["Canaries".into(), "Agents".into()];
    world.view().pins = Lookup::Found(vec!["Agents".into()]);
    world.puppet.node_groups = Some(Lookup::Found(groups(&["Canaries", "Agents"])));
    world
}

fn pin() -> Decision {
    Decision::Apply(Effect::Pin(NAME.parse().unwrap(), vec!["Canaries".into()]))
}

// Pins.

#[test]
fn a_node_is_pinned_to_the_groups_that_it_is_not_pinned_to_yet() {
    let mut world = to_be_pinned();
    assert_eq!(world.decide(), pin());
    world.view().pins = Lookup::Found(vec!["Agents".into(), "Canaries".into()]);
    completed(world.decide());
}

/// Its request passes every check.
fn asking_to_be_pinned() -> World {
    let mut world = world().asking(|_| {});
    let pinned = to_be_pinned();
    world.aws.profile = pinned.aws.profile;
    world.view().pins = Lookup::Found(vec!["Agents".into()]);
    world.puppet.node_groups = pinned.puppet.node_groups;
    world
}

#[test]
fn a_node_is_pinned_before_its_request_is_signed() {
    let mut world = asking_to_be_pinned();
    assert_eq!(world.decide(), pin());
    world.view().pins = Lookup::Found(vec!["Agents".into(), "Canaries".into()]);
    assert!(matches!(done(world.decide()), Effect::Sign(_)));
}

#[test]
fn a_classifier_that_is_down_delays_the_signature() {
    let mut world = asking_to_be_pinned();
    world.view().pins = down();
    failed(world.decide());
    world.view().pins = Lookup::Found(vec!["Agents".into()]);
    for unknown in [Some(down()), None] {
        world.puppet.node_groups = unknown;
        failed(world.decide());
    }
    world.puppet.node_groups = Some(Lookup::Found(groups(&["Agents"])));
    let reason = refused(world.decide());
    assert_eq!(reason.codes(), [Code::NodeGroupUnknown], "a run before the group is there proves nothing");
}

#[test]
fn a_request_that_fails_a_check_is_not_pinned_first() {
    let mut world = asking_to_be_pinned();
    let Lookup::Found(pending) = &mut world.view().request else { panic!() };
    pending.asks.signature = crate::signing::Signature::Wrong;
    deleted_request(world.decide());
}

#[test]
fn nobody_is_pinned_before_its_certificate_is_its_own() {
    let world = to_be_pinned().taken(0).other_is(Lookup::Found(machine(OTHER, "running")));
    refused(world.decide());
}

#[test]
fn a_group_that_the_classifier_does_not_show_is_named_with_its_remedy() {
    let mut world = to_be_pinned();
    world.puppet.node_groups = Some(Lookup::Found(groups(&["Agents"])));
    let reason = refused(world.decide());
    assert_eq!(reason.codes(), [Code::NodeGroupUnknown]);
    insta::assert_snapshot!(reason, @"the classifier shows no node group Canaries: create it, correct the profile compiler, or let the token's role view it");
    let mut world = to_be_classified();
    world.puppet.classification = Some(classified(&[], &[]));
    let reason = refused(world.decide());
    assert_eq!(reason.codes(), [Code::NodeGroupUnknown]);
    insta::assert_snapshot!(reason, @"the classifier shows no node group PE Master, Agents: create it, correct the profile compiler, or let the token's role view it");
}

// Pins of a launch that is abandoned.

fn left(world: &World) -> Vec<String> {
    let left = pins_left(&world.aws.action, &world.aws.admitted(), &world.puppet, &world.protected);
    left.map(|(_, groups)| groups).unwrap_or_default()
}

#[test]
fn an_abandoned_launch_leaves_no_pin_of_its_profile_behind() {
    let mut world = to_be_pinned();
    world.view().pins = Lookup::Found(vec!["Agents".into(), "Of an operator".into()]);
    assert_eq!(left(&world), ["Agents"], "with its own certificate");
    assert_eq!(left(&asking_to_be_pinned()), ["Agents"], "with its own request");
    let mut nothing = asking_to_be_pinned();
    nothing.view().request = Lookup::Absent;
    assert_eq!(left(&nothing), ["Agents"], "without either");
    let mut anonymous = asking_to_be_pinned();
    let Lookup::Found(pending) = &mut anonymous.view().request else { panic!() };
    pending.instance = None;
    assert_eq!(left(&anonymous), ["Agents"], "a request that names nobody is nobody's");
}

#[test]
fn pins_that_may_be_another_instances_are_left_alone() {
    let of_another: [fn(&mut World); 7] = [
        |w| *w = w.clone().taken(0),
        |w| w.certificate().instance = None,
        |w| w.view().certificate = down(),
        |w| w.view().certificate = Lookup::Absent,
        |w| {
            w.view().certificate = Lookup::Absent;
            w.view().node = Lookup::Absent;
            w.view().request = Lookup::Found(request(Some(OTHER)));
        },
        |w| {
            w.view().certificate = Lookup::Absent;
            w.view().node = Lookup::Absent;
            w.view().request = down();
        },
        |w| w.protected = Protected::new([NAME]).unwrap(),
    ];
    for (number, spoil) in of_another.into_iter().enumerate() {
        let mut world = to_be_pinned();
        world.view().fact_instance = Lookup::Found(OTHER.parse().unwrap());
        spoil(&mut world);
        assert_eq!(left(&world), Vec::<String>::new(), "{number}");
    }
    let mut unknown = to_be_pinned();
    unknown.view().pins = down();
    assert_eq!(left(&unknown), Vec::<String>::new());
}

// Classification.

fn to_be_classified() -> World {
    let mut world = world();
    world.aws.profile.classified = vec!["PE Master".into(), "Agents".into()];
    world
}

/// It is in one of the two groups; this is why it is not in the other.
fn misses_one(mut world: World, why: Mismatch) -> World {
    let with_facts = matches!(&world.puppet.run, Some(Lookup::Found(_)));
    world.puppet.classification = Some(Lookup::Found(Classified {
        groups: groups(&["Agents"]),
        known: groups(&["Agents", "PE Master"]),
        mismatches: [("PE Master".to_owned(), why)].into(),
        with_facts,
    }));
    world
}

fn before_its_run(mut world: World) -> World {
    world.puppet.run = Some(Lookup::Absent);
    world
}

#[test]
fn a_node_waits_until_the_classifier_puts_it_into_every_group_that_is_asked_for() {
    let mut world = to_be_classified();
    assert_eq!(world.decide(), Decision::Ask(Question::Classification { with_facts: true }));
    world.puppet.classification = Some(classified(&["Agents"], &["Agents", "PE Master"]));
    assert_eq!(waits(world.decide()).codes(), [Code::ClassificationPending]);
    world.puppet.classification = Some(classified(&["Agents", "PE Master"], &["Agents", "PE Master"]));
    completed(world.decide());
}

#[test]
fn it_is_asked_without_facts_before_the_first_run_and_with_them_afterwards() {
    let mut world = before_its_run(to_be_classified());
    assert_eq!(world.decide(), Decision::Ask(Question::Classification { with_facts: false }));
    world = misses_one(world, Mismatch::FactsNeeded);
    waits(world.decide());
    for status in ["failed", "changed"] {
        world.puppet.run = Some(Lookup::Found(run(at(100), status)));
        assert_eq!(world.decide(), Decision::Ask(Question::Classification { with_facts: true }), "{status}");
    }
    world.puppet.run = Some(Lookup::Found(run(at(-5000), "changed")));
    assert_ne!(
        world.decide(),
        Decision::Ask(Question::Classification { with_facts: true }),
        "facts of an earlier owner"
    );
}

#[test]
fn a_rule_on_a_fact_does_not_keep_a_node_from_its_first_run() {
    let world = misses_one(before_its_run(to_be_classified()), Mismatch::FactsNeeded);
    assert_eq!(waiting_code(world.decide()), Code::WaitingForRun);
    let mut orchestrated = world;
    orchestrated.orchestrated = true;
    orchestrated.puppet.connection = Some(Connection { connected: Lookup::Found(()), orders: Lookup::Found(vec![]) });
    assert!(matches!(done(orchestrated.decide()), Effect::Run(..)));
}

#[test]
fn a_node_that_is_classified_wrongly_whatever_its_facts_waits_before_its_first_run() {
    for why in [Mismatch::Unexplained, Mismatch::Certificate(vec!["a condition".into()])] {
        let mut world = misses_one(before_its_run(to_be_classified()), why);
        world.orchestrated = true;
        assert!(matches!(world.decide(), Decision::Wait(_) | Decision::Refuse(_)), "no run is ordered");
    }
}

#[test]
fn a_certificate_that_can_never_match_is_named_with_the_condition_before_and_after_the_run() {
    let never = || Mismatch::Certificate(vec!["PE Master requires pp_auth_role".into()]);
    let before = refused(misses_one(before_its_run(to_be_classified()), never()).decide());
    let after = refused(misses_one(to_be_classified(), never()).decide());
    assert_eq!(before.codes(), [Code::ClassificationNeverMatches]);
    assert_eq!(before, after);
    insta::assert_snapshot!(before, @"its certificate can never match the rules of the node group PE Master: PE Master requires pp_auth_role; change the rule, what the instance asks for, or `classified`");
}

#[test]
fn facts_that_do_not_match_are_named_and_another_run_may_bring_others() {
    let facts = || Mismatch::Facts((0..5).map(|number| format!("condition {number}")).collect());
    let world = misses_one(to_be_classified(), facts());
    let reason = waits(world.decide());
    assert_eq!(reason.codes(), [Code::ClassificationPending, Code::ClassificationRuleNotMet]);
    insta::assert_snapshot!(reason, @"waiting for the classifier to put it into PE Master; the facts of its newest Puppet run do not match the rules of the node group PE Master: condition 0; condition 1; condition 2; and 2 more");
    // Its run was not successful yet: that comes first.
    let mut failed = to_be_classified();
    failed.puppet.run = Some(Lookup::Found(run(at(100), "failed")));
    assert_eq!(waiting_code(misses_one(failed, facts()).decide()), Code::RunNotSuccessful);
}

#[test]
fn another_run_is_ordered_for_other_facts_once_the_agent_had_time_for_its_own() {
    let mut world = misses_one(to_be_classified(), Mismatch::Facts(vec!["a condition".into()]));
    world.orchestrated = true;
    world.puppet.connection = Some(Connection { connected: Lookup::Found(()), orders: Lookup::Found(vec![]) });
    world.now = at(110 + 299);
    assert_eq!(waiting_code(world.decide()), Code::ClassificationPending);
    world.now = at(110 + 300);
    assert!(matches!(done(world.decide()), Effect::Run(..)));
    world.orchestrated = false;
    assert_eq!(waiting_code(world.decide()), Code::ClassificationPending);
}

#[test]
fn without_a_report_to_wait_for_its_groups_are_required_all_the_same() {
    let mut world = to_be_classified();
    world.aws.profile.ready = Vec::new();
    assert_eq!(world.decide(), Decision::Ask(Question::Classification { with_facts: true }));
    let world = misses_one(before_its_run(world), Mismatch::FactsNeeded);
    assert_eq!(waiting_code(world.decide()), Code::ClassificationPending);
}

#[test]
fn a_profile_that_needs_a_classifier_where_there_is_none_is_refused() {
    let mut pinned = to_be_pinned();
    pinned.puppet.node_groups = Some(Lookup::Absent);
    assert_eq!(refused(pinned.decide()).codes(), [Code::NotConfigured]);
    let mut classified = to_be_classified();
    classified.puppet.classification = Some(Lookup::Absent);
    assert_eq!(refused(classified.decide()).codes(), [Code::NotConfigured]);
}

#[test]
fn a_profile_without_groups_needs_no_classifier() {
    let mut world = world();
    world.view().pins = down();
    world.puppet.node_groups = Some(down());
    world.puppet.classification = Some(down());
    completed(world.decide());
}
