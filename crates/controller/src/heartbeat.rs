//! Heartbeats: keep the hooks of waiting instances alive where patience is longer than their timeout. Writes to Auto
//! Scaling, and to nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use stagedoor_aws::autoscaling::Action;
use stagedoor_lifecycle::deadline::{self, LOOK_BACK, heartbeat_due};
use stagedoor_lifecycle::observation::Subject;
use stagedoor_lifecycle::{HookName, InstanceId};

use crate::case::Case;
use crate::door::Door;
use crate::gather::within;
use crate::reconcile::Until;

/// How often it is looked whether one is due.
const EVERY: Duration = Duration::from_secs(1);
/// All calls of an account and Region share one bucket.
const AT_ONCE: usize = 2;

/// The heartbeats of one invocation.
pub(crate) struct Heartbeats {
    last: Timestamp,
    /// Whom to keep alive, each with the hook's timeout.
    waiting: Vec<(Subject, Duration)>,
    /// Whose heartbeat is due and not sent yet.
    due: Vec<Subject>,
}

impl Heartbeats {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { last: now, waiting: Vec::new(), due: Vec::new() }
    }

    /// Whom to keep alive from now on: the cases that wait at a hook that would give up before patience ends.
    pub(crate) fn watch(&mut self, cases: &[Case], now: Timestamp) {
        let waiting = cases.iter().filter(|case| case.is_undecided());
        let timeout = |case: &Case| case.held.as_ref().filter(|(held, _)| held.waits)?.0.heartbeat;
        let waiting: Vec<_> = waiting.filter_map(|case| Some((case.subject.clone(), timeout(case)?))).collect();
        let before = std::mem::replace(&mut self.waiting, waiting);
        // Of those that come anew, it is not known when somebody last looked after them.
        let keys = |waiting: &[(Subject, Duration)]| waiting.iter().map(|(subject, _)| key(subject)).collect();
        let (known, awaited): (BTreeSet<_>, BTreeSet<_>) = (keys(&before), keys(&self.waiting));
        let since = deadline::before(now, LOOK_BACK);
        let new = self.waiting.iter().filter(|(subject, _)| !known.contains(&key(subject)));
        let due = new.filter(|(subject, timeout)| heartbeat_due(&subject.instance, *timeout, since, now));
        self.due.extend(due.map(|(subject, _)| subject.clone()));
        self.due.retain(|due| awaited.contains(&key(due)));
    }

    /// Does this work, however long it takes, and sends heartbeats meanwhile.
    pub(crate) async fn beside<T>(&mut self, door: &Door, until: Until, work: impl Future<Output = T>) -> T {
        let beating = async {
            loop {
                self.send(door, until).await;
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            done = work => done,
            never = beating => never,
        }
    }

    /// Sends those that are due. One that is lost is no trouble: two more come before the hook gives up.
    async fn send(&mut self, door: &Door, until: Until) {
        let (last, now) = (self.last, door.clock.now());
        self.last = now;
        if !door.acts() {
            return;
        }
        let due =
            self.waiting.iter().filter(|(subject, timeout)| heartbeat_due(&subject.instance, *timeout, last, now));
        self.due.extend(due.map(|(subject, _)| subject.clone()));
        while !self.due.is_empty() {
            // Taken off once they are sent: the work may end at any moment, and the rest goes on beside the next.
            let some = self.due.len().min(AT_ONCE);
            join_all(self.due[..some].iter().map(|subject| one(door, subject, until))).await;
            self.due.drain(..some);
        }
    }
}

fn key(subject: &Subject) -> (InstanceId, HookName) {
    (subject.instance.clone(), subject.hook.clone())
}

async fn one(door: &Door, subject: &Subject, until: Until) {
    let action = Action { group: &subject.group, hook: &subject.hook, instance: &subject.instance };
    match within(door, until.calls, "Auto Scaling", door.autoscaling.heartbeat(action)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(instance = %subject.instance, "heartbeat: {error}"),
        Err(late) => tracing::warn!(instance = %subject.instance, "heartbeat: {late}"),
    }
}
