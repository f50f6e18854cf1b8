//! Puppet runs as PuppetDB shows them: the stored catalog, which other nodes learn from, and reports.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;
use stagedoor_puppet::{Report, StoredCatalog};
use stagedoor_types::Certname;

use super::nodes::deactivate;
use super::reporting::{catalog, report, report_with, server_time};
use super::site::{Site, fresh};

async fn stored(site: &Site, names: &[Certname]) -> Vec<StoredCatalog> {
    site.puppetdb().catalogs(names).await.unwrap()
}

pub(super) async fn a_catalog_is_told_as_soon_as_it_is_stored_and_only_the_newest_by_its_producer(site: &Site) {
    let certname = fresh("web");
    assert_eq!(stored(site, std::slice::from_ref(&certname)).await, []);
    let produced = server_time(site).await - SignedDuration::from_secs(60);
    let uuid = catalog(site, &certname, produced).await;
    let expected = StoredCatalog { certname: certname.clone(), catalog_uuid: Some(uuid), producer_timestamp: produced };
    // There is no report yet: the run may still be in progress.
    assert_eq!(stored(site, std::slice::from_ref(&certname)).await, std::slice::from_ref(&expected));
    assert_eq!(site.puppetdb().latest_reports(std::slice::from_ref(&certname)).await, Ok(vec![]));
    // The node shows when it was stored, by PuppetDB's own clock.
    let node = site.puppetdb().node(&certname).await.unwrap().expect("the node");
    assert!(node.catalog_timestamp > Some(produced + SignedDuration::from_secs(30)), "{node:?}");
    // One that was made earlier and arrives later changes nothing.
    catalog(site, &certname, produced - SignedDuration::from_secs(30)).await;
    assert_eq!(stored(site, std::slice::from_ref(&certname)).await, [expected]);
    let newer = catalog(site, &certname, produced + SignedDuration::from_secs(30)).await;
    let [now] = stored(site, std::slice::from_ref(&certname)).await.try_into().expect("one catalog");
    assert_eq!(now.catalog_uuid, Some(newer));
}

pub(super) async fn the_catalogs_of_a_set_are_those_of_its_active_nodes(site: &Site) {
    let (one, gone, silent) = (fresh("one"), fresh("gone"), fresh("silent"));
    let produced = server_time(site).await - SignedDuration::from_secs(60);
    for certname in [&one, &gone] {
        catalog(site, certname, produced).await;
    }
    report(site, &silent, "failed", produced).await;
    deactivate(site, &gone).await;
    let told = stored(site, &[silent, gone, one.clone(), fresh("nobody")]).await;
    assert_eq!(told.iter().map(|catalog| &catalog.certname).collect::<Vec<_>>(), [&one]);
    assert_eq!(stored(site, &[]).await, []);
}

/// The one run of a node.
async fn run_of(site: &Site, certname: &Certname) -> Report {
    let since = server_time(site).await - SignedDuration::from_secs(600);
    let runs = site.puppetdb().runs_since(&[(certname.clone(), since)]).await.unwrap();
    let [run] = <[Report; 1]>::try_from(runs).expect("one run");
    run
}

pub(super) async fn a_report_tells_its_catalog_and_how_long_its_parts_took(site: &Site) {
    let certname = fresh("web");
    let at = server_time(site).await - SignedDuration::from_secs(60);
    let uuid = catalog(site, &certname, at - SignedDuration::from_secs(8)).await;
    let time = |name: &str, value: f64| json!({"category": "time", "name": name, "value": value});
    let metrics = json!([
        time("startup_time", 0.75),
        time("config_retrieval", 1.5),
        time("catalog_application", 4.25),
        {"category": "resources", "name": "total", "value": 7},
    ]);
    report_with(site, &certname, at, json!({"status": "failed", "catalog_uuid": uuid, "metrics": metrics})).await;
    let run = run_of(site, &certname).await;
    assert_eq!((run.status.as_deref(), run.catalog_uuid.as_deref()), (Some("failed"), Some(uuid.as_str())));
    assert_eq!(run.metrics.startup_time, Some(Duration::from_millis(750)));
    assert_eq!(run.metrics.config_retrieval, Some(Duration::from_millis(1500)));
    assert_eq!(run.metrics.catalog_application, Some(Duration::from_millis(4250)));
    assert_eq!((run.producer_timestamp, run.end_time), (at, at - SignedDuration::from_secs(2)));
    let same = stored(site, std::slice::from_ref(&certname)).await;
    assert_eq!(same[0].catalog_uuid, run.catalog_uuid, "the stored catalog is that of the run");
}

pub(super) async fn a_run_without_a_catalog_and_one_with_a_cached_one_are_told_apart(site: &Site) {
    let at = server_time(site).await - SignedDuration::from_secs(60);
    let cached = uuid::Uuid::new_v4().to_string();
    for (fields, catalog, status) in [
        (json!({"status": "failed", "catalog_uuid": null}), None, "not_used"),
        (
            json!({"status": "unchanged", "catalog_uuid": cached, "cached_catalog_status": "on_failure"}),
            Some(cached.as_str()),
            "on_failure",
        ),
    ] {
        let certname = fresh("web");
        report_with(site, &certname, at, fields).await;
        let run = run_of(site, &certname).await;
        assert_eq!((run.catalog_uuid.as_deref(), run.cached_catalog_status.as_deref()), (catalog, Some(status)));
    }
}

pub(super) async fn runs_are_found_by_the_time_at_which_they_were_received(site: &Site) {
    let certname = fresh("web");
    let before = server_time(site).await - SignedDuration::from_secs(600);
    // Its own times are older than what is searched for: a clock that is behind, or a report that was late.
    let long_ago = before - SignedDuration::from_secs(600);
    report_with(site, &certname, long_ago, json!({})).await;
    let runs = site.puppetdb().runs_since(&[(certname.clone(), before)]).await.unwrap();
    assert_eq!(runs.iter().map(|run| run.producer_timestamp).collect::<Vec<_>>(), [long_ago]);
    let later = server_time(site).await + SignedDuration::from_secs(600);
    assert_eq!(site.puppetdb().runs_since(&[(certname, later)]).await, Ok(vec![]));
}
