//! A terminating node of Puppet Enterprise: it is unpinned, and the primary learns that it is gone.

use stagedoor_lab_aws::Terminate;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::RunScript;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, StepKind};

use crate::e2e::onboard::stage::{PRIMARY, Stage};
use crate::e2e::rehearsal::{kinds, only};

const GROUP: &str = "PE Infrastructure Agent";

async fn enrolled() -> (Stage, String) {
    let mut stage = Stage::enterprise(&format!("pin = [\"{GROUP}\"]\n")).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    let (instance, _, _) = stage.enrol().await;
    (stage, instance)
}

#[tokio::test]
async fn it_is_unpinned_and_the_primary_is_ordered_once_to_learn_of_it() {
    let (mut stage, instance) = enrolled().await;
    stage.refresh_the_primary();
    // Longer than the function works: nothing waits for it.
    stage.rehearsal.lab.puppet.configure(|options| options.run_ms = 60_000);
    let name = stage.name_of(&instance);
    let before = stage.rehearsal.lab.puppet.times_ordered(PRIMARY);
    assert!(stage.rehearsal.lab.puppet.is_pinned(GROUP, &name));
    let begun = stage.rehearsal.lab.aws.terminate(&instance, &Terminate::default()).unwrap();
    let answer = stage.rehearsal.purge(&begun.events[0].eventbridge).await;
    let receipt = only(&answer);
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    let lab = &stage.rehearsal.lab;
    assert!(!lab.puppet.is_pinned(GROUP, &name));
    assert_eq!(lab.puppet.times_ordered(PRIMARY) - before, 1);
    let proven = kinds(&receipt).into_iter().filter(|kind| *kind == StepKind::Proven).count();
    assert_eq!(proven, 3, "the certificate, the node and the pin: {receipt:#?}");
}

/// When the calls of a service were answered for the first time, in microseconds.
fn first(stage: &Stage, service: &str, call: &str) -> Option<u64> {
    let calls = stage.rehearsal.lab.journal.calls(service);
    calls.iter().filter(|entry| entry.call == call && entry.status == Some(200)).map(|entry| entry.started_us).min()
}

#[tokio::test]
async fn the_certificate_is_revoked_before_the_node_is_deactivated_and_before_the_primary_is_ordered_to_run() {
    let (mut stage, instance) = enrolled().await;
    stage.refresh_the_primary();
    stage.rehearsal.lab.journal.clear();
    let begun = stage.rehearsal.lab.aws.terminate(&instance, &Terminate::default()).unwrap();
    // The CA cannot revoke now: nothing else may happen that makes the primary forget the name.
    stage.budget("2s");
    stage.rehearsal.fault("ca", "PUT /puppet-ca/v1/clean", None, FaultKind::Reset);
    let answer = stage.rehearsal.purge(&begun.events[0].eventbridge).await;
    assert_eq!(only(&answer).outcome, Outcome::Failed, "{answer:#}");
    assert_eq!(stage.rehearsal.lab.journal.count("puppetdb", "POST /pdb/cmd/v1"), 0);
    assert_eq!(stage.rehearsal.lab.journal.count("orchestrator", "POST /orchestrator/v1/command/deploy"), 0);
    stage.rehearsal.lab.faults.clear();
    stage.rehearsal.configure(|config| config.replace("budget = \"2s\"", "budget = \"30s\""));
    let answer = stage.rehearsal.purge(&begun.events[0].eventbridge).await;
    assert_eq!(only(&answer).outcome, Outcome::Continued, "{answer:#}");
    let cleaned = first(&stage, "ca", "PUT /puppet-ca/v1/clean").expect("it was revoked");
    let deactivated = first(&stage, "puppetdb", "POST /pdb/cmd/v1").expect("it was deactivated");
    let orders = stage.rehearsal.lab.journal.calls("orchestrator");
    let ordered = orders.iter().find(|entry| entry.call == "POST /orchestrator/v1/command/deploy").expect("an order");
    assert!(cleaned < deactivated && deactivated < ordered.started_us, "{orders:#?}");
}

#[tokio::test]
async fn while_the_classifier_does_not_answer_the_hook_waits() {
    let (mut stage, instance) = enrolled().await;
    stage.budget("1s");
    stage.rehearsal.fault("classifier", "*", None, FaultKind::Reset);
    let begun = stage.rehearsal.lab.aws.terminate(&instance, &Terminate::default()).unwrap();
    let answer = stage.rehearsal.purge(&begun.events[0].eventbridge).await;
    assert_eq!(only(&answer).outcome, Outcome::Failed, "{answer:#}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Terminating:Wait"));
}

#[tokio::test]
async fn a_termination_waits_for_the_run_of_the_primary_if_the_profile_says_so() {
    let (mut stage, instance) = enrolled().await;
    stage.refresh_the_primary();
    stage.rehearsal.configure(|config| format!("{config}await_refresh.terminate = true\n"));
    stage.budget("2s");
    stage.rehearsal.lab.puppet.script(PRIMARY, RunScript::Hang);
    let before = stage.rehearsal.lab.puppet.times_ordered(PRIMARY);
    let begun = stage.rehearsal.lab.aws.terminate(&instance, &Terminate::default()).unwrap();
    let receipt = only(&stage.rehearsal.purge(&begun.events[0].eventbridge).await);
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForRefresh), "{receipt:#?}");
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY), before, "the sweep alone orders what is waited for");
    for _ in 0..2 {
        let receipt = stage.swept(&instance).await;
        assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForRefresh), "{receipt:#?}");
    }
    assert_eq!(stage.rehearsal.puppet_has(&stage.name_of(&instance)), (false, false), "the rest does not wait");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Terminating:Wait"));
    stage.rehearsal.lab.puppet.script(PRIMARY, RunScript::Ok);
    stage.rehearsal.lab.puppet.jobs_over().await;
    let receipt = only(&stage.rehearsal.purge(&begun.events[0].eventbridge).await);
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY) - before, 1);
}

#[tokio::test]
async fn three_that_leave_together_cost_the_primary_one_run() {
    let (mut stage, first) = enrolled().await;
    let (second, _, _) = stage.enrol().await;
    let (third, _, _) = stage.enrol().await;
    stage.refresh_the_primary();
    let before = stage.rehearsal.lab.puppet.times_ordered(PRIMARY);
    let records: Vec<_> = [first, second, third]
        .iter()
        .map(|instance| {
            let begun = stage.rehearsal.lab.aws.terminate(instance, &Terminate::default()).unwrap();
            let body = begun.events[0].eventbridge.to_string();
            serde_json::json!({"messageId": instance, "eventSource": "aws:sqs", "body": body})
        })
        .collect();
    let answer = stage.rehearsal.purge(&serde_json::json!({ "Records": records })).await;
    assert_eq!(answer["batchItemFailures"], serde_json::json!([]));
    assert_eq!(stage.rehearsal.lab.puppet.times_ordered(PRIMARY) - before, 1);
}
