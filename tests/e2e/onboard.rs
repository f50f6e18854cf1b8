//! The built function `onboard` against the lab and its agents.

mod classified;
mod impostors;
mod main_job;
mod missing;
mod names;
mod readiness;
pub(crate) mod stage;
mod timeouts;
