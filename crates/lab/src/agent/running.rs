//! An agent at work: its disk, its state, and what may be done to it. No I/O of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;
use stagedoor_lab_puppet::ServiceState;
use stagedoor_lab_puppet::agent_side::AgentKey;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::life::live;
use super::{Agent, World};

/// How long a caller waits for a state of an agent before the wait fails.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A started agent. Clones are the same agent.
#[derive(Clone)]
pub struct RunningAgent {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    name: String,
    pub(super) agent: Agent,
    pub(super) world: World,
    pub(super) disk: Mutex<Disk>,
    pub(super) state: watch::Sender<AgentState>,
    pub(super) services: watch::Sender<Services>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What outlives a reboot.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) has_ca: bool,
    pub(super) key: Option<AgentKey>,
    pub(super) certificate_pem: Option<Vec<u8>>,
    /// Puppet has run: it has set the node's services up.
    pub(super) has_run: bool,
}

/// What its node's ports do.
#[derive(Clone, Debug)]
pub(super) struct Services {
    pub(super) listening: bool,
    pub(super) state: ServiceState,
    /// The states of services that are in another one than the rest.
    pub(super) states: BTreeMap<String, ServiceState>,
    /// Whether it checks in with file sync.
    pub(super) syncing: bool,
    /// So many answers say `starting` before that.
    pub(super) starting_answers: u32,
}

/// How far an agent has come since it was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Stopped, or its instance is.
    #[default]
    Off,
    /// Booted; it has not got an answer from the CA yet.
    Booting,
    /// Its request is at the CA, or was refused; there is no certificate of its name.
    WaitingForCertificate,
    /// The CA gave it a certificate that does not fit its key: another's. It goes on asking.
    Mismatch,
    /// It has its certificate.
    Certified,
    /// It has run Puppet and reported.
    Reported,
    /// It has ended: `one_time`, and no certificate at the first attempt.
    Exited,
}

/// The state of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentState {
    /// How far it has come since it was booted.
    pub phase: Phase,
    /// How often it was booted.
    pub boots: u32,
    /// How often it has submitted its request since it was booted, with whatever outcome.
    pub submitted: u32,
    /// With what the CA refused its latest request; `None`: it took it.
    pub refusal: Option<String>,
    /// How many catalogs it was given since it was booted, those of orchestrator jobs not counted.
    pub catalogs: u32,
    /// How many reports it has sent since it was booted, those of orchestrator jobs too.
    pub reports: u32,
    /// The status of the latest.
    pub status: Option<String>,
    /// What went wrong last, if nothing has gone well since.
    pub error: Option<String>,
    /// Whether its node's ports listen.
    pub serving: bool,
}

impl RunningAgent {
    pub(super) fn boot(name: String, agent: Agent, world: World) -> Self {
        let services = Services {
            listening: agent.listening,
            state: agent.service_state,
            states: agent.service_states.clone(),
            syncing: agent.file_sync,
            starting_answers: agent.starting_answers,
        };
        let inner = Inner {
            name,
            agent,
            world,
            disk: Mutex::default(),
            state: watch::Sender::new(AgentState::default()),
            services: watch::Sender::new(services),
            task: Mutex::default(),
        };
        let agent = Self { inner: Arc::new(inner) };
        agent.start_task();
        agent
    }

