//! Instances that launch or terminate together: each refresh target is ordered to run at most twice for all of them, and every
//! launch and termination is completed.

use stagedoor_lab_puppet::RunScript;
use stagedoor_simulation::schedule::{End, Enterprise, Life, Postgresql, SiteTraits};
use stagedoor_simulation::{Schedule, exhaustive, play};

/// Whether everything is played, rather than a part that development builds can play in a minute.
fn all() -> bool {
    std::env::var("STAGEDOOR_SIMULATE").is_ok_and(|value| value == "all")
}

/// How many instances take part: the given number with `STAGEDOOR_SIMULATE=all`, otherwise a tenth of it.
fn of(many: u32) -> u32 {
    if all() { many } else { many / 10 }
}

/// A site on which only the controller makes the refresh targets run.
fn site(enterprise: Enterprise) -> SiteTraits {
    SiteTraits { enterprise: Some(Enterprise { only_ordered: true, ..enterprise }), ..SiteTraits::default() }
}

/// Instances that are launched within a minute, and whose daemons run Puppet again a few seconds after each run.
fn launched_together(count: u32) -> Vec<Life> {
    let life = |number: u32| {
        let mut life = Life { end: End::Stays, ..Life::ordinary(number) };
        life.launched_s = Some(10 + u64::from(number) * 60 / u64::from(count));
        life.agent.interval_s = 5;
        life
    };
    (0..count).map(life).collect()
}

/// Instances in service that are terminated within a minute.
fn terminated_together(count: u32) -> Vec<Life> {
    let life = |number: u32| Life {
        launched_s: None,
        end: End::Terminated(10 + u64::from(number) * 60 / u64::from(count)),
        ..Life::ordinary(number)
    };
    (0..count).map(life).collect()
}

/// Plays this with queues, as in `infra/`, and with one invocation for each event. Without `STAGEDOOR_SIMULATE=all`, only with queues.
fn costs_two_runs_at_most(lives: &[Life], site: &SiteTraits, horizon_s: u64) {
    for batched in [true, false].into_iter().filter(|batched| *batched || all()) {
        each_target_runs_twice_at_most(lives, &SiteTraits { batched, ..site.clone() }, horizon_s);
    }
}

/// No invariant is violated, no launch goes on without a target, and each target is ordered at least once and at most twice.
fn each_target_runs_twice_at_most(lives: &[Life], site: &SiteTraits, horizon_s: u64) {
    let schedule = Schedule { lives: lives.to_vec(), site: site.clone(), horizon_s, ..exhaustive::ordinary() };
    let played = play(&schedule).expect("a schedule that can be played");
    assert!(played.violations.is_empty(), "{:#?}", played.violations);
    assert!(!played.trace.contains("\"refresh_timed_out\""), "a launch went on without a target");
    let ordered: Vec<_> = played.ordered.iter().filter(|(_, count)| **count > 0).collect();
    let twice_at_most = ordered.iter().all(|(_, count)| **count <= 2);
    assert!(!ordered.is_empty() && twice_at_most, "batched: {}: {ordered:?}", site.batched);
}

#[test]
fn fifty_launched_together_cost_the_primary_two_runs_at_the_most() {
    let site = site(Enterprise { run_s: 90, ..Enterprise::default() });
    costs_two_runs_at_most(&launched_together(of(50)), &site, 1500);
}

#[test]
fn fifty_compilers_launched_together_cost_each_wave_two_runs_at_the_most() {
    let compilers = Some(Postgresql::OnItsOwn);
    let site = site(Enterprise { run_s: 90, compilers, restart_s: 20, database_wait_s: 120, ..Enterprise::default() });
    costs_two_runs_at_most(&launched_together(of(50)), &site, 3000);
}

#[test]
fn fifty_launched_together_cost_a_primary_that_takes_thirteen_minutes_two_runs_at_the_most() {
    let compilers = Some(Postgresql::OnPrimary);
    let site = site(Enterprise { run_s: 780, compilers, restart_s: 20, database_wait_s: 900, ..Enterprise::default() });
    costs_two_runs_at_most(&launched_together(of(50)), &site, 4200);
}

#[test]
fn an_orchestrator_that_restarts_in_the_middle_costs_no_further_run() {
    let primary = vec![(0, RunScript::Restart { down_ms: 45_000 })];
    let site = site(Enterprise { run_s: 90, primary, ..Enterprise::default() });
    costs_two_runs_at_most(&launched_together(of(50)), &site, 1800);
}

#[test]
fn jobs_that_stay_running_after_their_runs_have_ended_cost_no_further_run() {
    let primary = vec![(0, RunScript::Untold)];
    let site = site(Enterprise { run_s: 90, primary, ..Enterprise::default() });
    costs_two_runs_at_most(&launched_together(of(50)), &site, 1800);
}

/// With queues, as in `infra/`. A thousand invocations at once would order more: those that look for the job of the first at the same moment
/// do not find it yet.
#[test]
fn a_thousand_terminated_together_cost_the_primary_two_runs_at_the_most() {
    let site = site(Enterprise { run_s: 60, ..Enterprise::default() });
    each_target_runs_twice_at_most(&terminated_together(of(1000)), &SiteTraits { batched: true, ..site }, 1500);
}

#[test]
fn a_thousand_terminated_together_cost_a_primary_that_takes_thirteen_minutes_two_runs_at_the_most() {
    let site = site(Enterprise { run_s: 780, ..Enterprise::default() });
    each_target_runs_twice_at_most(&terminated_together(of(1000)), &SiteTraits { batched: true, ..site }, 1500);
}

#[test]
fn a_thousand_terminated_together_cost_two_runs_at_the_most_although_the_orchestrator_restarts_in_the_middle() {
    let primary = vec![(0, RunScript::Restart { down_ms: 45_000 })];
    let site = site(Enterprise { run_s: 60, primary, ..Enterprise::default() });
    each_target_runs_twice_at_most(&terminated_together(of(1000)), &SiteTraits { batched: true, ..site }, 1500);
}

#[test]
fn a_hundred_that_terminate_and_wait_for_the_primary_cost_it_two_runs_at_the_most() {
    let site = site(Enterprise { run_s: 120, awaits_removal: true, ..Enterprise::default() });
    costs_two_runs_at_most(&terminated_together(of(100)), &site, 1500);
}
