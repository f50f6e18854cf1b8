//! Housekeeping and refresh targets: if an order that a termination gave was lost, it is given again.

use serde_json::json;
use stagedoor_lab_puppet::{CertificateState, InPuppetdb, Node, PuppetdbRecord, RunScript};

use super::fleet::{ACCOUNT, REGION, id, metadata, name};
use crate::e2e::onboard::stage::{PRIMARY, Stage};

/// A Puppet Enterprise site on which housekeeping is always due. The primary has not run Puppet for an hour, and since then a node of this
/// account was removed, if `region` is this Region; nothing shows an order.
async fn after_a_lost_order(region: &str) -> Stage {
    let mut stage = Stage::enterprise(&format!("refresh = [\"{PRIMARY}\"]")).await;
    stage.rehearsal.configure(|config| config.replace("\"never\"", "\"1m\""));
    let known = |record| InPuppetdb::Known(record);
    let puppet = &stage.rehearsal.lab.puppet;
    let hour_ago = PuppetdbRecord { age_s: 3600, ..PuppetdbRecord::default() };
    puppet.place_node(&Node { puppetdb: known(hour_ago), ..Node::new(PRIMARY) }).expect("a node that can be");
    puppet.connect(PRIMARY);
    let facts = [("ec2_metadata".to_owned(), metadata(1, ACCOUNT, region))].into_iter().collect();
    // If no order is shown, one is given in the minute after it becomes due, and one is due after six minutes.
    let removed = PuppetdbRecord { age_s: 370, deactivated: true, facts, ..PuppetdbRecord::default() };
    let node = Node {
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        certificate: CertificateState::None,
        puppetdb: known(removed),
        ..Node::of_instance(&name(1), &id(1))
    };
    puppet.place_node(&node).expect("a node that can be");
    stage
}

#[tokio::test]
async fn a_target_that_has_not_run_since_the_last_removal_is_ordered_once() {
    let mut stage = after_a_lost_order(REGION).await;
    stage.rehearsal.lab.puppet.script(PRIMARY, RunScript::Hang);
    let answer = stage.rehearsal.invoke("sweep", &json!({})).await;
    let refresh = &answer["housekeeping"]["refresh"];
    assert_eq!((&refresh["code"], &refresh["targets"]), (&json!("refresh_ordered"), &json!([PRIMARY])), "{answer:#}");
    for _ in 0..2 {
        stage.rehearsal.end("sweep").await;
        stage.rehearsal.invoke("sweep", &json!({})).await;
    }
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 1, "while its run is in progress");
    stage.rehearsal.lab.puppet.script(PRIMARY, RunScript::Ok);
    stage.rehearsal.lab.puppet.jobs_over().await;
    stage.rehearsal.invoke("sweep", &json!({})).await;
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 1, "it has learnt of the removal");
}

#[tokio::test]
async fn a_removal_elsewhere_orders_nobody() {
    let mut stage = after_a_lost_order("us-east-1").await;
    stage.rehearsal.invoke("sweep", &json!({})).await;
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 0);
}
