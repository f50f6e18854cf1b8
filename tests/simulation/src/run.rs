//! Runs a schedule: the real controller, the lab, agents and strangers in one thread, on simulated time.

mod end;
mod instance;
mod invoke;
mod operator;
mod queue;
mod region;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use stagedoor_controller::Function;
use stagedoor_controller::config::Config;
use stagedoor_lab_aws::Aws;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::faults::Faults;
use stagedoor_lab_core::journal::Journal;
use stagedoor_lab_core::server::Backstage;
use stagedoor_lab_puppet::{NodeGroup, Puppet};
use stagedoor_types::broken::break_rule;
use tokio::task::LocalSet;
use tokio::time::sleep;

use self::invoke::SWEEPS;
use self::region::Region;
use crate::agent::{self, CHALLENGE, Site};
use crate::aws::{InMemoryAws, REGIONS};
use crate::broken::Broken;
use crate::chance::Chance;
use crate::network::{InMemory, Services};
use crate::scene::{TOKEN, compilers_need, configuration, node, puppet_options, required, scene, secret};
use crate::schedule::{Life, Postgresql, Schedule};
use crate::watch::{DATABASE, PINNED_TO, PRIMARY, Violation, Watch, Watched};

/// A Region without a controller, whose nodes use the same CA.
const UNCONTROLLED: &str = "us-east-1";
/// When every simulation begins, in seconds since the epoch. A fixed time, so that housekeeping is always due at the same points.
const BEGIN: i64 = 1_800_000_000;

/// The result of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// The violated invariants.
    pub violations: Vec<Violation>,
    /// Every call and every result, one per line, without anything that differs between machines.
    pub trace: String,
    /// The number of calls that the controller made.
    pub calls: usize,
    /// The number of invocations.
    pub invocations: u32,
    /// The number of steps of each invocation. An invocation can be killed after each step.
    pub steps: Vec<u32>,
    /// The number of faults that affected a call.
    pub faults_hit: usize,
    /// How many Puppet runs of each refresh target were ordered.
    pub ordered: BTreeMap<&'static str, usize>,
}

/// Runs a schedule from beginning to end.
///
/// # Errors
/// The lab cannot be set up as the schedule requires.
pub fn play(schedule: &Schedule) -> anyhow::Result<Played> {
    play_with(schedule, Broken::Nothing)
}

/// Runs a schedule with a broken rule.
///
/// # Errors
/// The same as for [`play`].
pub fn play_with(schedule: &Schedule, broken: Broken) -> anyhow::Result<Played> {
    // The SDK uses this generator for the jitter of its retries.
    fastrand::seed(schedule.seed);
    break_rule(broken.rule());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let played = LocalSet::new().block_on(&runtime, Box::pin(whole(schedule, broken)));
    break_rule(None);
    played
}

/// Shared state of all tasks of a simulation.
struct World {
    schedule: Schedule,
    /// The Regions that have a controller.
    regions: Vec<Region>,
    puppet: Puppet,
    site: Site,
    network: InMemory,
    config: Config,
    trace: RefCell<String>,
    invocations: Cell<u32>,
    steps: RefCell<Vec<u32>>,
    /// The number of events that were sent to queues.
    sent: Cell<u32>,
    /// The number of messages that will be delivered again.
    hidden: Cell<u32>,
    /// The first error of the simulation itself.
    failed: RefCell<Option<anyhow::Error>>,
}

