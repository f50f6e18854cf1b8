//! Events: lifecycle actions in every shape in which AWS delivers them. No I/O.
//!
//! An event is only a hint that an instance needs attention. So nothing here can fail: whatever
//! the payload, [`decode`] answers with messages, each of which is an action to look into, something
//! to acknowledge, or something to refuse with a reason. (A payload that failed typed
//! deserialization would never reach the handler and be retried for nothing.)
//!
//! The token of an action is not kept: an action is completed by its instance id, which works for an
//! event that was replayed, merged or lost.

use serde_json::Value;
use stagedoor_types::{Place, Transition};

use crate::observation::{Began, LifecycleAction};

/// Wrappings deeper than this (SNS in SQS is two) are refused.
const MAX_DEPTH: usize = 4;

/// Everything that one invocation delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// How it came, which decides how to answer.
    pub source: Source,
    /// One for each record, in order.
    pub messages: Vec<Message>,
}

/// The service that invoked the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An SQS event source mapping: the answer names the messages to deliver again.
    Sqs,
    /// Anything else: EventBridge, SNS, or the document itself.
    Other,
}

/// One record of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The SQS message id, by which the message is reported as failed when it could not be handled.
    pub id: Option<String>,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An instance waits, or did when this was sent.
    Action(LifecycleAction),
    /// Well-formed and of no concern: a test notification, another event type. Holds the reason.
    Ignored(String),
    /// Cannot be understood. Holds the reason.
    Unusable(String),
}

/// Reads the payload that a function was invoked with. Never fails and never panics.
#[must_use]
pub fn decode(event: &Value) -> Delivery {
    let Some(records) = event.get("Records").and_then(Value::as_array) else {
        let content = document(event, 0);
        return Delivery { source: Source::Other, messages: vec![Message { id: None, content }] };
    };
    let from_sqs = |record: &Value| record.get("messageId").is_some_and(Value::is_string);
    let source = if records.iter().any(from_sqs) { Source::Sqs } else { Source::Other };
    let messages = records
        .iter()
        .map(|record| Message {
            id: record.get("messageId").and_then(Value::as_str).map(str::to_owned),
            content: unwrap_record(record),
        })
        .collect();
    Delivery { source, messages }
}

/// One element of `Records`: an SQS message or an SNS notification.
fn unwrap_record(record: &Value) -> Content {
    let text = record.get("body").or_else(|| record.pointer("/Sns/Message"));
    match text.and_then(Value::as_str) {
        Some(text) => unwrap_text(text, 1),
        None => Content::Unusable("a record has neither an SQS `body` nor an SNS `Message`".into()),
    }
}

fn unwrap_text(text: &str, depth: usize) -> Content {
    match serde_json::from_str(text) {
        Ok(value) => document(&value, depth),
        Err(error) => Content::Unusable(format!("the message is not JSON: {error}")),
    }
}

/// A document by its shape: EventBridge, SNS envelope, test notification, or the flat hook notification.
fn document(value: &Value, depth: usize) -> Content {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    if depth > MAX_DEPTH {
        return Content::Unusable("the message is wrapped too many times".into());
    }
    if !value.is_object() {
        return Content::Unusable("the event is not a JSON object".into());
    }
    if let (Some(_), Some(message)) = (text("TopicArn"), text("Message")) {
        return match text("Type") {
            Some("Notification") | None => unwrap_text(message, depth + 1),
            Some(other) => Content::Ignored(format!("SNS message of type {}", short(other))),
        };
    }
    if text("Event") == Some("autoscaling:TEST_NOTIFICATION") {
        return Content::Ignored("a test notification, which Auto Scaling sends when a hook is made".into());
    }
    if let (Some(kind), Some(detail)) = (text("detail-type"), value.get("detail")) {
        return match (text("source"), kind) {
            (
                Some("aws.autoscaling"),
                "EC2 Instance-launch Lifecycle Action" | "EC2 Instance-terminate Lifecycle Action",
            ) => action(detail, text("time")),
            _ => Content::Ignored(format!("an event of type \"{}\", not a lifecycle action", short(kind))),
        };
    }
    if value.get("LifecycleTransition").is_some() {
        return action(value, text("Time"));
    }
    Content::Unusable("the event has none of the shapes in which Auto Scaling announces a lifecycle action".into())
}

/// The fields that every shape of a lifecycle action has.
fn action(fields: &Value, time: Option<&str>) -> Content {
    read_action(fields, time).map_or_else(Content::Unusable, Content::Action)
}

fn read_action(fields: &Value, time: Option<&str>) -> Result<LifecycleAction, String> {
    let text = |key: &str| {
        fields.get(key).and_then(Value::as_str).ok_or_else(|| format!("the lifecycle action has no text field {key}"))
    };
    let transition = text("LifecycleTransition")?;
    Ok(LifecycleAction {
        instance: text("EC2InstanceId")?.parse().map_err(said)?,
        group: text("AutoScalingGroupName")?.parse().map_err(said)?,
        hook: text("LifecycleHookName")?.parse().map_err(said)?,
        transition: Transition::parse(transition)
            .ok_or_else(|| format!("unknown LifecycleTransition \"{}\"", short(transition)))?,
        origin: text("Origin").ok().map(Place::parse),
        destination: text("Destination").ok().map(Place::parse),
        began: time.and_then(|time| time.parse().ok()).map_or(Began::Unknown, Began::Said),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err asks for")]
fn said(error: stagedoor_types::InvalidName) -> String {
    error.to_string()
}

/// A foreign text, short enough for a log line.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
