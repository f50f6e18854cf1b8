//! Deterministic simulation: the real controller and the real clients against the lab, in one thread and on simulated time. Everything
//! that is random comes from one seed, so that what goes wrong once can be seen again.
//!
//! ```text
//! seed ─► schedule ─► play ─► violations, trace
//!           instances, faults, kills, strangers
//! ```
//!
//! A `Schedule` says what happens; `play` lets it happen. Before each write is carried out, and at the end, the invariants are compared
//! with what is really so (`watch.rs`). A schedule that violates one is made smaller until nothing can be left out of it.

mod agent;
mod aws;
mod broken;
mod chance;
pub mod exhaustive;
mod kill;
mod network;
mod run;
pub mod schedule;
mod watch;

pub use broken::Broken;
pub use run::{Played, play, play_with};
pub use schedule::Schedule;
pub use watch::{Invariant, Violation};

/// The smallest schedule that still violates the same invariant.
///
/// # Errors
/// As [`play`].
pub fn shrink(schedule: Schedule, invariant: Invariant) -> anyhow::Result<Schedule> {
    let violates = |schedule: &Schedule| -> anyhow::Result<bool> {
        Ok(play(schedule)?.violations.iter().any(|violation| violation.invariant == invariant))
    };
    let mut smallest = schedule;
    'again: loop {
        for smaller in smallest.smaller() {
            if violates(&smaller)? {
                smallest = smaller;
                continue 'again;
            }
        }
        return Ok(smallest);
    }
}
