//! What `purge` does when a service is unreachable, slow or answers wrongly, or when the function is killed.

use serde_json::{Value, json};
use stagedoor_lab::Options;
use stagedoor_lab_aws::Terminate;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::{CsrAttributes, PuppetOptions, QueueDelay};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};

use crate::e2e::rehearsal::{LEAVING, NAME, OTHER, Rehearsal, compilers, event, only, short_heartbeat};

const WAITS: Option<&str> = Some("Terminating:Wait");

fn unavailable() -> FaultKind {
    FaultKind::Status { status: 503, body: "starting".into(), content_type: Some("text/plain".into()) }
}

/// The lab's events have the present time: the timeout has not expired.
async fn leaving_now() -> (Rehearsal, Value) {
    leaving_with(Options::default()).await
}

async fn leaving_with(options: Options) -> (Rehearsal, Value) {
    let stage = Rehearsal::with(compilers("InService"), options).await;
    let event = stage.lab.aws.terminate(LEAVING, &Terminate::default()).unwrap().events[0].eventbridge.clone();
    (stage, event)
}

async fn purge(stage: &mut Rehearsal, event: &Value) -> Receipt {
    only(&stage.purge(event).await)
}

#[tokio::test]
async fn an_unreachable_ca_is_a_failure_and_the_hook_stays_untouched() {
    let (mut stage, event) = leaving_now().await;
    stage.fault("ca", "*", None, FaultKind::Reset);
    let receipt = purge(&mut stage, &event).await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    assert_eq!(receipt.code, Code::CaUnavailable, "{receipt:#?}");
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS);
    stage.lab.faults.clear();
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued, "nothing was lost");
}

#[tokio::test]
async fn from_sqs_a_failure_comes_again_and_only_that() {
    let (mut stage, now) = leaving_now().await;
    stage.fault("puppetdb", "*", None, unavailable());
    let sqs = json!({"Records": [
        {"messageId": "m-1", "body": now.to_string()},
        {"messageId": "m-2", "body": event("sns-test-notification").to_string()},
    ]});
    assert_eq!(stage.purge(&sqs).await, json!({"batchItemFailures": [{"itemIdentifier": "m-1"}]}));
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn while_puppetdb_is_down_the_certificate_goes_and_the_hook_waits() {
    let (mut stage, event) = leaving_now().await;
    stage.fault("puppetdb", "*", None, unavailable());
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Failed);
    assert_eq!(stage.puppet_has(NAME), (false, true));
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn when_the_timeout_has_expired_the_action_is_completed_as_the_profile_says() {
    let (mut stage, event) = leaving_now().await;
    stage.configure(|config| format!("{config}timeout.terminate = \"1ms\"\n"));
    stage.fault("ca", "*", None, FaultKind::Reset);
    let receipt = purge(&mut stage, &event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(receipt.code, Code::TimeoutExpired, "{receipt:#?}");
    assert_eq!(stage.lab.journal.count("autoscaling", "DescribeScalingActivities"), 1);
}

#[tokio::test]
async fn an_old_event_does_not_make_the_timeout_of_a_new_action_expire() {
    let (mut stage, mut event) = leaving_now().await;
    event["time"] = "2020-01-01T00:00:00Z".into();
    stage.fault("ca", "*", None, FaultKind::Reset);
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Failed);
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn throttling_is_waited_out() {
    let (mut stage, event) = leaving_now().await;
    let throttled = || FaultKind::Status {
        status: 400,
        body:
            "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error>\
               <RequestId>r</RequestId></ErrorResponse>"
                .into(),
        content_type: Some("text/xml".into()),
    };
    for nth in [1, 2] {
        stage.fault("autoscaling", "DescribeAutoScalingGroups", Some(nth), throttled());
        stage.fault("autoscaling", "CompleteLifecycleAction", Some(nth), throttled());
    }
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued);
    assert_eq!(stage.lab.journal.count("autoscaling", "CompleteLifecycleAction"), 3);
}

#[tokio::test]
async fn an_action_that_is_not_visible_yet_is_asked_for_again() {
    let mut scene = compilers("InService");
    scene["settings"] = json!({"race_calls": 2});
    let mut stage = Rehearsal::of(scene).await;
    let event = stage.lab.aws.terminate(LEAVING, &Terminate::default()).unwrap().events[0].eventbridge.clone();
    stage.configure(|config| config.replace("budget = \"2s\"", "budget = \"20s\""));
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued);
    assert_eq!(stage.lab.journal.count("autoscaling", "CompleteLifecycleAction"), 3);
    assert_ne!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_taken_for_what_it_is() {
    let (mut stage, event) = leaving_now().await;
    stage.fault("autoscaling", "CompleteLifecycleAction", Some(1), FaultKind::Cut);
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued);
    assert_ne!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn a_clean_whose_answer_was_lost_is_proven_by_looking_again() {
    let (mut stage, event) = leaving_now().await;
    stage.configure(|config| config.replace("budget = \"2s\"", "budget = \"20s\""));
    stage.fault("ca", "PUT /puppet-ca/v1/clean", None, FaultKind::Cut);
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued);
    assert_eq!(stage.puppet_has(NAME), (false, false));
}

