//! The life of an agent from boot to stop. Network I/O on loopback.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use jiff::SignedDuration;
use stagedoor_lab_puppet::Puppet;
use stagedoor_lab_puppet::agent_side::{AgentIdentity, AgentKey, PxpConnection};

use super::https::Connection;
use super::running::{AgentState, Disk, Inner, Phase};
use super::services;

const CA: &str = "/puppet-ca/v1";

/// How often it is looked whether the instance that the agent runs on is on.
const POWER_CHECK: Duration = Duration::from_millis(20);

/// Lives as long as its instance does: off while that is stopped, booted whenever it is started, and with an empty
/// disk when its root volume was replaced.
pub(super) async fn live(inner: Arc<Inner>) {
    let mut volumes = None;
    loop {
        let volume = inner.is_on().await;
        if volumes.replace(volume).is_some_and(|last| last != volume) {
            *inner.disk() = Disk::default();
        }
        inner.note(|state| {
            *state = AgentState { phase: Phase::Booting, boots: state.boots + 1, ..AgentState::default() };
        });
        let starting_answers = inner.agent.starting_answers;
        inner.services.send_modify(|services| services.starting_answers = starting_answers);
        tokio::select! {
            biased;
            () = booted(&inner) => {}
            () = inner.is_off_or_changed(volume) => {}
        }
        inner.set_off();
    }
}

/// From boot on; does not return.
async fn booted(inner: &Arc<Inner>) {
    let pause = Duration::from_millis(inner.agent.wait_for_cert_ms);
    let began = inner.world.back.clock.now();
    let identity = loop {
        match inner.enrol().await {
            Ok(Some(identity)) => break identity,
            Ok(None) => {}
            Err(error) => inner.note(|state| state.error = Some(format!("{error:#}"))),
        }
        if inner.agent.one_time {
            inner.note(|state| state.phase = Phase::Exited);
            return std::future::pending().await;
        }
        tokio::time::sleep(pause).await;
    };
    inner.note(|state| state.phase = Phase::Certified);
    let waited = inner.world.back.clock.now().duration_since(began);
    // The first run sets up pxp-agent and the node's services; from then on they start at boot.
    let _pxp;
    if inner.disk().has_run || !inner.agent.first_run {
        _pxp = inner.connect(&identity);
        if inner.agent.first_run {
            let (services, run) = (services::serve(inner, &identity), inner.run_until_done(pause, waited));
            tokio::join!(services, run);
        } else {
            inner.has_reported().await;
            services::serve(inner, &identity).await;
        }
    } else {
        inner.run_until_done(pause, waited).await;
        _pxp = inner.connect(&identity);
        services::serve(inner, &identity).await;
    }
}

impl Inner {
    /// Which root volume its instance runs from, by number; `None`: the instance is off. An agent on no instance is
    /// always on.
    fn running_from(&self) -> Option<u32> {
        match &self.agent.on {
            None => Some(1),
            Some(id) => {
                let machine = self.world.aws.machine(id).filter(|machine| machine.state == "running")?;
                Some(machine.root_volumes)
            }
        }
    }

    async fn is_on(&self) -> u32 {
        loop {
            if let Some(volume) = self.running_from() {
                return volume;
            }
            tokio::time::sleep(POWER_CHECK).await;
        }
    }

    async fn is_off_or_changed(&self, volume: u32) {
        while self.running_from() == Some(volume) {
            tokio::time::sleep(POWER_CHECK).await;
        }
    }

    async fn connection(&self, identity: Option<&AgentIdentity>) -> anyhow::Result<Connection> {
        let port = self.world.ca_port.context("Puppet is not served")?;
        Connection::open(port, self.world.puppet.agent_tls(identity)?).await
    }

    /// One attempt to get a certificate that fits; `None`: not yet.
    async fn enrol(&self) -> anyhow::Result<Option<AgentIdentity>> {
        let mut ca = None;
        if !self.disk().has_ca {
            let ca = ca.insert(self.connection(None).await?);
            for path in ["certificate/ca", "certificate_revocation_list/ca"] {
                let (status, _) = ca.call(Method::GET, &format!("{CA}/{path}"), String::new()).await?;
                anyhow::ensure!(status == 200, "GET {path} was answered {status}");
            }
            self.disk().has_ca = true;
        }
        let (key, on_disk) = {
            let mut disk = self.disk();
            let key = match &disk.key {
                Some(key) => key.clone(),
                None => AgentKey::generate()?,
            };
            disk.key = Some(key.clone());
            (key, disk.certificate_pem.clone())
        };
        if let Some(pem) = on_disk {
            return AgentIdentity::of(&key, &pem);
        }
        let certname = &self.agent.certname;
        let mut ca = match ca {
            Some(ca) => ca,
            None => self.connection(None).await?,
        };
        self.submit(&mut ca, &key).await?;
        let (status, pem) = ca.call(Method::GET, &format!("{CA}/certificate/{certname}"), String::new()).await?;
        if status == 404 {
            self.note(|state| {
                state.phase = Phase::WaitingForCertificate;
                state.error = None;
            });
            return Ok(None);
        }
        anyhow::ensure!(status == 200, "looking for the certificate was answered {status}");
        let identity = AgentIdentity::of(&key, &pem)?;
        if identity.is_some() {
            self.disk().certificate_pem = Some(pem);
            self.note(|state| state.error = None);
        } else {
            self.note(|state| {
                state.phase = Phase::Mismatch;
                state.error = Some(format!("The certificate for 'CN={certname}' does not match its private key"));
            });
        }
        Ok(identity)
    }

