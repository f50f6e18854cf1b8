//! What was observed, and when. No I/O.

use jiff::Timestamp;

/// What was observed, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<T> {
    /// What was observed.
    pub value: T,
    /// When the observation began.
    pub at: Timestamp,
}

/// An observation that is new enough to be acted upon. Only [`Observed::fresh`] makes one:
///
/// ```compile_fail,E0423
/// let stale = "what was seen a while ago";
/// let forged = stagedoor_types::Fresh(&stale);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh<'a, T>(&'a T);

impl<T> Observed<T> {
    /// The observation, unless it began before `limit`.
    #[must_use]
    pub fn fresh(&self, limit: Timestamp) -> Option<Fresh<'_, T>> {
        (self.at >= limit).then_some(Fresh(&self.value))
    }
}

impl<T> std::ops::Deref for Fresh<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_from_before_the_limit_is_not_fresh() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let later = Timestamp::from_second(1_800_000_001).unwrap();
        let observed = Observed { value: "held", at };
        assert_eq!(observed.fresh(at).as_deref(), Some(&"held"));
        assert_eq!(observed.fresh(later), None);
    }
}
