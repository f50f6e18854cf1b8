//! What an invocation reports: a log line for each receipt, a message to the topic, metrics.

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_aws::Error as AwsError;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};
use stagedoor_types::{Mode, Service, Trouble};

use crate::call::call;
use crate::context::{Context, Run};
use crate::function::Function;
use crate::housekeeping::HousekeepingReport;
use crate::size::{cut, messages};
use crate::sweep::Swept;

/// The longest reason in a published message, in characters.
const LONGEST_REASON: usize = 500;
/// An instance that still waits so shortly before it has to be decided is worth an alarm.
const NEAR: std::time::Duration = std::time::Duration::from_secs(300);

/// Logs each receipt, once, and publishes the news; an error says that those could not be published.
pub(crate) async fn log_and_publish(
    run: Run<'_>,
    function: Function,
    dealt_with: &[Receipt],
    others: &[Receipt],
) -> Result<(), Trouble> {
    for receipt in dealt_with.iter().chain(others) {
        log(function, receipt);
    }
    let published = call(run.context, run.budget.calls, Service::Sns, publish(run.context, function, dealt_with)).await;
    published.inspect_err(|trouble| {
        let (function, code) = (function.name(), Code::from(trouble).as_str());
        tracing::warn!(function, code, "the outcome could not be published: {trouble}");
    })
}

/// Logs that the answer is shorter than what happened, if it is.
pub(crate) fn log_left_out(answer: &Value) {
    if let Some(left_out) = answer.get("left_out") {
        tracing::warn!(%left_out, "the answer was shortened to Lambda's limit; the log has every receipt");
    }
}

/// Publishes the result of the housekeeping; an error says that some of it could not be published.
pub(crate) async fn tell(run: Run<'_>, kept: &HousekeepingReport) -> Result<(), Trouble> {
    let mut all = Ok(());
    let Some(topic) = &run.context.topic else { return all };
    for (subject, message) in &kept.news {
        let message = message.to_string();
        let published = call(run.context, run.budget.calls, Service::Sns, topic.publish(subject, &message)).await;
        if let Err(trouble) = published {
            let code = Code::from(&trouble).as_str();
            tracing::warn!(code, "the result of the housekeeping could not be published: {trouble}");
            all = Err(trouble);
        }
    }
    all
}

/// The metrics of an invocation in CloudWatch's
/// [embedded metric format](https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html):
/// a log line that needs no call and no permission. `more` are those that only this function has.
pub(crate) fn metrics(
    context: &Context,
    function: Function,
    receipts: &[Receipt],
    more: &[(&'static str, i64)],
    now: Timestamp,
) -> Value {
    let count = |outcome| number(receipts.iter().filter(|receipt| receipt.outcome == outcome).count());
    let near = |receipt: &&Receipt| receipt.decide_by.is_some_and(|by| deadline::after(now, NEAR) >= by);
    // A launch that went on without a refresh target is enrolled as well.
    let enrolled = |receipt: &&Receipt| {
        receipt.outcome == Outcome::Continued && matches!(receipt.code, Code::Enrolled | Code::RefreshTimedOut)
    };
    let timed_out = |receipt: &&Receipt| receipt.code == Code::RefreshTimedOut;
    let mut values = vec![
        ("Continued", count(Outcome::Continued)),
        ("Enrolled", number(receipts.iter().filter(enrolled).count())),
        ("Abandoned", count(Outcome::Abandoned)),
        ("Waiting", count(Outcome::Waiting)),
        ("Refused", count(Outcome::Refused)),
        ("Failed", count(Outcome::Failed)),
        ("RefreshTimedOut", number(receipts.iter().filter(timed_out).count())),
        ("WaitingNearDeadline", number(receipts.iter().filter(near).count())),
    ];
    values.extend(more);
    line(deployed_as(context, function), None, &values, now)
}

/// The metrics of a sweep: one line for each service of Puppet, and one for everything else.
pub(crate) fn metrics_of_sweep(context: &Context, swept: &Swept, now: Timestamp) -> Vec<Value> {
    let Swept { receipts, kept, health, oldest_waiting } = swept;
    let function = Function::Sweep;
    let services = health.of_puppet().map(|(service, usable)| {
        line(deployed_as(context, function), Some(service), &[("PuppetReachable", usable.into())], now)
    });
    let waiting = oldest_waiting.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    let mut more = health.metrics();
    more.push(("OldestWaitingSeconds", waiting));
    more.extend(kept.as_ref().map(|kept| kept.metrics(now)).unwrap_or_default());
    services.chain([metrics(context, function, receipts, &more, now)]).collect()
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The name that the metrics of a function bear.
fn deployed_as(context: &Context, function: Function) -> &str {
    context.deployed_as.as_deref().unwrap_or(function.name())
}

/// One document in the embedded metric format, which has one value for each metric and dimension.
fn line(function: &str, service: Option<&str>, values: &[(&'static str, i64)], now: Timestamp) -> Value {
    let unit = |name: &str| if name.ends_with("Seconds") { "Seconds" } else { "Count" };
    let names: Vec<Value> = values.iter().map(|(name, _)| json!({"Name": name, "Unit": unit(name)})).collect();
    let dimensions: &[&str] = if service.is_some() { &["Function", "Service"] } else { &["Function"] };
    let mut line = json!({
        "_aws": {
            "Timestamp": now.as_millisecond(),
            "CloudWatchMetrics": [{"Namespace": "Stagedoor", "Dimensions": [dimensions], "Metrics": names}],
        },
        "Function": function,
    });
    if let Some(service) = service {
        line["Service"] = service.into();
    }
    for (name, value) in values {
        line[name] = (*value).into();
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
        Outcome::Continued if receipt.code == Code::RefreshTimedOut => {
            tracing::warn!(function, outcome, code, instance, group, certname, mode, steps, "{reason}");
        }
        Outcome::Waiting if receipt.announce => {
            tracing::warn!(function, outcome, code, instance, group, certname, mode, steps, "{reason}");
        }
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

/// Whether operators are notified. A waiting action is announced only if its receipt says so. The sweep does not repeat refused and failed
/// actions every minute; the metrics count them. Actions of a profile in observe mode are never announced.
fn is_news(function: Function, receipt: &Receipt) -> bool {
    receipt.mode != Some(Mode::Observe)
        && match receipt.outcome {
            Outcome::Waiting => receipt.announce,
            Outcome::Ignored => false,
            Outcome::Refused | Outcome::Failed => function != Function::Sweep,
            Outcome::Continued | Outcome::Abandoned => true,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(outcome: Outcome, mode: Option<Mode>) -> Receipt {
        Receipt { mode, ..Receipt::bare(outcome, Code::NothingToDo, "") }
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
    fn waiting_is_no_news_unless_it_is_to_be_announced() {
        for function in [Function::Onboard, Function::Sweep] {
            for announce in [false, true] {
                let receipt = |mode| Receipt { announce, ..receipt(Outcome::Waiting, Some(mode)) };
                assert_eq!(is_news(function, &receipt(Mode::Act)), announce, "{function:?}");
                assert!(!is_news(function, &receipt(Mode::Observe)), "{function:?}");
            }
        }
    }

    #[test]
    fn the_sweep_does_not_repeat_every_minute_what_is_still_wrong() {
        for (outcome, news) in [(Outcome::Failed, false), (Outcome::Refused, false), (Outcome::Abandoned, true)] {
            assert_eq!(is_news(Function::Sweep, &receipt(outcome, Some(Mode::Act))), news, "{outcome:?}");
        }
    }
}
