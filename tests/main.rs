//! End to end: the built functions against the lab; with the feature `live`, also against real Puppet.

mod purge;
mod rehearsal;
