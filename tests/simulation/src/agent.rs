//! Simulated agents: each is a task on simulated time that requests a certificate, runs Puppet and reports. No sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use stagedoor_lab_core::server::{Backstage, Request, carry_out};
use stagedoor_lab_puppet::agent_side::{AgentIdentity, AgentKey};
use stagedoor_lab_puppet::{CsrAttributes, Puppet};
use tokio::time::sleep;

use crate::network::Services;
use crate::schedule::{Life, Stranger, certname, instance_id};
use crate::watch::Watch;

/// The `challengePassword` of instances that are launched before the challenge is replaced.
pub(crate) const CHALLENGE: &str = "the challenge that instances are given";

/// The challenge that replaces [`CHALLENGE`].
pub(crate) const ROTATED: &str = "the challenge of the next year";

/// The interval at which the root volume of an agent's instance is checked.
const VOLUME_CHECK: Duration = Duration::from_secs(5);

/// Shared context of all agents.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) puppet: Puppet,
    pub(crate) services: Arc<Services>,
    pub(crate) back: Backstage,
    pub(crate) watch: Watch,
    /// Whether new instances receive the new challenge.
    pub(crate) rotated: Arc<AtomicBool>,
}

/// Runs an agent for as long as its instance exists. The agent starts again on each new root volume, without its previous key.
pub(crate) async fn live(site: Site, life: Life) -> anyhow::Result<()> {
    let id = life.id();
    while let Some(volume) = site.watch.volume(&id) {
        site.watch
            .set(&id, |truth| (truth.key, truth.serial, truth.has_run, truth.volume) = (None, None, false, volume));
        let replaced = async {
            while site.watch.volume(&id) == Some(volume) {
                sleep(VOLUME_CHECK).await;
            }
        };
        tokio::select! {
            biased;
            ended = on_volume(site.clone(), life.clone()) => return ended,
            () = replaced => {}
        }
    }
    Ok(())
}

async fn on_volume(site: Site, life: Life) -> anyhow::Result<()> {
    let (id, name, habits) = (life.id(), life.certname(), &life.agent);
    let pause = |seconds: u64| sleep(Duration::from_secs(seconds));
    let on = || site.watch.is_on(&id);
    // An instance keeps the challenge that was valid when it was launched.
    let challenge = if site.rotated.load(Ordering::Relaxed) { ROTATED } else { CHALLENGE };
    pause(habits.boot_s).await;
    let key = AgentKey::generate()?;
    site.watch.set(&id, |truth| truth.key = Some(key.print()));
    let request = key.signing_request(&name, &attributes(&id, challenge))?;
    let identity = loop {
        if !on() {
            return Ok(());
        }
        site.submit(&name, &request).await;
        if let Some(identity) = site.look(&name, &key).await? {
            break identity;
        }
        pause(habits.wait_for_cert_s).await;
    };
    let serial = identity.serial()?;
    site.watch.set(&id, |truth| truth.serial = Some(serial));
    if let Some(later) = habits.repeats_request_s {
        let (site, name) = (site.clone(), name.clone());
        tokio::spawn(async move {
            sleep(Duration::from_secs(later)).await;
            site.submit(&name, &request).await;
        });
    }
    let mut runs = 0;
    loop {
        let started = site.back.clock.now();
        pause(habits.run_s).await;
        if !on() {
            return Ok(());
        }
        let status = if runs < habits.failing_runs { "failed" } else { "changed" };
        runs += 1;
        let facts = Puppet::agent_facts(&name, Some(&id), &identity)?;
        // Puppet refuses an agent whose certificate is revoked.
        if !site.puppet.is_revoked(serial)
            && site.puppet.agent_ran(&name, status, started, facts).is_ok()
            && status == "changed"
        {
            site.watch.set(&id, |truth| truth.has_run = true);
        }
        pause(if status == "failed" { 120 } else { habits.interval_s }).await;
    }
}

/// Sends a request under the name of another instance.
pub(crate) async fn intrude(site: Site, stranger: Stranger) -> anyhow::Result<()> {
    sleep(Duration::from_secs(stranger.at_s)).await;
    let name = certname(stranger.name);
    let claims = stranger.claims.map(instance_id);
    // The stranger knows everything except the challenge.
    let asks = claims.map_or_else(CsrAttributes::default, |id| attributes(&id, "a guess"));
    let request = AgentKey::generate()?.signing_request(&name, &asks)?;
    site.submit(&name, &request).await;
    Ok(())
}

/// The attributes of an instance's request.
pub(crate) fn attributes(id: &str, challenge: &str) -> CsrAttributes {
    CsrAttributes {
        instance_id: Some(id.to_owned()),
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        challenge: Some(challenge.to_owned().into()),
        ..CsrAttributes::default()
    }
}

impl Site {
    async fn call(&self, method: Method, path: String, body: String) -> Option<(u16, Vec<u8>)> {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        headers.insert(
            http::header::USER_AGENT,
            http::HeaderValue::from_static("Puppet/8.10.0 Ruby/3.2.5-p208 (x86_64-linux)"),
        );
        let request = Request { method, path, query: Vec::new(), headers, body: body.into(), peer: None };
        let reply = carry_out(request, Arc::clone(&self.services.ca), self.back.clone()).await?;
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
