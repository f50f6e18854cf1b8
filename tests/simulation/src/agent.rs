//! Simulated agents: each is a task on simulated time that requests a certificate, runs Puppet and reports. No sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use stagedoor_lab_core::server::{Backstage, Call, Request, carry_out};
use stagedoor_lab_puppet::agent_side::{AgentIdentity, AgentKey};
use stagedoor_lab_puppet::{CsrAttributes, Puppet};
use tokio::time::sleep;

use crate::aws::REGIONS;
use crate::chance::Chance;
use crate::network::Services;
use crate::scene::metadata;
use crate::schedule::{Life, Stranger, certname, instance_id};
use crate::watch::{Truth, Watch};

/// The `challengePassword` of instances that are launched before the challenge is replaced.
pub(crate) const CHALLENGE: &str = "the challenge that instances are given";

/// The challenge that replaces [`CHALLENGE`].
pub(crate) const ROTATED: &str = "the challenge of the next year";

/// Puppet Server as the journal names it where it calls PuppetDB for an agent.
pub(crate) const PUPPET_SERVER: &str = "puppet-server";

/// The interval at which the root volume and the power of an agent's instance are checked.
const POWER_CHECK: Duration = Duration::from_secs(5);

/// Shared context of all agents.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) puppet: Puppet,
    pub(crate) services: Arc<Services>,
    pub(crate) back: Backstage,
    pub(crate) watch: Watch,
    pub(crate) chance: Chance,
    /// Whether new instances receive the new challenge.
    pub(crate) rotated: Arc<AtomicBool>,
    /// Whether the site is Puppet Enterprise, whose agents connect to the orchestrator.
    pub(crate) enterprise: bool,
    /// The extensions that each instance requests.
    pub(crate) required: &'static [(&'static str, &'static str)],
}

/// The root volume of an agent's instance.
#[derive(Default)]
struct Disk {
    key: Option<AgentKey>,
    identity: Option<AgentIdentity>,
    runs: u32,
    has_reported: bool,
    /// When its last run began.
    last_run: Option<Timestamp>,
}

