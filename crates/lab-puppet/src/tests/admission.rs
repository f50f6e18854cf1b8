//! What hosts of Puppet Enterprise admit a compiler to, run by run.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use stagedoor_lab_core::server::Service as _;

use super::{World, world};
use crate::Right::{Broker, Database, FileSync, Inventory, PuppetdbAllowlist, RbacAllowlist};
use crate::{InPuppetdb, Node, NodeGroup, PuppetOptions, Right};

const PRIMARY: &str = "puppet";
const POSTGRESQL: &str = "db.example.net";
const COMPILER: &str = "compiler.example.net";

/// An extra-large site, whose PostgreSQL is on a host of its own.
fn site() -> World {
    let world = world(|options| {
        *options = PuppetOptions {
            primary: Some(PRIMARY.to_owned()),
            puppetdb_allowlist: Some(vec!["stagedoor.example.net".to_owned()]),
            ..PuppetOptions::enterprise()
        };
    });
    let database = NodeGroup {
        name: "PE Database".to_owned(),
        pinned: vec![POSTGRESQL.to_owned()],
        classes: [("puppet_enterprise::profile::database".to_owned(), json!({}))].into_iter().collect(),
        ..NodeGroup::default()
    };
    let compiler = NodeGroup {
        name: "PE Compiler".to_owned(),
        rule: Some(json!(["and", ["=", ["trusted", "extensions", "pp_auth_role"], "pe_compiler"]])),
        classes: [
            ("puppet_enterprise::profile::master".to_owned(), json!({})),
            ("puppet_enterprise::profile::puppetdb".to_owned(), json!({"database_host": POSTGRESQL})),
        ]
        .into_iter()
        .collect(),
        ..NodeGroup::default()
    };
    for group in [database, compiler] {
        world.puppet.put_node_group(&group).unwrap();
    }
    let facts_only =
        InPuppetdb::Known(crate::PuppetdbRecord { report_status: None, ..crate::PuppetdbRecord::default() });
    let role = [("pp_auth_role".to_owned(), "pe_compiler".to_owned())].into();
    let node = Node { extensions: role, puppetdb: facts_only, ..Node::new(COMPILER) };
    world.puppet.place_node(&node).unwrap();
    world
}

fn run(world: &World, certname: &str) {
    let now = world.puppet.now();
    world.puppet.report(certname, "changed", now);
}

fn rights(world: &World) -> BTreeSet<Right> {
    world.puppet.rights_of(COMPILER)
}

const ALL: [Right; 6] = [Database, FileSync, Broker, Inventory, PuppetdbAllowlist, RbacAllowlist];

#[tokio::test]
async fn a_host_learns_of_a_compiler_by_its_stored_catalog_and_only_in_a_run_of_its_own() {
    let world = site();
    for host in [POSTGRESQL, PRIMARY] {
        run(&world, host);
    }
    assert_eq!(rights(&world), [].into(), "there is no catalog yet");
    run(&world, COMPILER);
    assert_eq!(rights(&world), [].into(), "no host has run since");
    run(&world, POSTGRESQL);
    assert_eq!(rights(&world), [Database].into());
    run(&world, PRIMARY);
    assert_eq!(rights(&world), ALL.into());
}

#[tokio::test]
async fn a_host_that_compiled_its_catalog_before_learns_nothing_however_late_it_ends() {
    let world = site();
    let now = world.puppet.now();
    let begun = world.puppet.site.begin_run(PRIMARY, None, now, now);
    run(&world, COMPILER);
    world.puppet.site.end_run(begun, "changed", None, now);
    assert_eq!(rights(&world), [].into());
}

#[tokio::test]
async fn the_next_runs_drop_a_deactivated_compiler_and_keep_its_lines() {
    let world = site();
    for certname in [COMPILER, POSTGRESQL, PRIMARY] {
        run(&world, certname);
    }
    world.clock.advance(jiff::SignedDuration::from_secs(60));
    let body = json!({
        "command": "deactivate node", "version": 3,
        "payload": {"certname": COMPILER, "producer_timestamp": world.puppet.now().to_string()},
    });
    let (status, text) = world.pdb("POST cmd/v1", body.to_string()).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(rights(&world), ALL.into());
    run(&world, POSTGRESQL);
    assert!(!rights(&world).contains(&Database));
    run(&world, PRIMARY);
    assert_eq!(rights(&world), [PuppetdbAllowlist, RbacAllowlist].into());
}

