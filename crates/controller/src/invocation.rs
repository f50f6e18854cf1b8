//! One invocation of a function: from the payload to the answer. Logs each receipt, once.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::event::{Content, Source, Transition, decode};
use stagedoor_lifecycle::observation::Subject;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};

use crate::door::Door;
use crate::gather::within;
use crate::reconcile::{Until, reconcile};

/// Which function was invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Deals with arriving instances.
    Onboard,
    /// Deals with leaving instances.
    Purge,
}

impl Function {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Onboard => "onboard",
            Self::Purge => "purge",
        }
    }

    fn deals_with(self) -> Transition {
        match self {
            Self::Onboard => Transition::Launching,
            Self::Purge => Transition::Terminating,
        }
    }
}

/// The most results in one published message, which may have 256 KiB.
const RESULTS_PER_MESSAGE: usize = 100;
/// The longest reason in a published message, in characters.
const LONGEST_REASON: usize = 500;

/// Deals with whatever the function was invoked with; `platform_deadline` is when the platform ends the invocation.
///
/// For SQS the answer is `{"batchItemFailures": […]}` with the messages that should come again; for every other source
/// `{"results": […]}` with a receipt for each instance. A message that can never be dealt with is not asked for again.
pub async fn handle(door: &Door, function: Function, event: &Value, platform_deadline: Option<Timestamp>) -> Value {
    let delivery = decode(event);
    let mut subjects: Vec<Subject> = Vec::new();
    let mut known = HashMap::new();
    let mut receipts = Vec::new();
    // For each message: the place of its receipt, among the subjects' or among the others.
    let mut places = Vec::new();
    for message in &delivery.messages {
        let other = |outcome, reason: String| Receipt {
            instance_id: None,
            group: None,
            hook: None,
            certname: None,
            outcome,
            reason,
            steps: Vec::new(),
        };
        match message.content.clone() {
            Content::Action(action) if action.transition == function.deals_with() => {
                // Duplicates within a batch collapse.
                let key = (action.instance.clone(), action.group.clone(), action.hook.clone());
                let place = *known.entry(key).or_insert(subjects.len());
                if place == subjects.len() {
                    subjects.push(action.into());
                }
                places.push(Some(place));
                continue;
            }
            Content::Action(action) => receipts.push(Receipt {
                instance_id: Some(action.instance),
                group: Some(action.group),
                hook: Some(action.hook),
                ..other(
                    Outcome::Ignored,
                    format!("not for {}: wire this transition to its own function", function.name()),
                )
            }),
            Content::Ignored(reason) => receipts.push(other(Outcome::Ignored, reason)),
            Content::Unusable(reason) => receipts.push(other(Outcome::Refused, reason)),
        }
        places.push(None);
    }

    let until = Until::new(door.clock.now(), door.config.budget, platform_deadline);
    // Boxed: the loop's future is large, and the function's futures nest around it.
    let dealt_with = if subjects.is_empty() { Vec::new() } else { Box::pin(reconcile(door, subjects, until)).await };
    for receipt in dealt_with.iter().chain(&receipts) {
        log(function, receipt);
    }
    let published = within(door, until.calls, publish(door, function, &dealt_with)).await;
    if let Err(trouble) = published.unwrap_or_else(Err) {
        tracing::warn!(function = function.name(), "the outcome could not be published: {trouble}");
    }

    match delivery.source {
        Source::Sqs => {
            let failed = |place: &Option<usize>| place.is_some_and(|at| dealt_with[at].outcome == Outcome::Failed);
            let failures = delivery.messages.iter().zip(&places).filter(|(_, place)| failed(place));
            let failures = failures.filter_map(|(message, _)| message.id.as_deref());
            json!({"batchItemFailures": failures.map(|id| json!({"itemIdentifier": id})).collect::<Vec<_>>()})
        }
        Source::Other => {
            receipts.splice(0..0, dealt_with);
            json!({ "results": receipts })
        }
    }
}

fn log(function: Function, receipt: &Receipt) {
    let steps = serde_json::to_string(&receipt.steps).unwrap_or_default();
    let instance = receipt.instance_id.as_ref().map(tracing::field::display);
    let group = receipt.group.as_ref().map(tracing::field::display);
    let certname = receipt.certname.as_ref().map(tracing::field::display);
    let (function, outcome, reason) = (function.name(), receipt.outcome.as_str(), &receipt.reason);
    match receipt.outcome {
        Outcome::Failed => tracing::error!(function, outcome, instance, group, certname, steps, "{reason}"),
        Outcome::Refused => tracing::warn!(function, outcome, instance, group, certname, steps, "{reason}"),
        _ => tracing::info!(function, outcome, instance, group, certname, steps, "{reason}"),
    }
}

/// Tells the topic, if there is one, what was decided and what a person should look at. Waiting is no news.
async fn publish(door: &Door, function: Function, receipts: &[Receipt]) -> Result<(), String> {
    let Some(topic) = &door.topic else { return Ok(()) };
    let news: Vec<Value> = receipts
        .iter()
        .filter(|receipt| !matches!(receipt.outcome, Outcome::Waiting | Outcome::Ignored))
        .map(|receipt| {
            let Receipt { instance_id, group, hook, certname, outcome, reason, .. } = receipt;
            let reason: String = reason.chars().take(LONGEST_REASON).collect();
            json!({"instance_id": instance_id, "group": group, "hook": hook, "certname": certname, "outcome": outcome, "reason": reason})
        })
        .collect();
    for chunk in news.chunks(RESULTS_PER_MESSAGE) {
        let subject = format!("Stagedoor {}: {} instances", function.name(), chunk.len());
        let message = json!({"function": function.name(), "results": chunk}).to_string();
        topic.publish(&subject, &message).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}