/// Runs an agent for as long as its instance exists. It is off while the instance is stopped, and starts again without its previous key
/// on each new root volume.
pub(crate) async fn live(site: Site, life: Life) -> anyhow::Result<()> {
    let id = life.id();
    // An instance keeps the challenge that was valid when it was launched.
    let challenge = if site.rotated.load(Ordering::Relaxed) { ROTATED } else { CHALLENGE };
    let (mut disk, mut last) = (Disk::default(), None);
    let mut reported_late = false;
    let mut reboots = life.agent.reboots_s;
    while let Some(volume) = site.watch.volume(&id) {
        if !site.watch.is_on(&id) {
            if site.watch.is_gone(&id) && !std::mem::replace(&mut reported_late, true) {
                site.report_late(&life, &disk).await;
            }
            sleep(POWER_CHECK).await;
            continue;
        }
        if last.replace(volume) != Some(volume) {
            disk = Disk::default();
            site.watch.set(&id, |truth| {
                *truth = Truth {
                    volume,
                    key: None,
                    serial: None,
                    has_run: false,
                    first_run: None,
                    first_catalog: None,
                    ..truth.clone()
                }
            });
        }
        let off_or_replaced = async {
            while site.watch.volume(&id) == Some(volume) && site.watch.is_on(&id) {
                sleep(POWER_CHECK).await;
            }
        };
        // What is on the disk is kept, the run that is under way is not.
        let rebooted = async {
            match reboots {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = site.booted(&life, challenge, &mut disk) => ended?,
            () = off_or_replaced => {}
            () = rebooted => reboots = None,
        }
    }
    Ok(())
}

/// Runs the agent of a node that no schedule describes, such as the primary: one Puppet run every half hour, besides ordered runs.
pub(crate) async fn daemon(site: Site, certname: &'static str) -> anyhow::Result<()> {
    loop {
        let lock = site.puppet.run_lock(certname);
        let turn = lock.lock().await;
        let started = site.back.clock.now();
        sleep(Duration::from_secs(20)).await;
        site.puppet.report(certname, "unchanged", started);
        drop(turn);
        sleep(Duration::from_secs(1800)).await;
    }
}

/// Sends a request under the name of another instance.
pub(crate) async fn intrude(site: Site, stranger: Stranger) -> anyhow::Result<()> {
    sleep(Duration::from_secs(stranger.at_s)).await;
    let name = certname(stranger.name);
    let claims = stranger.claims.map(instance_id);
    // The stranger knows everything except the challenge.
    let asks = claims.map_or_else(CsrAttributes::default, |id| site.attributes(&id, "a guess"));
    let request = AgentKey::generate()?.signing_request(&name, &asks)?;
    site.submit(&name, &request).await;
    Ok(())
}

impl Site {
    /// The attributes of an instance's request.
    fn attributes(&self, id: &str, challenge: &str) -> CsrAttributes {
        CsrAttributes {
            instance_id: Some(id.to_owned()),
            extensions: self.required.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            challenge: Some(challenge.to_owned().into()),
            ..CsrAttributes::default()
        }
    }

    /// Runs an agent from the boot of its instance. Returns only on an error.
    async fn booted(&self, life: &Life, challenge: &str, disk: &mut Disk) -> anyhow::Result<()> {
        let (id, name, habits) = (life.id(), life.certname(), &life.agent);
        let pause = |seconds: u64| sleep(Duration::from_secs(seconds));
        pause(habits.boot_s).await;
        let began = self.back.clock.now();
        let identity = match disk.identity.clone() {
            Some(identity) => identity,
            None => self.enrol(life, challenge, disk).await?,
        };
        let mut waited = self.back.clock.now().duration_since(began);
        let serial = identity.serial()?;
        let mut facts = Puppet::agent_facts(&name, Some(&id), &identity)?;
        facts.insert("ec2_metadata".to_owned(), metadata(&id, REGIONS[life.region()]));
        let (watch, volume) = (self.watch.clone(), self.watch.volume(&id));
        let has_run = {
            let id = id.clone();
            move |status: &str| {
                if status != "failed" && watch.volume(&id) == volume {
                    let now = watch.now();
                    watch.set(&id, |truth| {
                        truth.has_run = truth.serial == Some(serial);
                        truth.first_run.get_or_insert(now);
                    });
                }
            }
        };
        // The first run sets up pxp-agent, which starts at boot from then on.
        let connect = |runs: u32| {
            let status = if runs < habits.failing_runs { "failed" } else { "changed" };
            self.enterprise.then(|| self.puppet.connect_agent(&name, status, facts.clone(), Arc::new(has_run.clone())))
        };
        let mut connection = if disk.runs > 0 { connect(disk.runs) } else { None };
        loop {
            let lock = self.puppet.run_lock(&name);
            let turn = lock.lock().await;
            let by_its_clock = || self.back.clock.now() + SignedDuration::from_secs(habits.clock_ahead_s);
            let started = by_its_clock();
            // Puppet refuses an agent whose certificate is revoked. What runs from a root volume that was replaced is gone.
            let accepted = || !self.puppet.is_revoked(serial) && self.watch.volume(&id) == volume;
            let compiles = self.reaches_puppet_server().await && self.stores_in_puppetdb().await;
            disk.last_run = accepted().then(|| self.back.clock.now()).or(disk.last_run);
            let begins = || self.puppet.agent_begins(&name, started, facts.clone()).ok();
            let run = (compiles && accepted()).then(begins).flatten();
            let run = run.map(|run| run.after_waiting(std::mem::take(&mut waited)));
            if run.is_some() {
                let now = self.watch.now();
                self.watch.set(&id, |truth| truth.first_catalog = truth.first_catalog.or(Some(now)));
            }
            // A compiler's run starts its PuppetDB, which waits for its database.
            let mut again = !compiles;
            let fails = again || run.is_some() && !self.puppet.starts_puppetdb(&name).await;
            pause(habits.run_s).await;
            let status = if fails || disk.runs < habits.failing_runs { "failed" } else { "changed" };
            disk.runs += u32::from(compiles);
            // A report that does not arrive is lost: the next run follows soon, as after a failed one.
            again |= !(self.reaches_puppet_server().await && self.stores_in_puppetdb().await);
            let ends = |run| self.puppet.agent_ends(&name, run, status, by_its_clock()).is_ok();
            if !again && accepted() && run.is_some_and(ends) {
                disk.has_reported = true;
                self.watch.set(&id, |truth| truth.has_reported = true);
                has_run(status);
            }
            drop(turn);
            // An ordered run has the same result as the next run of the agent's own.
            if connection.is_none() || status == "failed" {
                connection = connect(disk.runs);
            }
            pause(if again || status == "failed" { 120 } else { habits.interval_s }).await;
        }
    }

    /// Requests a certificate until there is one that matches the key.
    async fn enrol(&self, life: &Life, challenge: &str, disk: &mut Disk) -> anyhow::Result<AgentIdentity> {
        let (id, name, habits) = (life.id(), life.certname(), &life.agent);
        let key = match disk.key.clone() {
            Some(key) => key,
            None => disk.key.insert(AgentKey::generate()?).clone(),
        };
        self.watch.set(&id, |truth| truth.key = Some(key.print()));
        let request = key.signing_request(&name, &self.attributes(&id, challenge))?;
        let identity = loop {
            self.submit(&name, &request).await;
            if let Some(identity) = self.look(&name, &key).await? {
                break identity;
            }
            sleep(Duration::from_secs(habits.wait_for_cert_s)).await;
        };
        disk.identity = Some(identity.clone());
        let serial = identity.serial()?;
        self.watch.set(&id, |truth| truth.serial = Some(serial));
        if let Some(later) = habits.repeats_request_s {
            let (site, name) = (self.clone(), name.clone());
            tokio::spawn(async move {
                sleep(Duration::from_secs(later)).await;
                site.submit(&name, &request).await;
            });
        }
        Ok(identity)
    }

    /// If the schedule says so, delivers the last report of a terminated instance once more, as if it had been on its way all the time.
    /// PuppetDB then shows the node as active again. Its run began while Puppet accepted the instance's certificate.
    async fn report_late(&self, life: &Life, disk: &Disk) {
        let Some((later, began)) = life.agent.late_report_s.zip(disk.last_run.filter(|_| disk.has_reported)) else {
            return;
        };
        sleep(Duration::from_secs(later)).await;
        self.puppet.report(&life.certname(), "changed", began);
    }

    /// Whether Puppet Server answers an agent that asks for its catalog or sends its report.
    async fn reaches_puppet_server(&self) -> bool {
        self.answers("agent", "PUT /puppet/v3/*").await
    }

    /// Whether PuppetDB takes what Puppet Server sends it for an agent.
    async fn stores_in_puppetdb(&self) -> bool {
        self.answers(PUPPET_SERVER, "POST /pdb/cmd/v1").await
    }

    /// Whether this call succeeds, of which nothing but its faults is simulated.
    async fn answers(&self, service: &'static str, call: &str) -> bool {
        self.chance.delay().await;
        let call = Call { service, call: call.to_owned(), subject: None, caller: None, request: Value::Null };
        let hit = self.back.faults.strike(&call);
        sleep(Duration::from_millis(hit.delay_ms)).await;
        hit.failure.is_none()
    }

    async fn call(&self, method: Method, path: String, body: String) -> Option<(u16, Vec<u8>)> {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        headers.insert(
            http::header::USER_AGENT,
            http::HeaderValue::from_static("Puppet/8.10.0 Ruby/3.2.5-p208 (x86_64-linux)"),
        );
        let request = Request { method, path, query: Vec::new(), headers, body: body.into(), peer: None };
        self.chance.delay().await;
        let reply = carry_out(request, Arc::clone(&self.services.ca), self.back.clone()).await?;
        self.chance.delay().await;
        Some((reply.status().as_u16(), reply.body().to_vec()))
    }

    /// Sends a request. The CA may refuse it.
    async fn submit(&self, certname: &str, request: &str) {
        let path = format!("/puppet-ca/v1/certificate_request/{certname}");
        self.call(Method::PUT, path, request.to_owned()).await;
    }

    /// Returns the certificate on the CA if it matches the key.
    async fn look(&self, certname: &str, key: &AgentKey) -> anyhow::Result<Option<AgentIdentity>> {
        let path = format!("/puppet-ca/v1/certificate/{certname}");
        match self.call(Method::GET, path, String::new()).await {
            Some((200, pem)) => AgentIdentity::of(key, &pem),
            _ => Ok(None),
        }
    }
}
