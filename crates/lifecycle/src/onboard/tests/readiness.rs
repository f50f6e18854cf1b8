//! Services and code: what `ready` requires besides the Puppet run.

use super::*;
use crate::profile::Probe;

const COMMIT: &str = "0ea2d64f8ac3db2d1e4bb0c1ce4e8d93735f46ea";
const OLDER: &str = "9d0bb8e6a3f1c2274f1f3f0f0f6fd0b1b1a2c3d4";

/// Polls that are enough: the last rule holds.
fn enough() -> SuccessfulPolls {
    SuccessfulPolls { count: 3, since: at(180), newest: at(190) }
}

/// A compiler whose poll says this, and whose polls before were good.
fn polled(said: Vec<(Probe, ProbeResult)>) -> World {
    let mut world = world();
    world.aws.profile.ready = ["report", "status:8140/server", "tcp:8142"].map(|probe| probe.parse().unwrap()).into();
    world.puppet.poll = Some(Poll { said, code: None });
    world.puppet.successful_polls = Some(enough());
    world
}

fn server() -> Probe {
    "status:8140/server".parse().unwrap()
}

fn all_good() -> Vec<(Probe, ProbeResult)> {
    vec![(server(), Ok(())), (Probe::Tcp(8142), Ok(()))]
}

#[test]
fn every_probe_of_the_profile_must_succeed() {
    completed(polled(all_good()).decide());
    let starting = Err("it says that it is starting".to_owned());
    let reason = waits(polled(vec![(server(), starting), (Probe::Tcp(8142), Ok(()))]).decide());
    assert_eq!(reason.codes(), [Code::WaitingForReadiness]);
    insta::assert_snapshot!(reason, @"waiting for status:8140/server (it says that it is starting)");
    let reason = waits(polled(vec![(server(), Ok(()))]).decide());
    assert_eq!(reason.codes(), [Code::WaitingForReadiness]);
    insta::assert_snapshot!(reason, @"waiting for tcp:8142 (it was not asked)");
}

#[test]
fn a_probe_of_one_service_says_nothing_of_another_or_of_all() {
    let said = |probe: &str| vec![(probe.parse().unwrap(), Ok(())), (Probe::Tcp(8142), Ok(()))];
    for probe in ["status:8140", "status:8140/broker-service", "status:8143/server"] {
        assert_eq!(waits(polled(said(probe)).decide()).codes(), [Code::WaitingForReadiness], "{probe}");
    }
}

#[test]
fn probes_are_asked_last() {
    let mut world = polled(vec![]);
    world.puppet.poll = None;
    assert_eq!(world.decide(), Decision::Ask(Question::Probes));
    world.puppet.run = Some(Lookup::Absent);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
}

#[test]
fn the_report_alone_needs_no_poll() {
    let mut world = world();
    world.aws.profile.ready = vec![Probe::Report];
    completed(world.decide());
}

// Several polls in a row.

#[test]
fn one_successful_poll_is_not_enough_nor_are_several_at_once() {
    let mut world = polled(all_good());
    for (count, seconds) in [(1, 0), (2, 60), (3, 9), (9, 9)] {
        world.puppet.successful_polls = Some(SuccessfulPolls { count, since: at(180), newest: at(180 + seconds) });
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForReadiness], "{count} polls in {seconds} s");
    }
    for (count, seconds) in [(3, 10), (3, 100), (20, 10)] {
        world.puppet.successful_polls = Some(SuccessfulPolls { count, since: at(180), newest: at(180 + seconds) });
        completed(world.decide());
    }
}

#[test]
fn a_failing_poll_counts_more_than_all_before_it() {
    let mut world = polled(vec![(server(), Ok(())), (Probe::Tcp(8142), Err("connection refused".to_owned()))]);
    world.puppet.successful_polls = Some(enough());
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForReadiness]);
}

#[test]
fn how_often_it_was_ready_is_not_guessed() {
    let mut world = polled(all_good());
    world.puppet.successful_polls = None;
    assert_eq!(failed(world.decide()).codes(), [Code::InstanceUnavailable]);
}