#[tokio::test]
async fn a_lock_time_out_of_the_ca_is_tried_again() {
    let (mut stage, event) = leaving_now().await;
    stage.configure(|config| config.replace("budget = \"2s\"", "budget = \"20s\""));
    let body = "Internal Server Error: clojure.lang.ExceptionInfo: Failed to acquire write lock \"crl-file\" within 60 \
                seconds {:kind :lock-acquisition-timeout}";
    let fault = FaultKind::Status { status: 500, body: body.into(), content_type: Some("text/plain".into()) };
    stage.fault("ca", "PUT /puppet-ca/v1/clean", Some(1), fault);
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued);
    assert_eq!(stage.puppet_has(NAME), (false, false));
}

#[tokio::test]
async fn a_server_without_clean_is_served_by_revoke_and_delete() {
    let puppet = PuppetOptions { server_version: "5.3.14".parse().unwrap(), ..PuppetOptions::default() };
    let (mut stage, event) = leaving_with(Options { puppet, ..Options::default() }).await;
    let receipt = purge(&mut stage, &event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.puppet_has(NAME), (false, false));
}

#[tokio::test]
async fn what_the_ca_does_not_permit_fails_with_the_remedy() {
    let puppet = PuppetOptions { controller_by_certname: false, ..PuppetOptions::default() };
    let (mut stage, event) = leaving_with(Options { puppet, ..Options::default() }).await;
    let receipt = purge(&mut stage, &event).await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    assert_eq!(receipt.code, Code::NotPermitted, "{receipt:#?}");
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn a_rotated_secret_is_read_again_when_the_old_credentials_are_refused() {
    let (mut stage, event) = leaving_now().await;
    // The process has the secret as it was.
    let before = stage.puppet_secret();
    stage.receipt("eventbridge-terminate-reused-name").await;
    let first = stage.lab.journal.count("secretsmanager", "GetSecretValue");
    let controller = PuppetOptions::default().controller;
    stage.lab.puppet.revoke(&controller).unwrap();
    let fresh = stage.lab.puppet.issue(&controller, &CsrAttributes::default()).unwrap();
    let mut secret: Value = serde_json::from_str(&before).unwrap();
    secret["client_cert"] = fresh.cert_pem.as_str().into();
    secret["client_key"] = fresh.key_pem.as_str().into();
    stage.lab.aws.put_secret("stagedoor/puppet", secret.to_string().into());

    let receipt = purge(&mut stage, &event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.lab.journal.count("secretsmanager", "GetSecretValue"), first + 1);
}

#[tokio::test]
async fn beside_another_tools_hook_ours_is_answered_and_the_other_left_alone() {
    let mut scene = compilers("InService");
    let drain = json!({"name": "drain-logs", "transition": "terminating"});
    scene["groups"][0]["hooks"].as_array_mut().unwrap().push(drain);
    let mut stage = Rehearsal::of(scene).await;
    let begun = stage.lab.aws.terminate(LEAVING, &Terminate::default()).unwrap();
    let receipts =
        [purge(&mut stage, &begun.events[0].eventbridge).await, purge(&mut stage, &begun.events[1].eventbridge).await];
    let of = |hook: &str| receipts.iter().find(|receipt| receipt.hook == hook.parse().ok()).unwrap();
    assert_eq!(of("stagedoor-terminate").outcome, Outcome::Continued);
    assert_eq!((of("drain-logs").outcome, of("drain-logs").code), (Outcome::Ignored, Code::OtherHook));
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS, "the other hook still holds it");
    // Completed, and still waiting at the other hook: too new to distinguish from an action that is not visible yet.
    assert_eq!(purge(&mut stage, &begun.events[0].eventbridge).await.outcome, Outcome::Failed);
    let mut old = begun.events[0].eventbridge.clone();
    old["time"] = "2026-03-04T05:06:07Z".into();
    assert_eq!(purge(&mut stage, &old).await.outcome, Outcome::Ignored);
}

