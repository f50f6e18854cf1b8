//! The refresh targets, which must learn of an instance before it serves.

use crate::profile::Probe;
use stagedoor_types::Certname;

use super::*;
use crate::profile::OnRefreshTimeout;
use crate::refresh::CatalogView;

/// Its first successful run ended at second 110, and the time is second 130.
fn with_target() -> World {
    let mut world = world().confirmed();
    world.orchestrated = true;
    world.now = at(130);
    world.aws.profile.refresh.waves = primary();
    world.puppet.history =
        Some(History { runs: Lookup::Found(vec![run(at(100), "changed")]), catalog: Lookup::Absent });
    world
}

/// The target has had this run, and no order.
fn ran(run: Option<RunView>) -> Vec<TargetView> {
    vec![target(run, Some(vec![]))]
}

fn ordered(decision: Decision) -> (Vec<Certname>, Timestamp) {
    match decision {
        Decision::Apply(Effect::Refresh(order)) => (order.targets, order.change),
        other => panic!("{other:?}"),
    }
}

fn primary_alone() -> Vec<Certname> {
    vec![PRIMARY.parse().unwrap()]
}

#[test]
fn once_it_has_reported_it_is_asked_when_it_first_did_and_then_about_the_targets() {
    let mut world = with_target();
    assert!(matches!(world.decide(), Decision::Ask(Question::Targets(_))));
    world.puppet.history = None;
    assert!(matches!(world.decide(), Decision::Ask(Question::History(_))));
    world.puppet.run = Some(Lookup::Absent);
    world.puppet.connection = Some(Connection { connected: Lookup::Absent, orders: Lookup::Found(vec![]) });
    waits(world.decide());
}

#[test]
fn a_target_that_has_not_run_puppet_since_the_change_is_ordered_to_by_the_sweep_alone() {
    let mut world = with_target();
    world.puppet.targets = Some(ran(Some(run(at(109), "changed"))));
    assert_eq!(ordered(world.decide()), (primary_alone(), at(110)));
    world.sweeps = false;
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
}

#[test]
fn later_runs_of_the_instance_restart_nothing() {
    let mut world = with_target();
    // Its daemon has run again, and the target in between.
    world.puppet.run = Some(Lookup::Found(run(at(120), "unchanged")));
    world.puppet.history.as_mut().unwrap().runs =
        Lookup::Found(vec![run(at(120), "unchanged"), run(at(100), "changed")]);
    world.puppet.targets = Some(ran(Some(run(at(110), "changed"))));
    completed(world.decide());
}

#[test]
fn reports_that_began_before_its_certificate_are_a_predecessors() {
    let mut world = with_target();
    world.certificate().issued = at(90);
    let runs = Lookup::Found(vec![run(at(29), "changed"), run(at(100), "changed")]);
    world.puppet.history.as_mut().unwrap().runs = runs;
    // It would have been enough for the predecessor.
    world.puppet.targets = Some(ran(Some(run(at(50), "changed"))));
    assert_eq!(ordered(world.decide()).1, at(110));
}

#[test]
fn a_run_that_puppetdb_has_forgotten_is_replaced_by_the_newest() {
    let mut world = with_target();
    world.puppet.history.as_mut().unwrap().runs = Lookup::Found(vec![]);
    world.puppet.targets = Some(ran(None));
    assert_eq!(ordered(world.decide()).1, at(110));
}

#[test]
fn a_history_that_is_unavailable_is_not_an_empty_one() {
    let mut world = with_target();
    world.puppet.history.as_mut().unwrap().runs = unavailable(Service::PuppetDb);
    assert_eq!(failed(world.decide()).codes(), [Code::PuppetDbUnavailable]);
}

#[test]
fn a_targets_run_that_is_in_progress_is_waited_for_and_no_other_is_ordered() {
    let mut world = with_target();
    for began in [50, 120] {
        world.puppet.targets = Some(vec![target(None, Some(vec![order("81", at(began), None)]))]);
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
    }
}

#[test]
fn a_target_whose_services_do_not_answer_is_waited_for() {
    let mut world = with_target();
    world.puppet.targets = Some(vec![TargetView { runs: down(), ..target(None, Some(vec![])) }]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh, Code::CaUnavailable]);
}

