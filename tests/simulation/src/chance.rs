//! The source of all randomness in a simulation, initialised from one seed. No I/O.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A random number generator that its clones share. Results depend on the order of draws. This order is the same in each run, because a
/// simulation uses one thread and simulated time.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<Mutex<fastrand::Rng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number in this range.
    pub(crate) fn of(&self, range: RangeInclusive<u64>) -> u64 {
        self.with(|rng| rng.u64(range))
    }

    /// True in this percentage of cases.
    pub(crate) fn percent(&self, often: u64) -> bool {
        self.of(0..=99) < often
    }

    /// One element of `all`, which must not be empty.
    pub(crate) fn one<'a, T>(&self, all: &'a [T]) -> &'a T {
        let last = u64::try_from(all.len() - 1).unwrap_or_default();
        &all[usize::try_from(self.of(0..=last)).unwrap_or_default()]
    }

    /// Waits for the latency of one direction of a network call.
    pub(crate) async fn delay(&self) {
        let micros = self.of(500..=15_000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}
