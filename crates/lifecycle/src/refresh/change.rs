//! The change that refresh targets must learn of. It is fixed: later runs of the node do not move it. Pure.

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};

use super::{CatalogView, RunView};
use crate::deadline;
use crate::profile::RefreshAfter;

/// The time of the change that the targets must learn of; `None` if it has not happened. Follows from the node's own runs of this launch
/// and from its stored catalog, if that belongs to this launch too.
///
/// The first successful run is the one that ended first. For [`RefreshAfter::Catalog`], PuppetDB's `catalogs` shows only the newest
/// catalog. It is the first one while there is no report of this launch, and while the first report has the same `catalog_uuid`. In these
/// cases, the time at which PuppetDB stored it counts. Afterwards, the time follows from the first report that has a catalog: its end minus
/// the time that the run took to apply the catalog, because the catalog was stored before the node received it. If the report does not give
/// that time, its end counts: the later time, after which no target can have missed the catalog. A run ended at the latest when PuppetDB
/// stored its report: what waits in PuppetDB's queue is in no target's catalog.
pub(crate) fn change<'a>(
    after: RefreshAfter,
    own: impl IntoIterator<Item = &'a RunView>,
    stored: Option<&CatalogView>,
) -> Option<Timestamp> {
    let own = own.into_iter();
    match after {
        RefreshAfter::SuccessfulRun if is_broken(Rule::FixedChange) => own.map(ended).max(),
        RefreshAfter::SuccessfulRun => own.filter(|run| run.is_good()).map(ended).min(),
        RefreshAfter::Catalog if is_broken(Rule::FixedCatalog) => stored.map(known),
        RefreshAfter::Catalog => {
            let first = own.filter(|run| run.has_own_catalog()).min_by_key(|run| run.received);
            match (first, stored) {
                (None, stored) => stored.map(known),
                (Some(first), Some(stored)) if first.catalog == stored.id => Some(known(stored)),
                (Some(first), _) => Some(received(first)),
            }
        }
    }
}

/// When PuppetDB knew of a catalog.
fn known(catalog: &CatalogView) -> Timestamp {
    catalog.stored.map_or(catalog.produced, |stored| stored.max(catalog.produced))
}

/// When PuppetDB knew that a run had ended. The node's own clock does not count.
fn ended(run: &RunView) -> Timestamp {
    run.received.max(run.stored)
}

/// The latest time at which a node received its catalog.
fn received(run: &RunView) -> Timestamp {
    let end = ended(run);
    run.applying.map_or(end, |applying| deadline::before(end, applying).clamp(run.began_by_server().min(end), end))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::{at, run};

    /// A run of ten seconds with this catalog.
    fn with_catalog(start: i64, status: &str, catalog: &str) -> RunView {
        RunView { catalog: Some(catalog.into()), ..run(at(start), status) }
    }

    fn stored(id: &str, produced: i64) -> CatalogView {
        CatalogView { id: Some(id.into()), produced: at(produced), stored: None }
    }

    #[test]
    fn the_first_successful_run_is_the_change_and_later_ones_do_not_move_it() {
        let after = RefreshAfter::SuccessfulRun;
        let failed = with_catalog(0, "failed", "a");
        let (first, later) = (with_catalog(100, "changed", "b"), with_catalog(150, "unchanged", "c"));
        assert_eq!(change(after, [&failed], None), None);
        for runs in [vec![&failed, &first], vec![&later, &first, &failed]] {
            assert_eq!(change(after, runs, None), Some(at(110)));
        }
        let noop = RunView { noop: true, ..with_catalog(50, "changed", "n") };
        assert_eq!(change(after, [&noop, &first], None), Some(at(110)));
        assert_eq!(change(after, [], Some(&stored("a", 5))), None, "a catalog is no successful run");
    }

    #[test]
    fn the_first_stored_catalog_is_the_change_before_and_after_its_run_has_ended() {
        let after = RefreshAfter::Catalog;
        let catalog = stored("a", 103);
        let first = with_catalog(100, "failed", "a");
        assert_eq!(change(after, [], None), None);
        assert_eq!(change(after, [], Some(&catalog)), Some(at(103)));
        assert_eq!(change(after, [&first], Some(&catalog)), Some(at(103)));
    }

    #[test]
    fn once_a_later_catalog_has_taken_its_place_the_time_follows_from_the_first_report() {
        let after = RefreshAfter::Catalog;
        let first = RunView { applying: Some(Duration::from_secs(6)), ..with_catalog(100, "failed", "a") };
        let second = with_catalog(200, "changed", "b");
        for runs in [vec![&first], vec![&second, &first]] {
            assert_eq!(change(after, runs, Some(&stored("b", 203))), Some(at(104)));
        }
        assert_eq!(change(after, [&first], None), Some(at(104)), "the catalog could not be read");
    }

    #[test]
    fn the_clock_of_the_node_does_not_date_the_change() {
        let ahead = |run: RunView| RunView { start: at(3000), end: at(3010), ..run };
        let first = ahead(with_catalog(100, "changed", "a"));
        assert_eq!(change(RefreshAfter::SuccessfulRun, [&first], None), Some(at(110)));
        let applied = RunView { applying: Some(Duration::from_secs(6)), ..first };
        assert_eq!(change(RefreshAfter::Catalog, [&applied], None), Some(at(104)));
    }

    #[test]
    fn a_run_that_waited_in_puppetdbs_queue_is_the_change_only_once_it_is_stored() {
        let queued = RunView { stored: at(200), ..with_catalog(100, "changed", "a") };
        assert_eq!(change(RefreshAfter::SuccessfulRun, [&queued], None), Some(at(200)));
    }

    #[test]
    fn in_doubt_the_later_time_counts() {
        let unknown = with_catalog(100, "failed", "a");
        assert_eq!(change(RefreshAfter::Catalog, [&unknown], None), Some(at(110)));
        let endless = RunView { applying: Some(Duration::from_secs(1000)), ..unknown };
        assert_eq!(change(RefreshAfter::Catalog, [&endless], None), Some(at(100)), "not before the run began");
    }

    #[test]
    fn a_run_without_a_catalog_of_its_own_is_no_change() {
        let uncompiled = RunView { catalog: None, ..run(at(0), "failed") };
        let cached = RunView { cached: true, ..with_catalog(20, "failed", "x") };
        let first = with_catalog(40, "failed", "a");
        assert_eq!(change(RefreshAfter::Catalog, [&uncompiled, &cached], None), None);
        assert_eq!(change(RefreshAfter::Catalog, [&uncompiled, &cached, &first], None), Some(at(50)));
    }
}
