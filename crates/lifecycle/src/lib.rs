//! Decides what to do about an instance that an Auto Scaling group launches or terminates.
//!
//! Events in, decisions out. This crate does no I/O, reads no clock and draws no random numbers: a
//! decision is a function of what was observed, the group's profile and the time it is given.
//!
//! * [`event`] reads events,
//! * [`observation`] and [`profile`] hold what is known and what is required,
//! * [`admission`] says what AWS knows of an instance, [`identity`] whose a name is, [`signing`] what may be signed,
//! * [`onboard`] and [`purge`] decide, [`refresh`] says who is to run Puppet, [`deadline`] until when,
//! * [`orphans`] says which nodes outlived their instances, [`pins`] which pins outlived their nodes, [`expiry`] which credentials are
//!   about to expire,
//! * [`removal`] leads from what is left of an instance to the proof that it is gone,
//! * [`receipt`] says what happened, [`reason`] why.

pub mod admission;
pub mod deadline;
pub mod decision;
pub mod event;
pub mod expiry;
pub mod identity;
pub mod observation;
pub mod onboard;
pub mod orphans;
pub mod pins;
pub mod profile;
pub mod purge;
pub mod reason;
pub mod receipt;
pub mod refresh;
pub mod removal;
pub mod signing;
#[cfg(test)]
mod world;