#[tokio::test]
async fn a_serial_is_in_the_infrastructure_crl_only_if_the_name_was_in_the_inventory_when_it_was_revoked() {
    for (known, expected) in [(false, 0), (true, 1)] {
        let world = site();
        run(&world, COMPILER);
        if known {
            run(&world, PRIMARY);
        }
        world.puppet.revoke(COMPILER).unwrap();
        assert_eq!(world.crl().await.len(), expected);
    }
}

#[tokio::test]
async fn the_lines_make_a_compiler_a_full_user_of_rbac_and_puppetdb() {
    let world = site().called_by(COMPILER);
    run(&world, COMPILER);
    let groups = async || world.console("GET /classifier-api/v1/groups", "").await.0;
    let nodes = async || world.pdb("GET query/v4/nodes", "").await.0;
    assert_eq!((groups().await, nodes().await), (401, 403));
    run(&world, PRIMARY);
    assert_eq!((groups().await, nodes().await), (200, 200));
}

#[tokio::test]
async fn file_sync_refuses_a_compiler_that_the_primary_does_not_know() {
    let world = site();
    world.puppet.deploy_code("c1");
    run(&world, COMPILER);
    assert!(!world.puppet.check_in(COMPILER, None));
    run(&world, PRIMARY);
    assert!(world.puppet.check_in(COMPILER, None));
}

#[tokio::test]
async fn a_legacy_compiler_is_known_without_a_database() {
    let world = site();
    let legacy = "legacy.example.net";
    world.puppet.place_node(&Node { puppetdb: InPuppetdb::Absent, ..Node::new(legacy) }).unwrap();
    let pinned = NodeGroup {
        name: "PE Master".to_owned(),
        pinned: vec![legacy.to_owned()],
        classes: [("puppet_enterprise::profile::master".to_owned(), json!({}))].into_iter().collect(),
        ..NodeGroup::default()
    };
    world.puppet.put_node_group(&pinned).unwrap();
    run(&world, legacy);
    run(&world, PRIMARY);
    let expected = ALL.into_iter().filter(|right| *right != Database).collect();
    assert_eq!(world.puppet.rights_of(legacy), expected);
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_the_database_of_its_puppetdb_and_gives_up_in_the_end() {
    let world = site();
    run(&world, COMPILER);
    world.puppet.configure(|options| options.puppetdb_start_limit_ms = 900_000);
    let began = tokio::time::Instant::now();
    assert!(!world.puppet.starts_puppetdb(COMPILER).await);
    assert_eq!(began.elapsed().as_secs(), 900);
    let waiting = tokio::spawn({
        let puppet = world.puppet.clone();
        async move { puppet.starts_puppetdb(COMPILER).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    run(&world, POSTGRESQL);
    assert!(waiting.await.unwrap());
    assert_eq!(began.elapsed().as_secs(), 905);
}

#[tokio::test(start_paused = true)]
async fn the_primarys_services_restart_after_a_run_that_changed_something() {
    let world = site();
    world.puppet.configure(|options| options.services_restart_ms = 20_000);
    run(&world, COMPILER);
    run(&world, PRIMARY);
    assert!(!world.puppet.ca_service().accepts() && !world.puppet.orchestrator_service().accepts());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(world.puppet.ca_service().accepts());
    assert_eq!(world.ca("GET certificate/ca", "").await.0, 503);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.ca("GET certificate/ca", "").await.0, 200);
    run(&world, PRIMARY);
    assert!(world.puppet.ca_service().accepts(), "nothing has changed");
}

#[tokio::test]
async fn a_new_scene_takes_the_lines_back() {
    let world = site();
    run(&world, COMPILER);
    run(&world, PRIMARY);
    world.puppet.reset().unwrap();
    assert_eq!(rights(&world), [].into());
    let options = world.puppet.options();
    assert_eq!((options.rbac_certificate_allowlist, options.infra_nodes), (vec![], vec![PRIMARY.to_owned()]));
}
