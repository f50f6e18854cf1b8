//! The sweep: finds every instance that waits at a hook of ours, whether its event came or not, and handles all of them as one
//! batch.

use std::time::Duration;

use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::observation::{Began, LifecycleAction};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Receipt;
use stagedoor_types::{
    Group, GroupName, HookName, LifecycleState, PROFILE_TAG, Place, Service, Transition, Trouble, TroubleKind,
};

use crate::batch::Batch;
use crate::call::call;
use crate::context::Run;
use crate::health::{self, Health};
use crate::housekeeping::{self, HousekeepingReport};
use crate::observe::hooks_of;
use crate::reconcile::{Requeue, Work};

/// Between two searches for instances that began to wait meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a sweep ended with.
pub(crate) struct Swept {
    pub(crate) receipts: Vec<Receipt>,
    /// The result of the housekeeping, where it was due.
    pub(crate) kept: Option<HousekeepingReport>,
    /// Whether it could do its work.
    pub(crate) health: Health,
    /// How long the oldest of the actions that still wait has waited; `None` where none waits.
    pub(crate) oldest_waiting: Option<Duration>,
}

/// Handles all waiting actions; then, every few minutes, housekeeping. Beside that, reads a little from each service: where nothing
/// waits, there is no other reason to call them.
pub(crate) async fn sweep(run: Run<'_>) -> Swept {
    let mut work = Work::new(run);
    let (mut health, (search, kept)) =
        tokio::join!(Box::pin(health::read_a_little(run)), Box::pin(work_through(run, &mut work)));
    health.saw(Service::AutoScaling, search);
    for trouble in kept.iter().flat_map(HousekeepingReport::troubles) {
        health.lacks(trouble.clone());
    }
    let oldest_waiting = work.batch.oldest_waiting(run.now());
    let receipts = receipts(run, work.batch);
    health.ended_with(&receipts);
    Swept { receipts, kept, health, oldest_waiting }
}

/// Handles all waiting actions, and keeps house if that is due; returns whether the last search for waiting actions was complete.
async fn work_through(run: Run<'_>, work: &mut Work) -> (Result<(), Trouble>, Option<HousekeepingReport>) {
    let now = run.now();
    if !housekeeping::is_due(run.context, now) {
        return (Box::pin(handle_the_waiting(run, work)).await.complete, None);
    }
    let for_the_waiting = Run { budget: housekeeping::less_what_is_kept(run.budget, now), ..run };
    let Search { groups, mut complete } = Box::pin(handle_the_waiting(for_the_waiting, work)).await;
    let launching = work.batch.launching_names();
    let kept = Box::pin(housekeeping::housekeep(run, groups, &launching));
    let kept = work.heartbeats.beside(run, kept).await;
    if work.batch.is_open() {
        // With what housekeeping has left of the time.
        complete = Box::pin(handle_the_waiting(run, work)).await.complete;
    }
    (complete, Some(kept))
}

/// What the searches for waiting actions ended with.
struct Search {
    /// The groups as they were last seen.
    groups: Result<Vec<Group>, Trouble>,
    /// Whether the last search was complete, or why it was not.
    complete: Result<(), Trouble>,
}

/// Handles all waiting actions until none is left or the time is up. Where none waits, that costs one call.
async fn handle_the_waiting(run: Run<'_>, work: &mut Work) -> Search {
    let not_asked = Trouble {
        kind: TroubleKind::Timeout,
        service: Service::AutoScaling,
        text: "Auto Scaling was not asked yet".to_owned(),
    };
    let mut search = Search { groups: Err(not_asked.clone()), complete: Err(not_asked) };
    let mut looked = None;
    loop {
        let now = run.now();
        if !work.batch.is_open() || looked.is_none_or(|looked| now >= deadline::after(looked, LOOK_EVERY)) {
            looked = Some(now);
            search.complete = match add_the_waiting(run, work).await {
                Ok((seen, complete)) => {
                    search.groups = Ok(seen);
                    complete
                }
                Err(trouble) => {
                    search.groups = search.groups.map_err(|_| trouble.clone());
                    Err(trouble)
                }
            };
            match &search.complete {
                Err(trouble) => {
                    let code = Code::from(trouble).as_str();
                    tracing::error!(code, "the sweep could not read which instances wait: {trouble}");
                }
                Ok(()) if !work.batch.is_open() => return search,
                Ok(()) => {}
            }
        }
        let requeue = if work.batch.is_open() { Box::pin(work.pass(run)).await } else { Requeue::AfterPause };
        let time_is_up = run.now() >= run.budget.calls;
        // With every action finished, one more search says whether others have begun to wait meanwhile.
        if time_is_up || requeue != Requeue::Over && !work.rest(run, requeue).await {
            return search;
        }
    }
}

/// Adds all waiting actions to the batch; returns the groups that opted in, and what went wrong where actions may be missing.
async fn add_the_waiting(run: Run<'_>, work: &mut Work) -> Result<(Vec<Group>, Result<(), Trouble>), Trouble> {
    let opted_in = run.context.autoscaling.opted_in_groups();
    let groups = call(run.context, run.budget.work, Service::AutoScaling, opted_in).await?;
    let (actions, complete) = waiting(run, &groups.known).await;
    work.batch.add(actions);
    // The instances of a warm pool that could not be read are missing; all others are handled.
    let unread = groups.unread_pools.values().next().map(|error| Trouble::of(Service::AutoScaling, error));
    Ok((groups.known, complete.and(unread.map_or(Ok(()), Err))))
}

/// The receipts, but for the guesses that Auto Scaling did not confirm: whether an instance was returning to the pool.
fn receipts(run: Run<'_>, batch: Batch) -> Vec<Receipt> {
    let is_guess =
        |action: &LifecycleAction| action.transition == Transition::Terminating && action.destination.is_some();
    batch.into_receipts(run, |item| item.is_completed() || !is_guess(item.action()))
}

/// Every action that waits at a hook of ours; and what went wrong, where actions may be missing.
async fn waiting(run: Run<'_>, groups: &[Group]) -> (Vec<LifecycleAction>, Result<(), Trouble>) {
    let started = run.now();
    let waiting: Vec<&Group> =
        groups.iter().filter(|group| group.members.values().any(|state| way(state).is_some())).collect();
    let names: Vec<GroupName> = waiting.iter().map(|group| group.name.clone()).collect();
    let hooks = hooks_of(run, &names).await;
    let (mut actions, mut complete) = (Vec::new(), Ok(()));
    for (group, hooks) in waiting.into_iter().zip(hooks) {
        let hooks = match hooks {
            Ok(hooks) => hooks,
            Err(why) => {
                complete = Err(why);
                continue;
            }
        };
        // Without a profile nothing can be done, and that is reported for each instance.
        let tag = group.tags.get(PROFILE_TAG).and_then(|tag| tag.parse().ok());
        let profile = tag.and_then(|name| run.context.profile(&name));
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
    tracing::debug!(
        waiting = actions.len(),
        took_ms = run.context.clock.since(started).as_millis(),
        "looked for waiting instances"
    );
    (actions, complete)
}

/// The transition that an instance in this state waits in, if it waits.
fn way(state: &LifecycleState) -> Option<Transition> {
    match state {
        LifecycleState::PendingWait | LifecycleState::WarmedPendingWait => Some(Transition::Launching),
        LifecycleState::TerminatingWait
        | LifecycleState::WarmedTerminatingWait
        | LifecycleState::ReplacingRootVolumeWait => Some(Transition::Terminating),
        LifecycleState::Terminating | LifecycleState::Past | LifecycleState::Pending | LifecycleState::Other(_) => None,
    }
}
