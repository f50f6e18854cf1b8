//! What Auto Scaling and EC2 say. Reads only, once per set wherever one call answers for all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use jiff::SignedDuration;
use stagedoor_aws::Error as AwsError;
use stagedoor_lifecycle::admission::{Admission, CloudView, admit};
use stagedoor_lifecycle::event::Transition;
use stagedoor_lifecycle::observation::{Group, Hook, LifecycleAction, Lookup, Machine, Service, Trouble};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::reason::Fact;
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::{GroupName, InstanceId, deadline};

use crate::batch::WorkItem;
use crate::budget::{Budget, HOOKS_RESERVE};
use crate::call::{AT_ONCE, call, unique};
use crate::context::Context;

/// How long what AWS said is good enough; the proof of a removal falls within it.
const CLOUD_KEPT: SignedDuration = SignedDuration::from_secs(30);
/// How long a group's history is read.
const LONGEST_HISTORY: Duration = Duration::from_secs(10);
/// More instances than one call takes ids.
const MANY: usize = 200;

/// Auto Scaling and EC2, side by side, for all cases whose view is not fresh; then who of them is ours to deal with.
pub(super) async fn look_at_aws(context: &Context, open: &mut [&mut WorkItem], budget: Budget) {
    let now = context.clock.now();
    let old = |item: &WorkItem| !matches!(&item.held, Some((_, at)) if now.duration_since(*at) < CLOUD_KEPT);
    let mut old: Vec<&mut WorkItem> = open.iter_mut().map(|item| &mut **item).filter(|item| old(item)).collect();
    if old.is_empty() {
        return;
    }
    let groups: Vec<GroupName> = unique(old.iter().map(|item| &item.action.group));
    let instances: Vec<InstanceId> = unique(old.iter().map(|item| &item.action.instance));
    let started = Instant::now();
    let hooks = hooks_of(context, &groups, budget);
    let (described, hooks, machines) = tokio::join!(
        call(context, budget.work, Service::AutoScaling, context.autoscaling.groups(&groups)),
        hooks,
        call(context, budget.work, Service::Ec2, machines(context, &groups, &instances)),
    );
    let took = started.elapsed();

    // Shared and by name: a set may be thousands in one group.
    let described: Result<BTreeMap<GroupName, Arc<Group>>, Trouble> =
        described.map(|groups| groups.into_iter().map(|group| (group.name.clone(), Arc::new(group))).collect());
    let machines = by_id(machines);
    let hooks: BTreeMap<_, _> = groups.iter().zip(hooks).collect();
    for item in &mut old {
        let LifecycleAction { instance, group, .. } = &item.action;
        let cloud = CloudView {
            group: pick(&described, group),
            hooks: match &hooks[group] {
                Ok(hooks) => Lookup::Found(hooks.clone()),
                Err(trouble) => Lookup::Unavailable(trouble.clone()),
            },
            machine: pick(&machines, instance),
        };
        let shown = cloud.group.known().ok().flatten().and_then(|group| group.members.get(instance));
        let seen = shown.map_or_else(|| "not in the group".to_owned(), ToString::to_string);
        item.blind = None;
        match admit(&item.action, &cloud, &|name| context.profile(name)) {
            Admission::Ours(mut held) => {
                if let (Lookup::Unavailable(_), Some((before, _))) = (&cloud.hooks, &item.held) {
                    held.keep_times_of(before);
                }
                if item.held.is_none() {
                    let machine = cloud.machine.known().ok().flatten().map_or("unknown", |machine| &machine.state);
                    item.step(Stage::Seen, took, format!("Auto Scaling: {seen}; EC2: {machine}"));
                }
                item.held = Some((held, now));
            }
            Admission::Pass(reason) => {
                item.step(Stage::Seen, took, format!("Auto Scaling: {seen}"));
                item.ready = Some((ActionResult::Continue, reason.into()));
            }
            Admission::Ignore(reason) => item.finish(Outcome::Ignored, reason),
            Admission::Refuse(reason) => item.finish(Outcome::Refused, reason),
            Admission::Fail(reason) => {
                // What it said before still says when the timeout expires.
                item.blind = item.held.is_some().then(|| reason.clone());
                item.set_status(Outcome::Failed, reason);
            }
        }
    }
}

/// The hooks of each of these groups.
pub(crate) async fn hooks_of(
    context: &Context,
    groups: &[GroupName],
    budget: Budget,
) -> Vec<Result<Vec<Hook>, Trouble>> {
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
pub(super) async fn owners(
    context: &Context,
    instances: &[InstanceId],
    budget: Budget,
) -> BTreeMap<InstanceId, Lookup<Machine>> {
    let machines = by_id(call(context, budget.work, Service::Ec2, context.machines.machines(instances)).await);
    instances.iter().map(|id| (id.clone(), pick(&machines, id))).collect()
}

/// Asks Auto Scaling's activities when these actions began; those of which it answered.
pub(crate) async fn ask_when_it_began(
    context: &Context,
    items: &mut [WorkItem],
    which: &[usize],
    budget: Budget,
) -> Vec<usize> {
    let mut by_group: BTreeMap<GroupName, BTreeSet<(InstanceId, Transition)>> = BTreeMap::new();
    for &index in which {
        let LifecycleAction { group, instance, transition, .. } = &items[index].action;
        by_group.entry(group.clone()).or_default().insert((instance.clone(), *transition));
    }
    // With half of the time that is kept for the hooks: the answer decides how they are answered. A long history is not read to
    // its end while others wait.
    let by =
        deadline::before(budget.calls, HOOKS_RESERVE / 2).min(deadline::after(context.clock.now(), LONGEST_HISTORY));
    let asked = by_group.iter().map(|(group, wanted)| async move {
        (group, call(context, by, Service::AutoScaling, context.autoscaling.activities_began(group, wanted)).await)
    });
    let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
    let mut answered = Vec::new();
    for &index in which {
        let item = &mut items[index];
        match answers.get(&item.action.group) {
            Some(Ok(began)) => {
                // The newest activity may not be visible yet; of a launch EC2 knows better.
                let launched = item.held.as_ref().filter(|_| item.is_launching()).and_then(|(held, _)| held.launched);
                let key = (item.action.instance.clone(), item.action.transition);
                let began = began.get(&key).copied().max(launched);
                item.action.began = item.action.began.confirm(began, context.clock.now());
                answered.push(index);
            }
            Some(Err(trouble)) => item.set_status(Outcome::Failed, Fact::from(trouble)),
            None => {}
        }
    }
    answered
}
