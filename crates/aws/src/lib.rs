//! The AWS services that the controller talks to, except EC2: Auto Scaling, Secrets Manager, SNS.
//!
//! A module for each service, one error for all, and in [`connect`] the one place that says how long
//! a call may take and how throttling is answered. Everything here does I/O.

pub mod autoscaling;
pub mod connect;
mod error;
pub mod secrets;
pub mod sns;

pub use aws_config::SdkConfig;
pub use error::{Error, classify};
