//! The rehearsal stage: AWS and Puppet simulated on their real wire protocols, in one process.

pub mod clock;
pub mod faults;
pub mod journal;
#[cfg(any())]
pub mod puppet;
pub mod server;
