//! Until when: patience, the hook's own clock, and the invocation's. Pure; the time is passed in.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::observation::Hook;

/// Kept between our own decision and the moment at which Auto Scaling would decide by itself, for the
/// calls that it still takes.
pub const HOOK_RESERVE: Duration = Duration::from_secs(30);

/// How long after its beginning an action must have been decided, whatever is still missing.
///
/// It is the shorter of the profile's patience and the hook's timeout, less a reserve. A hook whose whole timeout
/// is shorter than twice the reserve keeps half of its time instead.
#[must_use]
pub fn allowed(patience: Duration, hook: Option<&Hook>) -> Duration {
    hook.map_or(patience, |hook| {
        let lives = hook.heartbeat_timeout.min(hook.global_timeout);
        patience.min(lives.saturating_sub(HOOK_RESERVE.min(lives / 2)))
    })
}

/// The moment at which this invocation stops looking again: its budget, or the platform's deadline less a
/// reserve, whichever comes first.
#[must_use]
pub fn invocation_ends(
    now: Timestamp,
    budget: Duration,
    platform_deadline: Option<Timestamp>,
    reserve: Duration,
) -> Timestamp {
    let by_budget = after(now, budget);
    match platform_deadline {
        Some(deadline) => by_budget.min(before(deadline, reserve)),
        None => by_budget,
    }
}

/// `time` and `duration` later, or the end of time.
#[must_use]
pub fn after(time: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|d| time.checked_add(d).ok()).unwrap_or(Timestamp::MAX)
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|d| time.checked_sub(d).ok()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Transition;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn hook(heartbeat: u64) -> Hook {
        Hook {
            name: "stagedoor-terminate".parse().unwrap(),
            transition: Some(Transition::Terminating),
            heartbeat_timeout: Duration::from_secs(heartbeat),
            global_timeout: Duration::from_secs((heartbeat * 100).min(172_800)),
        }
    }

    #[test]
    fn patience_decides_when_the_hook_lives_longer() {
        assert_eq!(allowed(Duration::from_secs(600), Some(&hook(3600))), Duration::from_secs(600));
        assert_eq!(allowed(Duration::from_secs(600), None), Duration::from_secs(600));
    }

    #[test]
    fn the_decision_comes_before_the_hook_would_time_out() {
        assert_eq!(allowed(Duration::from_secs(600), Some(&hook(300))), Duration::from_secs(270));
    }

    #[test]
    fn a_very_short_hook_keeps_half_of_its_time() {
        assert_eq!(allowed(Duration::from_secs(600), Some(&hook(30))), Duration::from_secs(15));
    }

    #[test]
    fn an_invocation_ends_before_the_platform_kills_it() {
        let (budget, reserve) = (Duration::from_secs(50), Duration::from_secs(5));
        assert_eq!(invocation_ends(at(0), budget, Some(at(30)), reserve), at(25));
        assert_eq!(invocation_ends(at(0), budget, Some(at(300)), reserve), at(50));
        assert_eq!(invocation_ends(at(0), budget, None, reserve), at(50));
    }
}
