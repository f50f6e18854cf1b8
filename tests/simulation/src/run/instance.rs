//! The instances of a schedule: each is a task that launches its instance and ends it as the schedule says.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use stagedoor_controller::Function;
use stagedoor_lab_aws::scene::Place;
use stagedoor_lab_aws::{Aws, Begun, Launch, Terminate};
use tokio::time::sleep;

use super::{BEGIN, World};
use crate::agent;
use crate::aws::REGIONS;
use crate::scene::{GROUP, node, required, terminate_event};
use crate::schedule::{End, Forged, Life, address, instance_id};

/// The time between the notice that EC2 will reclaim a Spot Instance and the reclaim itself.
const SPOT_NOTICE: Duration = Duration::from_secs(120);
/// The interval at which the warm pool is checked for an instance that is needed in the group.
const POOL_CHECK: Duration = Duration::from_secs(10);

impl World {
    /// The AWS of the instance's Region.
    fn aws_of(&self, life: &Life) -> &Aws {
        &self.regions[life.region()].aws
    }

    /// Runs one instance from its launch to its end.
    pub(super) async fn lead(self: Rc<Self>, life: Life) -> anyhow::Result<()> {
        if let Some(at) = life.launched_s {
            self.until(at).await;
            self.launch(&life)?;
            if let Some(pooled_s) = life.pooled_s {
                self.until(at + pooled_s).await;
                self.take_from_pool(&life).await;
            }
        } else {
            self.place(&life)?;
        }
        match life.end {
            End::Stays => {}
            End::Terminated(at) => {
                self.until(at).await;
                self.terminate(&life);
            }
            End::Reclaimed(at) => {
                self.until(at).await;
                self.terminate(&life);
                sleep(SPOT_NOTICE).await;
                self.note(&format!(
                    "{} is taken back: {:?}",
                    life.id(),
                    self.aws_of(&life).reclaim(&life.id()).is_ok()
                ));
                self.puppet.disconnect(&life.certname());
            }
            End::Returned(at) => {
                self.until(at).await;
                // Auto Scaling scales in only instances that are in service.
                if self.aws_of(&life).lifecycle_state(&life.id()).as_deref() == Some("InService") {
                    self.note(&format!("{} returns to the warm pool", life.id()));
                    let way = Terminate { to: Some(Place::WarmPool), ..Terminate::default() };
                    self.begun(self.aws_of(&life).terminate(&life.id(), &way), &life, Function::Purge);
                }
            }
            End::Replaced(at) => {
                self.until(at).await;
                self.replace_root_volume(&life);
            }
            End::Killed(at) => {
                self.until(at).await;
                let killed =
                    self.aws_of(&life).terminate(&life.id(), &Terminate { force: true, ..Terminate::default() });
                let killed = killed.map(drop).map_err(|error| error.to_string());
                self.note(&format!("{} is gone at once: {killed:?}", life.id()));
                self.puppet.disconnect(&life.certname());
            }
        }
        Ok(())
    }

    /// Delivers an event that AWS never sent.
    pub(super) async fn forge(self: Rc<Self>, forged: Forged) -> anyhow::Result<()> {
        self.until(forged.at_s).await;
        let id = instance_id(forged.number);
        self.note(&format!("a forged event says that {id} terminates"));
        let mut lives = self.schedule.lives.iter();
        let region = lives.find(|life| life.number == forged.number).map_or(0, Life::region);
        self.invoke(region, Function::Purge, &terminate_event(REGIONS[region], &id, self.now())).await;
        Ok(())
    }

    /// Waits until this time, in seconds after the beginning.
    pub(super) async fn until(&self, at_s: u64) {
        sleep(Duration::from_secs(at_s.saturating_sub(self.elapsed_s()))).await;
    }

    /// The time since the beginning, in seconds.
    pub(super) fn elapsed_s(&self) -> u64 {
        u64::try_from(self.now().as_second() - BEGIN).unwrap_or_default()
    }

