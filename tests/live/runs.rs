//! Puppet runs of real agents: what PuppetDB shows of them while they are in progress and afterwards, and that a launch waits for one run
//! of its refresh target and no more.

use std::time::Duration;

use jiff::SignedDuration;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;
use stagedoor_puppet::{Report, StoredCatalog};
use stagedoor_types::Certname;
use tokio::time::Instant;

use super::agent::Agent;
use super::job::{Job, instances};
use super::onboarding::{DOMAIN, Held, assert_enrolled, config};

/// The runs of a node.
async fn runs(job: &Job, certname: &Certname) -> Vec<Report> {
    // A name is never used twice, so these are all of its runs.
    let since = job.puppetdb().server_time().await.expect("PuppetDB answers") - SignedDuration::from_mins(30);
    let mut runs = job.puppetdb().runs_since(&[(certname.clone(), since)]).await.expect("PuppetDB answers");
    runs.sort_by_key(|run| run.start_time);
    runs
}

/// The runs of a node, once there are at least `count`. PuppetDB stores a report some time after it was sent.
async fn runs_until(job: &Job, certname: &Certname, count: usize) -> Vec<Report> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let runs = runs(job, certname).await;
        if runs.len() >= count {
            return runs;
        }
        assert!(Instant::now() < until, "not {count} runs of {certname} after 60 s: {runs:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The stored catalog of a node.
async fn catalog(job: &Job, certname: &Certname) -> Option<StoredCatalog> {
    let catalogs = job.puppetdb().catalogs(std::slice::from_ref(certname)).await.expect("PuppetDB answers");
    catalogs.into_iter().next()
}

/// Waits until another catalog than this is stored.
async fn next_catalog(job: &Job, certname: &Certname, last: Option<&StoredCatalog>) -> StoredCatalog {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        match catalog(job, certname).await {
            Some(catalog) if last != Some(&catalog) => return catalog,
            _ => assert!(Instant::now() < until, "no catalog of {certname} after 120 s"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_node_that_runs_again_while_its_refresh_target_still_runs_needs_no_second_run_of_the_target() {
    let Held { mut job, instance: arriving, agent, event, target, primary } =
        Held::launched(["again", "slow"], "budget = \"5s\"").await;

    // The target's run has its catalog and takes its time; meanwhile, the node's daemon runs again.
    let last = catalog(&job, &target.certname).await;
    primary.runs_for(25);
    let again = async {
        let learning = next_catalog(&job, &target.certname, last.as_ref()).await;
        agent.run_well().await;
        learning
    };
    let (learning, ()) = tokio::join!(again, primary.run_well());

    let receipt = job.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Enrolled), "{receipt:#?}");
    let (nodes, targets) = (runs(&job, &arriving.certname).await, runs(&job, &target.certname).await);
    let ([first, second], [_, learnt]) = (nodes.as_slice(), targets.as_slice()) else {
        panic!("not two runs of each: {nodes:#?} {targets:#?}")
    };
    assert_eq!(learnt.catalog_uuid, learning.catalog_uuid);
    assert!(first.end_time <= learnt.start_time && second.end_time < learnt.end_time, "{nodes:#?} {targets:#?}");
    assert!(second.start_time > learnt.start_time, "the second run came too late for the target's catalog: {nodes:#?}");
    assert_enrolled(&job, &arriving).await;
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn a_run_in_progress_has_its_catalog_stored_and_a_failed_run_shows_whether_it_had_one() {
    let nodes = instances(&["runs"], DOMAIN);
    let certname = nodes[0].certname.clone();
    let job = Job::awaiting(nodes.clone(), &config("budget = \"5s\"", "")).await;
    let agent = Agent::enrol(&job.stage, &nodes[0]).await;
    agent.runs_for(15);
    let hanging = async {
        let stored = next_catalog(&job, &certname, None).await;
        assert_eq!(runs(&job, &certname).await, [], "it is still in progress");
        stored
    };
    let (stored, ()) = tokio::join!(hanging, agent.run_well());
    let all = runs(&job, &certname).await;
    let [first] = all.as_slice() else { panic!("not one run: {all:#?}") };
    assert_eq!(first.catalog_uuid, stored.catalog_uuid);
    assert!(first.metrics.catalog_application.is_some_and(|took| took >= Duration::from_secs(15)), "{first:#?}");
    assert!(first.metrics.config_retrieval.is_some(), "{first:#?}");
    // A run's preparation, which determines when a refresh target learns of a change, ends before the catalog is compiled.
    let prepared = first.metrics.preparation.expect("a real report has plugin_sync or fact_generation");
    let asked = first.start_time + first.metrics.startup_time.unwrap_or_default() + prepared;
    assert!(asked <= stored.producer_timestamp, "{stored:?} {first:#?}");
    assert!(stored.producer_timestamp < first.end_time - SignedDuration::from_secs(14), "{stored:?} {first:#?}");
    let received = first.producer_timestamp.duration_since(first.end_time);
    assert!(received.abs() < SignedDuration::from_secs(20), "one clock: {first:#?}");

    // A resource fails: the catalog counts all the same.
    agent.runs_for(0);
    agent.fails("applying");
    agent.run_badly().await;
    let all = runs_until(&job, &certname, 2).await;
    let failed = all.last().expect("a run");
    assert_eq!((all.len(), failed.status.as_deref()), (2, Some("failed")));
    assert_eq!(failed.catalog_uuid, catalog(&job, &certname).await.and_then(|catalog| catalog.catalog_uuid));

    // No catalog could be compiled: the one before stays stored.
    agent.fails("compiling");
    agent.run_badly().await;
    let all = runs_until(&job, &certname, 3).await;
    let uncompiled = all.last().expect("a run");
    assert_eq!((all.len(), uncompiled.status.as_deref()), (3, Some("failed")));
    assert_eq!(uncompiled.catalog_uuid, None);
    assert_eq!(uncompiled.cached_catalog_status.as_deref(), Some("not_used"));
    assert_eq!(catalog(&job, &certname).await.and_then(|catalog| catalog.catalog_uuid), failed.catalog_uuid);
}
