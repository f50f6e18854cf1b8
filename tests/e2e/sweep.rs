//! The function `sweep`, as it is built, against the lab.

mod fleet;
mod health;
mod housekeeping;
mod logged;
mod refresh;
mod waiting;
