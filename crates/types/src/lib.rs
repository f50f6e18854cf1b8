//! What every other crate shares: names that are valid, what Auto Scaling and EC2 say, and "unavailable" that is never "absent".
//! No I/O.

pub mod broken;
mod cloud;
mod mode;
mod names;
mod observed;
mod trouble;

pub use cloud::{
    ActionKey, ActionResult, Group, Hook, LifecycleState, Location, Machine, PROFILE_TAG, Place, Transition,
};
pub use mode::{Mode, WritePermit};
pub use names::{Certname, GroupName, HookName, InstanceId, InvalidName, ProfileName};
pub use observed::{Fresh, Observed};
pub use trouble::{Kind, Lookup, Service, Trouble, TroubleKind};
