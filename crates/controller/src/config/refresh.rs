//! Reads what a profile says of its refresh targets. No I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use stagedoor_lifecycle::profile::{OnRefreshTimeout, Probe, Refresh, RefreshAfter};

use super::reader::Reader;

const AFTER: [(&str, RefreshAfter); 2] =
    [("successful_run", RefreshAfter::SuccessfulRun), ("catalog", RefreshAfter::Catalog)];
const ON_TIMEOUT: [(&str, OnRefreshTimeout); 2] =
    [("proceed", OnRefreshTimeout::Proceed), ("wait", OnRefreshTimeout::Wait)];

/// The part of a launch's timeout that the refresh has by default, in thirds.
const THIRDS: u32 = 2;

/// The keys of a profile about its refresh targets. `timeout` and `on_timeout` are the profile's tables of these names, and `launch` is how
/// long a launch is held; `None` if something in the timeout is wrong.
pub(super) fn refresh(
    section: &mut Reader<'_>,
    timeout: &mut Reader<'_>,
    on_timeout: &mut Reader<'_>,
    ready: &[Probe],
    launch: Duration,
    longest: Duration,
) -> Option<Refresh> {
    let default = Refresh::default();
    let waves = section.waves("refresh");
    let mut names = BTreeSet::new();
    for name in waves.iter().flatten() {
        if !names.insert(name) {
            section.problem("refresh", format_args!("names {name} twice"));
        }
    }
    let after = section.choice("refresh_after", &AFTER, default.after);
    if !waves.is_empty() && ready.contains(&Probe::AnyReport) && after == RefreshAfter::SuccessfulRun {
        let needs = "must be \"catalog\" where ready has \"report:any\": no successful run is awaited then";
        section.problem("refresh_after", needs);
    }
    let (await_launch, await_terminate) = if let Some(both) = section.flag_unless_table("await_refresh") {
        (both, both)
    } else {
        let mut awaits = section.below("await_refresh");
        let awaited = (awaits.flag("launch", default.await_launch), awaits.flag("terminate", default.await_terminate));
        awaits.finish();
        awaited
    };
    let given = timeout.duration("refresh", Some(launch * THIRDS / 3), longest);
    if given.is_some_and(|given| given >= launch) {
        timeout.problem("refresh", format_args!("must be shorter than timeout.launch, which is {}s", launch.as_secs()));
    }
    let on_timeout = on_timeout.choice("refresh", &ON_TIMEOUT, default.on_timeout);
    Some(Refresh { waves, after, timeout: given?, on_timeout, await_launch, await_terminate })
}
