//! The budget of an invocation: until when new passes, Puppet calls and replies may take. Pure.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::deadline;
use stagedoor_types::broken::{Rule, is_broken};

/// Until when an invocation goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// When it began.
    pub(crate) began: Timestamp,
    /// After a pause, no new pass begins after this.
    pub(crate) passes: Timestamp,
    /// Every call to Puppet has ended by this, so that there is time to complete the actions.
    pub(crate) work: Timestamp,
    /// Every call has ended by this.
    pub(crate) calls: Timestamp,
}

/// Reserve before the platform's deadline for writing the answer.
const ANSWER_RESERVE: Duration = Duration::from_secs(2);
/// Reserve for completing the actions when all work has ended: a CA that takes a minute for a write must not leave them waiting.
pub(crate) const HOOKS_RESERVE: Duration = Duration::from_secs(6);
/// Reserve for the calls of a pass that has begun.
const PASS_RESERVE: Duration = Duration::from_secs(15);

impl Budget {
    /// The configured budget, as far as the platform's own deadline allows it.
    pub(crate) fn new(now: Timestamp, budget: Duration, platform_deadline: Option<Timestamp>) -> Self {
        let (budget, platform_deadline) =
            if is_broken(Rule::Budget) { (budget * 10, None) } else { (budget, platform_deadline) };
        let passes = deadline::invocation_ends(now, budget, platform_deadline, PASS_RESERVE);
        // A CA write may wait for a minute on a lock. Without a platform that ends the invocation, it may take its time.
        let longest = budget + Duration::from_secs(90);
        let calls = deadline::invocation_ends(now, longest, platform_deadline, ANSWER_RESERVE);
        Self { began: now, passes, work: deadline::before(calls, HOOKS_RESERVE), calls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_time_to_complete_the_actions_when_all_work_has_ended() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for platform in [None, Some(20), Some(60), Some(140), Some(150), Some(900)] {
            let ends = platform.map(|seconds| deadline::after(now, Duration::from_secs(seconds)));
            let budget = Budget::new(now, Duration::from_secs(50), ends);
            assert_eq!(budget.calls, deadline::after(budget.work, HOOKS_RESERVE), "{platform:?}");
            assert!(budget.passes < budget.work, "{platform:?}");
            assert!(ends.is_none_or(|ends| budget.calls <= deadline::before(ends, ANSWER_RESERVE)), "{platform:?}");
        }
    }
}
