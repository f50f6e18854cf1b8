//! The built functions, run by the lab's Lambda Runtime API against its AWS and its Puppet.

mod enterprise;
mod onboard;
mod purge;
pub(crate) mod rehearsal;
mod sweep;
