//! End to end: the built functions against the lab; with the feature `live`, also against real Puppet.

mod conformance;
mod e2e;
#[cfg(feature = "live")]
mod live;
