//! Complete: answers the hooks of the cases that are decided. Writes to Auto Scaling, and to nothing else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use stagedoor_aws::autoscaling::{Action, Answer};
use stagedoor_lifecycle::observation::{Group, LifecycleAction, LifecycleState, Service};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::{GroupName, deadline};

use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::call;
use crate::context::Context;

/// How many completions are under way at a time: all calls of an account and Region share one bucket.
const AT_ONCE: usize = 8;
/// How long after its beginning an action is surely visible: the propagation takes seconds.
const SURELY_VISIBLE: Duration = Duration::from_secs(120);

/// Answers the hook of every case that is decided, and begins with none after `limit`. Those that Auto Scaling does not know
/// yet stay open.
pub(crate) async fn complete(context: &Context, items: &mut [WorkItem], budget: Budget, limit: Timestamp) {
    let ready = items.iter_mut().filter(|item| item.is_open() && item.ready.is_some());
    let ready = ready.take_while(|_| context.clock.now() < limit);
    let mut answers = stream::iter(ready).map(|item| answer(context, item, budget)).buffer_unordered(AT_ONCE);
    let mut unclear = Vec::new();
    while let Some(item) = answers.next().await {
        unclear.extend(item);
    }
    if unclear.is_empty() {
        return;
    }
    // "No active Lifecycle Action" means done or not visible yet; the instance's state tells which.
    let groups: BTreeSet<GroupName> = unclear.iter().map(|item| item.action.group.clone()).collect();
    let groups: Vec<GroupName> = groups.into_iter().collect();
    match call(context, budget.calls, Service::AutoScaling, context.autoscaling.groups(&groups)).await {
        Ok(groups) => unclear.into_iter().for_each(|item| judge(item, &groups, context.clock.now())),
        Err(trouble) => {
            unclear.into_iter().for_each(|item| item.set_status(Outcome::Failed, Fact::from(&trouble)));
        }
    }
}

/// Answers one hook; gives the case back if Auto Scaling knows of no active action.
async fn answer<'a>(context: &Context, item: &'a mut WorkItem, budget: Budget) -> Option<&'a mut WorkItem> {
    let (result, reason) = item.ready.clone()?;
    if let Some((held, _)) = &item.held
        && !held.waits
    {
        let before = Fact::new(Code::CompletedBefore, "Auto Scaling had gone on before");
        item.finish(outcome(result), reason.and(before));
        return None;
    }
    if !context.acts() {
        item.step(Stage::Would, Duration::ZERO, format!("complete with {}", result.as_str()));
        let observes = Fact::new(Code::ObserveMode, "observe mode: the action was not completed");
        item.finish(Outcome::Waiting, Reason::new(observes, reason.facts().cloned().collect()));
        return None;
    }
    let started = Instant::now();
    let action = &item.action;
    let action = Action { group: &action.group, hook: &action.hook, instance: &action.instance };
    let answer = call(context, budget.calls, Service::AutoScaling, context.autoscaling.complete(action, result)).await;
    let took = started.elapsed();
    match answer {
        Ok(Answer::Accepted) => {
            item.answered = true;
            item.step(Stage::Completed, took, format!("answered {} with {}", item.action.hook, result.as_str()));
            item.finish(outcome(result), reason);
            None
        }
        Ok(Answer::NoActiveAction) => Some(item),
        Err(trouble) => {
            item.step(Stage::Failed, took, trouble.text.clone());
            item.set_status(Outcome::Failed, Fact::from(trouble));
            None
        }
    }
}

/// Done, or not visible yet? The state that Auto Scaling shows now has the word.
fn judge(item: &mut WorkItem, groups: &[Group], now: Timestamp) {
    let Some((result, reason)) = item.ready.clone() else { return };
    let LifecycleAction { group, instance, began, .. } = &item.action;
    let members = groups.iter().find(|described| described.name == *group).map(|described| &described.members);
    let still_held = members.and_then(|members| members.get(instance)).is_some_and(LifecycleState::may_wait);
    // A sweep does not know since when: it saw the instance waiting, which is not the first thing to be visible.
    let visible = began.time().is_none_or(|began| now >= deadline::after(began, SURELY_VISIBLE));
    // Not held: who only passes may be shown in the state of a wait at another hook.
    let beside_others = item.held.as_ref().is_none_or(|(held, _)| held.other_hooks);
    let over = if !still_held {
        "the action had been completed before"
    } else if beside_others && visible {
        let before = "our action had been completed before: another hook holds the instance";
        item.finish(Outcome::Ignored, Fact::new(Code::CompletedBefore, before));
        return;
    } else {
        let invisible = "Auto Scaling does not know the lifecycle action yet";
        let facts = reason.facts().cloned().collect();
        item.set_status(Outcome::Failed, Reason::new(Fact::new(Code::NotVisibleYet, invisible), facts));
        return;
    };
    item.step(Stage::Completed, Duration::ZERO, over);
    item.finish(outcome(result), reason.and(Fact::new(Code::CompletedBefore, over)));
}

fn outcome(result: ActionResult) -> Outcome {
    match result {
        ActionResult::Continue => Outcome::Continued,
        ActionResult::Abandon => Outcome::Abandoned,
    }
}
