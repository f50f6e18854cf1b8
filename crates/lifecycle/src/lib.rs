//! What to do about an instance that enters or leaves an Auto Scaling group.
//!
//! Events in, decisions out. This crate does no I/O, reads no clock and draws no random numbers: a
//! decision is a function of what was observed, the group's profile and the time it is given.

mod names;

pub use names::{Certname, GroupName, HookName, InstanceId, InvalidName, ProfileName};
