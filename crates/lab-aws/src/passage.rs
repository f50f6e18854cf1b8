//! An instance on its way into or out of a group: its lifecycle actions and their timeouts. No I/O.
//!
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html>

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::scene::{ActionResult, Hook, Place, PoolState, Transition};

/// The most that all heartbeats together can hold an instance, however long one heartbeat is.
const LONGEST_GLOBAL_TIMEOUT: SignedDuration = SignedDuration::from_secs(172_800);

/// One way of an instance from `…:Wait` on.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) origin: Place,
    pub(crate) destination: Place,
    /// Not a way into or out of the group, but the replacement of the root volume.
    pub(crate) root_volume: Option<RootVolume>,
    pub(crate) actions: Vec<Action>,
    /// Since when all actions are done, and whether one of them was abandoned; `None`: `…:Wait`.
    pub(crate) done: Option<(Timestamp, ActionResult)>,
    /// The id of the scaling activity.
    pub(crate) activity: String,
}

/// The two waits of an instance whose root volume an instance refresh replaces
/// (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/replace-root-volume.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RootVolume {
    /// Before: at the terminating hooks.
    Replacing,
    /// After: at the launching hooks.
    Replaced,
}

/// How long after its start an action may be hidden from calls.
const HIDDEN: SignedDuration = SignedDuration::from_secs(30);

/// One lifecycle action: this instance at this hook.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) hook: String,
    pub(crate) token: String,
    pub(crate) metadata: Option<String>,
    pub(crate) result: Option<ActionResult>,
    /// Whether nobody completed it in time, so that the result is the hook's default.
    pub(crate) timed_out: bool,
    /// How many calls about it still find nothing (the propagation race).
    pub(crate) hidden_calls: u32,
    default_result: ActionResult,
    heartbeat: SignedDuration,
    started: Timestamp,
    last_heartbeat: Timestamp,
}

impl Action {
    pub(crate) fn start(hook: &Hook, token: Option<String>, hidden_calls: u32, now: Timestamp) -> Self {
        Self {
            hook: hook.name.clone(),
            token: token.unwrap_or_else(|| Uuid::new_v4().to_string()),
            metadata: hook.metadata.clone(),
            result: None,
            timed_out: false,
            hidden_calls,
            default_result: hook.default_result,
            heartbeat: SignedDuration::from_secs(hook.heartbeat_timeout_s.into()),
            started: now,
            last_heartbeat: now,
        }
    }

    /// Whether calls still do not find the action: its first `hidden_calls` calls, and only within [`HIDDEN`] of its start.
    pub(crate) fn is_hidden(&self, now: Timestamp) -> bool {
        self.hidden_calls > 0 && now < self.started + HIDDEN
    }

    /// Restarts the heartbeat timeout; the global timeout runs on.
    pub(crate) fn heartbeat(&mut self, now: Timestamp) {
        self.last_heartbeat = now;
    }

    /// When it times out if nothing more happens.
    pub(crate) fn times_out(&self) -> Timestamp {
        let heartbeat = self.last_heartbeat + self.heartbeat;
        heartbeat.min(self.started + global_timeout(self.heartbeat))
    }
}

/// The global timeout that goes with a heartbeat timeout.
pub(crate) fn global_timeout(heartbeat: SignedDuration) -> SignedDuration {
    heartbeat.saturating_mul(100).min(LONGEST_GLOBAL_TIMEOUT)
}

impl Passage {
    /// Which hooks stop it.
    pub(crate) fn transition(&self) -> Transition {
        match self.root_volume {
            Some(RootVolume::Replacing) => Transition::Terminating,
            Some(RootVolume::Replaced) => Transition::Launching,
            None => transition(self.origin, self.destination),
        }
    }

    /// The lifecycle state that it shows, from `Wait` or `Proceed`.
    pub(crate) fn state(&self) -> String {
        let step = if self.done.is_none() { "Wait" } else { "Proceed" };
        let way = match (self.origin, self.destination) {
            _ if self.root_volume == Some(RootVolume::Replacing) => "ReplacingRootVolume",
            (Place::WarmPool, Place::Ec2) => "Warmed:Terminating",
            (_, Place::Ec2) => "Terminating",
            (_, Place::WarmPool) => "Warmed:Pending",
            (_, Place::AutoScalingGroup) => "Pending",
        };
        format!("{way}:{step}")
    }

