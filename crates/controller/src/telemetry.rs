//! What an invocation reports: a log line for each receipt, a message to the topic, metrics.

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_aws::Error as AwsError;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};
use stagedoor_types::{Mode, Service};

use crate::call::call;
use crate::context::{Context, Run};
use crate::housekeeping::HousekeepingReport;
use crate::invocation::Function;
use crate::size::{cut, messages};

/// The longest reason in a published message, in characters.
const LONGEST_REASON: usize = 500;
/// An instance that still waits so shortly before it has to be decided is worth an alarm.
const NEAR: std::time::Duration = std::time::Duration::from_secs(300);

/// Logs each receipt, once, and publishes the news.
pub(crate) async fn log_and_publish(run: Run<'_>, function: Function, dealt_with: &[Receipt], others: &[Receipt]) {
    for receipt in dealt_with.iter().chain(others) {
        log(function, receipt);
    }
    let published = call(run.context, run.budget.calls, Service::Sns, publish(run.context, function, dealt_with)).await;
    if let Err(trouble) = published {
        tracing::warn!(function = function.name(), "the outcome could not be published: {trouble}");
    }
}

/// Publishes the result of the housekeeping.
pub(crate) async fn tell(run: Run<'_>, kept: &HousekeepingReport) {
    let Some(topic) = &run.context.topic else { return };
    for (subject, message) in &kept.news {
        let message = message.to_string();
        let published = call(run.context, run.budget.calls, Service::Sns, topic.publish(subject, &message)).await;
        if let Err(trouble) = published {
            tracing::warn!("the result of the housekeeping could not be published: {trouble}");
        }
    }
}

/// The metrics of an invocation in CloudWatch's
/// [embedded metric format](https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html):
/// a log line that needs no call and no permission.
pub(crate) fn metrics(
    context: &Context,
    function: Function,
    receipts: &[Receipt],
    kept: Option<&HousekeepingReport>,
    now: Timestamp,
) -> Value {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let count = |outcome| number(receipts.iter().filter(|receipt| receipt.outcome == outcome).count());
    let near = |receipt: &&Receipt| receipt.decide_by.is_some_and(|by| deadline::after(now, NEAR) >= by);
    let mut values = vec![
        ("Continued", count(Outcome::Continued)),
        ("Abandoned", count(Outcome::Abandoned)),
        ("Waiting", count(Outcome::Waiting)),
        ("Refused", count(Outcome::Refused)),
        ("Failed", count(Outcome::Failed)),
        ("WaitingNearDeadline", number(receipts.iter().filter(near).count())),
    ];
    values.extend(kept.map(|kept| kept.metrics(now)).unwrap_or_default());
    let names: Vec<Value> = values.iter().map(|(name, _)| json!({"Name": name, "Unit": "Count"})).collect();
    let mut line = json!({
        "_aws": {
            "Timestamp": now.as_millisecond(),
            "CloudWatchMetrics": [{"Namespace": "Stagedoor", "Dimensions": [["Function"]], "Metrics": names}],
        },
        "Function": context.deployed_as.as_deref().unwrap_or(function.name()),
    });
    for (name, value) in values {
        line[name] = value.into();
    }
    line
}

/// Logs a receipt. The log of the functions has the text of `steps` as JSON (`crates/functions/src/log.rs`).
fn log(function: Function, receipt: &Receipt) {
    let steps = serde_json::to_string(&receipt.steps).unwrap_or_default();
    let instance = receipt.instance_id.as_ref().map(tracing::field::display);
    let group = receipt.group.as_ref().map(tracing::field::display);
    let certname = receipt.certname.as_ref().map(tracing::field::display);
    let (function, outcome, reason) = (function.name(), receipt.outcome.as_str(), &receipt.reason);
    let (code, mode) = (receipt.code.as_str(), receipt.mode.map(Mode::as_str));
    match receipt.outcome {
        Outcome::Failed => tracing::error!(function, outcome, code, instance, group, certname, mode, steps, "{reason}"),
        Outcome::Refused => tracing::warn!(function, outcome, code, instance, group, certname, mode, steps, "{reason}"),
        _ => tracing::info!(function, outcome, code, instance, group, certname, mode, steps, "{reason}"),
    }
}

/// Publishes to the topic, if there is one, what was decided and what an operator should look at.
async fn publish(context: &Context, function: Function, receipts: &[Receipt]) -> Result<(), AwsError> {
    let Some(topic) = &context.topic else { return Ok(()) };
    let news = receipts
        .iter()
        .filter(|receipt| is_news(function, receipt))
        .map(|receipt| {
            let Receipt { instance_id, group, hook, certname, outcome, code, reason, .. } = receipt;
            let reason = cut(reason, LONGEST_REASON);
            json!({"instance_id": instance_id, "group": group, "hook": hook, "certname": certname, "outcome": outcome, "code": code, "reason": reason})
        });
    for chunk in messages(news) {
        let subject = format!("Stagedoor {}: {} instances", function.name(), chunk.len());
        let message = json!({"function": function.name(), "results": chunk}).to_string();
        topic.publish(&subject, &message).await?;
    }
    Ok(())
}

/// Waiting is no news, and that an action is still refused is none either when the sweep finds it so every minute: that is what the
/// metric is for. In observe mode nothing is written anywhere.
fn is_news(function: Function, receipt: &Receipt) -> bool {
    receipt.mode != Some(Mode::Observe)
        && match receipt.outcome {
            Outcome::Waiting | Outcome::Ignored => false,
            Outcome::Refused | Outcome::Failed => function != Function::Sweep,
            Outcome::Continued | Outcome::Abandoned => true,
        }
}

#[cfg(test)]
mod tests {
    use stagedoor_lifecycle::reason::Code;
    use stagedoor_lifecycle::receipt::SCHEMA;

    use super::*;

    fn receipt(outcome: Outcome, mode: Option<Mode>) -> Receipt {
        Receipt {
            schema: SCHEMA,
            instance_id: None,
            group: None,
            hook: None,
            certname: None,
            mode,
            outcome,
            code: Code::NothingToDo,
            reason: String::new(),
            decide_by: None,
            steps: Vec::new(),
        }
    }

    #[test]
    fn what_a_profile_in_observe_mode_fails_with_is_not_published() {
        for outcome in [Outcome::Failed, Outcome::Refused, Outcome::Continued] {
            assert!(is_news(Function::Purge, &receipt(outcome, Some(Mode::Act))), "{outcome:?}");
            assert!(is_news(Function::Purge, &receipt(outcome, None)), "{outcome:?}");
            assert!(!is_news(Function::Purge, &receipt(outcome, Some(Mode::Observe))), "{outcome:?}");
        }
    }

    #[test]
    fn the_sweep_does_not_repeat_every_minute_what_is_still_wrong() {
        for (outcome, news) in [(Outcome::Failed, false), (Outcome::Refused, false), (Outcome::Abandoned, true)] {
            assert_eq!(is_news(Function::Sweep, &receipt(outcome, Some(Mode::Act))), news, "{outcome:?}");
        }
    }
}
