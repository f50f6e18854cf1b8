//! Complete: completes the lifecycle actions that are decided. Writes to Auto Scaling, and to nothing else. Returns a report for
//! each action.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use stagedoor_aws::autoscaling::{Answer, HookWriter};
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_plan::{Status, Verdict};
use stagedoor_types::{ActionResult, Group, GroupName, LifecycleState, Lookup, Service};

use crate::batch::{Decided, Report, Reports};
use crate::call::{call, unique};
use crate::context::Run;
use crate::observe::{Described, group_of};

/// How many completions run at a time: all calls in an account and Region share one rate limit.
const AT_ONCE: usize = 8;
/// How long after its beginning an action is visible for certain: the propagation takes seconds.
const SURELY_VISIBLE: Duration = Duration::from_secs(120);

/// How long a verdict that depends only on the lifecycle state is valid. The SDK may repeat a throttled call for longer. Meanwhile, an
/// instance that returns to the warm pool may begin to terminate. It must then be purged first.
const STATE_HOLDS: Duration = Duration::from_secs(10);

/// Completes all these actions, and begins with none after `limit`. Those that Auto Scaling does not know yet stay open.
pub(crate) async fn complete(run: Run<'_>, decided: Vec<Decided>, limit: Timestamp) -> Reports {
    let decided = decided.iter().take_while(|_| run.now() < limit);
    let mut completing = stream::iter(decided)
        .map(|decided| async move { (decided, one(run, decided).await) })
        .buffer_unordered(AT_ONCE);
    let (mut reports, mut unclear) = (Reports::default(), Vec::new());
    while let Some((decided, report)) = completing.next().await {
        match report {
            Some(report) => *reports.of(&decided.action.key()) = report,
            None => unclear.push(decided),
        }
    }
    if unclear.is_empty() {
        return reports;
    }
    // "No active Lifecycle Action" means done or not visible yet; the instance's state says which.
    let groups: Vec<GroupName> = unique(unclear.iter().map(|decided| &decided.action.group));
    let described = run.context.autoscaling.groups(&groups);
    let described = call(run.context, run.budget.calls, Service::AutoScaling, described).await.map(Described::from);
    for decided in unclear {
        let report = reports.of(&decided.action.key());
        match group_of(&described, &decided.action) {
            Lookup::Unavailable(trouble) => report.status(Outcome::Failed, Fact::from(&trouble)),
            Lookup::Found(group) => judge(decided, Some(&group), run.now(), report),
            Lookup::Absent => judge(decided, None, run.now(), report),
        }
    }
    reports
}

/// Completes one action; `None` if Auto Scaling knows of no active action.
async fn one(run: Run<'_>, decided: &Decided) -> Option<Report> {
    let Decided { action, verdict: Verdict { result, reason }, waits, permit, .. } = decided;
    let mut report = Report::default();
    let holds_until = decided.seen.map(|seen| deadline::after(seen, STATE_HOLDS));
    if holds_until.is_some_and(|until| run.now() > until) {
        let old = "its state was observed too long ago; the next sweep observes it again";
        report.status(Outcome::Failed, Fact::new(Code::NotSeenYet, old));
        return Some(report);
    }
    if !waits {
        let before = Fact::new(Code::CompletedBefore, "Auto Scaling had ended the action before");
        report.finished = Some(Status::new(outcome(*result), reason.clone().and(before)));
        return Some(report);
    }
    let Some(permit) = *permit else {
        report.step(StepKind::Withheld, Duration::ZERO, format!("complete with {}", result.as_str()));
        let observes = Fact::new(Code::ObserveMode, "observe mode: the action was not completed");
        let reason = Reason::new(observes, reason.facts().cloned().collect());
        report.finished = Some(Status::new(Outcome::Waiting, reason));
        return Some(report);
    };
    let started = run.now();
    let key = action.key();
    let completing = HookWriter::new(&run.context.autoscaling, permit).complete(&key, *result);
    let limit = holds_until.map_or(run.budget.calls, |until| until.min(run.budget.calls));
    let answer = call(run.context, limit, Service::AutoScaling, completing).await;
    let took = run.context.clock.since(started);
    match answer {
        Ok(Answer::Accepted) => {
            report.completed = true;
            report.step(StepKind::Completed, took, format!("completed {} with {}", action.hook, result.as_str()));
            report.finished = Some(Status::new(outcome(*result), reason.clone()));
        }
        Ok(Answer::NoActiveAction) => return None,
        Err(trouble) => {
            report.step(StepKind::Failed, took, trouble.text.clone());
            report.status(Outcome::Failed, Fact::from(trouble));
        }
    }
    Some(report)
}

/// Done, or not visible yet? The state that Auto Scaling shows now decides.
fn judge(decided: &Decided, group: Option<&Group>, now: Timestamp, report: &mut Report) {
    let Decided { action, verdict: Verdict { result, reason }, other_hooks, .. } = decided;
    let LifecycleAction { instance, began, .. } = action;
    let state = group.and_then(|group| group.members.get(instance));
    let still_held = state.is_some_and(LifecycleState::may_wait);
    // A sweep has no start time, but it saw the instance waiting, and by then the action is visible.
    let visible = began.time().is_none_or(|began| now >= deadline::after(began, SURELY_VISIBLE));
    if !still_held {
        let before = "the action had been completed before";
        report.step(StepKind::Completed, Duration::ZERO, before);
        let reason = reason.clone().and(Fact::new(Code::CompletedBefore, before));
        report.finished = Some(Status::new(outcome(*result), reason));
    } else if *other_hooks && visible {
        let before = "our action had been completed before: another hook holds the instance";
        report.finished = Some(Status::new(Outcome::Ignored, Fact::new(Code::CompletedBefore, before)));
    } else {
        let invisible = Fact::new(Code::NotVisibleYet, "Auto Scaling does not know the lifecycle action yet");
        report.status(Outcome::Failed, Reason::new(invisible, reason.facts().cloned().collect()));
    }
}

fn outcome(result: ActionResult) -> Outcome {
    match result {
        ActionResult::Continue => Outcome::Continued,
        ActionResult::Abandon => Outcome::Abandoned,
    }
}
