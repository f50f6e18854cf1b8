//! The invariants under many schedules, and that the simulation sees when a rule does not hold. `make simulate` plays more.

use std::collections::BTreeSet;

use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_puppet::RunScript;
use stagedoor_simulation::schedule::{
    CONTROLLERS_NAME, Delivery, End, Enterprise, Forged, Life, Outage, Postgresql, SiteTraits, Stranger,
};
use stagedoor_simulation::{Broken, Invariant, Played, Schedule, exhaustive, play, play_with};
use stagedoor_types::broken::Rule;

/// Whether everything is played, rather than a part that development builds can play in a minute.
fn all() -> bool {
    std::env::var("STAGEDOOR_SIMULATE").is_ok_and(|value| value == "all")
}

/// How many are played of each kind: one in so many, or all.
fn one_in(few: usize) -> usize {
    if all() { 1 } else { few }
}

fn assert_all_hold(schedules: impl IntoIterator<Item = Schedule>) {
    for schedule in schedules {
        let Played { violations, trace, .. } = play(&schedule).expect("a schedule that can be played");
        assert!(violations.is_empty(), "{violations:#?}\n{schedule:#?}\n{trace}");
    }
}

#[test]
fn a_schedule_gives_the_same_trace_each_time_byte_for_byte() {
    for seed in [3, 12] {
        let schedule = Schedule::of(seed);
        let first = play(&schedule).expect("it can be played").trace;
        let second = play(&schedule).expect("it can be played").trace;
        let differs = first.lines().zip(second.lines()).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_trace() {
    let trace = |seed| play(&Schedule { seed, ..exhaustive::ordinary() }).expect("it can be played").trace;
    assert_ne!(trace(1), trace(2));
}

#[test]
fn the_invariants_hold_under_random_schedules() {
    assert_all_hold((0..200).step_by(one_in(40)).map(Schedule::of));
}

#[test]
fn the_invariants_hold_wherever_an_invocation_is_killed() {
    let points = exhaustive::kill_points().expect("it can be played");
    assert!(points.len() > 100, "an onboarding and a purge have more steps than {}", points.len());
    assert_all_hold(points.into_iter().step_by(one_in(60)));
}

#[test]
fn the_invariants_hold_under_every_single_fault() {
    assert_all_hold(exhaustive::single_faults(3).into_iter().step_by(one_in(80)));
}

/// Schedules that show what a broken rule does, each with an invariant that it violates.
fn shows(broken: Broken) -> Vec<(Schedule, Invariant)> {
    let ordinary = exhaustive::ordinary();
    let with_life = |change: &dyn Fn(&mut Life)| {
        let mut schedule = ordinary.clone();
        schedule.lives.iter_mut().for_each(change);
        schedule
    };
    let in_service = with_life(&|life| life.launched_s = None);
    let staying = with_life(&|life| (life.launched_s, life.end) = (None, End::Stays));
    match broken {
        Broken::Nothing => Vec::new(),
        Broken::RequestsUnchecked => {
            let stranger = Stranger { at_s: 15, name: 1, claims: Some(1) };
            vec![(Schedule { strangers: vec![stranger], ..ordinary }, Invariant::StrangerSigned)]
        }
        Broken::NoRunAwaited => vec![(ordinary, Invariant::AdmittedUnfit)],
        Broken::NoSweep => {
            let lost = |life: &mut Life| (life.launch_event, life.terminate_event) = (Delivery::Lost, Delivery::Lost);
            vec![(with_life(&lost), Invariant::Stranded)]
        }
        Broken::NoHousekeeping => {
            let killed = with_life(&|life| (life.launched_s, life.end) = (None, End::Killed(100)));
            vec![(Schedule { horizon_s: 3700, ..killed }, Invariant::LeftBehind)]
        }
        Broken::Observing => {
            let site = SiteTraits { observes: true, ..SiteTraits::default() };
            vec![(Schedule { site, ..ordinary }, Invariant::ObserverWrote)]
        }
        Broken::ShortTimeout => {
            let slow = with_life(&|life| (life.agent.boot_s, life.end) = (100, End::Stays));
            vec![(slow.clone(), Invariant::FitAbandoned), (slow, Invariant::NotInService)]
        }
        Broken::Inside(Rule::NameCheck) => {
            let (schedule, invariant) = inside(Rule::NameCheck, in_service, staying);
            let site = SiteTraits { enterprise: Some(Enterprise::default()), ..SiteTraits::default() };
            let pinned = Schedule { site, ..schedule.clone() };
            vec![(schedule.clone(), invariant), (schedule, Invariant::NodeInUse), (pinned, Invariant::PinInUse)]
        }
        Broken::Inside(rule) => vec![inside(rule, in_service, staying)],
    }
}

/// The same for a rule inside the controller. There is one instance, which terminates after 240 seconds, or stays.
fn inside(rule: Rule, in_service: Schedule, staying: Schedule) -> (Schedule, Invariant) {
    let launched = exhaustive::ordinary();
    match rule {
        Rule::NameCheck => {
            // An instance of another VPC has the same name, and terminates.
            let mut schedule = staying;
            schedule.lives.push(Life { name: 1, end: End::Terminated(240), ..Life::ordinary(2) });
            (schedule, Invariant::CertificateInUse)
        }
        Rule::Protected => {
            let mut schedule = in_service;
            schedule.lives.iter_mut().for_each(|life| life.name = CONTROLLERS_NAME);
            (schedule, Invariant::Protected)
        }
        Rule::Pauses | Rule::Budget => {
            let mut schedule = Schedule { horizon_s: 300, ..launched };
            schedule.lives.iter_mut().for_each(|life| (life.agent.boot_s, life.end) = (200, End::Stays));
            (schedule, if rule == Rule::Pauses { Invariant::TooManyCalls } else { Invariant::InvocationFailed })
        }
        Rule::Confirmation => {
            let forged = vec![Forged { at_s: 100, number: 1 }];
            (Schedule { forged, ..staying }, Invariant::CertificateInUse)
        }
        Rule::Proof => {
            let site = SiteTraits { queue_ms: 30_000, ..SiteTraits::default() };
            (Schedule { site, ..in_service }, Invariant::CompletedUnproven)
        }
        Rule::Breaker => {
            let life = |number| Life { launched_s: None, end: End::Killed(100), ..Life::ordinary(number) };
            let lives = (1..=12).map(life).collect();
            (Schedule { lives, horizon_s: 3700, ..staying }, Invariant::TooManyAtOnce)
        }
        Rule::Home => {
            // Their certificates are new when the simulation begins; after two hours their names have been silent for long enough.
            let site = SiteTraits { foreign: 3, ..SiteTraits::default() };
            (Schedule { site, horizon_s: 8000, ..staying }, Invariant::CertificateInUse)
        }
        Rule::SameKey => {
            let site = SiteTraits { duplicates: true, ..SiteTraits::default() };
            let mut schedule = Schedule { site, ..launched };
            // It leaves the warm pool with a certificate that is older than its launch into the group.
            for life in &mut schedule.lives {
                (life.agent.repeats_request_s, life.pooled_s, life.end) = (Some(5), Some(300), End::Stays);
            }
            (schedule, Invariant::CertificateInUse)
        }
        Rule::PinFirst => {
            let site = SiteTraits { enterprise: Some(Enterprise::default()), ..SiteTraits::default() };
            (Schedule { site, ..launched }, Invariant::SignedUnpinned)
        }
        Rule::FixedChange => {
            let enterprise = Some(Enterprise { run_s: 180, ..Enterprise::default() });
            let mut schedule = Schedule { horizon_s: 2200, ..launched };
            schedule.site.enterprise = enterprise;
            schedule.lives.iter_mut().for_each(|life| (life.agent.interval_s, life.end) = (60, End::Stays));
            (schedule, Invariant::RefreshStarved)
        }
        Rule::Refresh => {
            let site = SiteTraits { enterprise: Some(Enterprise::default()), ..SiteTraits::default() };
            (Schedule { site, ..launched }, Invariant::AdmittedUnknown)
        }
        Rule::CatalogFirst => {
            let enterprise = Enterprise {
                run_s: 30,
                compilers: Some(Postgresql::OnItsOwn),
                database_wait_s: 900,
                only_ordered: true,
                ..Enterprise::default()
            };
            let mut schedule = Schedule { horizon_s: 5400, ..launched };
            schedule.site.enterprise = Some(enterprise);
            schedule.lives.iter_mut().for_each(|life| life.end = End::Stays);
            (schedule, Invariant::FitAbandoned)
        }
        Rule::Heartbeats => {
            let site = SiteTraits { hooks_end_s: Some(300), ..SiteTraits::default() };
            let mut schedule = Schedule { site, ..launched };
            schedule.lives.iter_mut().for_each(|life| (life.agent.boot_s, life.end) = (400, End::Stays));
            (schedule, Invariant::HookTimedOut)
        }
        Rule::SweepsOrder
        | Rule::BackOff
        | Rule::Waves
        | Rule::RefreshTimeout
        | Rule::LostOrders
        | Rule::FixedCatalog
        | Rule::Compilation => of_targets(rule),
        Rule::Unavailable => {
            let call = "GET /puppet-ca/v1/certificate/{certname}".to_owned();
            let fault = Fault { service: "ca".to_owned(), call, nth: None, subject: None, kind: FaultKind::Reset };
            (Schedule { faults: vec![fault], ..in_service }, Invariant::CompletedUnproven)
        }
    }
}

/// The same for a rule about refresh targets.
fn of_targets(rule: Rule) -> (Schedule, Invariant) {
    let schedule = |enterprise: Enterprise, lives: Vec<Life>| {
        let site = SiteTraits { enterprise: Some(enterprise), ..SiteTraits::default() };
        Schedule { lives, site, horizon_s: 2400, ..exhaustive::ordinary() }
    };
    let staying = Life { end: End::Stays, ..Life::ordinary(1) };
    let slow = Enterprise { run_s: 60, ..Enterprise::default() };
    let disabled = Enterprise { run_s: 5, primary: vec![(0, RunScript::Disabled)], ..slow.clone() };
    match rule {
        Rule::SweepsOrder => {
            // Their first runs end within a few seconds, so that their invocations see at the same moment that an order is needed.
            let life = |number: u32| {
                let mut life = Life { end: End::Stays, ..Life::ordinary(number) };
                (life.agent.boot_s, life.agent.wait_for_cert_s) = (5, 5);
                life.agent.run_s = 10 + u64::from(number % 5);
                life
            };
            (schedule(slow, (1..=12).map(life).collect()), Invariant::OrdersPileUp)
        }
        Rule::BackOff => (schedule(disabled, vec![staying]), Invariant::TooManyOrders),
        Rule::Waves => {
            let compilers = Some(Postgresql::OnItsOwn);
            (schedule(Enterprise { compilers, database_wait_s: 30, ..slow }, vec![staying]), Invariant::WaveTooEarly)
        }
        // Its own daemon is stopped, so that only an order could make the primary run.
        Rule::RefreshTimeout => {
            (schedule(Enterprise { only_ordered: true, ..disabled }, vec![staying]), Invariant::FitAbandoned)
        }
        // Its runs follow each other more quickly than a target runs, each with a catalog of its own.
        Rule::FixedCatalog => {
            let compilers = Some(Postgresql::OnItsOwn);
            let enterprise = Enterprise { run_s: 170, compilers, database_wait_s: 1, only_ordered: true, ..slow };
            let mut runs_on = staying;
            (runs_on.agent.run_s, runs_on.agent.interval_s) = (5, 60);
            (Schedule { horizon_s: 5400, ..schedule(enterprise, vec![runs_on]) }, Invariant::RefreshStarved)
        }
        // The primary runs for the first one when the catalog of the second one is stored, so that nobody admits the second one.
        Rule::Compilation => {
            let compilers = Some(Postgresql::OnPrimary);
            let second = Life { launched_s: Some(120), number: 2, name: 2, ..staying.clone() };
            let enterprise = Enterprise { run_s: 240, compilers, database_wait_s: 30, only_ordered: true, ..slow };
            (Schedule { horizon_s: 5400, ..schedule(enterprise, vec![staying, second]) }, Invariant::FitAbandoned)
        }
        _ => {
            let terminates = Life { launched_s: None, end: End::Terminated(60), ..staying };
            let mut lost = schedule(Enterprise { only_ordered: true, ..slow }, vec![terminates]);
            let (service, kind) = ("orchestrator".to_owned(), FaultKind::Reset);
            lost.outages = vec![Outage { service, kind, from_s: 50, lasts_s: 60 }];
            (lost, Invariant::RemovalUnknown)
        }
    }
}

/// The length of the longest schedule that is played without `STAGEDOOR_SIMULATE=all`, in seconds.
const SHORT_S: u64 = 2200;

#[test]
fn every_broken_rule_is_seen_and_every_invariant_can_be_violated() {
    let mut invariants = BTreeSet::new();
    for broken in Broken::ALL {
        let shown = shows(broken);
        assert!(!shown.is_empty(), "{broken:?}");
        for (schedule, invariant) in shown {
            invariants.insert(invariant);
            if !all() && schedule.horizon_s > SHORT_S {
                continue;
            }
            let violated = play_with(&schedule, broken).expect("it can be played").violations;
            assert!(violated.iter().any(|violation| violation.invariant == invariant), "{broken:?}: {violated:#?}");
            // The rule is the cause, not the schedule.
            if all() {
                let violated = play(&schedule).expect("it can be played").violations;
                assert!(violated.iter().all(|violation| violation.invariant != invariant), "{broken:?}: {violated:#?}");
            }
        }
    }
    assert_eq!(invariants, Invariant::ALL.into());
}

#[test]
fn heartbeats_that_fail_at_first_still_hold_an_instance() {
    let mut schedule = exhaustive::ordinary();
    schedule.site.hooks_end_s = Some(300);
    schedule.site.race_calls = 3;
    schedule.lives.iter_mut().for_each(|life| (life.agent.boot_s, life.end) = (400, End::Stays));
    assert_all_hold([schedule]);
}

#[test]
fn while_ec2_takes_its_time_heartbeats_still_hold_an_instance() {
    let mut schedule = exhaustive::ordinary();
    schedule.site.hooks_end_s = Some(300);
    let kind = FaultKind::Delay { ms: 75_000 };
    schedule.outages = vec![Outage { service: "ec2".to_owned(), kind, from_s: 100, lasts_s: 420 }];
    schedule.lives.iter_mut().for_each(|life| (life.agent.boot_s, life.end) = (560, End::Stays));
    assert_all_hold([schedule]);
}

#[test]
fn an_instance_whose_root_volume_is_replaced_is_enrolled_again() {
    let mut schedule = Schedule { horizon_s: 2000, ..exhaustive::ordinary() };
    schedule.lives.iter_mut().for_each(|life| life.end = End::Replaced(600));
    let Played { violations, trace, .. } = play(&schedule).expect("a schedule that can be played");
    assert!(violations.is_empty(), "{violations:#?}\n{trace}");
    assert_eq!(trace.matches("\"continued\" \"enrolled\"").count(), 2, "{trace}");
    assert!(trace.contains("\"root_volume_replaced\""), "{trace}");
}
