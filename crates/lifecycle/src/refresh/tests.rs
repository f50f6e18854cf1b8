//! Refresh targets, rule by rule; then whole launches and terminations, pass by pass.

mod passes;
mod target;
mod waves;

use crate::profile::{OnRefreshTimeout, Profile, Refresh};

/// One wave of the primary, ten minutes, go on without it.
fn refresh() -> Refresh {
    let refresh = Profile::example().refresh;
    let timeout = std::time::Duration::from_secs(600);
    Refresh { waves: crate::world::primary(), timeout, on_timeout: OnRefreshTimeout::Proceed, ..refresh }
}
