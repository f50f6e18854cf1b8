//! `Publish` and `PublishBatch` of the SNS API (<https://docs.aws.amazon.com/sns/latest/api/welcome.html>). No I/O:
//! published messages stay where tests and people can read them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::wire::{Answer, Ask, AwsError, not_simulated};
use crate::world::{Message, World};
use crate::xml::Xml;

/// The largest message and the largest batch, in bytes.
const LIMIT: usize = 262_144;

/// Carries one call out.
pub(crate) fn answer(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Answer, AwsError> {
    match ask.action.as_str() {
        "Publish" => publish(world, ask, now),
        "PublishBatch" => publish_batch(world, ask, now),
        _ => Err(not_simulated(ask)),
    }
    .map(Answer::Xml)
}

fn publish(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Xml, AwsError> {
    let arn = ask
        .text("TopicArn")
        .or_else(|| ask.text("TargetArn"))
        .ok_or_else(|| invalid("TopicArn or TargetArn Reason: no value for required parameter"))?;
    let topic = topic(world, arn)?;
    let message = read_message(&ask.parameters, now)?;
    let mut xml = Xml::default();
    xml.text("MessageId", &message.id);
    topic.push(message);
    Ok(xml)
}

fn publish_batch(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Xml, AwsError> {
    let arn = ask.text("TopicArn").ok_or_else(|| invalid("TopicArn Reason: no value for required parameter"))?;
    let topic = topic(world, arn)?;
    let entries = ask.items("PublishBatchRequestEntries");
    let ids: Vec<&str> = entries.iter().map(|entry| text(entry, "Id").unwrap_or("")).collect();
    if entries.is_empty() {
        return Err(AwsError::new(400, "EmptyBatchRequest", "The batch request doesn't contain any entries."));
    }
    if entries.len() > 10 {
        let message = "The batch request contains more entries than permissible.";
        return Err(AwsError::new(400, "TooManyEntriesInBatchRequest", message));
    }
    if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
        let message = "Two or more batch entries in the request have the same Id.";
        return Err(AwsError::new(400, "BatchEntryIdsNotDistinct", message));
    }
    let size: usize = entries.iter().filter_map(|entry| text(entry, "Message")).map(str::len).sum();
    if size > LIMIT {
        let message = "The length of all the batch messages put together is more than the limit.";
        return Err(AwsError::new(400, "BatchRequestTooLong", message));
    }
    let mut published = Vec::new();
    let mut failed = Vec::new();
    for (entry, id) in entries.iter().zip(ids) {
        match read_message(entry, now) {
            Ok(message) => {
                published.push((id, message.id.clone()));
                topic.push(message);
            }
            Err(error) => failed.push((id, error)),
        }
    }
    let mut xml = Xml::default();
    xml.list("Successful", "member", published, |xml, (id, message_id)| {
        xml.text("Id", id).text("MessageId", message_id);
    })
    .list("Failed", "member", failed, |xml, (id, error)| {
        xml.text("Id", id).text("Code", error.code).text("Message", error.message).text("SenderFault", true);
    });
    Ok(xml)
}

fn topic<'a>(world: &'a mut World, arn: &str) -> Result<&'a mut Vec<Message>, AwsError> {
    let parts: Vec<&str> = arn.split(':').collect();
    if parts.len() != 6 || parts[0] != "arn" || parts[2] != "sns" {
        return Err(invalid("TopicArn"));
    }
    world.topics.get_mut(arn).ok_or_else(|| AwsError::new(404, "NotFound", "Topic does not exist"))
}

fn read_message(from: &Value, now: Timestamp) -> Result<Message, AwsError> {
    let text_of = text(from, "Message").ok_or_else(|| invalid("Empty message"))?;
    if text_of.len() > LIMIT {
        return Err(invalid("Message too long"));
    }
    let subject = text(from, "Subject");
    // At most 100 characters, ASCII, no line breaks or control characters, not beginning with a space.
    let printable = |subject: &str| {
        subject.len() <= 100 && !subject.starts_with(' ') && subject.bytes().all(|b| (b' '..=b'~').contains(&b))
    };
    if subject.is_some_and(|subject| !printable(subject)) {
        return Err(invalid("Subject"));
    }
    let mut attributes = BTreeMap::new();
    for attribute in from.get("MessageAttributes").and_then(Value::as_array).into_iter().flatten() {
        let value = attribute.get("Value").and_then(|value| text(value, "StringValue"));
        if let (Some(name), Some(value)) = (text(attribute, "Name"), value) {
            attributes.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(Message {
        id: Uuid::new_v4().to_string(),
        subject: subject.map(str::to_owned),
        text: text_of.to_owned(),
        attributes,
        published: now,
    })
}

fn text<'a>(from: &'a Value, name: &str) -> Option<&'a str> {
    from.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn invalid(what: &str) -> AwsError {
    AwsError::new(400, "InvalidParameter", format!("Invalid parameter: {what}"))
}
