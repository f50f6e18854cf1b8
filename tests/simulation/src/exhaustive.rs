//! Exhaustive schedules for one instance that is launched, enrolled and terminated: every kill point, every single fault, and pairs of
//! faults.

use stagedoor_lab_core::faults::Fault;

use crate::run::{Played, play};
use crate::schedule::{
    AGENTS_CALLS, CALLS, Delivery, ENTERPRISE_CALLS, End, Enterprise, Life, Schedule, SiteTraits, failures,
};

/// One ordinary instance without any faults.
#[must_use]
pub fn ordinary() -> Schedule {
    let life = Life { end: End::Terminated(240), ..Life::ordinary(1) };
    Schedule {
        seed: 1,
        lives: vec![life],
        faults: Vec::new(),
        outages: Vec::new(),
        kills: Vec::new(),
        strangers: Vec::new(),
        forged: Vec::new(),
        site: SiteTraits::default(),
        horizon_s: 1200,
        quiet_from_s: None,
    }
}

/// The same, which ends as soon as nothing more happens.
fn brief() -> Schedule {
    Schedule { quiet_from_s: Some(300), ..ordinary() }
}

/// The ordinary schedule once for each kill point: every invocation is killed after each of its steps, up to the invocation that completes
/// the termination.
///
/// # Errors
/// The same as for [`play`].
pub fn kill_points() -> anyhow::Result<Vec<Schedule>> {
    let schedule = brief();
    let Played { steps, .. } = play(&schedule)?;
    let points = (0..).zip(&steps).flat_map(|(invocation, steps)| (0..*steps).map(move |step| (invocation, step)));
    Ok(points.map(|point| Schedule { kills: vec![point], ..schedule.clone() }).collect())
}

/// The ordinary schedule with each kind of fault on each of the first occurrences of each call, both with its events delivered and with its
/// events lost. The calls of Puppet Enterprise's services fail on a site that has them.
#[must_use]
pub fn single_faults(occurrences: u32) -> Vec<Schedule> {
    let enterprise =
        SiteTraits { enterprise: Some(Enterprise { run_s: 20, ..Enterprise::default() }), ..SiteTraits::default() };
    let mut all = Vec::new();
    for delivery in [Delivery::After(500), Delivery::Lost] {
        let of_enterprise = faults(&ENTERPRISE_CALLS, occurrences).into_iter().map(|fault| (fault, &enterprise));
        let open_source = SiteTraits::default();
        let anywhere = faults(&CALLS, occurrences).into_iter().chain(faults(&AGENTS_CALLS, occurrences));
        for (faults, site) in anywhere.map(|fault| (fault, &open_source)).chain(of_enterprise) {
            let mut schedule = Schedule { faults, site: site.clone(), ..brief() };
            for life in &mut schedule.lives {
                (life.launch_event, life.terminate_event) = (delivery, delivery);
            }
            all.push(schedule);
        }
    }
    all
}

/// Every kill point together with every kind of fault on the first occurrence of each call.
#[derive(Debug)]
pub struct KillsWithFaults {
    points: Vec<Schedule>,
    faults: Vec<Vec<Fault>>,
}

impl KillsWithFaults {
    /// # Errors
    /// The same as for [`play`].
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { points: kill_points()?, faults: faults(&CALLS, 1) })
    }

    /// The schedule of this number, if there are so many. Consecutive numbers have different kill points.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Schedule> {
        let faults = self.faults.get(number / self.points.len())?.clone();
        let point = &self.points[number % self.points.len()];
        Some(Schedule { faults, ..point.clone() })
    }
}

/// The ordinary schedule with each pair of faults on the first two occurrences of each call.
#[must_use]
pub fn pairs_of_faults() -> Vec<Schedule> {
    let all = faults(&CALLS, 2);
    let pairs =
        all.iter().enumerate().flat_map(|(index, first)| all[index + 1..].iter().map(move |second| (first, second)));
    pairs.map(|(first, second)| Schedule { faults: [first.clone(), second.clone()].concat(), ..brief() }).collect()
}

/// Each failure of each call on each of its first occurrences. A failure may take more than one fault.
fn faults(calls: &[(&str, &str)], occurrences: u32) -> Vec<Vec<Fault>> {
    let fault = |(service, call): &(&str, &str), nth, kind| Fault {
        service: (*service).to_owned(),
        call: (*call).to_owned(),
        nth: Some(nth),
        subject: None,
        kind,
    };
    let calls = calls.iter().flat_map(|call| failures().into_iter().map(move |kinds| (call, kinds)));
    calls
        .flat_map(|(call, kinds)| {
            (1..=occurrences).map(move |nth| kinds.iter().map(|kind| fault(call, nth, kind.clone())).collect())
        })
        .collect()
}
