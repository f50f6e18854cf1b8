//! One invocation of a function: from the payload to the answer.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::event::{Content, Source, decode};
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};
use stagedoor_types::ActionKey;

use crate::budget::Budget;
use crate::context::{Context, Run};
use crate::function::Function;
use crate::reconcile::reconcile;
use crate::size::answer;
use crate::sweep::sweep;
use crate::telemetry::{self, log_and_publish};

/// What an invocation ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The answer to the caller of the function.
    pub payload: Value,
    /// The metrics of the invocation, as lines for the log that CloudWatch reads metrics from.
    pub metrics: Vec<Value>,
}

/// Handles the payload that the function was invoked with; `platform_deadline` is when the platform ends the invocation.
///
/// For SQS the answer is `{"batchItemFailures": […]}` with the messages that should come again; for every other source
/// `{"results": […]}` with a receipt for each instance. A message that can never be handled is not asked for again.
///
/// A sweep needs no event: it finds the waiting actions itself. One that could not do its work has an answer as well, which says what
/// was missing, and the metric `SweepOk` is 0: an error would take the receipts out of the answer, and the metric `Errors`
/// of Lambda would no longer say that a function crashed (ADR 13).
pub async fn handle(
    context: &Context,
    function: Function,
    event: &Value,
    platform_deadline: Option<Timestamp>,
) -> Answer {
    let budget = Budget::new(context.clock.now(), context.config.budget, platform_deadline);
    let run = Run { context, budget, sweeps: function == Function::Sweep };
    if function == Function::Sweep {
        // Boxed: the loop's future is large, and the function's futures nest around it.
        let mut swept = Box::pin(sweep(run)).await;
        if let Err(trouble) = log_and_publish(run, function, &swept.receipts, &[]).await {
            swept.health.lacks(trouble);
        }
        if let Some(kept) = &swept.kept
            && let Err(trouble) = telemetry::tell(run, kept).await
        {
            swept.health.lacks(trouble);
        }
        swept.health.log();
        let now = context.clock.now();
        let mut payload = answer(&swept.receipts, swept.kept.as_ref().map(|kept| kept.payload(now)));
        payload["health"] = swept.health.payload();
        telemetry::log_left_out(&payload);
        return Answer { payload, metrics: telemetry::metrics_of_sweep(context, &swept, now) };
    }
    let delivery = decode(event);
    // Each action is handled once, however many messages there are of it.
    let mut actions: Vec<LifecycleAction> = Vec::new();
    let mut receipts = Vec::new();
    // For each message: the key of its action, or `None` where there is nothing to do.
    let mut keys: Vec<Option<ActionKey>> = Vec::new();
    for message in &delivery.messages {
        match message.content.clone() {
            Content::Action(action) if Some(action.transition) == function.deals_with() => {
                keys.push(Some(action.key()));
                actions.push(action);
                continue;
            }
            Content::Action(action) => receipts.push(Receipt {
                instance_id: Some(action.instance),
                group: Some(action.group),
                hook: Some(action.hook),
                ..Receipt::bare(
                    Outcome::Ignored,
                    Code::OtherFunction,
                    format!("not for {}: wire this transition to its own function", function.name()),
                )
            }),
            Content::Ignored(reason) => receipts.push(Receipt::bare(Outcome::Ignored, Code::NothingToDo, reason)),
            Content::Unusable(reason) => receipts.push(Receipt::bare(Outcome::Refused, Code::NotUnderstood, reason)),
        }
        keys.push(None);
    }

    // Boxed: the loop's future is large, and the function's futures nest around it.
    let dealt_with = if actions.is_empty() { Vec::new() } else { Box::pin(reconcile(run, actions)).await };
    // The receipts leave here: a log line for each, and the topic. The payload repeats them for a caller that waits.
    // A receipt that could not be published is in the log.
    let _ = log_and_publish(run, function, &dealt_with, &receipts).await;
    let metrics = vec![telemetry::metrics(context, function, &dealt_with, &[], context.clock.now())];

    let payload = match delivery.source {
        Source::Sqs => {
            let failed = dealt_with.iter().filter(|receipt| receipt.outcome == Outcome::Failed);
            let failed: BTreeSet<ActionKey> = failed.filter_map(Receipt::key).collect();
            let again = |key: &Option<ActionKey>| key.as_ref().is_some_and(|key| failed.contains(key));
            let failures = delivery.messages.iter().zip(&keys).filter(|(_, key)| again(key));
            let failures = failures.filter_map(|(message, _)| message.id.as_deref());
            json!({"batchItemFailures": failures.map(|id| json!({"itemIdentifier": id})).collect::<Vec<_>>()})
        }
        Source::Other => {
            receipts.splice(0..0, dealt_with);
            answer(&receipts, None)
        }
    };
    telemetry::log_left_out(&payload);
    Answer { payload, metrics }
}
