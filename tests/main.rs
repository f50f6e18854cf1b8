//! End to end: the built functions against the lab; with the feature `live`, also against real Puppet.

mod conformance;
#[cfg(feature = "live")]
mod live_job;
#[cfg(feature = "live")]
mod live_stage;
mod onboard;
mod purge;
mod rehearsal;
mod sweep;
