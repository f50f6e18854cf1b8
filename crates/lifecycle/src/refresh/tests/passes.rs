//! Whole launches and terminations, pass by pass, against a model of a target. The tests count how often it runs.

use std::time::Duration;

use stagedoor_types::Lookup;

use super::refresh;
use crate::profile::{Refresh, RefreshAfter};
use crate::refresh::{AfterRemoval, Order, Overdue, Refreshing, RunView, TargetView, after_removal, change, overdue};
use crate::world::{at, run, target};

/// The interval of passes, in seconds.
const PASS: i64 = 5;
/// How long an agent waits for another run to end, in seconds.
const LOCK: i64 = 600;

/// A target with an orchestrator. A job has the time at which it was ordered, even while it waits for a run that is in progress.
struct Primary {
    /// How long a run takes, in seconds.
    takes: i64,
    /// Whether a run can compile its catalog.
    works: bool,
    /// When each order was given.
    ordered: Vec<i64>,
    /// The jobs that the orchestrator shows: the number of each, when it was given, and when it ended.
    jobs: Vec<(usize, i64, Option<i64>)>,
    /// The jobs that wait for another run to end.
    queue: Vec<(usize, i64)>,
    /// The run in progress: its job, and when it began.
    runs: Option<(Option<usize>, i64)>,
    reports: Vec<RunView>,
    /// The order during whose run the orchestrator restarts and forgets the jobs that have not ended.
    forgets_during: Option<usize>,
    /// Whether that restart also ends the run.
    dies: bool,
}

impl Primary {
    fn new(takes: i64) -> Self {
        Self {
            takes,
            works: true,
            ordered: Vec::new(),
            jobs: Vec::new(),
            queue: Vec::new(),
            runs: None,
            reports: Vec::new(),
            forgets_during: None,
            dies: false,
        }
    }

    fn order(&mut self, now: i64) {
        let job = self.ordered.len();
        self.ordered.push(now);
        self.jobs.push((job, now, None));
        self.queue.push((job, now));
    }

    fn end(&mut self, job: usize, now: i64) {
        if let Some(job) = self.jobs.iter_mut().find(|(number, ..)| *number == job) {
            job.2 = Some(now);
        }
    }

    /// Advances by one second.
    fn tick(&mut self, now: i64) {
        if let Some((job, began)) = self.runs {
            if job.is_some() && self.forgets_during == job && now >= began + self.takes / 2 {
                self.forgets_during = None;
                self.jobs.retain(|(.., ended)| ended.is_some());
                self.queue.clear();
                if self.dies {
                    self.runs = None;
                    return;
                }
            }
            if now < began + self.takes {
                return;
            }
            let report = run(at(began), if self.works { "changed" } else { "failed" });
            let catalog = report.catalog.clone().filter(|_| self.works);
            self.reports.push(RunView {
                end: at(now),
                received: at(now),
                catalog,
                job: job.map(|job| job.to_string()),
                ..report
            });
            self.runs = None;
            if let Some(job) = job {
                self.end(job, now);
            }
        }
        let expired: Vec<usize> =
            self.queue.iter().filter(|(_, given)| now - given > LOCK).map(|(job, _)| *job).collect();
        for job in expired {
            self.queue.retain(|(waiting, _)| *waiting != job);
            self.end(job, now);
        }
        if !self.queue.is_empty() {
            self.runs = Some((Some(self.queue.remove(0).0), now));
        }
    }

    fn view(&self) -> TargetView {
        let orders = self.jobs.iter().map(|(job, given, ended)| Order {
            job: job.to_string(),
            began: Some(at(*given)),
            ended: ended.map(at),
        });
        TargetView { runs: Lookup::Found(self.reports.clone()), ..target(None, Some(orders.collect())) }
    }

    /// The number of runs that were ordered.
    fn ran(&self) -> usize {
        self.reports.iter().filter(|report| report.job.is_some()).count()
    }
}

