//! Deletes pending certificate requests of instances that are terminated, as far as the mode and the time allow. I/O.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stagedoor_lifecycle::orphans::{Cloud, PendingRequest, Rules};
use stagedoor_lifecycle::profile::Profile;
use stagedoor_types::{Group, InstanceId, Service, Trouble};

use crate::apply::{Deletion, delete_request};
use crate::call::{call, unique};
use crate::config::OrphanMode;
use crate::context::{Puppet, Run};
use crate::observe::by_id;
use crate::observe::requests::requests;

/// A request of a terminated instance, and what was done about it.
#[derive(Debug)]
pub(super) struct Dealt {
    request: PendingRequest,
    outcome: &'static str,
    /// What went wrong.
    trouble: Option<Trouble>,
}

/// Looks for such requests and deletes them. An error means that nothing was touched.
pub(super) async fn check(run: Run<'_>, puppet: &Puppet, groups: Vec<Group>, turn: i64) -> Result<Vec<Dealt>, Trouble> {
    let config = &run.context.config;
    let profiles: Vec<&Profile> = config.profiles.values().map(AsRef::as_ref).collect();
    let limits = config.housekeeping.limits;
    let rules = Rules { profiles: &profiles, protected: &puppet.protected, limits };
    let pending = requests(run, puppet, &rules, turn).await?;
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    let instances: Vec<InstanceId> = unique(pending.iter().map(|request| &request.instance));
    let asked = run.context.machines.machines(&instances);
    let machines: BTreeMap<_, _> = by_id(call(run.context, run.budget.work, Service::Ec2, asked).await)?;
    let cloud = Cloud { groups, machines };
    let mut dealt = Vec::new();
    for request in pending {
        let Some(mode) = rules.may_delete(&request, &cloud) else { continue };
        let permit = mode.write_permit().filter(|_| config.housekeeping.orphans == OrphanMode::Purge);
        let (outcome, trouble) = match permit {
            None => ("found", None),
            // The next housekeeping goes on.
            Some(_) if run.now() >= run.budget.passes => break,
            Some(permit) => {
                let writer = puppet.writer(permit);
                match delete_request(run, &writer, &request.certname, &request.key_print).await {
                    Ok(Deletion::Done) => ("removed", None),
                    Ok(Deletion::Changed | Deletion::LeftToTheSweep) => continue,
                    Err(trouble) => ("failed", Some(trouble)),
                }
            }
        };
        let PendingRequest { certname, instance, .. } = &request;
        let what = "a certificate request of an instance that EC2 says is terminated";
        if let Some(trouble) = &trouble {
            tracing::error!(%instance, %certname, outcome, "{what}: {trouble}");
        } else {
            tracing::info!(%instance, %certname, outcome, "{what}");
        }
        dealt.push(Dealt { request, outcome, trouble });
    }
    Ok(dealt)
}

impl Dealt {
    /// For the answer of the invocation.
    pub(super) fn payload(&self) -> Value {
        let PendingRequest { certname, instance, .. } = &self.request;
        let error = self.trouble.as_ref().map(|trouble| &trouble.text);
        json!({"certname": certname, "instance_id": instance, "outcome": self.outcome, "error": error})
    }
}
