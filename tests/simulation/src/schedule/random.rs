//! Generates schedules from seeds. No I/O.

use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_puppet::RunScript;

use super::{
    AGENTS_CALLS, CALLS, Delivery, ENTERPRISE_CALLS, End, Enterprise, Forged, Habits, Life, NEVER, Outage, Postgresql,
    Release, Schedule, SiteTraits, Stranger, failures,
};
use crate::chance::Chance;

impl Schedule {
    /// Generates the schedule of this seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let mut lives = Vec::new();
        let with_pool = chance.percent(15);
        let regions = chance.percent(10);
        for number in 0..small(&chance) {
            let launched_s = chance.percent(70).then(|| chance.of(0..=300));
            let elsewhere = regions && chance.percent(40);
            lives.push(Life { elsewhere, ..life(&chance, number, number, launched_s, with_pool) });
            // Another instance may reuse the name, possibly within seconds.
            if let End::Terminated(at) | End::Killed(at) = lives.last().map_or(End::Stays, |life| life.end)
                && chance.percent(30)
            {
                let again = at + chance.of(1..=900);
                lives.push(Life { elsewhere, ..life(&chance, number + 1000, number, Some(again), false) });
            }
        }
        let site = site(&chance);
        let faults = (0..chance.of(0..=5)).flat_map(|_| fault(&chance, &site)).collect();
        let outages: Vec<Outage> = (0..chance.of(0..=4) / 3).map(|_| outage(&chance, &site)).collect();
        let kills =
            (0..chance.of(0..=4)).map(|_| (narrow(early_or_late(&chance, 12)), narrow(chance.of(1..=160)))).collect();
        let strangers: Vec<Stranger> = (0..chance.of(0..=2)).map(|_| stranger(&chance, &lives)).collect();
        let forged: Vec<Forged> = (0..chance.of(0..=1)).map(|_| forged(&chance, &lives)).collect();
        // Puppet runs that the orchestrator orders may take a long time. A launch may then wait until its timeout expires.
        let more_s = match &site.enterprise {
            None => 0,
            Some(enterprise) if enterprise.compilers.is_none() => 600,
            Some(enterprise) if enterprise.run_s <= 300 && lives.iter().all(Life::is_fit) => 1200,
            Some(_) => 4800,
        };
        let horizon_s = lives.iter().map(rests_s).max().unwrap_or_default() + more_s;
        // Most schedules end when nothing more happens. What takes long to show needs the rest of the time.
        let ends_early = lives.iter().all(|life| life.agent.late_report_s.is_none()) && chance.percent(80);
        let available_s = outages.iter().map(|outage| outage.from_s + outage.lasts_s).max().unwrap_or_default();
        let enterprise = site.enterprise.iter();
        let of_site = enterprise.flat_map(|enterprise| {
            let token = enterprise.token_expires_s.map(|(at, later)| at + later);
            enterprise.primary.iter().map(|(at, _)| *at).chain(token)
        });
        let of_others = forged.iter().map(|forged| forged.at_s).chain(strangers.iter().map(|stranger| stranger.at_s));
        let quiet_s =
            lives.iter().map(happens_s).chain(of_site).chain(of_others).chain(site.rotated_s).chain([available_s]);
        let quiet_s = quiet_s.max().unwrap_or_default();
        let quiet_from_s = ends_early.then_some(quiet_s + 300);
        Self { seed, lives, faults, outages, kills, strangers, forged, site, horizon_s, quiet_from_s }
    }
}

/// The time of the last thing that the schedule makes happen to this instance, in seconds.
fn happens_s(life: &Life) -> u64 {
    let delivered = |delivery: Delivery| match delivery {
        Delivery::Lost => 0,
        Delivery::After(ms) | Delivery::Twice(_, ms) => ms / 1000,
    };
    let begins = life.launched_s.unwrap_or_default() + life.pooled_s.unwrap_or_default();
    let ends = match life.end {
        End::Stays => begins,
        End::Terminated(at) | End::Killed(at) | End::Replaced(at) | End::Returned(at) => at,
        End::Reclaimed(at) => at + 120,
    };
    (begins + delivered(life.launch_event)).max(ends.max(begins) + delivered(life.terminate_event))
}

