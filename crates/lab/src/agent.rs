//! Simulated agents: each asks for its certificate, runs Puppet, takes orders from the orchestrator and serves its
//! node's ports, as a task of its own. Network I/O on loopback.
//!
//! An agent goes through the states of
//! [Puppet's own](https://github.com/puppetlabs/puppet/blob/main/lib/puppet/ssl/state_machine.rb). In particular it
//! submits its signing request again each time it finds no certificate; a request that is deleted, or that the CA refuses
//! with 400, does not stop it. Its keys are P-256, and it trusts the lab's CA from the start.
//!
//! ```no_run
//! # async fn example(lab: &stagedoor_lab::Lab) -> anyhow::Result<()> {
//! use stagedoor_lab::agent::Agent;
//!
//! let begun = lab.aws.launch("compilers", &Default::default())?;
//! let agent = Agent {
//!     extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
//!     challenge: lab.credential("challenge"),
//!     status_ports: vec![8140], // at the instance's address: setting `loopback_addresses`
//!     ..Agent::on(&begun.instance_id)
//! };
//! let agent = lab.agents.start(agent)?;
//! agent.waits_for_certificate().await?;
//! // Sign its request here.
//! let state = agent.reported().await?;
//! # Ok(())
//! # }
//! ```

mod config;
mod https;
mod life;
mod running;
mod services;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use stagedoor_lab_aws::Aws;
use stagedoor_lab_core::server::Backstage;
use stagedoor_lab_puppet::Puppet;

pub use config::Agent;
pub use running::{AgentState, Phase, RunningAgent};

/// The agents of a lab. Clones share them; with the last one they all stop.
#[derive(Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

struct Inner {
    world: World,
    agents: Mutex<BTreeMap<String, RunningAgent>>,
}

/// What agents live in.
#[derive(Clone)]
struct World {
    puppet: Puppet,
    aws: Aws,
    back: Backstage,
    /// The port of the CA; `None`: Puppet is not served.
    ca_port: Option<u16>,
}

impl Agents {
    pub(crate) fn new(puppet: Puppet, aws: Aws, back: Backstage, ca_port: Option<u16>) -> Self {
        let world = World { puppet, aws, back, ca_port };
        Self { inner: Arc::new(Inner { world, agents: Mutex::default() }) }
    }

    /// Boots a new agent. Call it inside a Tokio runtime.
    ///
    /// # Errors
    /// Says what it lacks: Puppet is not served, it has no certname, its instance is unknown, another agent has its
    /// name.
    pub fn start(&self, agent: Agent) -> anyhow::Result<RunningAgent> {
        let world = &self.inner.world;
        anyhow::ensure!(world.ca_port.is_some(), "an agent needs Puppet, which this lab does not serve");
        let agent = agent.complete(&world.aws)?;
        let name = agent.name.clone().unwrap_or_else(|| agent.certname.clone());
        let mut agents = self.lock();
        anyhow::ensure!(
            !agents.contains_key(&name),
            "there is an agent {name} already: give the other one a `name` of its own"
        );
        let running = RunningAgent::boot(name.clone(), agent, world.clone());
        agents.insert(name, running.clone());
        Ok(running)
    }

    /// The agent of this name: the certname, where it was given no other.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> anyhow::Result<RunningAgent> {
        self.lock().get(name).cloned().with_context(|| format!("there is no agent {name}"))
    }

    /// All agents, stopped ones too, by name.
    #[must_use]
    pub fn all(&self) -> Vec<RunningAgent> {
        self.lock().values().cloned().collect()
    }

    /// Stops an agent and forgets it with its disk.
    ///
    /// # Errors
    /// There is no such agent.
    pub async fn remove(&self, name: &str) -> anyhow::Result<()> {
        let agent = self.lock().remove(name).with_context(|| format!("there is no agent {name}"))?;
        agent.stop().await;
        Ok(())
    }

    /// Stops all agents and forgets them.
    pub(crate) fn clear(&self) {
        for agent in std::mem::take(&mut *self.lock()).values() {
            agent.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RunningAgent>> {
        self.inner.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for agent in self.agents.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            agent.abort();
        }
    }
}
