//! Heartbeats: keep the hooks of waiting instances alive where patience is longer than their timeout. Writes to Auto
//! Scaling, and to nothing else.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use stagedoor_aws::autoscaling::Action;
use stagedoor_lifecycle::deadline::{self, heartbeat_due};

use crate::case::Case;
use crate::door::Door;
use crate::gather::within;
use crate::reconcile::Until;

/// How far back an invocation takes its predecessor to have looked after heartbeats: the sweep comes every minute.
const PREDECESSOR: Duration = Duration::from_secs(60);
/// All calls of an account and Region share one bucket.
const AT_ONCE: usize = 2;

/// The heartbeats of one invocation.
pub(crate) struct Heartbeats {
    last: Timestamp,
}

impl Heartbeats {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { last: deadline::before(now, PREDECESSOR) }
    }

    /// Sends those that are due. One that is lost is no trouble: two more come before the hook gives up.
    pub(crate) async fn send(&mut self, door: &Door, cases: &mut [Case], until: Until) {
        let (last, now) = (self.last, door.clock.now());
        self.last = now;
        if !door.acts() {
            return;
        }
        let due = cases.iter().filter(|case| match &case.held {
            Some((held, _)) if case.is_open() && case.ready.is_none() && held.waits => {
                held.heartbeat.is_some_and(|timeout| heartbeat_due(&case.subject.instance, timeout, last, now))
            }
            _ => false,
        });
        let beats = stream::iter(due).map(|case| async move {
            let subject = &case.subject;
            let action = Action { group: &subject.group, hook: &subject.hook, instance: &subject.instance };
            match within(door, until.calls, door.autoscaling.heartbeat(action)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(instance = %subject.instance, "heartbeat: {error}"),
                Err(late) => tracing::warn!(instance = %subject.instance, "heartbeat: {late}"),
            }
        });
        beats.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }
}