/// The result of a set of launches.
#[derive(Debug)]
struct Ended {
    /// When each launch went on, in seconds after the beginning, and whether it went on without the target.
    launches: Vec<(i64, bool)>,
}

/// Simulates launches whose first successful runs end at these times, and whose agents then keep running Puppet. The sweep works for
/// 50 seconds of each minute.
fn launch(primary: &mut Primary, refresh: &Refresh, changes: &[i64], daemon_s: i64) -> Ended {
    let mut ended: Vec<Option<(i64, bool)>> = vec![None; changes.len()];
    for now in 0..7200 {
        primary.tick(now);
        if now % PASS != 0 || now % 60 >= 50 {
            continue;
        }
        let view = [primary.view()];
        let mut order = false;
        for (first, ended) in changes.iter().zip(&mut ended).filter(|(first, ended)| **first <= now && ended.is_none())
        {
            let runs: Vec<RunView> = (*first..=now)
                .step_by(usize::try_from(daemon_s).unwrap())
                .map(|end| run(at(end - 10), "changed"))
                .collect();
            let change = change(RefreshAfter::SuccessfulRun, &runs, None).unwrap();
            let standing = Refreshing { refresh, targets: &view, change, until: None, now: at(now) }.standing();
            if standing.awaited.is_empty() {
                *ended = Some((now, !standing.missed.is_empty()));
            }
            order |= standing.order.is_some();
        }
        if order {
            primary.order(now);
        }
        if ended.iter().all(Option::is_some) {
            break;
        }
    }
    Ended { launches: ended.into_iter().map(|ended| ended.expect("a launch that ends")).collect() }
}

/// Fifty instances that are launched together: their first runs end within a minute.
fn fifty() -> Vec<i64> {
    (0..50).map(|number| 20 + number * 60 / 50).collect()
}

fn patient() -> Refresh {
    Refresh { timeout: Duration::from_secs(45 * 60), ..refresh() }
}

#[test]
fn fifty_launched_together_cost_a_target_two_runs_at_the_most_however_long_a_run_takes() {
    for takes in [60, 90, 300, 13 * 60, 20 * 60] {
        for daemon_s in [15, 60, 1800] {
            let mut primary = Primary::new(takes);
            let ended = launch(&mut primary, &patient(), &fifty(), daemon_s);
            assert!(ended.launches.iter().all(|(_, without)| !without), "{takes}: {ended:?}");
            assert!((1..=2).contains(&primary.ran()), "{takes} s: {} runs, {:?}", primary.ran(), primary.ordered);
        }
    }
}

#[test]
fn one_launch_costs_a_slow_target_one_order() {
    let mut primary = Primary::new(13 * 60);
    launch(&mut primary, &patient(), &[20], 30);
    assert_eq!((primary.ran(), primary.ordered.len()), (1, 1));
}

#[test]
fn a_run_that_is_in_progress_when_they_launch_is_waited_for() {
    for takes in [60, 13 * 60] {
        let mut primary = Primary::new(takes);
        primary.order(0);
        let ended = launch(&mut primary, &patient(), &fifty(), 30);
        assert!(ended.launches.iter().all(|(_, without)| !without), "{ended:?}");
        assert!(primary.ran() - 1 <= 2, "besides the one that was in progress: {:?}", primary.ordered);
    }
}

#[test]
fn an_orchestrator_that_restarts_in_the_middle_and_forgets_its_jobs_costs_no_further_run() {
    for takes in [90, 13 * 60] {
        for during in [0, 1] {
            let mut primary = Primary { forgets_during: Some(during), ..Primary::new(takes) };
            let ended = launch(&mut primary, &patient(), &fifty(), 30);
            assert!(ended.launches.iter().all(|(_, without)| !without), "{ended:?}");
            assert!(primary.ran() <= 2, "{takes} s, {during}: {:?}", primary.ordered);
        }
    }
}