#[test]
fn polls_are_counted_from_the_first_unless_one_is_too_long_ago() {
    let first = SuccessfulPolls::and(None, at(0));
    assert_eq!(first, SuccessfulPolls { count: 1, since: at(0), newest: at(0) });
    let third = SuccessfulPolls::and(Some(SuccessfulPolls::and(Some(first), at(60))), at(120));
    assert_eq!(third, SuccessfulPolls { count: 3, since: at(0), newest: at(120) });
    assert_eq!(SuccessfulPolls::and(Some(third), at(240)).count, 4);
    let again = SuccessfulPolls { count: 1, since: at(241), newest: at(241) };
    assert_eq!(SuccessfulPolls::and(Some(third), at(241)), again, "it may have been off meanwhile");
}

#[test]
fn a_row_that_is_too_short_when_the_timeout_expires_does_not_hold_the_launch() {
    let mut world = polled(all_good()).late();
    world.puppet.successful_polls = Some(SuccessfulPolls::and(None, world.now));
    assert_eq!(abandoned(world.decide()).codes(), [Code::TimeoutExpired, Code::WaitingForReadiness]);
}

// Code.

fn commits(commit: &str, environments: &[(&str, &str)]) -> Commits {
    let environments = environments.iter().map(|(name, commit)| ((*name).to_owned(), (*commit).to_owned())).collect();
    Commits { commit: commit.to_owned(), environments }
}

/// The compiler checked in at this time, with this deployed.
fn checked_in(second: i64, deployed: Option<Commits>) -> CodeView {
    let client = Some(CheckIn { at: Some(at(second)), deployed });
    CodeView { newest: Some(commits(COMMIT, &[("production", "p2")])), client }
}

fn with_code(code: Lookup<CodeView>) -> World {
    let mut world = world();
    world.aws.profile.ready = vec![Probe::Report, Probe::FileSync];
    world.puppet.poll = Some(Poll { said: Vec::new(), code: Some(code) });
    world.puppet.successful_polls = Some(enough());
    world
}

#[test]
fn a_compiler_is_ready_with_the_newest_commit_and_without_it_is_not() {
    let newest = commits(COMMIT, &[("production", "p2")]);
    completed(with_code(Lookup::Found(checked_in(190, Some(newest)))).decide());
    completed(with_code(Lookup::Found(checked_in(190, Some(commits(COMMIT, &[]))))).decide());
    let lacking = [
        checked_in(190, None),
        checked_in(190, Some(commits(OLDER, &[("production", "p2")]))),
        checked_in(190, Some(commits(COMMIT, &[("production", "p1")]))),
        checked_in(190, Some(commits(COMMIT, &[("staging", "p2")]))),
        CodeView { client: None, ..checked_in(190, None) },
        CodeView { newest: None, ..checked_in(190, None) },
    ];
    for code in lacking {
        let reason = waits(with_code(Lookup::Found(code.clone())).decide());
        assert_eq!(reason.codes(), [Code::WaitingForReadiness], "{code:?}");
    }
}

#[test]
fn a_check_in_from_before_the_certificate_is_a_former_owners_of_the_name() {
    let newest = || Some(commits(COMMIT, &[]));
    completed(with_code(Lookup::Found(checked_in(ISSUED, newest()))).decide());
    for at in [Some(at(ISSUED - 1)), None] {
        let client = Some(CheckIn { at, deployed: newest() });
        let code = CodeView { client, ..checked_in(0, None) };
        assert_eq!(waits(with_code(Lookup::Found(code)).decide()).codes(), [Code::WaitingForReadiness], "{at:?}");
    }
}

#[test]
fn the_check_in_is_compared_with_the_clock_of_the_ca_which_is_the_primarys() {
    let mut world = with_code(Lookup::Found(checked_in(ISSUED - 30, Some(commits(COMMIT, &[])))));
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForReadiness]);
    world.certificate().issued_by_ca = at(ISSUED - 40);
    completed(world.decide());
}

#[test]
fn a_primary_that_cannot_be_asked_has_not_said_that_the_code_is_there_or_missing() {
    let reason = waits(with_code(down()).decide());
    assert_eq!(reason.codes(), [Code::WaitingForReadiness, Code::CaUnavailable]);
    assert_eq!(waits(with_code(Lookup::Absent).decide()).codes(), [Code::WaitingForReadiness]);
    let mut unasked = with_code(Lookup::Absent);
    unasked.puppet.poll = Some(Poll::default());
    assert_eq!(waits(unasked.decide()).codes(), [Code::WaitingForReadiness]);
}
