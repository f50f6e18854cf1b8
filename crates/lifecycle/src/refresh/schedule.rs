//! When a run of a refresh target is ordered, and when it is ordered again. Pure, and without state.
//!
//! Order n = 0, 1, 2, 3 is due (2ⁿ − 1) × 2 minutes after the change or after the end of the wave before: after 0, 2, 6 and 14 minutes.
//! The number of previous orders is read from the orchestrator's jobs.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};

use crate::deadline;

/// The greatest number of orders for one change.
const ORDERS: u32 = 4;
/// The time unit of the schedule.
const UNIT: Duration = Duration::from_secs(120);
/// The greatest pause between two orders, in units.
const GREATEST_PAUSE: u32 = 4;
/// The interval of sweeps, which give the orders of launches.
pub(super) const SWEEPS: Duration = Duration::from_secs(60);
/// How long after the change an order from before the change, still in progress, delays a new one. It may never end, so a new order is
/// given after this time, when order 2 is due.
pub(super) const PENDING_FROM: Duration = Duration::from_secs(360);

/// Whether to order a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Order a run now. The order became due at this time.
    Now(Timestamp),
    /// Order no run before this time.
    At(Timestamp),
    /// Order no further run: the greatest number of orders has been given.
    Never,
}

/// What is known of the orders for a target since the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// The number of orders that have been given since.
    pub(super) count: usize,
    /// Whether the orchestrator shows any order that was given or has ended since.
    pub(super) any_shown: bool,
    /// When the last of the orders that have ended stopped delaying the next one.
    pub(super) free: Option<Timestamp>,
}

/// Whether an order is due, for a change at `start`. `every` is the interval at which this is checked.
///
/// If the orchestrator shows no order since the change, one may have been given and lost, because an orchestrator that restarts forgets
/// jobs. In that case, only the time decides: each order is given at most once, in the interval of length `every` after it becomes due. It
/// may also be that none could be given, for instance because the orchestrator was unavailable for a quarter of an hour. So after the
/// fourth time, another follows every eight minutes; the timeout of the refresh ends this.
pub(super) fn due(start: Timestamp, given: Given, every: Duration, now: Timestamp) -> Due {
    if is_broken(Rule::BackOff) && now >= start {
        return Due::Now(now);
    }
    let times: Vec<Timestamp> = (0..ORDERS).map(|n| deadline::after(start, UNIT * (2_u32.pow(n) - 1))).collect();
    let Some(next) = times.get(given.count) else { return Due::Never };
    let next = given.free.map_or(*next, |free| free.max(*next));
    if now < next {
        return Due::At(next);
    }
    if given.any_shown {
        return Due::Now(next);
    }
    let mut last = start;
    for step in (0..).map(|n| UNIT * 2_u32.pow(n).min(GREATEST_PAUSE)) {
        let next = deadline::after(last, step);
        if now < next {
            return if now < deadline::after(last, every) { Due::Now(last) } else { Due::At(next) };
        }
        last = next;
    }
    Due::Never
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::at;

    const NOTHING: Given = Given { count: 0, any_shown: false, free: None };

    /// The seconds of the first hour after the change at which an order is due for these previous orders.
    fn due_while(given: Given) -> Vec<i64> {
        (0..3600).filter(|second| matches!(due(at(0), given, SWEEPS, at(*second)), Due::Now(_))).collect()
    }

    #[test]
    fn each_order_is_due_when_its_time_has_come_and_there_are_four() {
        for (count, minutes) in [(0, 0), (1, 2), (2, 6), (3, 14)] {
            let given = Given { count, any_shown: true, free: None };
            assert_eq!(due_while(given).first(), Some(&(minutes * 60)), "order {count}");
            assert_eq!(due(at(0), given, SWEEPS, at(3000)), Due::Now(at(minutes * 60)));
        }
        assert_eq!(due(at(0), Given { count: 4, any_shown: true, free: None }, SWEEPS, at(3000)), Due::Never);
        assert_eq!(due(at(0), NOTHING, SWEEPS, at(-1)), Due::At(at(0)));
    }

    #[test]
    fn where_no_order_is_shown_the_time_alone_decides() {
        let minutes = [0, 2, 6, 14, 22, 30, 38, 46, 54];
        let windows: Vec<i64> = minutes.into_iter().flat_map(|minute| minute * 60..(minute + 1) * 60).collect();
        assert_eq!(due_while(NOTHING), windows);
        assert_eq!(due(at(0), NOTHING, SWEEPS, at(60)), Due::At(at(120)));
        assert_eq!(due(at(0), NOTHING, SWEEPS, at(900)), Due::At(at(22 * 60)));
    }

    #[test]
    fn an_order_waits_until_the_one_before_has_settled() {
        let given = Given { count: 1, any_shown: true, free: Some(at(500)) };
        assert_eq!(due(at(0), given, SWEEPS, at(499)), Due::At(at(500)));
        assert_eq!(due(at(0), given, SWEEPS, at(500)), Due::Now(at(500)));
    }
}
