//! What an instance that has its certificate still lacks.

use super::*;
use crate::profile::Probe;

// The first run.

#[test]
fn without_an_orchestrator_the_agents_own_run_is_waited_for() {
    let mut world = world();
    world.puppet.run = Some(Lookup::Absent);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.puppet.run = None;
    assert_eq!(failed(world.decide()).codes(), [Code::PuppetDbUnavailable]);
}

#[test]
fn a_run_that_failed_or_changed_nothing_on_purpose_or_had_an_old_catalog_is_shown_and_not_enough() {
    let unchanged = || run(at(100), "unchanged");
    let runs = [run(at(100), "failed"), RunView { noop: true, ..unchanged() }, RunView { cached: true, ..unchanged() }];
    let reasons = runs.map(|run| {
        let mut world = world();
        world.puppet.run = Some(Lookup::Found(run));
        let reason = waits(world.decide());
        assert_eq!(reason.codes(), [Code::RunNotSuccessful]);
        reason.to_string()
    });
    insta::assert_snapshot!(reasons.join("\n"), @"
    the Puppet run of ip-10-0-3-7.ec2.internal at 2027-01-15T08:01:40Z ended as failed; waiting for a successful one
    the Puppet run of ip-10-0-3-7.ec2.internal at 2027-01-15T08:01:40Z was a noop run; waiting for one that applies its catalog
    the Puppet run of ip-10-0-3-7.ec2.internal at 2027-01-15T08:01:40Z applied a cached catalog; waiting for one with a new catalog
    ");
}

#[test]
fn where_any_report_is_enough_a_run_may_fail_but_must_have_had_a_catalog_of_its_own() {
    let mut world = world();
    world.aws.profile.ready = vec![Probe::AnyReport];
    for good in [run(at(100), "changed"), run(at(100), "failed"), RunView { noop: true, ..run(at(100), "unchanged") }] {
        world.puppet.run = Some(Lookup::Found(good));
        completed(world.decide());
    }
    for bad in
        [RunView { catalog: None, ..run(at(100), "failed") }, RunView { cached: true, ..run(at(100), "changed") }]
    {
        world.puppet.run = Some(Lookup::Found(bad));
        assert_eq!(waiting_code(world.decide()), Code::RunNotSuccessful);
    }
    world.puppet.run = Some(Lookup::Absent);
    assert_eq!(waiting_code(world.decide()), Code::WaitingForRun);
    world.puppet.run = Some(Lookup::Found(run(at(-5000), "changed")));
    assert_eq!(waiting_code(world.decide()), Code::WaitingForRun, "a run of an earlier launch");
}

#[test]
fn where_no_report_is_asked_for_no_run_is_awaited_or_ordered() {
    let mut world = connected(vec![]);
    world.aws.profile.ready = Vec::new();
    let stories = [None, Some(Lookup::Absent), Some(Lookup::Found(run(at(100), "failed")))].map(|run| {
        world.puppet.run = run;
        completed(world.decide())
    });
    assert_eq!(stories[0].codes(), [Code::Enrolled, Code::Enrolled]);
    assert!(stories.iter().all(|story| *story == stories[0]), "whatever run there is: {stories:?}");
    world.aws.profile.ready = vec![Probe::Tcp(8142)];
    assert_eq!(world.decide(), Decision::Ask(Question::Probes));
    world.puppet.poll = Some(Poll { said: vec![(Probe::Tcp(8142), Err("connection refused".to_owned()))], code: None });
    assert_eq!(waiting_code(world.decide()), Code::WaitingForReadiness);
    let mut unsigned = self::world().new_to_puppet();
    unsigned.aws.profile.ready = Vec::new();
    assert_eq!(waiting_code(unsigned.decide()), Code::RequestPending, "its certificate is always required");
}

#[test]
fn a_run_of_the_names_former_owner_is_not_its_own() {
    // Dated by PuppetDB's clock, which is 40 seconds behind; and by one that could not be compared with ours.
    for (ahead, tolerance) in [(Some(0), 10), (Some(-40), 50), (None, 60)] {
        let mut world = world();
        world.puppet.puppetdb_ahead = ahead.map(SignedDuration::from_secs);
        world.certificate().issued = at(100 + tolerance + 1);
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "{ahead:?}");
        world.certificate().issued = at(100 + tolerance);
        completed(world.decide());
    }
}

/// An agent dates its run from before it waited for its certificate.
#[test]
fn a_run_that_began_with_waiting_for_the_certificate_is_its_own_however_long_it_waited() {
    let mut world = world();
    let Some(Lookup::Found(mut run)) = world.puppet.run.clone() else { panic!() };
    let issued = 500;
    world.certificate().issued = at(issued);
    (run.end, run.received) = (at(issued + 30), at(issued + 31));
    world.puppet.run = Some(Lookup::Found(run.clone()));
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "nothing says that it waited");
    run.starting = Some(at(issued).duration_since(run.start).unsigned_abs());
    world.puppet.run = Some(Lookup::Found(run));
    completed(world.decide());
}

