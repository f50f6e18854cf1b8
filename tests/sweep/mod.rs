//! The built function `sweep` against the lab.

mod waiting;
