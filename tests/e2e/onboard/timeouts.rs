//! What is waited for, and for how long.

use insta::assert_snapshot;
use jiff::SignedDuration;
use serde_json::json;
use stagedoor_lab::agent::Agent;
use stagedoor_lab::scene::Scene;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::RunScript;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;

use super::stage::{PRIMARY, Stage};
use crate::e2e::rehearsal::{redacted, redacted_reason, short_heartbeat};

#[tokio::test]
async fn each_wait_names_what_it_waits_for() {
    let mut stage = Stage::open_source("ready = [\"report\", \"tcp:8142\"]").await;
    stage.budget("1s");
    let (instance, event) = stage.launch();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert_eq!(receipt.code, Code::RequestPending, "{receipt:#?}");
    assert!(receipt.decide_by.is_some(), "{receipt:#?}");
    assert_snapshot!("waiting", redacted(&receipt));

    let agent =
        stage.start(Agent { first_run: false, tcp_ports: vec![8142], listening: false, ..Stage::compiler(&instance) });
    agent.waits_for_certificate().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.code, Code::WaitingForRun, "{receipt:#?}");

    agent.run("failed").await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert_eq!(receipt.code, Code::RunNotSuccessful, "{receipt:#?}");

    agent.run("unchanged").await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.code, Code::WaitingForReadiness, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));

    agent.set_listening(true);
    agent.serves().await.unwrap();
    // Several successful polls in a row.
    stage.rehearsal.configure(|config| config.replace("budget = \"1s\"", "budget = \"30s\""));
    stage.rehearsal.end("onboard").await;
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
}

#[tokio::test]
async fn without_a_report_in_ready_it_is_let_in_before_it_has_run_puppet() {
    let mut stage = Stage::open_source("ready = []").await;
    let (instance, event) = stage.launch();
    let agent = stage.start(Agent { first_run: false, ..Stage::compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Enrolled), "{receipt:#?}");
    assert_eq!(agent.state().reports, 0);
    assert_eq!(stage.rehearsal.puppet_has(&stage.name_of(&instance)), (true, false));
}

#[tokio::test]
async fn with_any_report_a_failed_run_with_a_catalog_is_enough_also_for_the_targets() {
    let profile = format!("ready = [\"report:any\"]\nrefresh = [\"{PRIMARY}\"]\nrefresh_after = \"catalog\"");
    let mut stage = Stage::enterprise(&profile).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    let (instance, _) = stage.launch();
    stage.start(Agent { status: "failed".to_owned(), ..Stage::compiler(&instance) });
    let receipt = stage.swept(&instance).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Enrolled), "{receipt:#?}");
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 1);
}

#[tokio::test]
async fn when_the_timeout_has_expired_the_launch_is_abandoned() {
    let mut stage = Stage::open_source("timeout.launch = \"10m\"").await;
    stage.budget("1s");
    // The function goes by the machine's clock: the launch began long ago.
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-601));
    let (instance, event) = stage.launch();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Abandoned, "{receipt:#?}");
    assert_eq!(receipt.code, Code::TimeoutExpired, "{receipt:#?}");
    assert_snapshot!("abandoned", redacted(&receipt));
    assert_ne!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn a_puppetdb_that_does_not_answer_lets_nobody_in() {
    let mut stage = Stage::open_source("").await;
    stage.budget("3s");
    stage.rehearsal.fault("puppetdb", "*", None, FaultKind::Reset);
    let (instance, event) = stage.launch();
    stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
    stage.rehearsal.lab.faults.clear();
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
}

#[tokio::test]
async fn a_primary_that_restarts_its_services_during_its_run_is_waited_for() {
    let mut stage = Stage::enterprise(&format!("refresh = [\"{PRIMARY}\"]")).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    stage.rehearsal.lab.puppet.script(PRIMARY, RunScript::Restart { down_ms: 1500 });
    let (instance, _, receipt) = stage.enrol_by_sweep().await;
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 1, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
}

#[tokio::test]
async fn with_a_primary_that_cannot_run_a_fit_instance_is_let_in_after_the_timeout_and_a_metric_and_a_message_say_so() {
    let profile = format!("refresh = [\"{PRIMARY}\"]\ntimeout.refresh = \"4s\"");
    let mut stage = Stage::enterprise(&profile).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    stage.rehearsal.lab.puppet.script(PRIMARY, RunScript::Disabled);
    let (instance, _, receipt) = stage.enrol_by_sweep().await;
    assert_eq!(receipt.code, Code::RefreshTimedOut, "{receipt:#?}");
    assert!(receipt.reason.contains(PRIMARY), "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 1, "it was tried");
    let told = (instance, "continued".to_owned(), "refresh_timed_out".to_owned());
    assert!(stage.rehearsal.published_outcomes().contains(&told), "{:#?}", stage.rehearsal.published());
    // The alarm `refresh-timed-out` is on this metric (`tests/infra`).
    let metrics = stage.rehearsal.metrics("sweep").await;
    assert_eq!((&metrics["RefreshTimedOut"], &metrics["Enrolled"]), (&json!(1), &json!(1)), "{metrics}");
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_is_not_given_twice() {
    let mut stage = Stage::enterprise(&format!("refresh = [\"{PRIMARY}\"]")).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    stage.rehearsal.fault("orchestrator", "POST /orchestrator/v1/command/deploy", Some(1), FaultKind::Cut);
    let (_, _, receipt) = stage.enrol_by_sweep().await;
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), 1, "{receipt:#?}");
}

#[tokio::test]
async fn without_an_orchestrator_it_says_that_nobody_was_told() {
    let mut stage = Stage::open_source(&format!("refresh = [\"{PRIMARY}\"]")).await;
    let (_, _, receipt) = stage.enrol().await;
    assert_eq!(receipt.code, Code::Enrolled, "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[]), @"[certname] has its certificate [serial]; its Puppet run at [time] was successful (changed); primary.example.com will pick up the change at the next Puppet run");
}

#[tokio::test]
async fn without_an_orchestrator_it_waits_for_the_targets_own_run_if_the_profile_says_so() {
    let mut stage = Stage::open_source(&format!("refresh = [\"{PRIMARY}\"]\nawait_refresh = true")).await;
    stage.budget("3s");
    let (instance, event) = stage.launch();
    let agent = stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert_eq!(receipt.code, Code::WaitingForRefresh, "{receipt:#?}");
    agent.reported().await.unwrap();
    let now = stage.rehearsal.lab.clock.now();
    stage.rehearsal.lab.puppet.report(PRIMARY, "changed", now);
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
}

#[tokio::test]
async fn where_the_timeout_is_longer_than_the_hooks_heartbeats_extend_it() {
    let mut stage = Stage::open_source("").await;
    stage.budget("1s");
    let mut scene = short_heartbeat(super::stage::scene());
    scene["secrets"] = json!({"stagedoor/puppet": stage.rehearsal.puppet_secret()});
    stage.rehearsal.lab.set_scene(&Scene::from_json(scene).unwrap()).unwrap();
    let (_, event) = stage.launch();
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Waiting);
    let beats = stage.rehearsal.lab.journal.count("autoscaling", "RecordLifecycleActionHeartbeat");
    assert!((1..=2).contains(&beats), "{beats}: one in every ten seconds");
}
