//! What to do about an instance that enters or leaves an Auto Scaling group.
//!
//! Events in, decisions out. This crate does no I/O, reads no clock and draws no random numbers: a
//! decision is a function of what was observed, the group's profile and the time it is given.
//!
//! * [`event`] reads what arrived,
//! * [`observation`] and [`profile`] hold what is known and what is wanted,
//! * [`identity`] says whose a name is,
//! * [`purge`] decides, [`deadline`] says until when,
//! * [`receipt`] tells what happened.

pub mod deadline;
pub mod event;
pub mod identity;
mod names;
pub mod observation;
pub mod profile;
pub mod purge;
pub mod receipt;
pub mod signing;

pub use names::{Certname, GroupName, HookName, InstanceId, InvalidName, ProfileName};