#[test]
fn a_target_that_has_learnt_of_it_lets_it_serve_also_if_a_resource_failed_there() {
    let mut world = with_target();
    for status in ["unchanged", "failed"] {
        let run = RunView { applying: Some(std::time::Duration::from_secs(5)), ..run(at(110), status) };
        world.puppet.targets = Some(ran(Some(run)));
        assert_eq!(completed(world.decide()).codes(), [Code::Enrolled, Code::Enrolled, Code::Refreshed]);
    }
}

#[test]
fn every_target_must_have_learnt_of_it() {
    let mut world = with_target();
    world.aws.profile.refresh.waves[0].push("replica.example.com".parse().unwrap());
    let learnt = target(Some(run(at(110), "unchanged")), Some(vec![]));
    world.puppet.targets = Some(vec![learnt.clone()]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh], "it was not asked about");
    let replica: Certname = "replica.example.com".parse().unwrap();
    let target = TargetView { certname: replica.clone(), ..target(None, Some(vec![])) };
    world.puppet.targets = Some(vec![learnt, target]);
    assert_eq!(ordered(world.decide()).0, [replica]);
}

#[test]
fn without_an_orchestrator_the_profile_says_whether_to_wait_for_the_targets() {
    let mut world = with_target();
    world.orchestrated = false;
    world.puppet.history = None;
    assert_eq!(completed(world.decide()).codes(), [Code::Enrolled, Code::Enrolled, Code::RefreshedAtNextRun]);
    world = with_target();
    world.orchestrated = false;
    world.aws.profile.refresh.await_launch = true;
    assert!(matches!(world.decide(), Decision::Ask(Question::Targets(_))));
    world.puppet.targets = Some(vec![target(None, None)]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
    world.puppet.targets = Some(vec![target(Some(run(at(120), "changed")), None)]);
    completed(world.decide());
}

#[test]
fn where_no_run_is_awaited_no_refresh_is_either() {
    let mut world = with_target();
    world.aws.profile.ready = vec![];
    world.puppet.history = None;
    for after in [RefreshAfter::SuccessfulRun, RefreshAfter::Catalog] {
        world.aws.profile.refresh.after = after;
        assert_eq!(completed(world.decide()).codes(), [Code::Enrolled, Code::Enrolled]);
    }
}

#[test]
fn a_change_by_a_clock_that_is_ahead_is_waited_for() {
    let mut world = with_target();
    world.now = at(109);
    assert_eq!(waits(world.decide()).codes(), [Code::ClockAhead]);
}

// The timeout of the refresh.

#[test]
fn a_target_that_fails_keeps_no_fit_instance_out() {
    let mut world = with_target();
    world.puppet.targets = Some(ran(None));
    world.now = at(110 + 1199);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRefresh]);
    world.now = at(110 + 1200);
    assert_eq!(completed(world.decide()).codes(), [Code::RefreshTimedOut, Code::Enrolled, Code::Enrolled]);
}

#[test]
fn everything_in_ready_stays_required() {
    let mut world = with_target();
    world.puppet.targets = Some(ran(None));
    world.now = at(110 + 1200);
    world.aws.profile.ready.push(Probe::Tcp(8142));
    world.puppet.poll = Some(Poll { said: vec![(Probe::Tcp(8142), Err("connection refused".into()))], code: None });
    assert_eq!(waits(world.decide()).codes(), [Code::RefreshTimedOut, Code::WaitingForReadiness]);
}

#[test]
fn a_fit_instance_is_not_abandoned_because_the_change_came_late() {
    let mut world = with_target();
    world.puppet.run = Some(Lookup::Found(run(at(1600), "changed")));
    world.puppet.history.as_mut().unwrap().runs = Lookup::Found(vec![run(at(1600), "changed")]);
    world.puppet.targets = Some(ran(None));
    world.now = at(1679);
    waits(world.decide());
    world.now = at(1680);
    assert_eq!(completed(world.decide()).codes(), [Code::RefreshTimedOut, Code::Enrolled, Code::Enrolled]);
    world.aws.action.began = Began::Said(at(0));
    assert_eq!(world.decide(), Decision::Ask(Question::Began), "an event alone does not show it");
}

