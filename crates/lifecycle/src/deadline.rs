//! Deadlines: the profile's timeout, the hook's own timeouts, and the invocation's budget. Pure; the time is passed in.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use stagedoor_types::{Hook, InstanceId};

/// Reserve between our own decision and the moment at which Auto Scaling would decide by itself. For so long there may be no
/// pass: a slow CA may hold up the last pass of one sweep, and the next sweep begins within a minute of its end.
pub(crate) const HOOK_RESERVE: Duration = Duration::from_secs(150);

/// How much time an action has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// How long after its beginning it must have been decided, whatever is still missing.
    pub allowed: Duration,
    /// The hook's heartbeat timeout, where the hook would give up before that unless it gets heartbeats.
    pub heartbeat: Option<Duration>,
}

/// The shorter of the profile's timeout and the hook's global timeout, less a reserve. A hook whose whole timeout is
/// shorter than twice the reserve keeps half of its time instead.
#[must_use]
pub(crate) fn allowance(timeout: Duration, hook: Option<&Hook>) -> Allowance {
    let Some(hook) = hook else { return Allowance { allowed: timeout, heartbeat: None } };
    let less_reserve = |lives: Duration| lives.saturating_sub(HOOK_RESERVE.min(lives / 2));
    let allowed = timeout.min(less_reserve(hook.global_timeout));
    let heartbeat = (allowed > less_reserve(hook.heartbeat_timeout)).then_some(hook.heartbeat_timeout);
    Allowance { allowed, heartbeat }
}

/// How far back an invocation assumes that its predecessor sent heartbeats: sweeps run every minute. An instance that is due
/// twice because of that gets two heartbeats, which is better than none.
pub const LOOK_BACK: Duration = Duration::from_secs(75);

/// Whether a heartbeat is due, given when that was last checked.
///
/// The last one is not stored, and need not be: each instance has its own moments, a third of the timeout apart and
/// spread by its id, and one is due whenever such a moment has passed. So two may be lost, and a fleet that was
/// launched together does not send them together.
#[must_use]
pub fn heartbeat_due(instance: &InstanceId, timeout: Duration, last: Timestamp, now: Timestamp) -> bool {
    let period = i64::try_from(timeout.as_secs() / 3).unwrap_or(i64::MAX).max(1);
    let id = instance.as_str();
    let spread = i64::from_str_radix(&id[id.len() - 8..], 16).unwrap_or(0);
    let moment = |time: Timestamp| (time.as_second().saturating_add(spread)).div_euclid(period);
    moment(last) != moment(now)
}

/// How often operators are notified of refused requests of the same launch, at the most.
const ANNOUNCED_EVERY: Duration = Duration::from_secs(300);
/// Between the beginnings of two sweeps.
const SWEEPS: Duration = Duration::from_secs(60);

/// Whether this invocation notifies operators of a refused request. The function that the launch's event invoked always does. The sweep
/// does so once in five minutes, counted from the beginning of the launch, and not in the first five.
#[must_use]
pub fn announces_refusal(is_sweep: bool, launch_began: Option<Timestamp>, now: Timestamp) -> bool {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let is_due = |began: Timestamp| {
        let age = now.as_second() - began.as_second();
        age >= seconds(ANNOUNCED_EVERY) && age % seconds(ANNOUNCED_EVERY) < seconds(SWEEPS)
    };
    !is_sweep || launch_began.is_some_and(is_due)
}

/// Whether a moment has come since `last` of those that are `period` apart, counted from 1970 on.
#[must_use]
pub fn slot_begun(period: Duration, last: Timestamp, now: Timestamp) -> bool {
    slot(period, last) != slot(period, now)
}

/// Whether the slot of `period` that `now` is in is the first of a slot of the longer period `long`. So what is done
/// once in each short slot knows, without state, what to do once in each long one.
#[must_use]
pub fn is_first_of(long: Duration, period: Duration, now: Timestamp) -> bool {
    let begun = Timestamp::from_second(slot(period, now).saturating_mul(seconds(period))).unwrap_or(now);
    slot_begun(long, before(begun, period), begun)
}

fn slot(period: Duration, time: Timestamp) -> i64 {
    time.as_second().div_euclid(seconds(period))
}

fn seconds(period: Duration) -> i64 {
    i64::try_from(period.as_secs()).unwrap_or(i64::MAX).max(1)
}

/// The moment after which this invocation begins no further pass: its budget, or the platform's deadline less a
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

