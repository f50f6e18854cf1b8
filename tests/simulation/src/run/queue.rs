//! The queues between EventBridge and the functions, as `infra/` sets them up: events wait for a short time and arrive in batches, and
//! messages that failed are delivered again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use stagedoor_controller::Function;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::World;

/// The settings in `infra/`: how long messages are gathered, how many are in one batch, how many batches are worked on at a time, how long
/// a message of a batch is hidden, and how often it is received.
const WINDOW: Duration = Duration::from_secs(2);
const BATCH: usize = 1000;
const CONCURRENCY: usize = 2;
const HIDDEN: Duration = Duration::from_secs(900);
const RECEIVED: u32 = 5;

/// The queue of one function.
#[derive(Default)]
pub(super) struct Queue {
    messages: RefCell<Vec<Message>>,
    arrived: Notify,
}

struct Message {
    id: String,
    body: String,
    received: u32,
}

impl Queue {
    /// Adds an event.
    pub(super) fn send(&self, id: String, event: &Value) {
        self.put(Message { id, body: event.to_string(), received: 0 });
    }

    fn put(&self, message: Message) {
        self.messages.borrow_mut().push(message);
        self.arrived.notify_one();
    }

    /// The next batch.
    async fn batch(&self) -> Vec<Message> {
        loop {
            if !self.messages.borrow().is_empty() {
                sleep(WINDOW).await;
                let mut messages = self.messages.borrow_mut();
                let count = messages.len().min(BATCH);
                let batch: Vec<Message> = messages.drain(..count).collect();
                drop(messages);
                if !batch.is_empty() {
                    return batch;
                }
            }
            self.arrived.notified().await;
        }
    }
}

impl World {
    /// Invokes a function in a Region with the batches of its queue.
    pub(super) fn poll(self: &Rc<Self>, region: usize, function: Function) {
        for _ in 0..CONCURRENCY {
            let world = Rc::clone(self);
            self.spawn(async move {
                loop {
                    let batch = world.regions[region].queue(function).batch().await;
                    world.work_on(region, function, batch).await;
                }
            });
        }
    }

    async fn work_on(self: &Rc<Self>, region: usize, function: Function, batch: Vec<Message>) {
        let record =
            |message: &Message| json!({"messageId": message.id, "eventSource": "aws:sqs", "body": message.body});
        let records: Vec<Value> = batch.iter().map(record).collect();
        let answer = self.invoke(region, function, &json!({ "Records": records })).await;
        let again = |answer: &Value| -> BTreeSet<String> {
            let failures = answer["batchItemFailures"].as_array().into_iter().flatten();
            failures.filter_map(|failure| failure["itemIdentifier"].as_str().map(str::to_owned)).collect()
        };
        // After an invocation that was killed, the whole batch comes again.
        let again = answer.as_ref().map(again);
        for mut message in batch {
            message.received += 1;
            let fails = again.as_ref().is_none_or(|again| again.contains(&message.id));
            if !fails || message.received >= RECEIVED {
                continue;
            }
            let world = Rc::clone(self);
            self.hidden.set(self.hidden.get() + 1);
            self.spawn(async move {
                sleep(HIDDEN).await;
                world.hidden.set(world.hidden.get() - 1);
                world.regions[region].queue(function).put(message);
                Ok(())
            });
        }
    }
}
