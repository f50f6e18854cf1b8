//! Which other nodes must run Puppet after a change, and how long an action waits for them. No I/O.

use std::time::Duration;

use stagedoor_types::Certname;

/// The refresh targets of a profile, and how they are refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// The refresh targets in waves. A wave begins when every target of the wave before has learnt of the change.
    pub waves: Vec<Vec<Certname>>,
    /// What of a launching node the targets must learn.
    pub after: RefreshAfter,
    /// How long a launch waits for all waves together, counted from the change. Shorter than the timeout of the launch.
    pub timeout: Duration,
    /// What happens to a launch when that timeout expires.
    pub on_timeout: OnRefreshTimeout,
    /// Without an orchestrator: whether a launch waits for the targets' own runs. With one, it always waits.
    pub await_launch: bool,
    /// Whether a termination waits until the targets have learnt of it. Otherwise it completes when the removal is proven.
    pub await_terminate: bool,
}

/// What applies to a profile that says nothing of it, with the default timeout of a launch: no targets.
impl Default for Refresh {
    fn default() -> Self {
        Self {
            waves: Vec::new(),
            after: RefreshAfter::SuccessfulRun,
            timeout: Duration::from_secs(1200),
            on_timeout: OnRefreshTimeout::Proceed,
            await_launch: false,
            await_terminate: false,
        }
    }
}

impl Refresh {
    /// Every refresh target, wave after wave.
    pub fn targets(&self) -> impl Iterator<Item = &Certname> {
        self.waves.iter().flatten()
    }

    /// The same targets, all in one wave.
    #[must_use]
    pub fn in_one_wave(&self) -> Self {
        Self { waves: vec![self.targets().cloned().collect()], ..self.clone() }
    }

    /// Whether there is no refresh target.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets().next().is_none()
    }
}

/// What of a launching node the refresh targets must learn: its stored catalog. This is fixed once it has happened; later runs of the
/// node do not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshAfter {
    /// The end of its first successful Puppet run of this launch.
    SuccessfulRun,
    /// The first catalog of this launch that PuppetDB stored, however the run ends: for nodes that cannot run successfully before the
    /// targets know them, such as compilers of Puppet Enterprise.
    Catalog,
}

/// What happens to a launch when the timeout of its refresh expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRefreshTimeout {
    /// It goes on without the targets that have not learnt of it.
    Proceed,
    /// It keeps waiting until the timeout of the launch expires.
    Wait,
}