async fn whole(schedule: &Schedule, broken: Broken) -> anyhow::Result<Played> {
    let world = Rc::new(World::new(schedule.clone(), broken).await?);
    for life in schedule.lives.iter().cloned() {
        world.spawn(Rc::clone(&world).lead(life));
    }
    for stranger in schedule.strangers.iter().cloned() {
        world.spawn(agent::intrude(world.site.clone(), stranger));
    }
    for outage in schedule.outages.iter().cloned() {
        world.spawn(Rc::clone(&world).fail(outage));
    }
    for forged in schedule.forged.iter().copied() {
        world.spawn(Rc::clone(&world).forge(forged));
    }
    for region in 0..world.regions.len() {
        if schedule.site.batched {
            world.poll(region, Function::Onboard);
            world.poll(region, Function::Purge);
        }
        if broken != Broken::NoSweep {
            world.spawn(Rc::clone(&world).sweep(region));
        }
    }
    if let Some(at) = schedule.site.rotated_s {
        world.spawn(Rc::clone(&world).rotate(at));
    }
    if let Some(enterprise) = schedule.site.enterprise.clone() {
        if !enterprise.only_ordered {
            world.spawn(agent::daemon(world.site.clone(), PRIMARY));
        }
        if !enterprise.only_ordered && enterprise.compilers == Some(Postgresql::OnItsOwn) {
            world.spawn(agent::daemon(world.site.clone(), DATABASE));
        }
        world.spawn(Rc::clone(&world).direct_primary(enterprise.primary));
        if let Some((at, later)) = enterprise.token_expires_s {
            world.spawn(Rc::clone(&world).expire_token(at, later));
        }
    }
    world.until(schedule.quiet_from_s.unwrap_or(schedule.horizon_s)).await;
    while world.elapsed_s() < schedule.horizon_s && !world.is_quiet() {
        sleep(SWEEPS).await;
    }
    // Housekeeping needs up to 50 minutes for a certificate that was signed after the termination began.
    while world.waits_for_housekeeping() {
        sleep(SWEEPS).await;
    }
    while world.is_removal_unknown() == Some(false) {
        sleep(SWEEPS).await;
    }
    if let Some(error) = world.failed.take() {
        return Err(error);
    }
    // A profile that only observes leaves every hook to its own timeout.
    if !schedule.site.observes {
        world.check_the_end();
    }
    world.check_calls();
    Ok(world.played())
}

impl World {
    async fn new(schedule: Schedule, broken: Broken) -> anyhow::Result<Self> {
        stagedoor_puppet::install_crypto_provider();
        let clock = Clock::with_tokio(Timestamp::from_second(BEGIN)?);
        let back = Backstage { clock: clock.clone(), journal: Journal::new(), faults: Faults::default() };
        let traits = schedule.site.clone();
        let options = puppet_options(&traits);
        let puppet = Puppet::new(options, clock.clone())?;
        let compilers = traits.enterprise.as_ref().and_then(|enterprise| enterprise.compilers);
        if let Some(postgresql) = compilers {
            compilers_need(&puppet, postgresql)?;
        }
        let credentials = puppet.controller_credentials()?;
        let mut secret = secret(&puppet, &credentials, CHALLENGE, TOKEN);
        if broken == Broken::RequestsUnchecked {
            secret["challenge"] = Value::Null;
        }
        let controlled = if schedule.lives.iter().any(|life| life.elsewhere) { 2 } else { 1 };
        let all_aws: Vec<Aws> = REGIONS.iter().take(controlled).map(|name| Aws::new(name, clock.clone())).collect();
        for (region, aws) in all_aws.iter().enumerate() {
            aws.set_scene(&scene(&schedule, region, &secret))?;
        }
        let watch = Watch::new(all_aws.clone(), puppet.clone());
        if traits.observes {
            watch.observes();
        }
        if compilers == Some(Postgresql::OnItsOwn) {
            watch.has_own_database();
        }
        if traits.enterprise.is_some() {
            let in_service = schedule.lives.iter().filter(|life| life.launched_s.is_none());
            let pinned: Vec<String> = in_service.map(Life::certname).collect();
            watch.pinned(&pinned);
            puppet.put_node_group(&NodeGroup { name: PINNED_TO.to_owned(), pinned, ..NodeGroup::default() })?;
        }
        for number in 0..traits.foreign {
            let name = format!("ip-10-9-0-{number}.ec2.internal");
            let id = format!("i-0f0{number:014x}");
            puppet.place_node(&node(&name, &id, UNCONTROLLED, 4 * 3600, required(&traits)))?;
            watch.foreign(&name);
            if traits.damaged {
                puppet.empty_certificate_file(&name);
            }
        }
        let services = Arc::new(Services {
            ca: Arc::new(Watched { inner: puppet.ca_service(), watch: watch.clone() }),
            puppetdb: Arc::new(Watched { inner: puppet.puppetdb_service(), watch: watch.clone() }),
            orchestrator: Arc::new(Watched { inner: puppet.orchestrator_service(), watch: watch.clone() }),
            console: Arc::new(Watched { inner: puppet.console_service(), watch: watch.clone() }),
        });
        let chance = Chance::new(schedule.seed ^ 0x5eed);
        let identity =
            CertificateDer::from_pem_slice(credentials.cert_pem.as_bytes()).context("the controller's certificate")?;
        let agents_chance = Chance::new(schedule.seed ^ 0xa9e7);
        let network = InMemory {
            services: Arc::clone(&services),
            back: back.clone(),
            identity: Some(identity.into_owned()),
            chance: chance.clone(),
        };
        for fault in &schedule.faults {
            back.faults.add(fault.clone());
        }
        let lag = SignedDuration::from_secs(i64::try_from(traits.ec2_lag_s)?);
        let mut regions = Vec::new();
        for (name, aws) in REGIONS.into_iter().zip(all_aws) {
            let watched = Arc::new(Watched { inner: Arc::new(aws.clone()), watch: watch.clone() });
            let instances = InMemoryAws { region: name, aws: watched, back: back.clone(), chance: chance.clone(), lag };
            regions.push(Region::new(aws, instances).await);
        }
        let config = Config::parse(&configuration(&traits, broken))?;
        Ok(Self {
            site: Site {
                puppet: puppet.clone(),
                services,
                back,
                watch,
                chance: agents_chance,
                rotated: Arc::new(AtomicBool::new(false)),
                enterprise: traits.enterprise.is_some(),
                required: required(&traits),
            },
            schedule,
            regions,
            puppet,
            network,
            config,
            trace: RefCell::default(),
            invocations: Cell::new(0),
            steps: RefCell::default(),
            sent: Cell::new(0),
            hidden: Cell::new(0),
            failed: RefCell::default(),
        })
    }

