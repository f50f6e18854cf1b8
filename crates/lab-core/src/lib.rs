//! What the simulated services of the lab share: the [`server`] that they are served by, the [`journal`] of their calls, the
//! [`faults`] that hit these calls, and the [`clock`] that they go by. Network I/O in [`server`] alone.

pub mod clock;
pub mod faults;
pub mod journal;
pub mod server;
