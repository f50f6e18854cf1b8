//! When is a run of a refresh target ordered, and ordered again? Pure, and without state.
//!
//! Order n = 0, 1, 2, 3 is due (2ⁿ − 1) × 2 minutes after the change, or after the wave before ended: after 0, 2, 6 and 14 minutes. How many were
//! given is read from the orchestrator's jobs.

use std::time::Duration;

use jiff::Timestamp;

use crate::deadline;

/// How many orders are given for one change at the most.
const ORDERS: u32 = 4;
/// The time unit of the schedule.
const UNIT: Duration = Duration::from_secs(120);
/// Between the beginnings of two sweeps, which give the orders of launches.
pub(super) const SWEEPS: Duration = Duration::from_secs(60);
/// From this time on, an order is given although another one from before the change is still in progress: that one may never end. It is
/// when order 2 is due.
pub(super) const PENDING_FROM: Duration = Duration::from_secs(360);

/// Whether a run is to be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// It is, since this time.
    Now(Timestamp),
    /// Not before this time.
    At(Timestamp),
    /// As many orders were given as there may be.
    Never,
}

/// What is known of the orders for a target since the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// How many orders have been given since.
    pub(super) count: usize,
    /// Whether the orchestrator shows any order that was given or has ended since.
    pub(super) any_shown: bool,
    /// When the last of the orders that have ended no longer stood in the way.
    pub(super) free: Option<Timestamp>,
}

/// Whether an order is due, for a change at `start`. `every` is how often that is looked at.
///
/// Where the orchestrator shows no order since then, one may have been given and lost: orchestrators that restart forget jobs. Then the
/// time alone decides, so that at most one order is given each time that one is due: in the interval that follows.
pub(super) fn due(start: Timestamp, given: Given, every: Duration, now: Timestamp) -> Due {
    let times: Vec<Timestamp> = (0..ORDERS).map(|n| deadline::after(start, UNIT * (2_u32.pow(n) - 1))).collect();
    let Some(next) = times.get(given.count) else { return Due::Never };
    let next = given.free.map_or(*next, |free| free.max(*next));
    if now < next {
        return Due::At(next);
    }
    if given.any_shown {
        return Due::Now(next);
    }
    match times.iter().rfind(|time| **time <= now) {
        Some(last) if now < deadline::after(*last, every) => Due::Now(*last),
        _ => times.iter().find(|time| **time > now).map_or(Due::Never, |next| Due::At(*next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::at;

    const NOTHING: Given = Given { count: 0, any_shown: false, free: None };

    /// The seconds after the change, of an hour, at which an order is due whatever was given before.
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
        let windows: Vec<i64> = [0, 2, 6, 14].into_iter().flat_map(|minute| minute * 60..(minute + 1) * 60).collect();
        assert_eq!(due_while(NOTHING), windows);
        assert_eq!(due(at(0), NOTHING, SWEEPS, at(60)), Due::At(at(120)));
        assert_eq!(due(at(0), NOTHING, SWEEPS, at(900)), Due::Never);
    }

    #[test]
    fn an_order_waits_until_the_one_before_has_settled() {
        let given = Given { count: 1, any_shown: true, free: Some(at(500)) };
        assert_eq!(due(at(0), given, SWEEPS, at(499)), Due::At(at(500)));
        assert_eq!(due(at(0), given, SWEEPS, at(500)), Due::Now(at(500)));
    }
}
