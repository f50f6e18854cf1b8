//! The functions that share the controller. No I/O.

use stagedoor_types::Transition;

/// Which function was invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Handles launching instances.
    Onboard,
    /// Handles terminating instances.
    Purge,
    /// Handles every instance that waits, whether an event came or not.
    Sweep,
}

impl Function {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Onboard => "onboard",
            Self::Purge => "purge",
            Self::Sweep => "sweep",
        }
    }

    /// The transition whose actions it handles; none for the sweep, which finds them itself.
    pub(crate) fn deals_with(self) -> Option<Transition> {
        match self {
            Self::Onboard => Some(Transition::Launching),
            Self::Purge => Some(Transition::Terminating),
            Self::Sweep => None,
        }
    }
}
