//! Orders Puppet runs of refresh targets that have not run since the newest deactivation: the order of a termination was lost, or none
//! was given because another one was given just before. I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::orphans::{Cloud, Rules};
use stagedoor_lifecycle::profile::Profile;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::refresh::{Overdue, overdue};
use stagedoor_puppet::JobId;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{Certname, Group, Location, Mode, Service, Trouble, WritePermit};

use crate::apply::order_overdue;
use crate::call::{call, unique};
use crate::context::{Puppet, Run};
use crate::observe::{orphans::listed, target_views};

/// Older deactivations are left alone: every target has run by itself since.
const LOOKED_BACK: Duration = Duration::from_secs(86_400);
/// How many of the newest deactivations are read.
const READ: usize = 5_000;
/// For each profile, how many of the newest deactivations whose names fit the profile are examined to find one that belongs to it.
const EXAMINED: usize = 50;

/// The targets that were ordered to run, with the job.
#[derive(Debug)]
pub(super) struct Ordered {
    names: Vec<Certname>,
    job: JobId,
}

/// Looks for targets that have not run since the newest deactivation of a name of their profile, in this account and Region, and orders
/// them to run; one order for all of them. Where nothing was deactivated, that costs one query.
pub(super) async fn check(
    run: Run<'_>,
    puppet: &Puppet,
    groups: &[Group],
    every: Duration,
) -> Result<Option<Ordered>, Trouble> {
    if is_broken(Rule::LostOrders) {
        return Ok(None);
    }
    let refreshing = |profile: &&Profile| profile.mode == Mode::Act && !profile.refresh.is_empty();
    let profiles = run.context.config.profiles.values().map(AsRef::as_ref);
    let profiles: Vec<&Profile> = profiles.filter(refreshing).collect();
    let permit = profiles.first().and_then(|profile| profile.mode.write_permit());
    let (Some(permit), true, Ok(home)) = (permit, puppet.orchestrator.is_some(), Cloud::home(groups)) else {
        return Ok(None);
    };
    let changes = newest_deactivations(run, puppet, &profiles, home).await?;
    let mut overdue_targets: Vec<Overdue> = Vec::new();
    if !changes.is_empty() {
        let views = target_views(run, puppet, &changes).await.views;
        for (name, change) in &changes {
            let view: Vec<_> = views.get(name).cloned().into_iter().collect();
            overdue_targets.extend(overdue(&view, *change, every, run.now()));
        }
    }
    order(run, puppet, permit, overdue_targets).await
}

async fn order(
    run: Run<'_>,
    puppet: &Puppet,
    permit: WritePermit,
    targets: Vec<Overdue>,
) -> Result<Option<Ordered>, Trouble> {
    let Some(due) = targets.iter().map(|target| target.due).max() else { return Ok(None) };
    let names: Vec<Certname> = targets.into_iter().map(|target| target.certname).collect();
    let job = order_overdue(run, &puppet.writer(permit), &names, due).await?;
    tracing::info!(code = Code::RefreshOrdered.as_str(), %job, targets = names.len(), "ordered a Puppet run of refresh targets that have not run since the newest deactivation");
    Ok(Some(Ordered { names, job }))
}

/// For each target, the newest deactivation that it must learn of.
async fn newest_deactivations(
    run: Run<'_>,
    puppet: &Puppet,
    profiles: &[&Profile],
    home: &Location,
) -> Result<BTreeMap<Certname, Timestamp>, Trouble> {
    let since = deadline::before(run.now(), LOOKED_BACK);
    let deactivated = puppet.puppetdb.deactivated_since(since, READ);
    let deactivated = call(run.context, run.budget.work, Service::PuppetDb, deactivated).await?;
    let may_be_of = |profile: &Profile, name: &Certname| {
        puppet.protected.protects(name).is_none() && profile.certname.could_be(name)
    };
    let newest_of = |profile: &&Profile| {
        let names = deactivated.iter().map(|(name, _)| name).filter(|name| may_be_of(profile, name));
        names.take(EXAMINED).collect::<Vec<_>>()
    };
    let names: Vec<Certname> = unique(profiles.iter().flat_map(newest_of));
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let identities = puppet.puppetdb.identities(&names);
    let known = call(run.context, run.budget.work, Service::PuppetDb, identities).await?;
    let mut changes = BTreeMap::new();
    for profile in profiles {
        let limits = run.context.config.housekeeping.limits;
        let rules = Rules { profiles: std::slice::from_ref(profile), protected: &puppet.protected, limits };
        let is_its = |name: &Certname| {
            let known = known.iter().find(|known| known.certname == *name);
            known.is_some_and(|known| {
                let here = known.account.as_ref().is_none_or(|account| *account == home.account)
                    && known.region.as_ref().is_none_or(|region| *region == home.region);
                // A profile that requires no extension does not distinguish its nodes from others. An unnecessary run does no harm.
                let told = !rules.can_tell() || listed(known).is_some_and(|listed| rules.is_ours(&listed));
                here && may_be_of(profile, name) && told
            })
        };
        let Some((_, newest)) = deactivated.iter().find(|(name, _)| is_its(name)) else { continue };
        for target in profile.refresh.targets() {
            let change = changes.entry(target.clone()).or_insert(*newest);
            *change = (*change).max(*newest);
        }
    }
    Ok(changes)
}

impl Ordered {
    /// For the answer of the invocation.
    pub(super) fn payload(&self) -> Value {
        json!({"targets": self.names, "job": self.job.as_str(), "code": Code::RefreshOrdered})
    }
}
