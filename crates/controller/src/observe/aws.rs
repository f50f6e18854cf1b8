//! What Auto Scaling and EC2 say. Reads only, once per batch wherever one call answers for all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use stagedoor_aws::Error as AwsError;
use stagedoor_aws::autoscaling::Groups;
use stagedoor_lifecycle::admission::CloudView;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_types::{ActionKey, Group, GroupName, Hook, InstanceId, Lookup, Machine, Service, Transition, Trouble};

use crate::budget::HOOKS_RESERVE;
use crate::call::{AT_ONCE, call, unique};
use crate::context::{Context, Run};
use crate::snapshot::AwsSnapshot;

/// How long a group's history is read.
const LONGEST_HISTORY: Duration = Duration::from_secs(10);
/// The longest wait for EC2. Heartbeats are sent only once AWS has been observed, and without EC2 they can be.
const LONGEST_DESCRIPTION: Duration = Duration::from_secs(30);
/// More instances than one call takes ids.
const MANY: usize = 200;

/// Asks Auto Scaling and EC2, side by side, about all these actions.
pub(crate) async fn aws(run: Run<'_>, actions: Vec<LifecycleAction>) -> AwsSnapshot {
    let Run { context, budget, .. } = run;
    let at = context.clock.now();
    if actions.is_empty() {
        return AwsSnapshot { at, took: Duration::ZERO, views: BTreeMap::new() };
    }
    let groups: Vec<GroupName> = unique(actions.iter().map(|action| &action.group));
    let instances: Vec<InstanceId> = unique(actions.iter().map(|action| &action.instance));
    let started = context.clock.now();
    let until = deadline::after(started, LONGEST_DESCRIPTION).min(budget.work);
    let (described, hooks, machines) = tokio::join!(
        call(context, budget.work, Service::AutoScaling, context.autoscaling.groups(&groups)),
        hooks_of(run, &groups),
        call(context, until, Service::Ec2, machines(context, &groups, &instances)),
    );
    let took = context.clock.since(started);

    // Shared and by name: a batch may be thousands in one group.
    let described = described.map(Described::from);
    let machines = by_id(machines);
    let hooks: BTreeMap<_, _> = groups.iter().zip(hooks).collect();
    let view = |action: LifecycleAction| {
        let view = CloudView {
            group: group_of(&described, &action),
            hooks: match hooks.get(&action.group) {
                Some(Ok(hooks)) => Lookup::Found(hooks.clone()),
                Some(Err(trouble)) => Lookup::Unavailable(trouble.clone()),
                None => Lookup::Absent,
            },
            machine: pick(&machines, &action.instance),
        };
        (action.key(), view)
    };
    AwsSnapshot { at, took, views: actions.into_iter().map(view).collect() }
}

/// The groups by name.
pub(crate) struct Described {
    groups: BTreeMap<GroupName, Arc<Group>>,
    unread_pools: BTreeMap<GroupName, AwsError>,
}

impl From<Groups> for Described {
    fn from(Groups { known, unread_pools }: Groups) -> Self {
        let groups = known.into_iter().map(|group| (group.name.clone(), Arc::new(group))).collect();
        Self { groups, unread_pools }
    }
}

/// The group of an action. Where its warm pool could not be read, it is unavailable to an instance that it does not show elsewhere.
pub(crate) fn group_of(described: &Result<Described, Trouble>, action: &LifecycleAction) -> Lookup<Arc<Group>> {
    let described = match described {
        Ok(described) => described,
        Err(trouble) => return Lookup::Unavailable(trouble.clone()),
    };
    match (described.groups.get(&action.group), described.unread_pools.get(&action.group)) {
        (None, _) => Lookup::Absent,
        (Some(group), Some(error)) if !group.members.contains_key(&action.instance) => {
            Lookup::Unavailable(Trouble::of(Service::AutoScaling, error))
        }
        (Some(group), _) => Lookup::Found(group.clone()),
    }
}

/// The hooks of each of these groups.
pub(crate) async fn hooks_of(run: Run<'_>, groups: &[GroupName]) -> Vec<Result<Vec<Hook>, Trouble>> {
    let Run { context, budget, .. } = run;
    let asked =
        groups.iter().map(|group| call(context, budget.work, Service::AutoScaling, context.autoscaling.hooks(group)));
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

/// The one among the described that is asked for.
fn pick<K: Ord, T: Clone>(answer: &Result<BTreeMap<K, T>, Trouble>, wanted: &K) -> Lookup<T> {
    match answer {
        Ok(all) => all.get(wanted).cloned().map_or(Lookup::Absent, Lookup::Found),
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
    }
}

/// What EC2 knows, by instance.
pub(crate) fn by_id(machines: Result<Vec<Machine>, Trouble>) -> Result<BTreeMap<InstanceId, Machine>, Trouble> {
    Ok(machines?.into_iter().map(|machine| (machine.instance.clone(), machine)).collect())
}

/// The instances at EC2. Many are asked for by their groups; those that are not there by that are asked for by id.
async fn machines(context: &Context, groups: &[GroupName], instances: &[InstanceId]) -> Result<Vec<Machine>, AwsError> {
    if instances.len() <= MANY {
        return context.machines.machines(instances).await;
    }
    let mut machines = context.machines.machines_of(groups).await?;
    let found: BTreeSet<&InstanceId> = machines.iter().map(|machine| &machine.instance).collect();
    let missing: Vec<InstanceId> = instances.iter().filter(|id| !found.contains(id)).cloned().collect();
    machines.extend(context.machines.machines(&missing).await?);
    Ok(machines)
}

/// What EC2 says about instances that certificates and requests name.
pub(super) async fn owners(run: Run<'_>, instances: &[InstanceId]) -> BTreeMap<InstanceId, Lookup<Machine>> {
    let Run { context, budget, .. } = run;
    let machines = by_id(call(context, budget.work, Service::Ec2, context.machines.machines(instances)).await);
    instances.iter().map(|id| (id.clone(), pick(&machines, id))).collect()
}

/// When these actions began, by Auto Scaling's activities; `None` for those of which it has none.
pub(crate) async fn starts(
    run: Run<'_>,
    actions: &[LifecycleAction],
) -> BTreeMap<ActionKey, Result<Option<Timestamp>, Trouble>> {
    let Run { context, budget, .. } = run;
    let mut by_group: BTreeMap<GroupName, BTreeSet<(InstanceId, Transition)>> = BTreeMap::new();
    for LifecycleAction { group, instance, transition, .. } in actions {
        by_group.entry(group.clone()).or_default().insert((instance.clone(), *transition));
    }
    // With half of the time that is reserved for completing actions: the answer decides how they are completed. A long history
    // is not read to its end while others wait.
    let by =
        deadline::before(budget.calls, HOOKS_RESERVE / 2).min(deadline::after(context.clock.now(), LONGEST_HISTORY));
    let asked = by_group.iter().map(|(group, wanted)| async move {
        (group, call(context, by, Service::AutoScaling, context.autoscaling.activities_began(group, wanted)).await)
    });
    let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
    let start = |action: &LifecycleAction| {
        let answer = answers.get(&action.group)?.as_ref();
        let recorded = answer.map(|began| began.get(&(action.instance.clone(), action.transition)).copied());
        Some((action.key(), recorded.map_err(Clone::clone)))
    };
    actions.iter().filter_map(start).collect()
}
