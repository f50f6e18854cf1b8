//! Complete: answers the hooks of the cases that are decided. Writes to Auto Scaling, and to nothing else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use stagedoor_aws::autoscaling::{Action, Answer};
use stagedoor_lifecycle::observation::{Group, LifecycleState, Subject};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::{GroupName, deadline};

use crate::case::Case;
use crate::door::Door;
use crate::gather::within;
use crate::reconcile::Until;

/// How many completions are under way at a time: all calls of an account and Region share one bucket.
const AT_ONCE: usize = 8;
/// How long after its beginning an action is surely visible: the propagation takes seconds.
const SURELY_VISIBLE: Duration = Duration::from_secs(120);

/// Answers the hook of every case that is decided, and begins with none after `limit`. Those that Auto Scaling does not know
/// yet stay open.
pub(crate) async fn complete(door: &Door, cases: &mut [Case], until: Until, limit: Timestamp) {
    let ready = cases.iter_mut().filter(|case| case.is_open() && case.ready.is_some());
    let ready = ready.take_while(|_| door.clock.now() < limit);
    let mut answers = stream::iter(ready).map(|case| answer(door, case, until)).buffer_unordered(AT_ONCE);
    let mut unclear = Vec::new();
    while let Some(case) = answers.next().await {
        unclear.extend(case);
    }
    if unclear.is_empty() {
        return;
    }
    // "No active Lifecycle Action" means done or not visible yet; the instance's state tells which.
    let groups: BTreeSet<GroupName> = unclear.iter().map(|case| case.subject.group.clone()).collect();
    let groups: Vec<GroupName> = groups.into_iter().collect();
    match within(door, until.calls, "Auto Scaling", door.autoscaling.groups(&groups)).await {
        Ok(Ok(groups)) => unclear.into_iter().for_each(|case| judge(case, &groups, door.clock.now())),
        Ok(Err(error)) => unclear.into_iter().for_each(|case| case.stands(Outcome::Failed, error.to_string())),
        Err(late) => unclear.into_iter().for_each(|case| case.stands(Outcome::Failed, late.clone())),
    }
}

/// Answers one hook; gives the case back if Auto Scaling knows of no active action.
async fn answer<'a>(door: &Door, case: &'a mut Case, until: Until) -> Option<&'a mut Case> {
    let (result, reason) = case.ready.clone()?;
    if let Some((held, _)) = &case.held
        && !held.waits
    {
        case.settle(outcome(result), format!("{reason}; Auto Scaling had gone on before"));
        return None;
    }
    if !door.acts() {
        case.step(Stage::Would, Duration::ZERO, format!("complete with {}", result.as_str()));
        case.settle(Outcome::Waiting, format!("observe mode: the hook was not answered; {reason}"));
        return None;
    }
    let started = Instant::now();
    let subject = &case.subject;
    let action = Action { group: &subject.group, hook: &subject.hook, instance: &subject.instance };
    let answer = within(door, until.calls, "Auto Scaling", door.autoscaling.complete(action, result)).await;
    let took = started.elapsed();
    match answer {
        Ok(Ok(Answer::Accepted)) => {
            case.answered = true;
            case.step(Stage::Completed, took, format!("answered {} with {}", case.subject.hook, result.as_str()));
            case.settle(outcome(result), reason);
            None
        }
        Ok(Ok(Answer::NoActiveAction)) => Some(case),
        Ok(Err(error)) => {
            case.step(Stage::Failed, took, error.to_string());
            case.stands(Outcome::Failed, error.to_string());
            None
        }
        Err(late) => {
            case.stands(Outcome::Failed, late);
            None
        }
    }
}

/// Done, or not visible yet? The state that Auto Scaling shows now has the word.
fn judge(case: &mut Case, groups: &[Group], now: Timestamp) {
    let Some((result, reason)) = case.ready.clone() else { return };
    let Subject { group, instance, began, .. } = &case.subject;
    let members = groups.iter().find(|described| described.name == *group).map(|described| &described.members);
    let still_held = members.and_then(|members| members.get(instance)).is_some_and(LifecycleState::may_wait);
    // A sweep does not know since when: it saw the instance waiting, which is not the first thing to be visible.
    let visible = began.time().is_none_or(|began| now >= deadline::after(began, SURELY_VISIBLE));
    // Not held: who only passes may be shown in the state of a wait at another hook.
    let beside_others = case.held.as_ref().is_none_or(|(held, _)| held.other_hooks);
    let over = if !still_held {
        "the hook had been answered before"
    } else if beside_others && visible {
        case.settle(Outcome::Ignored, "our hook had been answered before: another one holds the instance");
        return;
    } else {
        case.stands(Outcome::Failed, format!("{reason}; but Auto Scaling does not know the lifecycle action yet"));
        return;
    };
    case.step(Stage::Completed, Duration::ZERO, over);
    case.settle(outcome(result), format!("{reason}; {over}"));
}

fn outcome(result: ActionResult) -> Outcome {
    match result {
        ActionResult::Continue => Outcome::Continued,
        ActionResult::Abandon => Outcome::Abandoned,
    }
}
