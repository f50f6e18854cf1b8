//! The built function `onboard` against the lab and its agents.

mod door;
mod impostors;
mod main_job;
mod names;
pub(crate) mod stage;