/// It has a certificate from before this launch; it is not said where it comes from.
#[test]
fn a_run_that_the_names_former_owner_ended_just_before_is_not_its_own() {
    let mut world = world();
    world.view().fact_instance = Lookup::Found(OTHER.parse().unwrap());
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    // No fact says anything: then the time of the run is all there is to go by.
    world.view().fact_instance = Lookup::Absent;
    completed(world.decide());
}

#[test]
fn a_run_that_was_seen_before_the_instance_had_its_certificate_is_not_its_own_whatever_facts_say_now() {
    let mut world = world();
    let Some(Lookup::Found(run)) = world.puppet.run.clone() else { panic!() };
    world.puppet.run_of_another = Some(run.received);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.puppet.run_of_another = Some(at(-1000));
    completed(world.decide());
}

fn of_unknown_origin(ran: i64) -> World {
    let mut world = world().confirmed();
    world.certificate().issued = at(-100_000);
    world.aws.action.origin = None;
    world.aws.group().has_pool = true;
    world.puppet.run = Some(Lookup::Found(run(at(ran), "unchanged")));
    world
}

#[test]
fn a_run_from_before_this_launch_proves_nothing_unless_it_rested_in_the_warm_pool() {
    let mut world = of_unknown_origin(-5000);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    completed(of_unknown_origin(10).decide());
    world.aws.action.origin = Some(Place::WarmPool);
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: Some(at(20)) };
    completed(world.decide());
}

#[test]
fn nobody_may_serve_before_it_is_asked_when_the_launch_began() {
    let mut world = of_unknown_origin(-5000);
    world.aws.action.began = Began::Unknown;
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
}

/// It has no run yet, and is connected to the orchestrator.
fn connected(orders: Vec<Order>) -> World {
    let mut world = world();
    world.orchestrated = true;
    world.puppet.run = Some(Lookup::Absent);
    world.puppet.connection = Some(Connection { connected: Lookup::Found(()), orders: Lookup::Found(orders) });
    world
}

fn ordered(world: &World) -> String {
    match done(world.decide()) {
        Effect::Run(name, key) if name.as_str() == NAME => key,
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_an_orchestrator_it_is_asked_whether_the_node_can_be_told_to_run() {
    let mut world = connected(vec![]);
    world.puppet.connection = None;
    assert_eq!(world.decide(), Decision::Ask(Question::Connection));
    world.puppet.run = Some(Lookup::Found(run(at(100), "changed")));
    completed(world.decide());
}

#[test]
fn a_connected_node_that_nobody_has_run_is_told_to() {
    let key = ordered(&connected(vec![]));
    assert_eq!(key, format!("{OURS} 01A1 after none"));
}

#[test]
fn a_node_that_cannot_be_told_is_left_to_its_own_agent() {
    let mut world = connected(vec![]);
    for connected in [Lookup::Absent, down()] {
        world.puppet.connection = Some(Connection { connected, orders: Lookup::Found(vec![]) });
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    }
    world.puppet.connection = Some(Connection { connected: Lookup::Found(()), orders: down() });
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "an order may be under way");
}

#[test]
fn a_busy_node_is_not_told_again() {
    waits(connected(vec![order("7", at(150), None)]).decide());
    waits(connected(vec![order("7", at(100), Some(at(141)))]).decide());
    waits(connected(vec![order("7", at(50), Some(at(60))), order("8", at(150), None)]).decide());
}

#[test]
fn an_order_that_has_settled_without_a_report_is_given_again_under_another_key() {
    let first = ordered(&connected(vec![]));
    let second = ordered(&connected(vec![order("7", at(100), Some(at(140)))]));
    let third = ordered(&connected(vec![order("7", at(50), Some(at(55))), order("8", at(100), Some(at(140)))]));
    let cut_off = ordered(&connected(vec![order("8", at(100), Some(at(140)))]));
    assert!(first != second && second != third && first != third);
    assert_eq!(third, cut_off, "orders that are not shown any more do not matter");
}

#[test]
fn each_order_that_brought_nothing_doubles_the_pause_before_the_next() {
    // Puppet is disabled on the node, so each of its jobs ends at once.
    let jobs = |count: i64| (1..=count).map(|job| order(&job.to_string(), at(100), Some(at(100)))).collect();
    for (given, minutes) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 16)] {
        let mut world = connected(jobs(given));
        world.now = at(100 + minutes * 60 - 1);
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "after {given}");
        world.now = at(100 + minutes * 60);
        ordered(&world);
    }
}

#[test]
fn an_order_that_nobody_ever_ends_does_not_keep_a_node_from_running() {
    let mut world = connected(vec![order("7", at(150), None)]);
    world.now = at(150 + 20 * 60);
    ordered(&world);
}

#[test]
fn a_failed_run_is_ordered_again_once_it_has_settled() {
    let mut world = connected(vec![]);
    world.puppet.run = Some(Lookup::Found(run(at(131), "failed")));
    assert_eq!(waits(world.decide()).codes(), [Code::RunNotSuccessful]);
    world.puppet.run = Some(Lookup::Found(run(at(130), "failed")));
    ordered(&world);
}

#[test]
fn no_run_is_ordered_that_there_is_no_time_for() {
    assert_eq!(abandoned(connected(vec![]).late().decide()).codes(), [Code::TimeoutExpired, Code::NoTimeLeft]);
}
