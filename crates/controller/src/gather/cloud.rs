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
use stagedoor_lifecycle::observation::{Group, Hook, Machine, Reachable, Subject};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::{GroupName, InstanceId, deadline};

use super::{AT_ONCE, flat, unique, within};
use crate::case::Case;
use crate::door::Door;
use crate::reconcile::{HOOKS_RESERVE, Until};

/// How long what AWS said is good enough; the proof of a removal falls within it.
const CLOUD_KEPT: SignedDuration = SignedDuration::from_secs(30);
/// How long a group's history is read.
const LONGEST_HISTORY: Duration = Duration::from_secs(10);
/// More instances than one call takes ids.
const MANY: usize = 200;

/// Auto Scaling and EC2, side by side, for all cases whose view is not fresh; then who of them is ours to deal with.
pub(super) async fn look_at_aws(door: &Door, open: &mut [&mut Case], until: Until) {
    let now = door.clock.now();
    let old = |case: &Case| !matches!(&case.held, Some((_, at)) if now.duration_since(*at) < CLOUD_KEPT);
    let mut old: Vec<&mut Case> = open.iter_mut().map(|case| &mut **case).filter(|case| old(case)).collect();
    if old.is_empty() {
        return;
    }
    let groups: Vec<GroupName> = unique(old.iter().map(|case| &case.subject.group));
    let instances: Vec<InstanceId> = unique(old.iter().map(|case| &case.subject.instance));
    let started = Instant::now();
    let hooks = hooks_of(door, &groups, until);
    let (described, hooks, machines) = tokio::join!(
        within(door, until.work, "Auto Scaling", door.autoscaling.groups(&groups)),
        hooks,
        within(door, until.work, "EC2", machines(door, &groups, &instances)),
    );
    let took = started.elapsed();

    // Shared and by name: a set may be thousands in one group.
    let described: Result<BTreeMap<GroupName, Arc<Group>>, String> =
        flat(described).map(|groups| groups.into_iter().map(|group| (group.name.clone(), Arc::new(group))).collect());
    let machines = by_id(flat(machines));
    let hooks: BTreeMap<_, _> = groups.iter().zip(hooks.into_iter().map(flat)).collect();
    for case in &mut old {
        let Subject { instance, group, .. } = &case.subject;
        let cloud = CloudView {
            group: pick(&described, group),
            hooks: match &hooks[group] {
                Ok(hooks) => Reachable::Found(hooks.clone()),
                Err(trouble) => Reachable::Unreachable(trouble.clone()),
            },
            machine: pick(&machines, instance),
        };
        let shown = cloud.group.known().ok().flatten().and_then(|group| group.members.get(instance));
        let seen = shown.map_or_else(|| "not in the group".to_owned(), ToString::to_string);
        case.blind = None;
        match admit(&case.subject, &cloud, &|name| door.profile(name)) {
            Admission::Held(mut held) => {
                if let (Reachable::Unreachable(_), Some((before, _))) = (&cloud.hooks, &case.held) {
                    held.keep_times_of(before);
                }
                if case.held.is_none() {
                    let machine = cloud.machine.known().ok().flatten().map_or("unknown", |machine| &machine.state);
                    case.step(Stage::Seen, took, format!("Auto Scaling: {seen}; EC2: {machine}"));
                }
                case.held = Some((held, now));
            }
            Admission::Pass(reason) => {
                case.step(Stage::Seen, took, format!("Auto Scaling: {seen}"));
                case.ready = Some((ActionResult::Continue, reason));
            }
            Admission::Ignore(reason) => case.settle(Outcome::Ignored, reason),
            Admission::Refuse(reason) => case.settle(Outcome::Refused, reason),
            Admission::Fail(reason) => {
                // What it said before is still good for knowing when patience ends.
                case.blind = case.held.is_some().then(|| reason.clone());
                case.stands(Outcome::Failed, reason);
            }
        }
    }
}