/// The time after which nothing more happens to this instance, in seconds. Housekeeping finds an instance that was terminated without a
/// hook, or that reports after it was removed, once nothing has been heard of its name for 40 minutes; EC2 shows the instance for an hour.
fn rests_s(life: &Life) -> u64 {
    // A launch that never succeeds is abandoned after half an hour, and then terminates.
    let succeeds_s = match (life.is_fit(), life.agent.late_report_s) {
        (true, _) => 1500,
        (false, None) => 3600,
        (false, Some(_)) => 7800,
    };
    let begins = life.launched_s.unwrap_or_default() + life.pooled_s.unwrap_or_default() + succeeds_s;
    match life.end {
        End::Stays => begins,
        End::Killed(at) => at + 3600,
        End::Terminated(at) | End::Reclaimed(at) if life.agent.late_report_s.is_some() => at + 4200,
        End::Terminated(at) | End::Reclaimed(at) | End::Replaced(at) | End::Returned(at) => begins.max(at + 1500),
    }
}

/// A report that arrives more than ten minutes after a termination is attributed to another instance.
const MOST_LATE_S: u64 = 570;

/// The number of instances, mostly one to five.
fn small(chance: &Chance) -> u32 {
    narrow(match chance.of(0..=999) {
        0 => chance.of(41..=200),
        1..=20 => chance.of(6..=40),
        _ => chance.of(1..=5),
    })
}

