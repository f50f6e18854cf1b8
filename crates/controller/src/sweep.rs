//! The sweep: finds every instance that waits at a hook of ours, whether its event came or not, and deals with all of
//! them as one set.

use std::time::{Duration, Instant};

use stagedoor_lifecycle::event::{Place, Transition};
use stagedoor_lifecycle::observation::{Began, Group, LifecycleAction, LifecycleState, Service, Trouble, TroubleKind};
use stagedoor_lifecycle::profile::PROFILE_TAG;
use stagedoor_lifecycle::receipt::Receipt;
use stagedoor_lifecycle::{GroupName, HookName, deadline};

use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::call;
use crate::context::Context;
use crate::housekeeping::{self, HousekeepingReport};
use crate::observe::hooks_of;
use crate::reconcile::{Batch, Requeue};

/// Between two looks for instances that began to wait meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a sweep ended with.
pub(crate) struct Swept {
    pub(crate) receipts: Vec<Receipt>,
    /// What came of the housekeeping, where it was due.
    pub(crate) kept: Option<HousekeepingReport>,
}

/// Deals with everybody who waits; then, every few minutes, with the house.
pub(crate) async fn sweep(context: &Context, budget: Budget) -> Swept {
    let now = context.clock.now();
    let mut batch = Batch::new(now);
    if !housekeeping::is_due(context, now) {
        let _ = Box::pin(deal_with_the_waiting(context, &mut batch, budget)).await;
        return Swept { receipts: receipts(batch), kept: None };
    }
    let for_the_waiting = housekeeping::less_what_is_kept(budget, now);
    let groups = Box::pin(deal_with_the_waiting(context, &mut batch, for_the_waiting)).await;
    let kept = Box::pin(housekeeping::housekeep(context, groups, budget));
    let kept = Some(batch.beats.beside(context, budget, kept).await);
    if batch.is_open() {
        // With what housekeeping has left of the time.
        let _ = Box::pin(deal_with_the_waiting(context, &mut batch, budget)).await;
    }
    Swept { receipts: receipts(batch), kept }
}

/// Deals with everybody who waits until nobody does or the time is up. Where nobody does, that costs one call. Also tells
/// the groups as they were last seen.
async fn deal_with_the_waiting(context: &Context, batch: &mut Batch, budget: Budget) -> Result<Vec<Group>, Trouble> {
    let mut groups = Err(Trouble {
        kind: TroubleKind::Timeout,
        service: Service::AutoScaling,
        text: "Auto Scaling was not asked yet".to_owned(),
    });
    let mut looked = None;
    loop {
        let now = context.clock.now();
        if !batch.is_open() || looked.is_none_or(|looked| now >= deadline::after(looked, LOOK_EVERY)) {
            looked = Some(now);
            let trouble = match who_waits(context, batch, budget).await {
                Ok((seen, trouble)) => {
                    groups = Ok(seen);
                    trouble
                }
                Err(trouble) => {
                    groups = groups.map_err(|_| trouble.clone());
                    Some(trouble)
                }
            };
            match trouble {
                Some(trouble) => tracing::error!("the sweep could not read which instances wait: {trouble}"),
                None if !batch.is_open() => return groups,
                None => {}
            }
        }
        let requeue = if batch.is_open() { Box::pin(batch.pass(context, budget)).await } else { Requeue::AfterPause };
        let time_is_up = context.clock.now() >= budget.calls;
        // With everybody settled, one more look tells whether somebody came meanwhile.
        if time_is_up || requeue != Requeue::Over && !batch.rest(context, requeue, budget).await {
            return groups;
        }
    }
}

/// Has the round take on everybody who waits; the groups that opted in, and what went wrong where somebody may be missing.
async fn who_waits(
    context: &Context,
    batch: &mut Batch,
    budget: Budget,
) -> Result<(Vec<Group>, Option<Trouble>), Trouble> {
    let groups = call(context, budget.work, Service::AutoScaling, context.autoscaling.opted_in_groups()).await?;
    let (actions, trouble) = waiting(context, &groups, budget).await;
    batch.admit(actions);
    Ok((groups, trouble))
}

/// The receipts, but for the guesses that Auto Scaling did not confirm: whether an instance was returning to the pool.
fn receipts(batch: Batch) -> Vec<Receipt> {
    let is_guess =
        |action: &LifecycleAction| action.transition == Transition::Terminating && action.destination.is_some();
    let sure = batch.into_cases().into_iter().filter(|item| item.answered || !is_guess(&item.action));
    sure.map(WorkItem::into_receipt).collect()
}

/// Every instance that waits at a hook of ours; and what went wrong, where somebody may be missing.
async fn waiting(context: &Context, groups: &[Group], budget: Budget) -> (Vec<LifecycleAction>, Option<Trouble>) {
    let started = Instant::now();
    let waiting: Vec<&Group> =
        groups.iter().filter(|group| group.members.values().any(|state| way(state).is_some())).collect();
    let names: Vec<GroupName> = waiting.iter().map(|group| group.name.clone()).collect();
    let hooks = hooks_of(context, &names, budget).await;
    let (mut actions, mut trouble) = (Vec::new(), None);
    for (group, hooks) in waiting.into_iter().zip(hooks) {
        let hooks = match hooks {
            Ok(hooks) => hooks,
            Err(why) => {
                trouble = Some(why);
                continue;
            }
        };
        // Without a profile nothing can be done, and that is told of each instance.
        let tag = group.tags.get(PROFILE_TAG).and_then(|tag| tag.parse().ok());
        let profile = tag.and_then(|name| context.profile(&name));
        let owns = |hook: &HookName| profile.as_ref().is_none_or(|profile| profile.owns(hook));
        for (instance, state) in &group.members {
            let Some(way) = way(state) else { continue };
            // What returns to the pool waits at the terminating hook, in the state of what is launched into it.
            let returns = group.reuses && *state == LifecycleState::WarmedPendingWait;
            let ways = [Some(way), returns.then_some(Transition::Terminating)];
            let ours = hooks
                .iter()
                .filter(|hook| ways.contains(&hook.transition) && hook.transition.is_some() && owns(&hook.name));
            actions.extend(ours.map(|hook| LifecycleAction {
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
    tracing::debug!(waiting = actions.len(), took_ms = started.elapsed().as_millis(), "looked for waiting instances");
    (actions, trouble)
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
