//! Two waves: the database host, then the primary. The change is at second 0, and the refresh may take 600 seconds.

use stagedoor_types::{Certname, Lookup};

use super::refresh;
use crate::profile::{OnRefreshTimeout, Refresh};
use crate::refresh::{Refreshing, RunView, Standing, TargetView};
use crate::world::{PRIMARY, at, down, run, target};

const DATABASE: &str = "db.example.com";

fn names(names: &[&str]) -> Vec<Certname> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn two_waves() -> Refresh {
    Refresh { waves: vec![names(&[DATABASE]), names(&[PRIMARY])], ..refresh() }
}

fn ran(name: &str, runs: Vec<RunView>) -> TargetView {
    TargetView { certname: name.parse().unwrap(), runs: Lookup::Found(runs), ..target(None, Some(vec![])) }
}

/// A run of 10 seconds.
fn changed(start: i64) -> RunView {
    run(at(start), "changed")
}

fn standing(refresh: &Refresh, targets: &[TargetView], now: i64) -> Standing {
    Refreshing { refresh, targets, change: at(0), until: None, now: at(now) }.standing()
}

fn ordered(standing: &Standing) -> Option<(Vec<Certname>, i64)> {
    let order = standing.order.as_ref()?;
    Some((order.targets.clone(), order.change.as_second() - at(0).as_second()))
}

#[test]
fn a_wave_begins_when_the_one_before_has_learnt_of_it() {
    let refresh = two_waves();
    let first = standing(&refresh, &[ran(DATABASE, vec![]), ran(PRIMARY, vec![])], 5);
    assert_eq!(ordered(&first), Some((names(&[DATABASE]), 0)));
    let second = standing(&refresh, &[ran(DATABASE, vec![changed(10)]), ran(PRIMARY, vec![])], 25);
    assert_eq!(ordered(&second), Some((names(&[PRIMARY]), 20)));
    let over = standing(&refresh, &[ran(DATABASE, vec![changed(10)]), ran(PRIMARY, vec![changed(20)])], 35);
    assert!(over.awaited.is_empty() && over.missed.is_empty() && over.learnt.len() == 2, "{over:?}");
}

#[test]
fn what_ran_before_the_wave_before_had_ended_runs_again() {
    let early = standing(&two_waves(), &[ran(DATABASE, vec![changed(10)]), ran(PRIMARY, vec![changed(15)])], 35);
    assert_eq!(ordered(&early), Some((names(&[PRIMARY]), 20)));
}

#[test]
fn later_runs_of_a_wave_restart_nothing() {
    let database = ran(DATABASE, vec![changed(100), changed(10)]);
    let over = standing(&two_waves(), &[database, ran(PRIMARY, vec![changed(30)])], 120);
    assert!(over.awaited.is_empty(), "{over:?}");
}

#[test]
fn a_wave_that_fails_leaves_the_next_one_its_share_of_the_time() {
    let refresh = two_waves();
    let nothing = [ran(DATABASE, vec![]), ran(PRIMARY, vec![])];
    assert!(standing(&refresh, &nothing, 299).missed.is_empty());
    let given_up = standing(&refresh, &nothing, 305);
    assert_eq!((given_up.missed.len(), ordered(&given_up)), (1, Some((names(&[PRIMARY]), 300))));
    // The database host finally runs Puppet, which changes nothing for the primary.
    let late = standing(&refresh, &[ran(DATABASE, vec![changed(350)]), ran(PRIMARY, vec![changed(310)])], 400);
    assert!(late.awaited.is_empty() && late.missed.is_empty(), "{late:?}");
}

#[test]
fn when_the_timeout_has_expired_the_launch_goes_on_without_those_that_are_missing() {
    let targets = [ran(DATABASE, vec![changed(10)]), TargetView { runs: down(), ..ran(PRIMARY, vec![]) }];
    assert_eq!(standing(&two_waves(), &targets, 599).awaited.len(), 1);
    let over = standing(&two_waves(), &targets, 600);
    assert_eq!((over.learnt.len(), over.missed.len(), over.awaited.len(), over.order), (1, 1, 0, None));
}

#[test]
fn a_profile_that_waits_goes_on_without_nobody() {
    let refresh = Refresh { on_timeout: OnRefreshTimeout::Wait, ..two_waves() };
    let waits = standing(&refresh, &[ran(DATABASE, vec![]), ran(PRIMARY, vec![])], 700);
    assert!(waits.timed_out && waits.missed.is_empty() && waits.awaited.len() == 1, "{waits:?}");
}

#[test]
fn the_launchs_own_timeout_ends_the_refresh_as_well() {
    let (refresh, targets) = (refresh(), [ran(PRIMARY, vec![])]);
    let until = |now: i64| Refreshing {
        refresh: &refresh,
        targets: &targets,
        change: at(0),
        until: Some(at(200)),
        now: at(now),
    };
    assert!(until(199).standing().missed.is_empty());
    assert_eq!(until(200).standing().missed.len(), 1);
}

#[test]
fn the_targets_of_a_wave_are_ordered_together() {
    let refresh = Refresh { waves: vec![names(&[DATABASE, PRIMARY])], ..refresh() };
    let both = standing(&refresh, &[ran(DATABASE, vec![]), ran(PRIMARY, vec![])], 5);
    assert_eq!(ordered(&both).unwrap().0.len(), 2);
    let one = standing(&refresh, &[ran(DATABASE, vec![changed(1)]), ran(PRIMARY, vec![])], 15);
    assert_eq!(ordered(&one).unwrap().0, names(&[PRIMARY]));
    assert!(standing(&refresh, &[ran(DATABASE, vec![])], 5).awaited.len() == 2, "of one nothing was asked");
}
