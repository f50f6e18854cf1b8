//! Heartbeats: keep the hooks of waiting instances alive where the profile's timeout is longer than theirs. Writes to Auto
//! Scaling, and to nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use stagedoor_aws::autoscaling::{Answer, HookWriter};
use stagedoor_lifecycle::deadline::{self, LOOK_BACK, heartbeat_due};
use stagedoor_lifecycle::reason::Code;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{ActionKey, Service};

use crate::batch::Waiting;
use crate::call::call;
use crate::context::Run;

/// How often it is checked whether one is due.
const EVERY: Duration = Duration::from_secs(1);
/// How soon one that failed is sent again: an action that has just begun may not be visible yet, and calls are throttled.
const AGAIN: Duration = Duration::from_secs(5);
/// All calls of an account and Region share one bucket.
const AT_ONCE: usize = 2;

/// The heartbeats of one invocation.
pub(crate) struct Heartbeats {
    last: Timestamp,
    /// The actions to keep alive.
    waiting: Vec<Waiting>,
    /// Those whose heartbeat is due and not sent yet.
    due: Vec<Waiting>,
    /// Those whose heartbeat failed, and when it is due again.
    failed: Vec<(Timestamp, Waiting)>,
}

impl Heartbeats {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { last: now, waiting: Vec::new(), due: Vec::new(), failed: Vec::new() }
    }

    /// Keeps these alive from now on.
    pub(crate) fn watch(&mut self, waiting: Vec<Waiting>, now: Timestamp) {
        let before = std::mem::replace(&mut self.waiting, waiting);
        // Of new ones, it is not known when they last got a heartbeat.
        let known: BTreeSet<&ActionKey> = before.iter().map(|waiting| &waiting.key).collect();
        let since = deadline::before(now, LOOK_BACK);
        let new = self.waiting.iter().filter(|waiting| !known.contains(&waiting.key));
        self.due.extend(new.filter(|waiting| is_due(waiting, since, now)).cloned());
        let awaited: BTreeSet<&ActionKey> = self.waiting.iter().map(|waiting| &waiting.key).collect();
        self.due.retain(|due| awaited.contains(&due.key));
        self.failed.retain(|(_, failed)| awaited.contains(&failed.key));
    }

    /// Runs this work to completion, sending heartbeats meanwhile.
    pub(crate) async fn beside<T>(&mut self, run: Run<'_>, work: impl Future<Output = T>) -> T {
        let beating = async {
            loop {
                self.send(run).await;
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            never = beating => never,
        }
    }

    /// Sends those that are due, and again those that failed.
    async fn send(&mut self, run: Run<'_>) {
        let (last, now) = (self.last, run.now());
        self.last = now;
        self.due.extend(self.waiting.iter().filter(|waiting| is_due(waiting, last, now)).cloned());
        let again = self.failed.extract_if(.., |(due, _)| *due <= now);
        self.due.extend(again.map(|(_, waiting)| waiting));
        while !self.due.is_empty() {
            // Taken off once they are sent: the work may end at any moment, and the rest goes on beside the next.
            let some = self.due.len().min(AT_ONCE);
            let sent = join_all(self.due[..some].iter().map(|waiting| one(run, waiting))).await;
            let again = deadline::after(run.now(), AGAIN);
            let sent = self.due.drain(..some).zip(sent);
            self.failed.extend(sent.filter(|(_, is_sent)| !is_sent).map(|(waiting, _)| (again, waiting)));
        }
    }
}

fn is_due(waiting: &Waiting, since: Timestamp, now: Timestamp) -> bool {
    !is_broken(Rule::Heartbeats) && heartbeat_due(&waiting.key.instance, waiting.timeout, since, now)
}

/// Sends one heartbeat; whether Auto Scaling took it.
async fn one(run: Run<'_>, waiting: &Waiting) -> bool {
    let Waiting { key, permit, .. } = waiting;
    let beat = HookWriter::new(&run.context.autoscaling, *permit).heartbeat(key);
    let sent = call(run.context, run.budget.calls, Service::AutoScaling, beat).await;
    if let Err(trouble) = &sent {
        tracing::warn!(instance = %key.instance, code = Code::from(trouble).as_str(), "heartbeat: {trouble}");
    }
    matches!(sent, Ok(Answer::Accepted))
}
