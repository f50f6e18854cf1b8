//! Whether anything is changed. No I/O.

use serde::{Deserialize, Serialize};

/// Whether effects are applied and actions completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Apply effects and complete actions.
    Act,
    /// Write nothing to Puppet or Auto Scaling; report what would be done.
    Observe,
}

/// Shows that a mode permits changes. Every client that writes to Puppet or Auto Scaling requires one, and only
/// [`Mode::write_permit`] makes one, so nothing can write to them in observe mode. The notification client requires none.
///
/// ```compile_fail,E0423
/// let forged = stagedoor_types::WritePermit(());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritePermit(());

impl Mode {
    /// As the configuration and receipts name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Observe => "observe",
        }
    }

    /// The mode of several profiles together: observe if one of them only observes; `None` if there are none.
    pub fn strictest(modes: impl IntoIterator<Item = Self>) -> Option<Self> {
        modes.into_iter().reduce(|one, other| if one == Self::Observe { one } else { other })
    }

    /// The permit to write; none in observe mode.
    #[must_use]
    pub fn write_permit(self) -> Option<WritePermit> {
        (self == Self::Act).then_some(WritePermit(()))
    }
}
