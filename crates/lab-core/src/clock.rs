//! The lab's time: the machine's clock plus an offset that tests and people may advance. No I/O.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The time that every simulated service goes by. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Set: time stands still here until it is advanced. Unset: it runs with the machine's clock.
    fixed: Option<Timestamp>,
    offset: SignedDuration,
}

impl Clock {
    /// A clock that runs with the machine's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock that stands at `at` and moves only when it is advanced.
    #[must_use]
    pub fn standing_at(at: Timestamp) -> Self {
        let inner = Inner { fixed: Some(at), offset: SignedDuration::ZERO };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The lab's present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let base = inner.fixed.unwrap_or_else(Self::machine_now);
        base.saturating_add(inner.offset).unwrap_or(base)
    }

    /// The machine's time, for those outside the lab's time: a function under test.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else asks")]
    pub fn machine_now() -> Timestamp {
        Timestamp::now()
    }

    /// Moves the lab's time forward; a negative duration moves it back.
    pub fn advance(&self, by: SignedDuration) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.offset = inner.offset.saturating_add(by);
    }
}

/// Certificates expire by the lab's time.
impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advance_is_seen_by_every_clone() {
        let clock = Clock::standing_at(Timestamp::UNIX_EPOCH);
        let other = clock.clone();
        clock.advance(SignedDuration::from_secs(90));
        assert_eq!(other.now(), Timestamp::from_second(90).unwrap());
    }
}