/// `time` and `duration` earlier, or the beginning of time.
#[must_use]
pub fn before(time: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|d| time.checked_sub(d).ok()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stagedoor_types::Transition;

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

    fn allowed(timeout: u64, hook: Option<&Hook>) -> (u64, Option<u64>) {
        let Allowance { allowed, heartbeat } = allowance(Duration::from_secs(timeout), hook);
        (allowed.as_secs(), heartbeat.map(|heartbeat| heartbeat.as_secs()))
    }

    #[test]
    fn the_timeout_decides_where_the_hook_allows_more_time() {
        assert_eq!(allowed(600, Some(&hook(3600))), (600, None));
        assert_eq!(allowed(600, None), (600, None));
    }

    #[test]
    fn heartbeats_are_needed_only_where_the_timeout_is_longer_than_the_hooks() {
        assert_eq!(allowed(750, Some(&hook(900))), (750, None));
        assert_eq!(allowed(751, Some(&hook(900))), (751, Some(900)));
    }

    #[test]
    fn the_decision_comes_before_the_hooks_global_timeout() {
        assert_eq!(allowed(172_800, Some(&hook(7200))), (172_650, Some(7200)));
    }

    #[test]
    fn a_very_short_hook_keeps_half_of_its_time() {
        let hook = Hook { global_timeout: Duration::from_secs(30), ..hook(30) };
        assert_eq!(allowed(600, Some(&hook)), (15, None));
    }

    #[test]
    fn a_heartbeat_is_due_once_in_each_third_of_the_timeout() {
        let instance: InstanceId = "i-0a1b2c3d4e5f60718".parse().unwrap();
        let due = |from: i64, to: i64| heartbeat_due(&instance, Duration::from_secs(300), at(from), at(to));
        let moments: Vec<i64> = (0..600).filter(|second| due(*second, second + 1)).collect();
        assert_eq!(moments.len(), 6, "every 100 seconds");
        assert!(moments.windows(2).all(|pair| pair[1] - pair[0] == 100));
        assert!(due(0, 100) && !due(moments[0] + 1, moments[0] + 100));
    }

    #[test]
    fn no_hook_gives_up_whatever_the_sweeps_leave_out() {
        // A day of sweeps, each late by up to 5 s; every fifth does housekeeping and ends early.
        let sweeps: Vec<(i64, i64)> = (0..1440)
            .map(|minute| {
                let start = minute * 60 + minute % 6;
                (start, start + if minute % 5 == 0 { 25 } else { 45 })
            })
            .collect();
        for timeout in [180, 300, 900, 3600] {
            for phase in 0..60 {
                let instance: InstanceId = format!("i-0a1b2c3d4{:08x}", phase * timeout / 180).parse().unwrap();
                let mut beats = vec![0];
                for (start, end) in &sweeps {
                    let mut last = before(at(*start), LOOK_BACK);
                    for second in *start..=*end {
                        if heartbeat_due(&instance, Duration::from_secs(timeout), last, at(second)) {
                            beats.push(second);
                        }
                        last = at(second);
                    }
                }
                let longest = beats.windows(2).map(|pair| pair[1] - pair[0]).max();
                let timeout = i64::try_from(timeout).unwrap();
                assert!(longest < Some(timeout), "{instance}: {longest:?} s without one at a timeout of {timeout} s");
            }
        }
    }

    #[test]
    fn instances_that_were_launched_together_have_their_heartbeats_apart() {
        let due = |number: u32| {
            let instance: InstanceId =
                format!("i-0a1b2c3d{:09x}", u64::from(number) * 2_654_435_761 % 0xffff_ffff).parse().unwrap();
            heartbeat_due(&instance, Duration::from_secs(3600), at(0), at(60))
        };
        let together = (0..1000).filter(|number| due(*number)).count();
        assert!((20..100).contains(&together), "{together} of 1000 in one minute of twenty");
    }

    #[test]
    fn what_is_done_every_five_minutes_is_due_in_one_minute_of_five() {
        let (five, minute) = (Duration::from_secs(300), 60);
        let due = (0..120).filter(|n| slot_begun(five, at(n * minute + 7 - minute), at(n * minute + 7)));
        assert_eq!(due.count(), 24, "two hours have 24 times five minutes");
    }

    #[test]
    fn a_refused_request_is_announced_by_the_function_of_the_event_and_then_by_one_sweep_in_five_minutes() {
        assert!(announces_refusal(false, None, at(0)) && announces_refusal(false, Some(at(0)), at(40)));
        for phase in 0..60 {
            let announced: Vec<i64> = (0..30)
                .map(|minute| minute * 60 + phase)
                .filter(|second| announces_refusal(true, Some(at(0)), at(*second)))
                .collect();
            assert_eq!(announced, (1..6).map(|slot| slot * 300 + phase).collect::<Vec<_>>());
        }
        assert!(!announces_refusal(true, None, at(600)), "nothing says in which minute it would be");
    }

    #[test]
    fn one_slot_of_a_day_is_the_first() {
        let (day, five) = (Duration::from_secs(86_400), Duration::from_secs(300));
        let first = (0..3 * 288).filter(|n| is_first_of(day, five, at(n * 300 + 59)));
        assert_eq!(first.count(), 3);
        let seven = Duration::from_secs(420);
        let first = (0..1440).filter(|n| is_first_of(day, seven, at(n * 420 + (n * 37) % 60)));
        assert_eq!(first.count(), 7, "a week of slots that do not fit into a day");
        assert!((0..9).all(|n| is_first_of(day, 2 * day, at(n * 2 * 86_400))), "rarer than once a day: each time");
    }

    #[test]
    fn an_invocation_ends_before_the_platform_kills_it() {
        let (budget, reserve) = (Duration::from_secs(50), Duration::from_secs(5));
        assert_eq!(invocation_ends(at(0), budget, Some(at(30)), reserve), at(25));
        assert_eq!(invocation_ends(at(0), budget, Some(at(300)), reserve), at(50));
        assert_eq!(invocation_ends(at(0), budget, None, reserve), at(50));
    }
}