    /// What the lab calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its certname.
    #[must_use]
    pub fn certname(&self) -> &str {
        &self.inner.agent.certname
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> AgentState {
        self.inner.state.borrow().clone()
    }

    /// Waits for a state of the agent, and gives it.
    ///
    /// # Errors
    /// The agent did not reach it within 30 seconds; the error names its state.
    pub async fn until(&self, wanted: impl Fn(&AgentState) -> bool) -> anyhow::Result<AgentState> {
        let mut states = self.inner.state.subscribe();
        match tokio::time::timeout(TIME_LIMIT, states.wait_for(|state| wanted(state))).await {
            Ok(Ok(state)) => Ok(state.clone()),
            // The sender is in `self`.
            Ok(Err(_)) | Err(_) => anyhow::bail!("agent {} did not get there; it is {:?}", self.name(), self.state()),
        }
    }

    /// Waits until it looks for its certificate in vain and a request of its certname is at the CA: its own, unless
    /// another was there before.
    ///
    /// # Errors
    /// As [`RunningAgent::until`].
    pub async fn waits_for_certificate(&self) -> anyhow::Result<AgentState> {
        // A request that was refused for a certificate which was then cleaned is not there: only the next one is.
        let has_request = || self.inner.world.puppet.has_request(self.certname());
        self.until(|state| state.phase == Phase::WaitingForCertificate && has_request()).await
    }

    /// Waits until the CA has given it a certificate that does not fit its key.
    ///
    /// # Errors
    /// As [`RunningAgent::until`].
    pub async fn mismatches(&self) -> anyhow::Result<AgentState> {
        self.until(|state| state.phase == Phase::Mismatch).await
    }

    /// Waits until it has its certificate.
    ///
    /// # Errors
    /// As [`RunningAgent::until`].
    pub async fn certified(&self) -> anyhow::Result<AgentState> {
        self.until(|state| matches!(state.phase, Phase::Certified | Phase::Reported)).await
    }

    /// Waits until it has reported since it was booted.
    ///
    /// # Errors
    /// As [`RunningAgent::until`].
    pub async fn reported(&self) -> anyhow::Result<AgentState> {
        self.until(|state| state.phase == Phase::Reported).await
    }

    /// Waits until its node's ports listen.
    ///
    /// # Errors
    /// As [`RunningAgent::until`].
    pub async fn serves(&self) -> anyhow::Result<AgentState> {
        self.until(|state| state.serving).await
    }

    /// Runs Puppet now, to this end: `changed`, `unchanged` or `failed`. Waits for a run that is under way.
    ///
    /// # Errors
    /// It is off, has no certificate, or Puppet rejects the one that it has.
    pub async fn run(&self, status: &str) -> anyhow::Result<()> {
        anyhow::ensure!(self.state().phase != Phase::Off, "agent {} is off", self.name());
        self.inner.run(status, SignedDuration::ZERO).await
    }

    /// Sends its signing request once more, with the key that it has: as an agent does that has not seen its certificate yet.
    /// [`AgentState::refusal`] says whether the CA took it.
    ///
    /// # Errors
    /// It has no key yet, or the CA does not answer.
    pub async fn submit_again(&self) -> anyhow::Result<()> {
        self.inner.submit_again().await
    }

    /// What the Status API of its ports says from now on.
    pub fn set_service_state(&self, state: ServiceState) {
        self.inner.services.send_modify(|services| {
            services.state = state;
            services.starting_answers = 0;
        });
    }

    /// What the Status API of its ports says of one service from now on.
    pub fn set_state_of(&self, service: &str, state: ServiceState) {
        self.inner.services.send_modify(|services| {
            services.states.insert(service.to_owned(), state);
        });
    }

    /// Whether it checks in with the primary's file sync from now on, and fetches code.
    pub fn set_file_sync(&self, syncing: bool) {
        self.inner.services.send_modify(|services| services.syncing = syncing);
    }

    /// Opens its node's ports, or closes them: then connections are refused.
    pub fn set_listening(&self, listening: bool) {
        self.inner.services.send_modify(|services| services.listening = listening);
    }

    /// Stops it: no polling, no connection to the orchestrator, no ports. Its disk stays.
    pub async fn stop(&self) {
        let task = self.inner.task().take();
        if let Some(task) = task {
            task.abort();
            // Either it ended or it was aborted.
            let _ = task.await;
        }
        self.inner.set_off();
    }

    /// Stops it and starts it again with the same disk: no new request, and Puppet runs again.
    pub async fn reboot(&self) {
        self.stop().await;
        self.start_task();
    }

    /// Stops it, gives it an empty disk and starts it: the same names and attributes, a new key, no certificate. So an
    /// instance comes back whose root volume was replaced.
    pub async fn rekey(&self) {
        self.stop().await;
        *self.inner.disk() = Disk::default();
        self.start_task();
    }

    pub(super) fn abort(&self) {
        if let Some(task) = self.inner.task().take() {
            task.abort();
        }
        self.inner.set_off();
    }

    fn start_task(&self) {
        let task = tokio::spawn(live(Arc::clone(&self.inner)));
        *self.inner.task() = Some(task);
    }
}

impl Inner {
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_off(&self) {
        self.state.send_modify(|state| *state = AgentState { boots: state.boots, ..AgentState::default() });
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut AgentState)) {
        self.state.send_modify(change);
    }
}
