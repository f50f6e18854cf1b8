//! Heartbeats: keep the hooks of waiting instances alive where the profile's timeout is longer than theirs. Writes to Auto
//! Scaling, and to nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use stagedoor_aws::autoscaling::Action;
use stagedoor_lifecycle::deadline::{self, LOOK_BACK, heartbeat_due};
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_types::{HookName, InstanceId, Service};

use crate::call::call;
use crate::context::Run;

/// How often it is checked whether one is due.
const EVERY: Duration = Duration::from_secs(1);
/// All calls of an account and Region share one bucket.
const AT_ONCE: usize = 2;

/// The heartbeats of one invocation.
pub(crate) struct Heartbeats {
    last: Timestamp,
    /// The actions to keep alive, each with the hook's timeout.
    waiting: Vec<(LifecycleAction, Duration)>,
    /// The actions whose heartbeat is due and not sent yet.
    due: Vec<LifecycleAction>,
}

impl Heartbeats {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { last: now, waiting: Vec::new(), due: Vec::new() }
    }

    /// Keeps these alive from now on: actions whose hook would time out before the profile's timeout, each with the hook's
    /// heartbeat timeout.
    pub(crate) fn watch(&mut self, waiting: Vec<(LifecycleAction, Duration)>, now: Timestamp) {
        let before = std::mem::replace(&mut self.waiting, waiting);
        // Of new ones, it is not known when they last got a heartbeat.
        let keys = |waiting: &[(LifecycleAction, Duration)]| waiting.iter().map(|(action, _)| key(action)).collect();
        let (known, awaited): (BTreeSet<_>, BTreeSet<_>) = (keys(&before), keys(&self.waiting));
        let since = deadline::before(now, LOOK_BACK);
        let new = self.waiting.iter().filter(|(action, _)| !known.contains(&key(action)));
        let due = new.filter(|(action, timeout)| heartbeat_due(&action.instance, *timeout, since, now));
        self.due.extend(due.map(|(action, _)| action.clone()));
        self.due.retain(|due| awaited.contains(&key(due)));
    }

    /// Runs this work to its end, and sends heartbeats meanwhile.
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

    /// Sends those that are due. One may be lost: two more come before the hook times out.
    async fn send(&mut self, run: Run<'_>) {
        let (last, now) = (self.last, run.now());
        self.last = now;
        if !run.context.acts() {
            return;
        }
        let due = self.waiting.iter().filter(|(action, timeout)| heartbeat_due(&action.instance, *timeout, last, now));
        self.due.extend(due.map(|(action, _)| action.clone()));
        while !self.due.is_empty() {
            // Taken off once they are sent: the work may end at any moment, and the rest goes on beside the next.
            let some = self.due.len().min(AT_ONCE);
            join_all(self.due[..some].iter().map(|action| one(run, action))).await;
            self.due.drain(..some);
        }
    }
}

fn key(action: &LifecycleAction) -> (InstanceId, HookName) {
    (action.instance.clone(), action.hook.clone())
}

async fn one(run: Run<'_>, action: &LifecycleAction) {
    let action_key = Action { group: &action.group, hook: &action.hook, instance: &action.instance };
    let beat = run.context.autoscaling.heartbeat(action_key);
    if let Err(trouble) = call(run.context, run.budget.calls, Service::AutoScaling, beat).await {
        tracing::warn!(instance = %action.instance, "heartbeat: {trouble}");
    }
}
