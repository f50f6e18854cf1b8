//! The function `purge`, as it is built, against the lab.

mod bad_input;
mod enterprise;
mod main_job;
mod safety;
mod trouble;
