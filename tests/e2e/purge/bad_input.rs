//! Events, configurations and secrets that `purge` cannot use.

use std::time::Duration;

use insta::assert_snapshot;
use serde_json::{Value, json};
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;

use crate::e2e::rehearsal::{LEAVING, NAME, Rehearsal, compilers, event, only, redacted, redacted_reason};

#[tokio::test]
async fn an_unusable_event_is_refused_and_nothing_is_called() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    for payload in [event("unknown-shape"), Value::Null, json!([1, 2]), json!({"Records": [{"Sns": {"Message": "?"}}]})]
    {
        let answer = stage.purge(&payload).await;
        let receipt = only(&answer);
        assert_eq!((receipt.outcome, receipt.code), (Outcome::Refused, Code::NotUnderstood), "{payload}: {answer}");
        assert!(!receipt.reason.is_empty());
    }
    assert!(stage.lab.journal.entries().is_empty(), "{:#?}", stage.lab.journal.entries());
}

#[tokio::test]
async fn a_test_notification_is_acknowledged_and_nothing_is_called() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    assert_eq!(stage.receipt("sns-test-notification").await.code, Code::NothingToDo);
    assert_eq!(stage.purge(&event("sqs-test-notification")).await, json!({"batchItemFailures": []}));
    assert!(stage.lab.journal.entries().is_empty());
}

#[tokio::test]
async fn a_message_that_can_never_be_used_does_not_come_again() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    let batch = json!({"Records": [{"messageId": "m-1", "body": "not JSON", "eventSource": "aws:sqs"}]});
    assert_eq!(stage.purge(&batch).await, json!({"batchItemFailures": []}));
}

#[tokio::test]
async fn a_bad_configuration_names_every_key_at_start() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.configure(|_| "colour = 'red'\n[puppet]\nca = 'ftp://x'\n".to_owned());
    let ended = tokio::time::timeout(Duration::from_secs(20), stage.start_purge().wait()).await;
    assert!(!ended.expect("it ends by itself").unwrap().success());
    let log = stage.ended_log().await;
    let named: Vec<&str> = log.lines().filter_map(|line| Some(line.trim_start().split_once(": ")?.0)).collect();
    for key in ["colour", "puppet.secret", "puppet.ca", "puppet.puppetdb", "profile"] {
        assert!(named.contains(&key), "{key} is not in\n{log}");
    }
}

#[tokio::test]
async fn without_a_configuration_it_says_which_variable_to_set() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.environment.clear();
    stage.without_config();
    let ended = tokio::time::timeout(Duration::from_secs(20), stage.start_purge().wait()).await;
    assert!(!ended.expect("it ends by itself").unwrap().success());
    let log = stage.ended_log().await;
    assert!(log.contains("STAGEDOOR_CONFIG") && log.contains("STAGEDOOR_CONFIG_FILE"), "{log}");
}

#[tokio::test]
async fn a_malformed_secret_names_the_field_and_never_its_value() {
    let stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    let whole: Value = serde_json::from_str(&stage.puppet_secret()).unwrap();
    let mut reasons = Vec::new();
    for field in ["ca_cert", "client_cert", "client_key"] {
        let mut missing = whole.clone();
        missing.as_object_mut().unwrap().remove(field);
        let mut garbled = whole.clone();
        garbled[field] = "hunter2-hunter2".into();
        for text in [missing.to_string(), garbled.to_string()] {
            let mut scene = compilers("Terminating:Wait");
            scene["secrets"] = json!({"stagedoor/puppet": text});
            let mut stage = Rehearsal::of(scene).await;
            stage.keep_secret("hunter2-hunter2");
            let receipt = stage.receipt("eventbridge-terminate").await;
            assert_eq!((receipt.outcome, receipt.code), (Outcome::Failed, Code::SecretUnusable), "{receipt:#?}");
            reasons.push(redacted_reason(&receipt, &[]));
        }
    }
    assert_snapshot!(reasons.join("\n"), @"
    it is not proven purged: the secret stagedoor/puppet cannot be used: the Puppet secret has no field ca_cert
    it is not proven purged: the secret stagedoor/puppet cannot be used: field ca_cert of the Puppet secret: holds no certificate in PEM form
    it is not proven purged: the secret stagedoor/puppet cannot be used: the Puppet secret has no field client_cert
    it is not proven purged: the secret stagedoor/puppet cannot be used: field client_cert of the Puppet secret: holds no certificate in PEM form
    it is not proven purged: the secret stagedoor/puppet cannot be used: the Puppet secret has no field client_key
    it is not proven purged: the secret stagedoor/puppet cannot be used: field client_key of the Puppet secret: holds no private key in PEM form (an encrypted one cannot be used)
    ");
}

#[tokio::test]
async fn an_answer_of_secrets_manager_that_is_cut_short_never_shows_the_key() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    let whole = json!({"Name": "stagedoor/puppet", "SecretString": stage.puppet_secret()}).to_string();
    let body = whole[..whole.len() - 40].to_owned();
    let content_type = Some("application/x-amz-json-1.1".to_owned());
    stage.fault("secretsmanager", "GetSecretValue", None, FaultKind::Status { status: 200, body, content_type });
    assert_eq!(stage.receipt("eventbridge-terminate").await.outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_missing_secret_is_named_and_the_hook_stays_untouched() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.configure(|config| config.replace("stagedoor/puppet", "stagedoor/nowhere"));
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    assert_snapshot!("failed", redacted(&receipt));
    assert_eq!(stage.state_of(LEAVING).as_deref(), Some("Terminating:Wait"));
    assert_eq!(stage.puppet_has(NAME), (true, true));
}
