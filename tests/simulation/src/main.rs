//! The command behind `make simulate`:
//!
//! ```text
//! simulate SEED                                  one seed, with its trace
//! simulate --seeds FROM COUNT                    many seeds
//! simulate --for SECONDS FROM                    as many seeds as fit into this time
//! simulate --exhaustive kills|faults|pairs|both  every kill point, every single fault, pairs of faults, or every kill point with
//!                                                every kind of fault; also FROM COUNT
//! simulate --broken FROM COUNT                   for each broken rule, how many of these seeds it takes to detect it
//! simulate --bench                               how long one launch and one termination take
//! ```

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{available_parallelism, scope};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use stagedoor_simulation::schedule::End;
use stagedoor_simulation::{Broken, Played, Schedule, exhaustive, play, play_with, shrink};

/// How many schedules `--bench` measures.
const MEASURED: usize = 300;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map(|text| text.parse::<u64>()).transpose();
    match arguments.first().map(String::as_str) {
        Some("--seeds") => {
            let (from, count) = (number(1)?.unwrap_or(0), number(2)?.unwrap_or(1000));
            many(&format!("seeds from {from}"), None, |index| (index < count).then(|| of_seed(from + index)))
        }
        Some("--for") => {
            let (seconds, from) = (number(1)?.unwrap_or(120), number(2)?.unwrap_or(0));
            let limit = Some(Duration::from_secs(seconds));
            many(&format!("seeds from {from}"), limit, |index| Some(of_seed(from + index)))
        }
        Some("--exhaustive") => {
            let (from, count) = (number(2)?.unwrap_or(0), number(3)?.unwrap_or(u64::MAX));
            if arguments.get(1).is_some_and(|set| set == "both") {
                let all = exhaustive::KillsWithFaults::new()?;
                return many(&format!("kill points with faults from {from}"), None, |index| {
                    let schedule = all.get(usize::try_from(from + index).ok()?).filter(|_| index < count)?;
                    Some((format!("{:?} {:?}", schedule.faults, schedule.kills), schedule))
                });
            }
            let (name, all) = match arguments.get(1).map(String::as_str) {
                Some("kills") => ("kill points", exhaustive::kill_points()?),
                Some("faults") => ("single faults", exhaustive::single_faults(3)),
                Some("pairs") => ("pairs of faults", exhaustive::pairs_of_faults()),
                _ => bail!("--exhaustive must be followed by kills, faults, pairs or both"),
            };
            many(name, None, |index| {
                let schedule = all.get(usize::try_from(from + index).ok()?).filter(|_| index < count)?;
                Some((format!("{:?} {:?}", schedule.faults, schedule.kills), schedule.clone()))
            })
        }
        Some("--broken") => broken(number(1)?.unwrap_or(0), number(2)?.unwrap_or(1000)),
        Some("--bench") => bench(),
        _ => one(number(0)?.unwrap_or(0)),
    }
}

fn of_seed(seed: u64) -> (String, Schedule) {
    (format!("seed {seed}"), Schedule::of(seed))
}

fn one(seed: u64) -> anyhow::Result<()> {
    let schedule = Schedule::of(seed);
    let played = play(&schedule)?;
    println!("{}", played.trace);
    let Some(violation) = played.violations.first() else {
        println!("seed {seed}: every invariant holds; {schedule:#?}");
        return Ok(());
    };
    let smallest = shrink(schedule, violation.invariant)?;
    let replayed = play(&smallest)?;
    println!("--- the smallest schedule that violates it ---\n{}\n{smallest:#?}", replayed.trace);
    bail!("seed {seed} violates an invariant: {:#?}", replayed.violations)
}

/// The totals so far.
#[derive(Default)]
struct Sum {
    schedules: u64,
    violated: u64,
    calls: usize,
    invocations: u64,
    faults: usize,
}

/// Runs schedules in order of their numbers, from 0, on every core, until there are no more or the time is up.
#[expect(clippy::disallowed_methods, reason = "it measures the machine's time, not the simulation's")]
fn many(
    what: &str,
    limit: Option<Duration>,
    schedule: impl Fn(u64) -> Option<(String, Schedule)> + Sync,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let work = || -> anyhow::Result<()> {
        while limit.is_none_or(|limit| began.elapsed() < limit) {
            let Some((name, schedule)) = schedule(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let played = play(&schedule).with_context(|| name.clone())?;
            sum.lock().map_err(|_| anyhow::anyhow!("another thread panicked"))?.add(&name, &played);
        }
        Ok(())
    };
    let threads = available_parallelism().map_or(1, NonZero::get);
    scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| bail!("the simulation itself panicked; its message is above"))
        })
    })?;
    let sum = sum.into_inner().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    println!(
        "{what}: {} schedules, of which {} violate an invariant; {} invocations, {} calls, {} faults hit; {:.1} s",
        sum.schedules,
        sum.violated,
        sum.invocations,
        sum.calls,
        sum.faults,
        began.elapsed().as_secs_f64()
    );
    ensure!(sum.schedules > 0, "there was no time for a schedule");
    ensure!(sum.violated == 0, "{} of {} schedules violate an invariant", sum.violated, sum.schedules);
    Ok(())
}

impl Sum {
    fn add(&mut self, name: &str, played: &Played) {
        self.schedules += 1;
        self.calls += played.calls;
        self.invocations += u64::from(played.invocations);
        self.faults += played.faults_hit;
        if let Some(violation) = played.violations.first() {
            self.violated += 1;
            println!("{name}: {violation:?}");
        }
    }
}

/// Prints, for each broken rule, how many seeds it takes to detect it.
fn broken(from: u64, count: u64) -> anyhow::Result<()> {
    let mut unseen = Vec::new();
    for broken in Broken::ALL {
        let mut found = None;
        for seed in from..from + count {
            let played = play_with(&Schedule::of(seed), broken).with_context(|| format!("seed {seed}, {broken:?}"))?;
            if let Some(violation) = played.violations.first() {
                found = Some((seed - from + 1, violation.invariant));
                break;
            }
        }
        if let Some((tried, invariant)) = found {
            println!("{broken:?}: {invariant:?} after {tried} schedules");
        } else {
            println!("{broken:?}: not seen in {count} schedules");
            unseen.push(broken);
        }
    }
    ensure!(unseen.is_empty(), "not seen: {unseen:?}");
    Ok(())
}

/// Measures one launch and one termination of one instance.
#[expect(clippy::disallowed_methods, reason = "it measures the machine's time, not the simulation's")]
fn bench() -> anyhow::Result<()> {
    // An instance that boots and runs Puppet within seconds, and terminates after a minute; no idle sweeps after that.
    let mut schedule = Schedule { horizon_s: 90, ..exhaustive::ordinary() };
    for life in &mut schedule.lives {
        (life.launched_s, life.end) = (Some(1), End::Terminated(70));
        (life.agent.boot_s, life.agent.wait_for_cert_s, life.agent.run_s) = (5, 5, 10);
    }
    let mut took = Vec::with_capacity(MEASURED);
    for _ in 0..MEASURED {
        let began = Instant::now();
        let played = play(&schedule)?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
        ensure!(played.violations.is_empty(), "{:?}", played.violations);
        let completed = ["\"enrolled\"", "\"purged\""].iter().all(|code| played.trace.contains(code));
        ensure!(completed, "not both were completed:\n{}", played.trace);
    }
    took.sort_by(f64::total_cmp);
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    println!("one launch and one termination: median {:.1} ms, 95th percentile {:.1} ms of one core", at(50), at(95));
    Ok(())
}