    fn watch(&self) -> &Watch {
        &self.site.watch
    }

    fn now(&self) -> Timestamp {
        self.site.back.clock.now()
    }

    fn note(&self, line: &str) {
        let ms = self.now().as_millisecond() - BEGIN * 1000;
        let _ = writeln!(self.trace.borrow_mut(), "{ms:>9} {line}");
    }

    /// Spawns a task. If it fails, the schedule was not played as described, and the whole simulation fails.
    fn spawn(self: &Rc<Self>, task: impl Future<Output = anyhow::Result<()>> + 'static) {
        let world = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if let Err(error) = ended.unwrap_or_else(|_| Err(anyhow!("a task of the simulation panicked"))) {
                world.failed.borrow_mut().get_or_insert(error);
            }
        });
    }

    fn played(&self) -> Played {
        let entries = self.site.back.journal.entries();
        let by_controller = entries.iter().filter(|entry| entry.service != "agent");
        let mut lines: Vec<String> = self.trace.borrow().lines().map(str::to_owned).collect();
        lines.extend(entries.iter().map(|entry| {
            let subject = entry.subject.as_deref().unwrap_or("-");
            let status = entry.status.map_or("-".to_owned(), |status| status.to_string());
            let parameter =
                |name: &str| entry.request[name].as_str().map_or(String::new(), |value| format!(" {value}"));
            let what = parameter("LifecycleHookName") + &parameter("LifecycleActionResult");
            format!("{:>9} {} {} {subject}{what}: {status}", entry.started_us / 1000, entry.service, entry.call)
        }));
        // Sorted by time; lines of the same millisecond keep their order.
        lines.sort_by_key(|line| line.trim_start().split(' ').next().and_then(|ms| ms.parse::<u64>().ok()));
        Played {
            violations: self.watch().violations(),
            trace: lines.join("\n"),
            calls: by_controller.count(),
            invocations: self.invocations.get(),
            steps: self.steps.borrow().clone(),
            faults_hit: self.site.back.faults.hits(),
            ordered: self.ordered(),
        }
    }
}