#[test]
fn the_profile_may_wait_until_the_launch_is_over() {
    let mut world = with_target();
    world.aws.profile.refresh.on_timeout = OnRefreshTimeout::Wait;
    world.puppet.targets = Some(ran(None));
    world.now = at(110 + 1200);
    assert_eq!(waits(world.decide()).codes(), [Code::RefreshTimedOut]);
    world.now = at(1800);
    assert_eq!(abandoned(world.decide()).codes(), [Code::TimeoutExpired, Code::RefreshTimedOut]);
}

// After the first stored catalog.

/// Its first run is in progress, and its catalog was stored at second 105.
fn hanging() -> World {
    let mut world = with_target();
    world.aws.profile.refresh.after = RefreshAfter::Catalog;
    world.puppet.run = Some(Lookup::Absent);
    let catalog = CatalogView { id: Some("first".into()), produced: at(105), stored: None };
    world.puppet.history = Some(History { runs: Lookup::Found(vec![]), catalog: Lookup::Found(catalog) });
    world.puppet.connection = Some(Connection { connected: Lookup::Absent, orders: Lookup::Found(vec![]) });
    world
}

#[test]
fn what_cannot_run_before_the_targets_know_it_is_not_deadlocked() {
    let mut world = hanging();
    world.puppet.targets = Some(ran(None));
    assert_eq!(ordered(world.decide()), (primary_alone(), at(105)));
    // Then its own run is waited for.
    world.puppet.targets = Some(ran(Some(run(at(106), "changed"))));
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    let Some(History { runs, .. }) = &mut world.puppet.history else { panic!() };
    let first = RunView { catalog: Some("first".into()), ..run(at(100), "failed") };
    *runs = Lookup::Found(vec![first.clone()]);
    world.puppet.run = Some(Lookup::Found(first));
    assert_eq!(waits(world.decide()).codes(), [Code::RunNotSuccessful], "the targets need no second run");
    world.puppet.run = Some(Lookup::Found(run(at(120), "changed")));
    assert_eq!(completed(world.decide()).codes(), [Code::Enrolled, Code::Enrolled, Code::Refreshed]);
}

#[test]
fn a_catalog_that_waited_in_puppetdbs_queue_is_the_change_only_once_it_is_stored() {
    let mut world = hanging();
    let Some(History { catalog: Lookup::Found(catalog), .. }) = &mut world.puppet.history else { panic!() };
    catalog.stored = Some(at(130));
    world.puppet.targets = Some(ran(Some(run(at(106), "changed"))));
    assert_eq!(ordered(world.decide()), (primary_alone(), at(130)));
}

#[test]
fn before_its_first_catalog_its_own_run_is_what_is_missing() {
    let mut world = hanging();
    world.puppet.history.as_mut().unwrap().catalog = Lookup::Absent;
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    let predecessors = CatalogView { id: None, produced: at(ISSUED - 61), stored: None };
    world.puppet.history.as_mut().unwrap().catalog = Lookup::Found(predecessors);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.puppet.history.as_mut().unwrap().catalog = unavailable(Service::PuppetDb);
    assert_eq!(failed(world.decide()).codes(), [Code::PuppetDbUnavailable]);
}

#[test]
fn that_it_goes_on_without_the_targets_is_said_while_its_own_run_is_missing() {
    let mut world = hanging();
    world.puppet.targets = Some(ran(None));
    world.now = at(105 + 1200);
    assert_eq!(waits(world.decide()).codes(), [Code::RefreshTimedOut, Code::WaitingForRun]);
}

