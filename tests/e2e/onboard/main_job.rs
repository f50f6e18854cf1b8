//! The main job: a launching instance is held until Puppet knows it and it can serve.

use insta::assert_snapshot;
use serde_json::{Value, json};
use stagedoor_lab::agent::Agent;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_types::Certname;

use super::stage::{PRIMARY, Stage};
use crate::e2e::rehearsal::{TOPIC, kinds, redacted_steps};

#[tokio::test]
async fn an_instance_that_is_launched_gets_its_certificate_runs_puppet_and_is_in_service() {
    let mut stage = Stage::open_source("").await;
    let (instance, agent, receipt) = stage.enrol().await;
    let name = stage.name_of(&instance);
    assert_eq!(receipt.certname.as_ref().map(Certname::as_str), Some(name.as_str()));
    assert_eq!(agent.reported().await.unwrap().reports, 1);
    assert_eq!(stage.rehearsal.puppet_has(&name), (true, true));
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
    assert_eq!(receipt.code, Code::Enrolled, "{receipt:#?}");
    let changes: Vec<StepKind> = kinds(&receipt).into_iter().filter(|kind| *kind != StepKind::Observed).collect();
    // The request was signed, the certificate and the Puppet run were proven, and the launch was completed.
    let expected = [StepKind::Applied, StepKind::Proven, StepKind::Proven, StepKind::Completed];
    assert_eq!(changes, expected, "{receipt:#?}");
    assert_eq!(stage.rehearsal.signings(), 1, "{receipt:#?}");
    let published = stage.rehearsal.published_outcomes();
    assert_eq!(published, [(instance, "continued".to_owned(), "enrolled".to_owned())]);
}

#[tokio::test]
async fn in_puppet_enterprise_it_is_pinned_classified_and_made_known_to_the_primary() {
    let mut stage = Stage::enterprise(&format!(
        "pin = [\"PE Infrastructure Agent\"]\nclassified = [\"PE Master\"]\nrefresh = [\"{PRIMARY}\"]\n\
         ready = [\"report\", \"status:8140\", \"tcp:8142\"]"
    ))
    .await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    let (instance, _) = stage.launch();
    let agent =
        Agent { status_ports: vec![8140], tcp_ports: vec![8142], starting_answers: 2, ..Stage::compiler(&instance) };
    stage.start(agent);
    let receipt = stage.swept(&instance).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    let puppet = &stage.rehearsal.lab.puppet;
    assert!(puppet.is_pinned("PE Infrastructure Agent", &stage.name_of(&instance)));
    assert_eq!(puppet.times_ordered(PRIMARY), 1);
    assert!(stage.ran_as_ordered(PRIMARY), "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
}

#[tokio::test]
async fn it_is_told_to_run_puppet_if_it_does_not_by_itself() {
    let mut stage = Stage::enterprise("").await;
    let (instance, event) = stage.launch();
    stage.start(Agent { first_run: false, ..Stage::compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(&stage.name_of(&instance)), 1, "{receipt:#?}");
}

#[tokio::test]
async fn fifty_at_once_cost_the_primary_two_runs_at_the_most_and_the_ca_no_list_of_certificates() {
    let mut stage = Stage::enterprise(&format!("refresh = [\"{PRIMARY}\"]")).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    stage.budget("15s");
    let mut records = Vec::new();
    let mut instances = Vec::new();
    for number in 0..50 {
        let (instance, event) = stage.launch();
        stage.start(Stage::compiler(&instance));
        records.push(json!({"messageId": format!("m{number}"), "eventSource": "aws:sqs", "body": event.to_string()}));
        instances.push(instance);
    }
    let answer = stage.rehearsal.invoke("onboard", &json!({ "Records": records })).await;
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 0, "the sweep alone orders it");
    stage.rehearsal.invoke("sweep", &json!({})).await;
    let waiting: Vec<_> = instances.iter().filter(|id| stage.state_of(id).as_deref() != Some("InService")).collect();
    assert_eq!(waiting, Vec::<&String>::new(), "{}", stage.rehearsal.log());
    let lab = &stage.rehearsal.lab;
    assert!((1..=2).contains(&lab.puppet.times_ordered(PRIMARY)), "{}", lab.puppet.times_ordered(PRIMARY));
    // Of requests, those are read that the list of requests names.
    assert_eq!(stage.rehearsal.lists_of_certificates(), 0);
    assert!(lab.journal.count("ca", "GET /puppet-ca/v1/certificate_statuses*") >= 1);
    let requests = lab.journal.count("ca", "GET /puppet-ca/v1/certificate_request/{certname}");
    assert!(requests <= 100, "{requests}: {:#?}", lab.journal.calls("ca"));
    assert!(lab.journal.count("autoscaling", "DescribeAutoScalingGroups") <= 8);
}

#[tokio::test]
async fn every_shape_of_the_event_does_the_same() {
    let mut stage = Stage::open_source("").await;
    let wrap_sns = |event: &Value| json!({"Type": "Notification", "TopicArn": TOPIC, "Message": event.to_string()});
    for shape in ["eventbridge", "sns", "sqs", "sns in sqs"] {
        let (instance, event) = stage.launch();
        stage.start(Stage::compiler(&instance));
        let record =
            |body: &Value| json!({"Records": [{"messageId": "m", "eventSource": "aws:sqs", "body": body.to_string()}]});
        let event = match shape {
            "sns" => json!({"Records": [{"EventSource": "aws:sns", "Sns": wrap_sns(&event)}]}),
            "sqs" => record(&event),
            "sns in sqs" => record(&wrap_sns(&event)),
            _ => event,
        };
        stage.rehearsal.invoke("onboard", &event).await;
        assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"), "{shape}");
    }
}

#[tokio::test]
async fn a_reboot_changes_nothing() {
    let mut stage = Stage::open_source("").await;
    let (instance, agent, _) = stage.enrol().await;
    let before = stage.rehearsal.lab.puppet.snapshot()["certificates"].clone();
    agent.reboot().await;
    let awake = agent.until(|now| now.boots == 2 && now.reports == 1).await.unwrap();
    assert_eq!(awake.submitted, 0, "no new request since");
    assert_eq!(stage.rehearsal.lab.puppet.snapshot()["certificates"], before);
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
}

#[tokio::test]
async fn the_event_of_an_instance_that_has_been_let_in_is_ignored() {
    let mut stage = Stage::open_source("").await;
    let (instance, event) = stage.launch();
    stage.start(Stage::compiler(&instance));
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
    let writes = stage.rehearsal.writes();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Ignored, "{receipt:#?}");
    assert_eq!(stage.rehearsal.writes(), writes);
}

#[tokio::test]
async fn observe_mode_says_what_it_would_sign_and_signs_nothing() {
    let mut stage = Stage::open_source("").await;
    stage.rehearsal.configure(|config| format!("mode = \"observe\"\n{config}"));
    let (instance, event) = stage.launch();
    let agent = stage.start(Stage::compiler(&instance));
    agent.waits_for_certificate().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert_eq!(receipt.code, Code::ObserveMode, "{receipt:#?}");
    assert_snapshot!(redacted_steps(&receipt, StepKind::Withheld), @"sign the certificate request of [certname]");
    assert_eq!(stage.rehearsal.signings(), 0, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
    assert!(!stage.rehearsal.puppet_has(&stage.name_of(&instance)).0);
}
