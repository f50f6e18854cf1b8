//! Everything that is random in a simulation, from one seed. No I/O.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A source of chance. Clones share it, so that the order of their draws counts, which one thread on simulated time repeats.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<Mutex<fastrand::Rng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number of this range.
    pub(crate) fn of(&self, range: RangeInclusive<u64>) -> u64 {
        self.with(|rng| rng.u64(range))
    }

    /// Whether something happens that does so this often in a hundred cases.
    pub(crate) fn percent(&self, often: u64) -> bool {
        self.of(0..=99) < often
    }

    /// One of these.
    pub(crate) fn one<'a, T>(&self, all: &'a [T]) -> &'a T {
        let last = u64::try_from(all.len() - 1).unwrap_or_default();
        &all[usize::try_from(self.of(0..=last)).unwrap_or_default()]
    }

    /// What one way through the network takes.
    pub(crate) async fn delay(&self) {
        let micros = self.of(500..=15_000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}
