//! The function `purge`, as it is built, against the lab.

mod bad_input;
mod main_job;
mod safety;
mod trouble;