#[tokio::test]
async fn an_instance_that_went_on_without_us_is_still_purged() {
    let mut stage = Rehearsal::of(compilers("Terminating:Proceed")).await;
    let receipt = purge(&mut stage, &event("eventbridge-terminate")).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.puppet_has(NAME), (false, false));
    assert_eq!(stage.lab.journal.count("autoscaling", "CompleteLifecycleAction"), 0);
}

#[tokio::test]
async fn an_instance_that_is_gone_from_its_group_is_still_purged_if_ec2_says_so() {
    let (mut stage, event) = leaving_now().await;
    let force = Terminate { force: true, ..Terminate::default() };
    stage.lab.aws.terminate(OTHER, &force).unwrap();
    let gone = event.to_string().replace(LEAVING, OTHER);
    let receipt = purge(&mut stage, &serde_json::from_str(&gone).unwrap()).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.puppet_has("ip-10-0-3-8.ec2.internal"), (false, false), "found by its instance id");
}

#[tokio::test]
async fn a_deactivation_that_stays_in_the_queue_is_not_taken_for_done() {
    let puppet = PuppetOptions { puppetdb_queue: QueueDelay::Ms(3_600_000), ..PuppetOptions::default() };
    let (mut stage, event) = leaving_with(Options { puppet, ..Options::default() }).await;
    let receipt = purge(&mut stage, &event).await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    assert_eq!(receipt.code, Code::StillThere, "{receipt:#?}");
    assert_eq!(stage.state_of(LEAVING).as_deref(), WAITS);
}

#[tokio::test]
async fn a_topic_that_does_not_answer_does_not_hold_the_answer_up() {
    let options = Options { function_timeout: std::time::Duration::from_secs(20), ..Options::default() };
    let (mut stage, event) = leaving_with(options).await;
    stage.fault("sns", "*", None, FaultKind::Delay { ms: 120_000 });
    assert_eq!(purge(&mut stage, &event).await.outcome, Outcome::Continued);
}

#[tokio::test]
async fn killed_after_any_write_the_next_one_goes_on() {
    // The process is killed when a write has been carried out and its answer is still under way.
    let (mut whole, event) = leaving_now().await;
    assert_eq!(purge(&mut whole, &event).await.outcome, Outcome::Continued);
    let writes = [
        ("ca", "PUT /puppet-ca/v1/clean"),
        ("puppetdb", "POST /pdb/cmd/v1"),
        ("autoscaling", "CompleteLifecycleAction"),
    ];
    for (service, call) in writes {
        assert!(whole.lab.journal.count(service, call) >= 1, "{call}");
        let (mut stage, event) = leaving_now().await;
        // Carried out, and the process is killed before it gets the answer.
        stage.fault(service, call, None, FaultKind::Delay { ms: 60_000 });
        stage.start_purge();
        let carried_out = async {
            while stage.lab.journal.count(service, call) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = stage.lab.invoke("purge", &event) => panic!("it should not have ended"),
            () = carried_out => {}
        }
        stage.start_purge();
        stage.lab.faults.clear();
        stage.purge(&event).await;
        assert_eq!(stage.puppet_has(NAME), (false, false), "{call}");
        assert_ne!(stage.state_of(LEAVING).as_deref(), WAITS, "{call}");
    }
}

#[tokio::test]
async fn heartbeats_are_sent_also_while_the_ca_takes_its_time() {
    let mut stage = Rehearsal::of(short_heartbeat(compilers("Terminating:Wait"))).await;
    stage.fault("ca", "PUT /puppet-ca/v1/clean", None, FaultKind::Delay { ms: 21_000 });
    assert_eq!(stage.receipt("eventbridge-terminate").await.outcome, Outcome::Continued);
    // Two at most belong to the look before and the look after it.
    let beats = stage.lab.journal.count("autoscaling", "RecordLifecycleActionHeartbeat");
    assert!((3..=5).contains(&beats), "{beats}: one in every ten seconds");
}

#[tokio::test]
async fn where_the_timeout_is_longer_than_the_hooks_heartbeats_extend_it() {
    let mut stage = Rehearsal::of(short_heartbeat(compilers("Terminating:Wait"))).await;
    stage.fault("puppetdb", "*", None, FaultKind::Reset);
    assert_eq!(stage.receipt("eventbridge-terminate").await.outcome, Outcome::Failed);
    let beats = stage.lab.journal.count("autoscaling", "RecordLifecycleActionHeartbeat");
    assert!((1..=2).contains(&beats), "{beats}: one in every ten seconds");
}
