//! Pins and classification, up to the classifier's own answers.

use insta::assert_snapshot;
use serde_json::json;
use stagedoor_lab::agent::Agent;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::NodeGroup;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};

use super::stage::{GROUP, Stage};
use crate::e2e::rehearsal::redacted_reason;

const AGENTS: &str = "PE Infrastructure Agent";

/// A node group with this rule, under one with another.
fn put(stage: &Stage, name: &str, parent: Option<&str>, rule: serde_json::Value) {
    let group =
        NodeGroup { name: name.into(), parent: parent.map(str::to_owned), rule: Some(rule), ..NodeGroup::default() };
    stage.rehearsal.lab.puppet.put_node_group(&group).expect("its parent is there");
}

/// The place of the first call of a service in the journal.
fn place(stage: &Stage, service: &str, call: &str) -> usize {
    let entries = stage.rehearsal.lab.journal.entries();
    let found = entries.iter().position(|entry| entry.service == service && entry.call.starts_with(call));
    found.unwrap_or_else(|| panic!("{service} {call} was not called: {:#?}", stage.rehearsal.writes()))
}

#[tokio::test]
async fn a_node_is_pinned_before_its_certificate_is_signed() {
    let mut stage = Stage::enterprise(&format!("pin = [\"{AGENTS}\"]")).await;
    let (instance, _, _) = stage.enrol().await;
    assert!(stage.rehearsal.lab.puppet.is_pinned(AGENTS, &stage.name_of(&instance)));
    let signed = stage.rehearsal.lab.journal.entries().iter().position(|entry| {
        entry.service == "ca" && (entry.call.starts_with("POST /puppet-ca/v1/sign") || entry.call.starts_with("PUT "))
    });
    let pinned = place(&stage, "classifier", "POST /classifier-api/v1/groups");
    assert!(signed.is_some_and(|signed| pinned < signed), "{:#?}", stage.rehearsal.writes());
}

#[tokio::test]
async fn a_classifier_that_is_down_delays_the_signature_and_not_only_the_pin() {
    let mut stage = Stage::enterprise(&format!("pin = [\"{AGENTS}\"]")).await;
    stage.budget("2s");
    stage.rehearsal.fault("classifier", "*", None, FaultKind::Reset);
    let (instance, event) = stage.launch();
    let agent = stage.start(Stage::compiler(&instance));
    agent.waits_for_certificate().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Failed, Code::ClassifierUnavailable), "{receipt:#?}");
    assert!(!stage.rehearsal.puppet_has(&stage.name_of(&instance)).0, "{:#?}", stage.rehearsal.writes());
    stage.rehearsal.lab.faults.clear();
    stage.rehearsal.configure(|config| config.replace("budget = \"2s\"", "budget = \"30s\""));
    stage.rehearsal.end("onboard").await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert!(stage.rehearsal.lab.puppet.is_pinned(AGENTS, &stage.name_of(&instance)));
}

#[tokio::test]
async fn a_rule_on_a_fact_is_asked_about_with_the_facts_of_the_first_run() {
    let mut stage = Stage::enterprise("classified = [\"By fact\"]").await;
    put(&stage, "By fact", None, json!(["=", ["fact", "ec2_metadata", "instance-id"], "not yet known"]));
    let (instance, event) = stage.launch();
    put(&stage, "By fact", None, json!(["=", ["fact", "ec2_metadata", "instance-id"], instance]));
    stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
}

#[tokio::test]
async fn rules_are_matched_under_an_oid_and_under_a_short_name() {
    let mut stage = Stage::enterprise(
        "classified = [\"By OID\", \"By name\", \"PEADM\"]\n\
         sign.allow = { \"1.3.6.1.4.1.34380.1.1.9812\" = [\"puppet/puppetdb-database\"] }",
    )
    .await;
    put(&stage, "By OID", None, json!(["=", ["trusted", "extensions", "1.3.6.1.4.1.34380.1.1.13"], "compiler"]));
    put(&stage, "By name", None, json!(["=", ["trusted", "extensions", "pp_role"], "compiler"]));
    let peadm = json!(["=", ["trusted", "extensions", "1.3.6.1.4.1.34380.1.1.9812"], "puppet/puppetdb-database"]);
    put(&stage, "PEADM", None, peadm);
    let (instance, event) = stage.launch();
    let mut agent = Stage::compiler(&instance);
    agent.extensions.insert("1.3.6.1.4.1.34380.1.1.9812".to_owned(), "puppet/puppetdb-database".to_owned());
    stage.start(agent);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
}

