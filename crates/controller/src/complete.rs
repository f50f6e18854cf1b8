//! Complete: answers the hooks of the cases that are decided. Writes to Auto Scaling, and to nothing else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use stagedoor_aws::autoscaling::{Action, Answer};
use stagedoor_lifecycle::observation::{Group, LifecycleState};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::{GroupName, InstanceId};

use crate::case::Case;
use crate::door::Door;
use crate::gather::within;
use crate::reconcile::Until;

/// How many completions are under way at a time: all calls of an account and Region share one bucket.
const AT_ONCE: usize = 4;
/// How often "no active action" is taken for "not visible yet" where another tool's hook may be what holds the instance.
const TRIES_BESIDE_OTHER_HOOKS: u32 = 5;

/// Answers the hook of every case that is decided. Those that Auto Scaling does not know yet stay open.
pub(crate) async fn complete(door: &Door, cases: &mut [Case], until: Until) {
    let ready = cases.iter_mut().filter(|case| case.is_open() && case.ready.is_some());
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
    match within(door, until, door.autoscaling.groups(&groups)).await {
        Ok(Ok(groups)) => unclear.into_iter().for_each(|case| judge(case, &groups)),
        Ok(Err(error)) => unclear.into_iter().for_each(|case| case.stands(Outcome::Failed, error.to_string())),
        Err(late) => unclear.into_iter().for_each(|case| case.stands(Outcome::Failed, late.clone())),
    }
}

/// Answers one hook; gives the case back if Auto Scaling knows of no active action.
async fn answer<'a>(door: &Door, case: &'a mut Case, until: Until) -> Option<&'a mut Case> {
    let (result, reason) = case.ready.clone()?;
    if let Some((leaving, _)) = &case.leaving
        && !leaving.waits
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
    let answer = within(door, until, door.autoscaling.complete(action, result)).await;
    let took = started.elapsed();
    match answer {
        Ok(Ok(Answer::Accepted)) => {
            case.step(Stage::Completed, took, format!("answered {} with {}", case.subject.hook, result.as_str()));
            case.settle(outcome(result), reason);
            None
        }
        Ok(Ok(Answer::NoActiveAction)) => {
            case.unanswered += 1;
            Some(case)
        }
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
fn judge(case: &mut Case, groups: &[Group]) {
    let Some((result, reason)) = case.ready.clone() else { return };
    if !still_waits(groups, &case.subject.group, &case.subject.instance) {
        case.step(Stage::Completed, Duration::ZERO, "the hook had been answered before");
        case.settle(outcome(result), format!("{reason}; the hook had been answered before"));
        return;
    }
    let beside_others = case.leaving.as_ref().is_some_and(|(leaving, _)| leaving.other_hooks);
    if beside_others && case.unanswered >= TRIES_BESIDE_OTHER_HOOKS {
        let held = "our hook has no active action any more: another hook holds the instance";
        case.step(Stage::Completed, Duration::ZERO, held);
        case.settle(outcome(result), format!("{reason}; {held}"));
        return;
    }
    case.stands(Outcome::Waiting, format!("{reason}; Auto Scaling does not know the lifecycle action yet"));
}

fn still_waits(groups: &[Group], group: &GroupName, instance: &InstanceId) -> bool {
    let group = groups.iter().find(|described| described.name == *group);
    group.and_then(|group| group.members.get(instance)).is_some_and(LifecycleState::waits)
}

fn outcome(result: ActionResult) -> Outcome {
    match result {
        ActionResult::Continue => Outcome::Continued,
        ActionResult::Abandon => Outcome::Abandoned,
    }
}
