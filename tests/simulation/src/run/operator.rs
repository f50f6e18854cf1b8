//! What operators and the servers of a site do while a schedule runs.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use stagedoor_lab_core::faults::Fault;
use stagedoor_lab_puppet::{RunScript, TokenState};
use tokio::time::sleep;

use super::World;
use super::region::Region;
use crate::agent::{CHALLENGE, PUPPET_SERVER, ROTATED};
use crate::scene::{SECRET, TOKEN};
use crate::schedule::Outage;
use crate::watch::PRIMARY;

/// The RBAC token that replaces the one that has expired.
const NEXT_TOKEN: &str = "the token of the next secret";

impl World {
    /// Replaces the challenge. Instances that were launched before keep the old one.
    pub(super) async fn rotate(self: Rc<Self>, at_s: u64) -> anyhow::Result<()> {
        sleep(Duration::from_secs(at_s)).await;
        self.note("the secret is rotated");
        self.edit_secret(|secret| {
            secret["challenge"] = ROTATED.into();
            secret["previous_challenge"] = CHALLENGE.into();
        })?;
        self.site.rotated.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the RBAC token expire, and puts a new one into the secret later.
    pub(super) async fn expire_token(self: Rc<Self>, at_s: u64, later_s: u64) -> anyhow::Result<()> {
        self.until(at_s).await;
        self.note("the token expires");
        let tokens = [(TOKEN, TokenState::Expired), (NEXT_TOKEN, TokenState::for_controller())];
        let tokens = tokens.map(|(token, state)| (token.to_owned(), state));
        self.puppet.configure(|options| options.rbac_tokens = Some(tokens.into()));
        self.until(at_s + later_s).await;
        self.note("the secret has a new token");
        self.edit_secret(|secret| secret["rbac_token"] = NEXT_TOKEN.into())
    }

    /// Makes a service unavailable for some time.
    pub(super) async fn fail(self: Rc<Self>, outage: Outage) -> anyhow::Result<()> {
        let Outage { service, kind, from_s, lasts_s } = outage;
        // The controller is not the only one that cannot reach it.
        let of_agents = match service.as_str() {
            "ca" => Some("agent"),
            "puppetdb" => Some(PUPPET_SERVER),
            _ => None,
        };
        let fault = |service: &str| {
            let (service, call) = (service.to_owned(), "*".to_owned());
            Fault { service, call, nth: None, subject: None, kind: kind.clone() }
        };
        let faults: Vec<Fault> = [Some(service.as_str()), of_agents].into_iter().flatten().map(fault).collect();
        self.until(from_s).await;
        self.note(&format!("{service} is unavailable"));
        for fault in &faults {
            self.site.back.faults.add(fault.clone());
        }
        sleep(Duration::from_secs(lasts_s)).await;
        self.note(&format!("{service} is available again"));
        for fault in &faults {
            self.site.back.faults.remove(fault);
        }
        Ok(())
    }

    fn edit_secret(&self, edit: impl Fn(&mut Value)) -> anyhow::Result<()> {
        for Region { aws, .. } in &self.regions {
            let Some(secret) = aws.secret(SECRET) else { bail!("the secret is gone") };
            let mut secret = serde_json::from_str(secret.expose_secret())?;
            edit(&mut secret);
            aws.put_secret(SECRET, secret.to_string().into());
        }
        Ok(())
    }

    /// Makes the Puppet runs of the primary behave as the schedule says.
    pub(super) async fn direct_primary(self: Rc<Self>, scripts: Vec<(u64, RunScript)>) -> anyhow::Result<()> {
        for (at_s, script) in scripts {
            self.until(at_s).await;
            self.note(&format!("from now on, the runs of the primary go like this: {script:?}"));
            self.puppet.script(PRIMARY, script);
        }
        Ok(())
    }
}