#[test]
fn a_run_that_dies_with_the_orchestrator_is_ordered_again() {
    let mut primary = Primary { forgets_during: Some(0), dies: true, ..Primary::new(90) };
    let ended = launch(&mut primary, &patient(), &[20], 30);
    assert_eq!((primary.ran(), primary.ordered.len()), (1, 2), "{:?}", primary.ordered);
    assert!(!ended.launches[0].1);
}

#[test]
fn a_target_that_fails_is_ordered_four_times_and_then_the_launches_go_on_without_it() {
    let mut primary = Primary { works: false, ..Primary::new(30) };
    let ended = launch(&mut primary, &patient(), &[20], 30);
    assert_eq!(primary.ordered.len(), 4, "{:?}", primary.ordered);
    let spans: Vec<i64> = primary.ordered.iter().map(|given| (given - 20) / 60).collect();
    assert_eq!(spans, [0, 2, 6, 14]);
    assert!(ended.launches[0].1 && ended.launches[0].0 - 20 - 45 * 60 < 60, "{ended:?}");
}

#[test]
fn where_every_job_is_forgotten_and_nothing_runs_at_most_one_order_is_given_when_one_is_due() {
    let mut ordered = Vec::new();
    let refresh = patient();
    // One pass in each sweep.
    for now in (0..2700).step_by(60) {
        let view = [target(None, Some(Vec::new()))];
        let standing = Refreshing { refresh: &refresh, targets: &view, change: at(0), until: None, now: at(now) };
        ordered.extend(standing.standing().order.map(|_| now / 60));
    }
    assert_eq!(ordered, [0, 2, 6, 14, 22, 30, 38]);
}

/// Simulates terminations whose removals are proven at these times, each by an invocation of its own. Housekeeping runs every five
/// minutes, from second `phase` on.
fn terminate(primary: &mut Primary, proven: &[i64], phase: i64) {
    let refresh = refresh();
    let newest = *proven.iter().max().unwrap();
    for now in 0..7200 {
        primary.tick(now);
        for change in proven.iter().filter(|proven| **proven == now) {
            if let AfterRemoval::Order(..) =
                after_removal(&refresh, Some(&[primary.view()]), at(*change), true, at(now))
            {
                primary.order(now);
            }
        }
        if now % 300 == phase {
            let newest = proven.iter().filter(|proven| **proven <= now).max();
            let overdue: Vec<Overdue> = newest.map_or_else(Vec::new, |newest| {
                overdue(&[primary.view()], at(*newest), Duration::from_secs(300), at(now))
            });
            if !overdue.is_empty() {
                primary.order(now);
            }
        }
    }
    let knows = |report: &RunView| report.has_applied() && report.start >= at(newest);
    assert!(!primary.works || primary.reports.iter().any(knows), "{:?}", primary.ordered);
}

#[test]
fn a_thousand_terminated_together_cost_a_target_two_runs_at_the_most() {
    for takes in [20, 60, 300, 13 * 60] {
        for phase in (0..300).step_by(20) {
            let proven: Vec<i64> = (0..1000).map(|number| 10 + number * 180 / 1000).collect();
            let mut primary = Primary::new(takes);
            terminate(&mut primary, &proven, phase);
            assert!((1..=2).contains(&primary.ran()), "{takes} s, {phase}: {:?}", primary.ordered);
        }
    }
}

#[test]
fn an_order_of_a_termination_that_was_lost_is_made_good() {
    for phase in (0..300).step_by(60) {
        let mut primary = Primary { forgets_during: Some(0), dies: true, ..Primary::new(60) };
        terminate(&mut primary, &[10], phase);
        assert_eq!(primary.ran(), 1, "{phase}: {:?}", primary.ordered);
    }
}

#[test]
fn housekeeping_orders_a_target_that_fails_three_times_more_at_the_most() {
    for phase in (0..300).step_by(60) {
        let mut primary = Primary { works: false, ..Primary::new(60) };
        terminate(&mut primary, &[10], phase);
        assert!(primary.ordered.len() <= 4, "{phase}: {:?}", primary.ordered);
    }
}
