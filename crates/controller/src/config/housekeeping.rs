//! Reads the sections `housekeeping` and `orphans`. No I/O.

use std::time::Duration;

use stagedoor_lifecycle::orphans::Limits;

use super::reader::Reader;

const EVERY: Duration = Duration::from_secs(300);
const LONGEST_EVERY: Duration = Duration::from_secs(86_400);
const WARN_DAYS: u16 = 30;
/// In percent.
const MAX_SHARE: u16 = 20;
const GRACE: Duration = Duration::from_secs(7200);
const LONGEST_GRACE: Duration = Duration::from_secs(30 * 86_400);

/// What the sweep does besides handling waiting actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Housekeeping {
    /// How often; `None` for never.
    pub every: Option<Duration>,
    /// A credential with fewer days left is worth an alert.
    pub warn_days: u16,
    /// What is done about orphans.
    pub orphans: OrphanMode,
    /// How much of the fleet may be removed at once, and how soon.
    pub limits: Limits,
}

/// What is done about orphans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanMode {
    /// They are removed.
    Purge,
    /// They are reported.
    Report,
    /// They are not looked for.
    Off,
}

pub(super) fn housekeeping(root: &mut Reader<'_>) -> Option<Housekeeping> {
    let mut section = root.below("housekeeping");
    // A text that is neither is a problem, and with one there is no configuration.
    let never = section.says("every", "never");
    let every = if never { None } else { section.duration("every", Some(EVERY), LONGEST_EVERY) };
    let warn_days = section.number("warn_days", WARN_DAYS, 1..=3650);
    section.finish();

    let mut section = root.below("orphans");
    let modes = [("purge", OrphanMode::Purge), ("report", OrphanMode::Report), ("off", OrphanMode::Off)];
    let orphans = section.choice("mode", &modes, OrphanMode::Purge);
    let max_share = section.number("max_share", MAX_SHARE, 1..=100);
    let grace = section.duration("grace", Some(GRACE), LONGEST_GRACE);
    section.finish();

    let limits = Limits { max_share: u8::try_from(max_share).unwrap_or(100), grace: grace? };
    Some(Housekeeping { every, warn_days, orphans, limits })
}
