//! The sweep: finds every instance that waits at a hook of ours, whether its event came or not, and deals with all of
//! them as one set.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::event::{Place, Transition};
use stagedoor_lifecycle::observation::{Began, Group, LifecycleState, Subject};
use stagedoor_lifecycle::profile::PROFILE_TAG;
use stagedoor_lifecycle::receipt::Receipt;

use crate::door::Door;
use crate::gather::within;
use crate::housekeeping::{self, Kept};
use crate::reconcile::{Pace, Round, Until};

/// Between two looks for instances that began to wait meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a sweep ended with.
pub(crate) struct Swept {
    pub(crate) receipts: Vec<Receipt>,
    /// What came of the housekeeping, where it was due.
    pub(crate) kept: Option<Kept>,
}

/// Deals with everybody who waits; then, every few minutes, with the house.
pub(crate) async fn sweep(door: &Door, until: Until) -> Swept {
    let now = door.clock.now();
    let mut round = Round::new(now);
    if !housekeeping::is_due(door, now) {
        let _ = Box::pin(deal_with_the_waiting(door, &mut round, until)).await;
        return Swept { receipts: receipts(round), kept: None };
    }
    let for_the_waiting = housekeeping::less_what_is_kept(until, now);
    let groups = Box::pin(deal_with_the_waiting(door, &mut round, for_the_waiting)).await;
    let kept = Box::pin(housekeeping::housekeep(door, groups, until));
    let kept = Some(round.beats.beside(door, until, kept).await);
    Swept { receipts: receipts(round), kept }
}

/// Deals with everybody who waits until nobody does or the time is up. Where nobody does, that costs one call. Also tells
/// the groups as they were last seen.
async fn deal_with_the_waiting(door: &Door, round: &mut Round, until: Until) -> Result<Vec<Group>, String> {
    let mut groups = Err("nobody has looked yet".to_owned());
    let mut looked = None;
    loop {
        let now = door.clock.now();
        if !round.is_open() || looked.is_none_or(|looked| now >= deadline::after(looked, LOOK_EVERY)) {
            looked = Some(now);
            groups = who_waits(door, round, until).await;
            match &groups {
                Ok(_) if !round.is_open() => return groups,
                Ok(_) => {}
                Err(trouble) => tracing::error!("the sweep could not see who waits: {trouble}"),
            }
        }
        let pace = if round.is_open() { Box::pin(round.pass(door, until)).await } else { Pace::AfterAPause };
        let time_is_up = door.clock.now() >= until.calls;
        // With everybody settled, one more look tells whether somebody came meanwhile.
        if time_is_up || pace != Pace::Over && !round.rest(door, pace, until).await {
            return groups;
        }
    }
}

/// Has the round take on everybody who waits; the groups that opted in.
async fn who_waits(door: &Door, round: &mut Round, until: Until) -> Result<Vec<Group>, String> {
    let groups = within(door, until.work, door.autoscaling.opted_in_groups()).await?;
    let groups = groups.map_err(|error| error.to_string())?;
    round.admit(waiting(door, &groups, until).await?);
    Ok(groups)
}

/// The receipts, but for the guesses that Auto Scaling did not confirm: whether an instance was returning to the pool.
fn receipts(round: Round) -> Vec<Receipt> {
    let is_guess = |subject: &&Subject| subject.transition == Transition::Terminating && subject.destination.is_some();
    let guesses = round.subjects().filter(is_guess);
    let guesses: BTreeSet<_> = guesses.map(|subject| (subject.instance.clone(), subject.hook.clone())).collect();
    let mut receipts = round.into_receipts();
    receipts.retain(|receipt| {
        let Receipt { instance_id: Some(instance), hook: Some(hook), steps, .. } = receipt else { return true };
        let answered = steps.iter().any(|step| step.detail.starts_with("answered "));
        answered || !guesses.contains(&(instance.clone(), hook.clone()))
    });
    receipts
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
