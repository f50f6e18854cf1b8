//! What the log says of things that could not be done.

use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::PuppetOptions;
use stagedoor_lifecycle::receipt::Outcome;

use super::fleet::{fleet, name, stage_of};
use super::health::refused;
use crate::e2e::rehearsal::{Rehearsal, compilers, short_heartbeat};

/// The codes of the warnings and errors so far, and those that have none.
fn troubles(stage: &Rehearsal) -> (Vec<String>, Vec<Value>) {
    let is_trouble = |line: &Value| line["level"] == "ERROR" || line["level"] == "WARN";
    let lines = stage.log_lines().into_iter().filter(is_trouble);
    let (with_code, without): (Vec<Value>, Vec<Value>) =
        lines.partition(|line| line["code"].is_string() || line["codes"].is_string());
    let codes = |line: &Value| line["code"].as_str().or(line["codes"].as_str()).unwrap_or_default().to_owned();
    (with_code.iter().flat_map(|line| codes(line).split(',').map(str::to_owned).collect::<Vec<_>>()).collect(), without)
}

#[tokio::test]
async fn whatever_a_sweep_cannot_do_is_logged_with_a_code() {
    let mut without_code = Vec::new();
    for (service, call, code) in [
        ("autoscaling", "DescribeAutoScalingGroups", "auto_scaling_unavailable"),
        ("ec2", "DescribeInstances", "ec2_unavailable"),
        ("puppetdb", "*", "puppetdb_unavailable"),
        ("ca", "*", "ca_unavailable"),
        ("ca", "GET /puppet-ca/v1/expirations", "ca_unavailable"),
        ("ca", "GET /puppet-ca/v1/certificate/*", "ca_unavailable"),
        ("classifier", "*", "classifier_unavailable"),
        ("sns", "*", "sns_unavailable"),
    ] {
        let mut scene = fleet(0..3, 3..5);
        // Pinned, with a certificate and without a node: housekeeping looks at its certificate.
        scene["nodes"][3]["puppetdb"] = Value::Null;
        scene["node_groups"] = json!([{"name": "Agents", "pinned": [name(3)]}]);
        let mut stage = stage_of(scene, SignedDuration::from_hours(3), PuppetOptions::enterprise()).await;
        stage
            .configure(|config| format!("{config}pin = [\"Agents\"]\n").replace("budget = \"20s\"", "budget = \"1s\""));
        stage.fault(service, call, None, FaultKind::Reset);
        let answer = stage.invoke("sweep", &json!({})).await;
        stage.end("sweep").await;
        stage.ended_log().await;
        let (codes, bare) = troubles(&stage);
        assert!(codes.iter().any(|logged| logged == code), "{service} {call}: {codes:?}: {answer:#}");
        without_code.extend(bare.into_iter().map(|line| (service, call, line)));
    }
    assert_eq!(without_code, []);
}

#[tokio::test]
async fn a_heartbeat_and_a_message_that_fail_are_logged_with_a_code() {
    let mut stage = Rehearsal::of(short_heartbeat(compilers("Terminating:Wait"))).await;
    stage.fault("puppetdb", "*", None, FaultKind::Reset);
    stage.fault("autoscaling", "RecordLifecycleActionHeartbeat", None, refused("AccessDenied"));
    stage.fault("sns", "*", None, FaultKind::Reset);
    assert_eq!(stage.receipt("eventbridge-terminate").await.outcome, Outcome::Failed);
    stage.end("purge").await;
    stage.ended_log().await;
    let (codes, bare) = troubles(&stage);
    for code in ["not_permitted", "sns_unavailable"] {
        assert!(codes.iter().any(|logged| logged == code), "{codes:?}");
    }
    assert_eq!(bare, Vec::<Value>::new());
}
