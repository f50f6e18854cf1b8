//! Deterministic simulation: the real controller and the real clients against the lab, in one thread and on simulated time. All
//! randomness comes from one seed, so that every violation can be reproduced.
//!
//! ```text
//! seed ─► schedule ─► play ─► violations, trace
//!           instances, faults, kills, strangers
//! ```
//!
//! A `Schedule` describes what happens, and `play` runs it. The invariants are checked against the actual state before each write is
//! carried out and at the end (`watch.rs`). A schedule that violates an invariant is reduced until nothing more can be removed from it.

mod agent;
mod aws;
mod broken;
mod chance;
pub mod exhaustive;
mod kill;
mod network;
mod run;
mod scene;
pub mod schedule;
mod watch;

pub use broken::Broken;
pub use run::{Played, play, play_with};
pub use schedule::Schedule;
pub use watch::{Invariant, Violation};

/// The smallest schedule that still violates the same invariant.
///
/// # Errors
/// The same as for [`play`].
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
