//! The controller: from events to receipts.
//!
//! ```text
//! event ─► which instances? ─► observe ─► decide ─► apply ─► observe again … ─► complete
//!          (a hint only)       AWS, Puppet  pure    idempotent   the proof        CONTINUE / ABANDON
//! ```
//!
//! It keeps no state: what there is to know is at AWS and Puppet, and any invocation may be killed anywhere.
//! Read `reconcile.rs` first; its stages are the modules `observe`, `apply` and `complete`, and what they decide is in
//! [`stagedoor_lifecycle::onboard`] and [`stagedoor_lifecycle::purge`].

mod apply;
mod batch;
mod budget;
mod call;
mod complete;
pub mod config;
mod context;
mod heartbeat;
mod housekeeping;
mod invocation;
mod observe;
mod reconcile;
mod resolve;
mod snapshot;
mod sweep;
mod telemetry;

pub use context::{BoxFuture, Clock, Context, Instances};
pub use invocation::{Answer, Function, handle};
