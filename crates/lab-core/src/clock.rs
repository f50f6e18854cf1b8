//! The lab's time: the machine's clock, or that of a simulation, plus an offset that tests and people may advance. No I/O.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

/// The time that every simulated service goes by. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    base: Base,
    offset: SignedDuration,
}

/// What the time is, before it is advanced.
#[derive(Debug, Default)]
enum Base {
    /// That of the machine's clock.
    #[default]
    Machine,
    /// It stands still here.
    Standing(Timestamp),
    /// It was this at that instant of Tokio's clock, and runs with it.
    Tokio(Timestamp, Instant),
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
        Self::of(Base::Standing(at))
    }

    /// A clock that shows `at` now and runs with Tokio's, which may be paused: then everything that has a part in a simulation goes by
    /// one time. It must be read in that runtime.
    #[must_use]
    pub fn with_tokio(at: Timestamp) -> Self {
        Self::of(Base::Tokio(at, Instant::now()))
    }

    fn of(base: Base) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { base, offset: SignedDuration::ZERO })) }
    }

    /// The lab's present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let base = match inner.base {
            Base::Machine => Self::machine_now(),
            Base::Standing(at) => at,
            Base::Tokio(at, begin) => at.saturating_add(begin.elapsed()).unwrap_or(at),
        };
        base.saturating_add(inner.offset).unwrap_or(base)
    }

    /// The machine's time, for those outside the lab's time: a function under test.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else asks")]
    pub fn machine_now() -> Timestamp {
        Timestamp::now()
    }

    /// The clock of the host that a service runs on, as its answers show it: the machine's without the offset, as the controller
    /// compares it with its own; the lab's where time is simulated.
    #[must_use]
    pub fn host_now(&self) -> Timestamp {
        let is_machine = matches!(self.inner.lock().unwrap_or_else(PoisonError::into_inner).base, Base::Machine);
        if is_machine { Self::machine_now() } else { self.now() }
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