    fn launch(self: &Rc<Self>, life: &Life) -> anyhow::Result<()> {
        let (id, name) = (life.id(), life.certname());
        let launch = Launch {
            id: Some(id.clone()),
            to: life.pooled_s.map(|_| Place::WarmPool),
            private_ip: Some(address(life.name)),
            private_dns: Some(name.clone()),
            ..Launch::default()
        };
        let begun = match self.aws_of(life).launch(GROUP, &launch) {
            Ok(begun) => begun,
            Err(error) => bail!("{id} cannot be launched: {error}"),
        };
        self.note(&format!("{id} is launched as {name}"));
        let now = self.now();
        // A run that fails is repeated after two minutes.
        let fit = life.is_fit();
        self.watch().set(&id, |truth| {
            (truth.certname, truth.fit, truth.launched) = (name, fit, Some(now));
            truth.region = life.region();
        });
        self.deliver(life.region(), Function::Onboard, begun, life.launch_event);
        self.spawn(agent::live(self.site.clone(), life.clone()));
        Ok(())
    }

    fn replace_root_volume(self: &Rc<Self>, life: &Life) {
        let begun = self.aws_of(life).replace_root_volume(&life.id());
        if begun.is_ok() {
            self.note(&format!("the root volume of {} is replaced", life.id()));
            let now = self.now();
            self.watch().set(&life.id(), |truth| truth.launched = Some(now));
            self.puppet.disconnect(&life.certname());
        }
        self.begun(begun, life, Function::Purge);
    }

    /// Takes the instance from the warm pool as soon as its launch into the pool is complete.
    async fn take_from_pool(self: &Rc<Self>, life: &Life) {
        let id = life.id();
        while self.aws_of(life).lifecycle_state(&id).is_some_and(|state| state.starts_with("Warmed:Pending")) {
            sleep(POOL_CHECK).await;
        }
        // The instance first stops in the pool, and boots again afterwards.
        sleep(POOL_CHECK).await;
        let launch = Launch { id: Some(id.clone()), ..Launch::default() };
        self.note(&format!("{id} is needed in the group"));
        let now = self.now();
        self.watch().set(&id, |truth| truth.launched = Some(now));
        self.begun(self.aws_of(life).launch(GROUP, &launch), life, Function::Onboard);
    }

    /// Terminates an instance, with its hooks.
    fn terminate(self: &Rc<Self>, life: &Life) {
        let begun = self.aws_of(life).terminate(&life.id(), &Terminate::default());
        if begun.is_ok() {
            self.note(&format!("{} is terminated", life.id()));
            if life.launched_s.is_none() {
                // No agent runs for this instance, so nothing else disconnects it.
                self.puppet.disconnect(&life.certname());
            }
            let now = self.now();
            self.watch().set(&life.id(), |truth| truth.waits_since = Some(now));
        }
        self.begun(begun, life, Function::Purge);
    }

    /// Delivers the events of an action that has begun, or notes why it could not begin.
    fn begun(self: &Rc<Self>, begun: anyhow::Result<Begun>, life: &Life, function: Function) {
        let delivery = if function == Function::Onboard { life.launch_event } else { life.terminate_event };
        match begun {
            Ok(begun) => self.deliver(life.region(), function, begun, delivery),
            Err(error) => self.note(&format!("it cannot: {error}")),
        }
    }

    /// Adds an instance that has been in service for some time.
    fn place(&self, life: &Life) -> anyhow::Result<()> {
        let (id, name) = (life.id(), life.certname());
        self.puppet.place_node(&node(&name, &id, REGIONS[life.region()], 60, required(&self.schedule.site)))?;
        let held = self.puppet.certificate(&name).context("it has just been placed")?;
        self.watch().set(&id, |truth| {
            truth.certname = name;
            truth.region = life.region();
            truth.volume = 1;
            truth.key = Some(held.key);
            truth.serial = Some(held.serial);
            (truth.has_run, truth.has_reported) = (true, true);
            truth.fit = true;
        });
        Ok(())
    }
}