/// The hooks of each of these groups.
pub(crate) async fn hooks_of(
    door: &Door,
    groups: &[GroupName],
    until: Until,
) -> Vec<Result<Result<Vec<Hook>, AwsError>, String>> {
    let asked = groups.iter().map(|group| within(door, until.work, "Auto Scaling", door.autoscaling.hooks(group)));
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

/// The one among the described that is asked for.
fn pick<K: Ord, T: Clone>(answer: &Result<BTreeMap<K, T>, String>, wanted: &K) -> Reachable<T> {
    match answer {
        Ok(all) => all.get(wanted).cloned().map_or(Reachable::Absent, Reachable::Found),
        Err(trouble) => Reachable::Unreachable(trouble.clone()),
    }
}

/// What EC2 knows, by instance.
pub(crate) fn by_id(machines: Result<Vec<Machine>, String>) -> Result<BTreeMap<InstanceId, Machine>, String> {
    Ok(machines?.into_iter().map(|machine| (machine.instance.clone(), machine)).collect())
}

/// The instances at EC2. Many are asked for by their groups; those that are not there by that are asked for by id.
async fn machines(door: &Door, groups: &[GroupName], instances: &[InstanceId]) -> Result<Vec<Machine>, AwsError> {
    if instances.len() <= MANY {
        return door.machines.machines(instances).await;
    }
    let mut machines = door.machines.machines_of(groups).await?;
    let found: BTreeSet<&InstanceId> = machines.iter().map(|machine| &machine.instance).collect();
    let missing: Vec<InstanceId> = instances.iter().filter(|id| !found.contains(id)).cloned().collect();
    machines.extend(door.machines.machines(&missing).await?);
    Ok(machines)
}

/// What EC2 says about instances that certificates and requests name.
pub(super) async fn owners(
    door: &Door,
    instances: &[InstanceId],
    until: Until,
) -> BTreeMap<InstanceId, Reachable<Machine>> {
    let machines = by_id(flat(within(door, until.work, "EC2", door.machines.machines(instances)).await));
    instances.iter().map(|id| (id.clone(), pick(&machines, id))).collect()
}

/// Asks Auto Scaling's activities when these actions began; those of which it answered.
pub(crate) async fn ask_when_it_began(door: &Door, cases: &mut [Case], which: &[usize], until: Until) -> Vec<usize> {
    let mut by_group: BTreeMap<GroupName, BTreeSet<(InstanceId, Transition)>> = BTreeMap::new();
    for &index in which {
        let Subject { group, instance, transition, .. } = &cases[index].subject;
        by_group.entry(group.clone()).or_default().insert((instance.clone(), *transition));
    }
    // With half of the time that is kept for the hooks: the answer decides how they are answered. A long history is not read to
    // its end while others wait.
    let by = deadline::before(until.calls, HOOKS_RESERVE / 2).min(deadline::after(door.clock.now(), LONGEST_HISTORY));
    let asked = by_group.iter().map(|(group, wanted)| async move {
        (group, within(door, by, "Auto Scaling", door.autoscaling.activities_began(group, wanted)).await)
    });
    let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
    let mut answered = Vec::new();
    for &index in which {
        let case = &mut cases[index];
        match answers.get(&case.subject.group) {
            Some(Ok(Ok(began))) => {
                // The newest activity may not be visible yet; of a launch EC2 knows better.
                let launched = case.held.as_ref().filter(|_| case.is_arriving()).and_then(|(held, _)| held.launched);
                let key = (case.subject.instance.clone(), case.subject.transition);
                let began = began.get(&key).copied().max(launched);
                case.subject.began = case.subject.began.confirm(began, door.clock.now());
                answered.push(index);
            }
            Some(Ok(Err(error))) => case.stands(Outcome::Failed, error.to_string()),
            Some(Err(late)) => case.stands(Outcome::Failed, late.clone()),
            None => {}
        }
    }
    answered
}
