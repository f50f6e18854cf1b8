//! Deletes pending certificate requests of instances that are terminated, as far as the mode and the time allow. I/O.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stagedoor_lifecycle::orphans::{Cloud, PendingRequest, Rules};
use stagedoor_lifecycle::profile::Profile;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_types::{Group, InstanceId, Service, Trouble};

use super::{Outcome, observe_mode, report_mode};
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
    outcome: Outcome,
    /// What was done, or went wrong.
    result: Fact,
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
        let (outcome, result) = match permit {
            None if mode.write_permit().is_none() => (Outcome::Found, observe_mode()),
            None => (Outcome::Found, report_mode()),
            // The next housekeeping goes on.
            Some(_) if run.now() >= run.budget.passes => break,
            Some(permit) => {
                let writer = puppet.writer(permit);
                match delete_request(run, &writer, &request.certname, &request.key_print).await {
                    Ok(Deletion::Done) => (Outcome::Removed, Fact::new(Code::InstanceTerminated, "deleted")),
                    Ok(Deletion::Changed | Deletion::LeftToTheSweep) => continue,
                    Err(trouble) => (Outcome::Failed, trouble.into()),
                }
            }
        };
        let PendingRequest { certname, instance, .. } = &request;
        let what = "a certificate request of an instance that EC2 says is terminated";
        let (word, code, text) = (outcome.as_str(), result.code.as_str(), &result.text);
        if outcome == Outcome::Failed {
            tracing::error!(%instance, %certname, outcome = word, code, "{what}: {text}");
        } else {
            tracing::info!(%instance, %certname, outcome = word, code, "{what}: {text}");
        }
        dealt.push(Dealt { request, outcome, result });
    }
    Ok(dealt)
}

impl Dealt {
    /// For the answer of the invocation.
    pub(super) fn payload(&self) -> Value {
        let PendingRequest { certname, instance, .. } = &self.request;
        let error = (self.outcome == Outcome::Failed).then_some(&self.result.text);
        let (outcome, code) = (self.outcome.as_str(), self.result.code);
        json!({"certname": certname, "instance_id": instance, "outcome": outcome, "code": code, "error": error})
    }
}