    /// Sends its request, which the CA may refuse.
    async fn submit(&self, ca: &mut Connection, key: &AgentKey) -> anyhow::Result<()> {
        let certname = &self.agent.certname;
        let request = key.signing_request(certname, &self.agent.attributes())?;
        let (status, body) = ca.call(Method::PUT, &format!("{CA}/certificate_request/{certname}"), request).await?;
        // 400: there is a request or a certificate of this name already. Perhaps it is ours.
        anyhow::ensure!(matches!(status, 200 | 400), "submitting the signing request was answered {status}");
        let refusal = (status == 400).then(|| String::from_utf8_lossy(&body).into_owned());
        self.note(|state| {
            state.submitted += 1;
            state.refusal = refusal;
        });
        Ok(())
    }

    /// Sends its request once more, with the key on its disk.
    pub(super) async fn submit_again(&self) -> anyhow::Result<()> {
        let key = self.disk().key.clone();
        let key = key.with_context(|| format!("agent {} has no key", self.agent.certname))?;
        self.submit(&mut self.connection(None).await?, &key).await
    }

    /// The identity on its disk.
    fn identity(&self) -> anyhow::Result<AgentIdentity> {
        let disk = self.disk();
        let found = disk.key.as_ref().zip(disk.certificate_pem.as_ref());
        let (key, pem) = found.with_context(|| format!("agent {} has no certificate", self.agent.certname))?;
        AgentIdentity::of(key, pem)?.context("the certificate on disk does not fit the key")
    }

    fn facts(&self, identity: &AgentIdentity) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
        let claimed = || self.agent.instance_id.as_deref().filter(|id| !id.is_empty());
        let instance = self.agent.on.as_deref().or_else(claimed);
        Puppet::agent_facts(&self.agent.certname, instance, identity)
    }

    /// One run of its own, which began with waiting for its certificate for so long: its catalog is stored, then it applies it and reports. A run fails if it cannot start the node's PuppetDB.
    pub(super) async fn run(&self, status: &str, waited: SignedDuration) -> anyhow::Result<()> {
        let certname = &self.agent.certname;
        let identity = self.identity()?;
        let lock = self.world.puppet.run_lock(certname);
        let _turn = lock.lock().await;
        let started = self.world.back.clock.now();
        // Any call shows whether Puppet accepts the certificate.
        let path = format!("{CA}/certificate_revocation_list/ca");
        let (answered, _) = self.connection(Some(&identity)).await?.call(Method::GET, &path, String::new()).await?;
        anyhow::ensure!(answered < 400, "Puppet answered {answered}");
        let puppet = &self.world.puppet;
        let run = puppet.agent_begins(certname, started, self.facts(&identity)?)?.after_waiting(waited);
        self.note(|state| state.catalogs += 1);
        let has_puppetdb = puppet.starts_puppetdb(certname).await;
        tokio::time::sleep(Duration::from_millis(self.agent.run_ms)).await;
        let status = if has_puppetdb { status } else { "failed" };
        puppet.agent_ends(certname, run, status, self.world.back.clock.now())?;
        self.has_run(status);
        anyhow::ensure!(has_puppetdb, "its PuppetDB could not connect to its database");
        Ok(())
    }

    async fn run_until_done(&self, pause: Duration, mut waited: SignedDuration) {
        while let Err(error) = self.run(&self.agent.status, waited).await {
            waited = SignedDuration::ZERO;
            self.note(|state| state.error = Some(format!("{error:#}")));
            tokio::time::sleep(pause).await;
        }
    }

    fn has_run(&self, status: &str) {
        self.disk().has_run = true;
        self.note(|state| {
            state.phase = Phase::Reported;
            state.reports += 1;
            state.status = Some(status.to_owned());
            state.error = None;
        });
    }

    async fn has_reported(&self) {
        let mut states = self.state.subscribe();
        // An error would mean that the sender is gone, which is in `self`.
        let _ = states.wait_for(|state| state.phase == Phase::Reported).await;
    }

    fn connect(self: &Arc<Self>, identity: &AgentIdentity) -> Option<PxpConnection> {
        let facts = self.facts(identity).ok()?;
        // Weak, or agent and orchestrator would keep each other.
        let inner = Arc::downgrade(self);
        let ran = Arc::new(move |status: &str| {
            if let Some(inner) = inner.upgrade() {
                inner.has_run(status);
            }
        });
        Some(self.world.puppet.connect_agent(&self.agent.certname, &self.agent.status, facts, ran))
    }
}
