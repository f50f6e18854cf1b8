//! `simulate SEED` runs one seed and prints its trace. `simulate --seeds FROM COUNT` runs many seeds and prints the violations.
//! `simulate --exhaustive kills|faults|pairs [FROM COUNT]` runs every kill point, every single fault, or pairs of faults.

use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use stagedoor_simulation::{Schedule, exhaustive, play, shrink};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map(|text| text.parse::<u64>()).transpose();
    match arguments.first().map(String::as_str) {
        Some("--seeds") => {
            let (from, count) = (number(1)?.unwrap_or(0), number(2)?.unwrap_or(1000));
            return many("seeds", (from..from + count).map(|seed| (format!("seed {seed}"), Schedule::of(seed))));
        }
        Some("--exhaustive") => {
            let (name, all) = match arguments.get(1).map(String::as_str) {
                Some("kills") => ("kill points", exhaustive::kill_points()?),
                Some("faults") => ("single faults", exhaustive::single_faults(3)),
                Some("pairs") => ("pairs of faults", exhaustive::pairs_of_faults()),
                _ => bail!("--exhaustive must be followed by kills, faults or pairs"),
            };
            let (from, count) = (number(2)?.unwrap_or(0), number(3)?.unwrap_or(u64::MAX));
            let some = all.into_iter().skip(usize::try_from(from)?).take(usize::try_from(count)?);
            return many(name, some.map(|schedule| (format!("{:?} {:?}", schedule.faults, schedule.kills), schedule)));
        }
        _ => {}
    }
    let seed = number(0)?.unwrap_or(0);
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

#[expect(clippy::disallowed_methods, reason = "it measures the machine's time, not the simulation's")]
fn many(what: &str, all: impl Iterator<Item = (String, Schedule)>) -> anyhow::Result<()> {
    let began = Instant::now();
    let (mut count, mut calls, mut invocations, mut faults, mut violated) = (0, 0, 0, 0, 0);
    for (name, schedule) in all {
        let played = play(&schedule).with_context(|| name.clone())?;
        count += 1;
        calls += played.calls;
        invocations += u64::from(played.invocations);
        faults += played.faults_hit;
        if let Some(violation) = played.violations.first() {
            violated += 1;
            println!("{name}: {violation:?}");
        }
    }
    println!(
        "{what}: {count} schedules, of which {violated} violate an invariant; {invocations} invocations, {calls} calls, {faults} faults \
         hit; {:.1} s",
        began.elapsed().as_secs_f64()
    );
    ensure!(violated == 0, "{violated} of {count} schedules violate an invariant");
    Ok(())
}
