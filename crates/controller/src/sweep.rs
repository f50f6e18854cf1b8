//! The sweep: finds every instance that waits at a hook of ours, whether its event came or not, and deals with all of
//! them as one set.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stagedoor_lifecycle::event::{Place, Transition};
use stagedoor_lifecycle::observation::{Began, Group, LifecycleState, Subject};
use stagedoor_lifecycle::profile::PROFILE_TAG;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};
use stagedoor_lifecycle::{HookName, InstanceId, deadline};

use crate::door::Door;
use crate::gather::within;
use crate::housekeeping::{self, Kept};
use crate::reconcile::{Until, reconcile};

/// Between two looks for instances that began to wait meanwhile.
const PAUSE: Duration = Duration::from_secs(5);

/// What a sweep ended with.
pub(crate) struct Swept {
    pub(crate) receipts: Vec<Receipt>,
    /// What came of the housekeeping, where it was due.
    pub(crate) kept: Option<Kept>,
}

/// Deals with everybody who waits; then, every few minutes, with the house.
pub(crate) async fn sweep(door: &Door, until: Until) -> Swept {
    let now = door.clock.now();
    if !housekeeping::is_due(door, now) {
        let (receipts, _) = Box::pin(deal_with_the_waiting(door, until)).await;
        return Swept { receipts, kept: None };
    }
    let for_the_waiting = housekeeping::less_what_is_kept(until, now);
    let (receipts, groups) = Box::pin(deal_with_the_waiting(door, for_the_waiting)).await;
    let kept = Some(Box::pin(housekeeping::housekeep(door, groups, until)).await);
    Swept { receipts, kept }
}

/// Deals with everybody who waits until nobody does or the time is up. Where nobody does, that costs one call. Also tells
/// the groups as they were last seen.
async fn deal_with_the_waiting(door: &Door, until: Until) -> (Vec<Receipt>, Result<Vec<Group>, String>) {
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut dealt_with: BTreeSet<(InstanceId, HookName)> = BTreeSet::new();
    let groups = loop {
        let groups = match opted_in(door, until).await {
            Ok(groups) => groups,
            Err(trouble) => {
                tracing::error!("the sweep could not see who waits: {trouble}");
                if deadline::after(door.clock.now(), PAUSE) >= until.passes {
                    break Err(trouble);
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let subjects = match waiting(door, &groups, until).await {
            Ok(subjects) => subjects,
            Err(trouble) => {
                tracing::error!("the sweep could not see who waits: {trouble}");
                break Ok(groups);
            }
        };
        let key = |subject: &Subject| (subject.instance.clone(), subject.hook.clone());
        // Whoever was answered may be shown as waiting for a little longer.
        let new: Vec<Subject> = subjects.into_iter().filter(|subject| !dealt_with.contains(&key(subject))).collect();
        if new.is_empty() {
            break Ok(groups);
        }
        let is_guess = |one: &&Subject| one.transition == Transition::Terminating && one.destination.is_some();
        let guesses: BTreeSet<_> = new.iter().filter(is_guess).map(key).collect();
        let done = Box::pin(reconcile(door, new, until)).await;
        for receipt in done {
            let Receipt { instance_id: Some(instance), hook: Some(hook), .. } = &receipt else { continue };
            // Whether it was returning to the pool was a guess, which Auto Scaling did not confirm.
            let answered = receipt.steps.iter().any(|step| step.detail.starts_with("answered "));
            if guesses.contains(&(instance.clone(), hook.clone())) && !answered {
                continue;
            }
            let again = matches!(receipt.outcome, Outcome::Waiting | Outcome::Failed);
            receipts.retain(|old| old.instance_id != receipt.instance_id || old.hook != receipt.hook);
            if !again {
                dealt_with.insert((instance.clone(), hook.clone()));
            }
            receipts.push(receipt);
        }
        if deadline::after(door.clock.now(), PAUSE) >= until.passes {
            break Ok(groups);
        }
        tokio::time::sleep(PAUSE).await;
    };
    (receipts, groups)
}

async fn opted_in(door: &Door, until: Until) -> Result<Vec<Group>, String> {
    within(door, until.work, door.autoscaling.opted_in_groups()).await?.map_err(|error| error.to_string())
}

/// Every instance that waits at a hook of ours.
async fn waiting(door: &Door, groups: &[Group], until: Until) -> Result<Vec<Subject>, String> {
    let started = Instant::now();
    let waiting: Vec<&Group> =
        groups.iter().filter(|group| group.members.values().any(|state| way(state).is_some())).collect();
    let hooks =
        join_all(waiting.iter().map(|group| within(door, until.work, door.autoscaling.hooks(&group.name)))).await;
    let mut subjects = Vec::new();
    for (group, hooks) in waiting.into_iter().zip(hooks) {
        let profile = group.tags.get(PROFILE_TAG).and_then(|tag| tag.parse().ok()).and_then(|name| door.profile(&name));
        let Some(profile) = profile else {
            tracing::error!(group = %group.name, "the group's tag {PROFILE_TAG} names a profile that the configuration does not have");
            continue;
        };
        let hooks = match hooks {
            Ok(Ok(hooks)) => hooks,
            Ok(Err(error)) => {
                tracing::error!(group = %group.name, "{error}");
                continue;
            }
            Err(late) => return Err(late),
        };
        for (instance, state) in &group.members {
            let Some(way) = way(state) else { continue };
            // What returns to the pool waits at the terminating hook, in the state of what is launched into it.
            let returns = group.reuses && *state == LifecycleState::WarmedPendingWait;
            let ways = [Some(way), returns.then_some(Transition::Terminating)];
            let ours = hooks.iter().filter(|hook| {
                ways.contains(&hook.transition) && hook.transition.is_some() && profile.owns(&hook.name)
            });
            subjects.extend(ours.map(|hook| Subject {
                instance: instance.clone(),
                group: group.name.clone(),
                hook: hook.name.clone(),
                transition: hook.transition.unwrap_or(way),
                origin: None,
                destination: returns.then_some(Place::WarmPool),
                began: Began::Unknown,
            }));
        }
    }
    tracing::debug!(waiting = subjects.len(), took_ms = started.elapsed().as_millis(), "looked for waiting instances");
    Ok(subjects)
}

/// Which way an instance in this state waits to go, if it waits.
fn way(state: &LifecycleState) -> Option<Transition> {
    match state {
        LifecycleState::PendingWait | LifecycleState::WarmedPendingWait => Some(Transition::Launching),
        LifecycleState::TerminatingWait
        | LifecycleState::WarmedTerminatingWait
        | LifecycleState::ReplacingRootVolumeWait => Some(Transition::Terminating),
        LifecycleState::Terminating | LifecycleState::Past | LifecycleState::Pending | LifecycleState::Other(_) => None,
    }
}
