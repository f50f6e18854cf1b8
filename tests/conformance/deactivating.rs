//! Deactivating nodes in PuppetDB, and what brings them back.

use jiff::{SignedDuration, Timestamp};
use stagedoor_puppet::{Deactivated, NodeStatus};
use stagedoor_types::Certname;

use super::reporting::{catalog, facts, report, run, server_time};
use super::site::{Site, fresh, fresh_instance};

async fn node(site: &Site, certname: &Certname) -> NodeStatus {
    site.puppetdb().node(certname).await.unwrap().expect("the node")
}

async fn deactivate(site: &Site, certname: &Certname, at: Timestamp) {
    assert_eq!(site.puppetdb_admin().deactivate(certname, at).await, Ok(Deactivated::Done));
}

/// A node that has run, and when its data were made.
async fn known(site: &Site) -> (Certname, Timestamp) {
    let certname = fresh("web");
    let newest = run(site, &certname, &fresh_instance()).await;
    (certname, newest)
}

pub(super) async fn a_known_node_is_deactivated_and_stays_known(site: &Site) {
    let (certname, _) = known(site).await;
    let before = node(site, &certname).await;
    let at = server_time(site).await;
    deactivate(site, &certname, at).await;
    let after = node(site, &certname).await;
    assert!(before.is_active() && !after.is_active());
    assert_eq!(after, NodeStatus { deactivated: Some(at), ..before }, "nothing else changes");
}

pub(super) async fn deactivating_again_moves_the_time_forward_only(site: &Site) {
    let (certname, newest) = known(site).await;
    let later = |seconds| newest + SignedDuration::from_secs(seconds);
    for (at, deactivated) in [(later(20), later(20)), (later(10), later(20)), (later(30), later(30))] {
        deactivate(site, &certname, at).await;
        assert_eq!(node(site, &certname).await.deactivated, Some(deactivated));
    }
}

pub(super) async fn deactivating_an_unknown_name_makes_a_phantom(site: &Site) {
    let certname = fresh("phantom");
    let at = server_time(site).await;
    deactivate(site, &certname, at).await;
    let node = node(site, &certname).await;
    assert_eq!(node.deactivated, Some(at));
    assert_eq!((node.facts_timestamp, node.catalog_timestamp, node.report_timestamp), (None, None, None));
}

pub(super) async fn a_deactivation_older_than_the_data_is_dropped_as_if_done(site: &Site) {
    let (certname, newest) = known(site).await;
    deactivate(site, &certname, newest - SignedDuration::from_secs(1)).await;
    assert!(node(site, &certname).await.is_active());
}

pub(super) async fn a_later_report_brings_the_node_back(site: &Site) {
    let (certname, newest) = known(site).await;
    deactivate(site, &certname, newest + SignedDuration::from_secs(10)).await;
    assert!(!node(site, &certname).await.is_active());
    report(site, &certname, "unchanged", newest + SignedDuration::from_secs(20)).await;
    assert!(node(site, &certname).await.is_active());
}

pub(super) async fn later_facts_and_catalogs_bring_the_node_back(site: &Site) {
    let (certname, newest) = known(site).await;
    let later = |seconds| newest + SignedDuration::from_secs(seconds);
    deactivate(site, &certname, later(10)).await;
    facts(site, &certname, None, None, later(20)).await;
    assert!(node(site, &certname).await.is_active(), "facts");
    deactivate(site, &certname, later(25)).await;
    assert!(!node(site, &certname).await.is_active());
    catalog(site, &certname, later(30)).await;
    assert!(node(site, &certname).await.is_active(), "a catalog");
}

pub(super) async fn an_older_report_does_not_bring_the_node_back(site: &Site) {
    let (certname, newest) = known(site).await;
    deactivate(site, &certname, newest + SignedDuration::from_secs(20)).await;
    report(site, &certname, "unchanged", newest + SignedDuration::from_secs(10)).await;
    assert!(!node(site, &certname).await.is_active());
}