/// The receipt of a launch whose group cannot match, and how often it ran Puppet.
async fn refused(own: serde_json::Value, parent: serde_json::Value) -> Receipt {
    let mut stage = Stage::enterprise("classified = [\"Databases\"]").await;
    stage.budget("3s");
    put(&stage, "Above", None, parent);
    put(&stage, "Databases", Some("Above"), own);
    let (instance, event) = stage.launch();
    stage.start(Agent { first_run: false, ..Stage::compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(&stage.name_of(&instance)), 0, "{receipt:#?}");
    receipt
}

#[tokio::test]
async fn a_group_that_the_certificate_can_never_match_is_named_with_its_condition() {
    let role = |role: &str| json!(["=", ["trusted", "extensions", "pp_role"], role]);
    let mut reasons = Vec::new();
    for (own, parent) in [(role("database"), role("compiler")), (role("compiler"), role("database"))] {
        let receipt = refused(own, parent).await;
        assert_eq!(receipt.outcome, Outcome::Refused, "{receipt:#?}");
        assert_eq!(receipt.code, Code::ClassificationNeverMatches, "{receipt:#?}");
        reasons.push(redacted_reason(&receipt, &[]));
    }
    assert_snapshot!(reasons.join("\n"), @r#"
    its certificate can never match the rules of the node group Databases: Databases requires ["=",["trusted","extensions","pp_role"],"database"], and the node has "compiler"; change the rule, what the instance asks for, or `classified`
    its certificate can never match the rules of the node group Databases: Above requires ["=",["trusted","extensions","pp_role"],"database"], and the node has "compiler"; change the rule, what the instance asks for, or `classified`
    "#);
}

#[tokio::test]
async fn facts_that_do_not_match_are_named_after_the_run() {
    let mut stage = Stage::enterprise("classified = [\"By fact\"]").await;
    stage.budget("5s");
    put(&stage, "By fact", None, json!(["=", ["fact", "ec2_metadata", "instance-id"], "i-00000000000000000"]));
    let (instance, event) = stage.launch();
    let agent = stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::ClassificationPending), "{receipt:#?}");
    assert!(agent.reported().await.unwrap().reports >= 1);
    assert_snapshot!(redacted_reason(&receipt, &[]), @r#"waiting for the classifier to put it into By fact; the facts of its newest Puppet run do not match the rules of the node group By fact: By fact requires ["=",["fact","ec2_metadata","instance-id"],"i-00000000000000000"], and the node has "[instance]""#);
}

#[tokio::test]
async fn a_launch_that_is_abandoned_leaves_no_pin_behind() {
    let mut stage = Stage::enterprise(&format!("pin = [\"{AGENTS}\"]\ntimeout.launch = \"10m\"")).await;
    stage.budget("2s");
    let (instance, event) = stage.launch();
    let name = stage.name_of(&instance);
    stage.start(Agent { first_run: false, ..Stage::compiler(&instance) });
    stage.rehearsal.fault("orchestrator", "*", None, FaultKind::Reset);
    stage.rehearsal.fault("ca", "POST /puppet-ca/v1/sign*", None, FaultKind::Reset);
    stage.rehearsal.fault("ca", "PUT *", None, FaultKind::Reset);
    stage.rehearsal.onboard(&event).await;
    let puppet = stage.rehearsal.lab.puppet.clone();
    assert!(puppet.is_pinned(AGENTS, &name) && !stage.rehearsal.puppet_has(&name).0, "{}", stage.rehearsal.log());
    // An operator's pin of the same name, and the next launch's, are not of this one.
    let operators = NodeGroup { name: "Operators".into(), pinned: vec![name.clone()], ..NodeGroup::default() };
    puppet.put_node_group(&operators).unwrap();

    // Its time is over now: the launch is abandoned.
    stage.rehearsal.lab.faults.clear();
    stage.rehearsal.configure(|config| config.replace("timeout.launch = \"10m\"", "timeout.launch = \"1s\""));
    stage.rehearsal.end("onboard").await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Abandoned, "{receipt:#?}");
    assert!(!puppet.is_pinned(AGENTS, &name) && puppet.is_pinned("Operators", &name));
    assert_ne!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"), "{GROUP}");
}

#[tokio::test]
async fn an_abandonment_does_not_wait_for_a_classifier_that_is_down() {
    let mut stage = Stage::enterprise(&format!("pin = [\"{AGENTS}\"]\ntimeout.launch = \"1s\"")).await;
    stage.budget("4s");
    let (instance, event) = stage.launch();
    let name = stage.name_of(&instance);
    let pinned = NodeGroup { name: AGENTS.into(), pinned: vec![name.clone()], ..NodeGroup::default() };
    stage.rehearsal.lab.puppet.put_node_group(&pinned).unwrap();
    stage.rehearsal.fault("classifier", "POST *", None, FaultKind::Reset);
    let wrong =
        Agent { extensions: [("pp_role".to_owned(), "database".to_owned())].into(), ..Stage::compiler(&instance) };
    stage.start(wrong).waits_for_certificate().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Abandoned, Code::TimeoutExpired), "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[]), @r#"the timeout has expired: the certificate request of [certname] is refused: its pp_role is "database", not "compiler"; [certname] could not be unpinned from PE Infrastructure Agent"#);
}