/// Mostly one of the first invocations or calls, and sometimes one of many more.
fn early_or_late(chance: &Chance, early: u64) -> u64 {
    let last = if chance.percent(70) { early } else { 80 };
    chance.of(0..=last)
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn life(chance: &Chance, number: u32, name: u32, launched_s: Option<u64>, with_pool: bool) -> Life {
    let pooled_s = launched_s.filter(|_| with_pool && chance.percent(50)).map(|_| chance.of(60..=1500));
    let begin = launched_s.unwrap_or_default() + pooled_s.unwrap_or_default();
    let end = match chance.of(0..=11) {
        0..=2 => End::Stays,
        3 => End::Killed(begin + chance.of(1..=1800)),
        4 if launched_s.is_some() => End::Replaced(begin + chance.of(600..=1500)),
        5 if with_pool => End::Returned(begin + chance.of(1..=1500)),
        6 => End::Reclaimed(begin + chance.of(1..=1500)),
        // Some of these terminate while they are being enrolled.
        _ => End::Terminated(begin + chance.of(1..=1500)),
    };
    let agent = Habits {
        boot_s: chance.of(1..=90),
        wait_for_cert_s: *chance.one(&[2, 15, 60, 120]),
        run_s: chance.of(5..=90),
        failing_runs: if chance.percent(3) { NEVER } else { u32::from(chance.percent(15)) },
        clock_ahead_s: *chance.one(&[0, 0, 0, 0, 0, 0, 20, -20, 150, -150]),
        repeats_request_s: chance.percent(15).then(|| chance.of(1..=120)),
        interval_s: *chance.one(&[300, 1800]),
        reboots_s: chance.percent(15).then(|| chance.of(1..=600)),
        late_report_s: chance.percent(5).then(|| chance.of(1..=MOST_LATE_S)),
    };
    Life {
        number,
        name,
        elsewhere: false,
        launched_s,
        pooled_s,
        end,
        launch_event: delivery(chance),
        terminate_event: delivery(chance),
        agent,
    }
}

fn site(chance: &Chance) -> SiteTraits {
    SiteTraits {
        controller_ahead_s: *chance.one(&[0, 0, 0, 0, 40, -40]),
        ca_ahead_s: *chance.one(&[0, 0, 0, 0, 150, -150]),
        puppetdb_ahead_s: *chance.one(&[0, 0, 0, 0, 5, -5]),
        duplicates: chance.percent(20),
        servers: *chance.one(&[Release::Puppet8, Release::Puppet8, Release::Puppet7]),
        foreign: *chance.one(&[0, 0, 0, 1, 3]),
        damaged: chance.percent(10),
        rotated_s: chance.percent(15).then(|| chance.of(1..=600)),
        throttled: chance.percent(10),
        race_calls: *chance.one(&[0, 0, 0, 1, 3]),
        queue_ms: *chance.one(&[0, 0, 0, 500, 5_000]),
        ec2_lag_s: *chance.one(&[0, 0, 0, 2, 20]),
        hooks_end_s: chance.percent(20).then_some(300),
        batched: chance.percent(50),
        observes: chance.percent(3),
        enterprise: chance.percent(30).then(|| enterprise(chance)),
    }
}

fn enterprise(chance: &Chance) -> Enterprise {
    let scripts = [
        RunScript::Ok,
        RunScript::Failed,
        RunScript::Disconnected,
        RunScript::Locked,
        RunScript::Disabled,
        RunScript::Untold,
        RunScript::Restart { down_ms: 45_000 },
    ];
    // Every failure of the primary ends, so that launches can succeed.
    let trouble = chance.percent(40).then(|| {
        let from = chance.of(0..=900);
        [(from, *chance.one(&scripts)), (from + chance.of(30..=300), RunScript::Ok)]
    });
    Enterprise {
        run_s: narrow(if chance.percent(10) { 780 } else { chance.of(5..=180) }),
        primary: trouble.into_iter().flatten().collect(),
        compilers: *chance.one(&[None, Some(Postgresql::OnPrimary), Some(Postgresql::OnItsOwn)]),
        only_ordered: chance.percent(20),
        restart_s: *chance.one(&[0, 20, 60]),
        awaits_removal: chance.percent(15),
        needs_primary: chance.percent(50),
        database_wait_s: *chance.one(&[30, 120, 900]),
        token_expires_s: chance.percent(10).then(|| (chance.of(1..=900), chance.of(60..=240))),
    }
}

fn delivery(chance: &Chance) -> Delivery {
    match chance.of(0..=9) {
        0 | 1 => Delivery::Lost,
        2 => Delivery::Twice(chance.of(100..=3000), chance.of(100..=90_000)),
        3 => Delivery::After(chance.of(3000..=600_000)),
        _ => Delivery::After(chance.of(100..=3000)),
    }
}

fn fault(chance: &Chance, site: &SiteTraits) -> Vec<Fault> {
    let of_enterprise = site.enterprise.is_some() && chance.percent(30);
    let (service, call) = match chance.of(0..=9) {
        _ if of_enterprise => chance.one(&ENTERPRISE_CALLS),
        0 => chance.one(&AGENTS_CALLS),
        _ => chance.one(&CALLS),
    };
    let kinds = chance.one(&failures()).clone();
    let nth = Some(1 + narrow(early_or_late(chance, 5)));
    let fault = |kind| Fault { service: (*service).to_owned(), call: (*call).to_owned(), nth, subject: None, kind };
    kinds.into_iter().map(fault).collect()
}

/// Short enough for launches to succeed before their timeout, and, of Auto Scaling, for hooks to get their heartbeats.
fn outage(chance: &Chance, site: &SiteTraits) -> Outage {
    let enterprise = ["orchestrator", "classifier"];
    let services = ["ca", "puppetdb", "ec2", "secretsmanager", "autoscaling"];
    let of_enterprise = site.enterprise.is_some() && chance.percent(30);
    let service = if of_enterprise { *chance.one(&enterprise) } else { *chance.one(&services) };
    let status = FaultKind::Status { status: 503, body: "Service Unavailable".to_owned(), content_type: None };
    let kind = chance.one(&[FaultKind::Reset, status, FaultKind::Delay { ms: 75_000 }]).clone();
    let lasts_s = chance.of(30..=if service == "autoscaling" { 90 } else { 480 });
    Outage { service: service.to_owned(), kind, from_s: chance.of(0..=1800), lasts_s }
}

fn forged(chance: &Chance, lives: &[Life]) -> Forged {
    Forged { at_s: chance.of(1..=1500), number: chance.one(lives).number }
}

fn stranger(chance: &Chance, lives: &[Life]) -> Stranger {
    let life = chance.one(lives);
    let claims = chance.percent(70).then_some(life.number);
    Stranger { at_s: chance.of(1..=900), name: life.name, claims }
}