    /// The state in which it ends when it is not abandoned.
    pub(crate) fn arrival(&self, pool: Option<PoolState>) -> &'static str {
        match (self.destination, pool.unwrap_or(PoolState::Stopped)) {
            (Place::AutoScalingGroup, _) => "InService",
            (Place::Ec2, _) => "Terminated",
            (Place::WarmPool, PoolState::Stopped) => "Warmed:Stopped",
            (Place::WarmPool, PoolState::Running) => "Warmed:Running",
            (Place::WarmPool, PoolState::Hibernated) => "Warmed:Hibernated",
        }
    }

    /// Lets timeouts that have passed by `now` decide, in the order in which they passed, and sees whether the
    /// wait is over: when all actions are complete, or at the first that is abandoned.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        while self.done.is_none() {
            let open = self.actions.iter_mut().filter(|action| action.result.is_none());
            let Some(next) = open.min_by_key(|action| action.times_out()) else {
                return self.finish(now);
            };
            let at = next.times_out();
            if at > now {
                return;
            }
            next.result = Some(next.default_result);
            next.timed_out = true;
            self.finish(at);
        }
    }

    /// Takes the result of one action.
    pub(crate) fn complete(&mut self, index: usize, result: ActionResult, now: Timestamp) {
        if let Some(action) = self.actions.get_mut(index) {
            action.result = Some(result);
        }
        self.finish(now);
    }

    fn finish(&mut self, at: Timestamp) {
        let abandoned = self.actions.iter().any(|action| action.result == Some(ActionResult::Abandon));
        if abandoned {
            self.done = Some((at, ActionResult::Abandon));
        } else if self.actions.iter().all(|action| action.result.is_some()) {
            self.done = Some((at, ActionResult::Continue));
        }
    }
}

/// Which hooks stop an instance on this way. A return to the warm pool is a termination to Auto Scaling
/// (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pools-eventbridge-events.html>).
pub(crate) fn transition(origin: Place, destination: Place) -> Transition {
    match (origin, destination) {
        (Place::Ec2, _) | (Place::WarmPool, Place::AutoScalingGroup | Place::WarmPool) => Transition::Launching,
        (Place::AutoScalingGroup, _) | (Place::WarmPool, Place::Ec2) => Transition::Terminating,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ActionResult::{Abandon, Continue};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn hook(heartbeat_timeout_s: u32, default_result: ActionResult) -> Hook {
        Hook {
            name: "hook".into(),
            transition: Transition::Terminating,
            heartbeat_timeout_s,
            default_result,
            metadata: None,
            notification_target: None,
        }
    }

    fn leaving(hooks: &[Hook]) -> Passage {
        Passage {
            origin: Place::AutoScalingGroup,
            destination: Place::Ec2,
            root_volume: None,
            actions: hooks.iter().map(|hook| Action::start(hook, None, 0, at(0))).collect(),
            done: None,
            activity: String::new(),
        }
    }

    #[test]
    fn a_wait_ends_with_the_default_result_when_the_heartbeat_timeout_has_passed() {
        let mut passage = leaving(&[hook(600, Continue)]);
        passage.settle(at(599));
        assert_eq!(passage.done, None);
        passage.settle(at(700));
        assert_eq!(passage.done, Some((at(600), Continue)), "it ended at the timeout, not when it was read");
    }

    #[test]
    fn a_heartbeat_restarts_the_timeout_at_its_full_length() {
        let mut passage = leaving(&[hook(600, Continue)]);
        passage.actions[0].heartbeat(at(500));
        passage.settle(at(1099));
        assert_eq!(passage.done, None);
        passage.settle(at(1100));
        assert_eq!(passage.done, Some((at(1100), Continue)));
    }

    #[test]
    fn heartbeats_do_not_outlast_the_global_timeout() {
        let mut passage = leaving(&[hook(30, Abandon)]);
        for beat in 1..=199 {
            passage.actions[0].heartbeat(at(beat * 15));
        }
        passage.settle(at(3000));
        assert_eq!(passage.done, Some((at(3000), Abandon)));
    }

    #[test]
    fn the_global_timeout_is_a_hundred_heartbeats_and_at_most_two_days() {
        assert_eq!(global_timeout(SignedDuration::from_secs(30)).as_secs(), 3000);
        assert_eq!(global_timeout(SignedDuration::from_secs(7200)).as_secs(), 172_800);
    }

    #[test]
    fn the_wait_lasts_until_every_hook_has_continued() {
        let mut passage = leaving(&[hook(600, Continue), hook(600, Continue)]);
        passage.complete(1, Continue, at(1));
        assert_eq!(passage.state(), "Terminating:Wait");
        passage.complete(0, Continue, at(2));
        assert_eq!((passage.state().as_str(), passage.done), ("Terminating:Proceed", Some((at(2), Continue))));
    }

    #[test]
    fn abandoning_one_hook_skips_the_others() {
        let mut passage = leaving(&[hook(600, Continue), hook(600, Continue)]);
        passage.complete(0, Abandon, at(1));
        assert_eq!(passage.done, Some((at(1), Abandon)));
    }

    #[test]
    fn the_timeout_that_passes_first_decides_first() {
        let mut passage = leaving(&[hook(600, Continue), hook(60, Abandon)]);
        passage.settle(at(10_000));
        assert_eq!(passage.done, Some((at(60), Abandon)));
        assert_eq!(passage.actions[0].result, None);
    }

    #[test]
    fn a_return_to_the_warm_pool_is_stopped_by_terminating_hooks() {
        assert_eq!(transition(Place::AutoScalingGroup, Place::WarmPool), Transition::Terminating);
        assert_eq!(transition(Place::WarmPool, Place::AutoScalingGroup), Transition::Launching);
        assert_eq!(transition(Place::WarmPool, Place::Ec2), Transition::Terminating);
    }
}