#[test]
fn a_group_with_a_rule_on_a_fact_is_known_from_the_facts_that_came_with_the_first_catalog() {
    let classified = |with_facts: bool, groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let mismatches = [("Compilers".to_owned(), Mismatch::FactsNeeded)].into();
        let known = ["Compilers".to_owned()].into();
        Some(Lookup::Found(Classified { groups, known, mismatches, with_facts }))
    };
    let mut world = hanging();
    world.aws.profile.classified = vec!["Compilers".into()];
    world.puppet.targets = Some(ran(None));
    world.puppet.classification = classified(false, &[]);
    assert!(matches!(world.decide(), Decision::Ask(Question::Classification { with_facts: true })));
    world.puppet.classification = classified(true, &["Compilers"]);
    assert_eq!(ordered(world.decide()), (primary_alone(), at(105)));
    // Before the catalog, and with the facts of a former owner of the name, nothing is known.
    world.view().fact_instance = Lookup::Found(OTHER.parse().unwrap());
    assert!(matches!(world.decide(), Decision::Ask(Question::Classification { with_facts: false })));
    world.view().fact_instance = Lookup::Found(OURS.parse().unwrap());
    world.puppet.history.as_mut().unwrap().catalog = Lookup::Absent;
    world.puppet.classification = classified(false, &[]);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
}

#[test]
fn what_a_former_owner_did_a_minute_ago_is_no_change_of_this_launch() {
    let mut world = hanging();
    world.puppet.targets = Some(ran(Some(run(at(70), "changed"))));
    // Its catalog and its report are dated a little before the certificate.
    let mut former = run(at(ISSUED - 20), "changed");
    let catalog = CatalogView { id: former.catalog.clone(), produced: at(ISSUED - 19), stored: None };
    former.retrieving = None;
    world.puppet.history = Some(History { runs: Lookup::Found(vec![former]), catalog: Lookup::Found(catalog) });
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    let own = CatalogView { id: Some("first".into()), produced: at(105), stored: None };
    world.puppet.history.as_mut().unwrap().catalog = Lookup::Found(own.clone());
    assert_eq!(ordered(world.decide()), (primary_alone(), at(105)));
    // As long as the facts are the former owner's, so is the catalog.
    world.view().fact_instance = Lookup::Found(OTHER.parse().unwrap());
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
}

#[test]
fn a_first_run_that_waited_for_its_certificate_is_the_change_and_a_later_one_moves_nothing() {
    let mut world = with_target();
    // Its agent was started 300 seconds before it had its certificate, and reported at second 110.
    let first = RunView { start: at(-200), starting: Some(Duration::from_secs(300)), ..run(at(100), "changed") };
    let later = run(at(125), "unchanged");
    world.puppet.run = Some(Lookup::Found(later.clone()));
    world.puppet.history.as_mut().unwrap().runs = Lookup::Found(vec![first, later]);
    world.puppet.targets = Some(ran(None));
    assert_eq!(ordered(world.decide()), (primary_alone(), at(110)));
}

#[test]
fn a_newest_run_that_the_history_does_not_have_is_the_change_by_the_clock_of_the_server() {
    let mut world = with_target();
    let own = RunView { received: at(115), ..run(at(100), "changed") };
    world.puppet.run = Some(Lookup::Found(own));
    world.puppet.history.as_mut().unwrap().runs = Lookup::Found(vec![]);
    world.puppet.targets = Some(ran(None));
    assert_eq!(ordered(world.decide()), (primary_alone(), at(115)));
}

#[test]
fn the_first_catalog_counts_although_the_primarys_clock_is_behind() {
    let mut world = hanging();
    world.puppet.targets = Some(ran(None));
    // 150 seconds behind: the catalog seems to be from before the launch.
    world.puppet.puppetdb_ahead = Some(SignedDuration::from_secs(-150));
    let catalog = CatalogView { id: Some("first".into()), produced: at(105 - 150), stored: None };
    world.puppet.history.as_mut().unwrap().catalog = Lookup::Found(catalog);
    assert_eq!(ordered(world.decide()), (primary_alone(), at(105 - 150)));
}

#[test]
fn what_returns_from_the_warm_pool_is_no_new_change() {
    let mut world = with_target();
    world.certificate().issued = at(-5000);
    world.aws.action.origin = Some(Place::WarmPool);
    world.aws.group().has_pool = true;
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: Some(at(20)) };
    let (entry, exit) = (run(at(-4900), "changed"), run(at(100), "unchanged"));
    world.puppet.history.as_mut().unwrap().runs = Lookup::Found(vec![entry, exit]);
    // The target learnt of it when it entered the pool.
    world.puppet.targets = Some(ran(Some(run(at(-4800), "changed"))));
    completed(world.decide());
}
