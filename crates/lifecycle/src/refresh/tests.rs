//! Tests of refresh targets, rule by rule, and of whole launches and terminations, pass by pass.

mod passes;
mod target;
mod waves;

use crate::profile::{OnRefreshTimeout, Profile, Refresh};

/// One wave, the primary, with a timeout of ten minutes, after which launches go on without it.
fn refresh() -> Refresh {
    let refresh = Profile::example().refresh;
    let timeout = std::time::Duration::from_secs(600);
    Refresh { waves: crate::world::primary(), timeout, on_timeout: OnRefreshTimeout::Proceed, ..refresh }
}
