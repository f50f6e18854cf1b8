//! Every event was lost: the sweep finds the waiting instances and handles them.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab::Options;
use stagedoor_lab::scene::Scene;
use stagedoor_lab_aws::scene::Place;
use stagedoor_lab_aws::{Launch, Terminate};
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{self, Outcome, Receipt};

use super::fleet::{fleet, id};
use crate::e2e::onboard::stage::{PRIMARY, Stage};
use crate::e2e::rehearsal::{LEAVING, OTHER, Rehearsal, compilers, count, receipts};

/// One sweep: its receipts.
async fn sweep(stage: &mut Stage) -> Vec<Receipt> {
    receipts(&stage.rehearsal.invoke("sweep", &json!({})).await)
}

fn outcomes(receipts: &[Receipt]) -> Vec<Outcome> {
    receipts.iter().map(|receipt| receipt.outcome).collect()
}

#[tokio::test]
async fn with_every_event_lost_twenty_instances_arrive_and_leave_by_the_sweep_alone() {
    let mut stage = Stage::enterprise(&format!("refresh = [\"{PRIMARY}\"]")).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    let instances: Vec<String> = (0..20)
        .map(|_| {
            let (instance, _) = stage.launch();
            stage.start(Stage::compiler(&instance));
            instance
        })
        .collect();
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts), [Outcome::Continued; 20], "{receipts:#?}");
    assert!(instances.iter().all(|id| stage.state_of(id).as_deref() == Some("InService")));

    for instance in &instances {
        stage.rehearsal.lab.aws.terminate(instance, &Terminate::default()).unwrap();
    }
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts), [Outcome::Continued; 20], "{receipts:#?}");
    for instance in &instances {
        assert_ne!(stage.state_of(instance).as_deref(), Some("Terminating:Wait"));
    }
    let left = stage.rehearsal.lab.puppet.snapshot();
    let names: Vec<&Value> = left["certificates"].as_array().unwrap().iter().map(|entry| &entry["certname"]).collect();
    assert!(!names.iter().any(|name| name.as_str().is_some_and(|name| name.starts_with("ip-"))), "{names:?}");
}

#[tokio::test]
async fn where_nothing_waits_it_costs_one_small_call_of_each_service() {
    for (mut stage, of_puppet) in [(Stage::open_source("").await, 2), (Stage::enterprise("").await, 4)] {
        assert_eq!(sweep(&mut stage).await, []);
        // With the secret, which is kept for five minutes.
        let services = |stage: &Stage| -> Vec<String> {
            let mut services: Vec<_> =
                stage.rehearsal.lab.journal.entries().into_iter().map(|entry| entry.service).collect();
            services.sort();
            services
        };
        let all = ["autoscaling", "ca", "classifier", "ec2", "orchestrator", "puppetdb", "secretsmanager"];
        let all: Vec<&str> = all
            .into_iter()
            .filter(|service| of_puppet == 4 || !["classifier", "orchestrator"].contains(service))
            .collect();
        assert_eq!(services(&stage), all);
        stage.rehearsal.lab.journal.clear();
        assert_eq!(sweep(&mut stage).await, []);
        let kept: Vec<&str> = all.into_iter().filter(|service| *service != "secretsmanager").collect();
        assert_eq!(services(&stage), kept);
        assert!(stage.rehearsal.writes().is_empty());
    }
}

#[tokio::test]
async fn two_at_once_do_no_harm() {
    let mut stage = Stage::enterprise(&format!("refresh = [\"{PRIMARY}\"]")).await;
    stage.rehearsal.lab.puppet.connect(PRIMARY);
    let (leaving, _, _) = stage.enrol_by_sweep().await;
    let (arriving, _) = stage.launch();
    stage.start(Stage::compiler(&arriving));
    stage.rehearsal.lab.aws.terminate(&leaving, &Terminate::default()).unwrap();
    let mut other = stage.rehearsal.another("sweep");
    let lab = &stage.rehearsal.lab;
    let event = json!({});
    let (one, two) = tokio::join!(lab.invoke("sweep", &event), lab.invoke("sweep", &event));
    other.start_kill().unwrap();
    for answer in [one.unwrap(), two.unwrap()] {
        for receipt in receipts(&answer) {
            assert!([Outcome::Continued, Outcome::Ignored].contains(&receipt.outcome), "{receipt:#?}");
        }
    }
    assert_eq!(stage.state_of(&arriving).as_deref(), Some("InService"));
    assert_ne!(stage.state_of(&leaving).as_deref(), Some("Terminating:Wait"));
    assert_eq!(stage.rehearsal.puppet_has(&stage.name_of(&arriving)), (true, true));
}

#[tokio::test]
async fn waiting_instances_are_decided_even_when_puppet_was_unavailable_throughout() {
    let mut stage = Stage::open_source("timeout  = { launch = \"10m\", terminate = \"5m\" }").await;
    stage.budget("2s");
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-700));
    let (arriving, _) = stage.launch();
    stage.rehearsal.fault("ca", "*", None, FaultKind::Reset);
    stage.rehearsal.fault("puppetdb", "*", None, FaultKind::Reset);
    let receipts = sweep(&mut stage).await;
    assert_eq!(
        outcomes(&receipts),
        [Outcome::Abandoned, Outcome::Continued],
        "the abandoned one terminates: {receipts:#?}"
    );
    assert_eq!(receipts[0].code, Code::TimeoutExpired, "{receipts:#?}");
    assert_ne!(stage.state_of(&arriving).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn another_tools_hook_is_left_to_it() {
    let mut stage = Stage::open_source("hooks = \"ours-\"").await;
    let (instance, _) = stage.launch();
    stage.start(Stage::compiler(&instance));
    assert_eq!(sweep(&mut stage).await, []);
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
}

/// Changes the group in the stage's scene.
fn regroup(stage: &Stage, change: impl FnOnce(&mut Value)) {
    let mut scene = crate::e2e::onboard::stage::scene();
    change(&mut scene["groups"][0]);
    scene["secrets"] = json!({"stagedoor/puppet": stage.rehearsal.puppet_secret()});
    stage.rehearsal.lab.set_scene(&Scene::from_json(scene).unwrap()).unwrap();
}

#[tokio::test]
async fn where_the_timeout_is_longer_than_the_hooks_heartbeats_extend_it() {
    let mut stage = Stage::open_source("timeout.launch = \"2h\"").await;
    stage.budget("1s");
    regroup(&stage, |group| group["hooks"][0]["heartbeat_timeout_s"] = json!(30));
    let (instance, _) = stage.launch();
    for minute in 1..=4 {
        stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(25));
        let receipts = sweep(&mut stage).await;
        assert_eq!(outcomes(&receipts), [Outcome::Waiting], "{receipts:#?}");
        assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"), "after {} s", 25 * minute);
    }
    let beats = stage.rehearsal.lab.journal.count("autoscaling", "RecordLifecycleActionHeartbeat");
    assert!((4..=8).contains(&beats), "{beats}: one in every ten seconds, of which each sweep looks back at as many");
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(31));
    assert_ne!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"), "it was the heartbeats that held it");
}

#[tokio::test]
async fn an_instance_that_begins_to_wait_during_a_sweep_is_handled_by_it() {
    let mut stage = Stage::open_source("").await;
    stage.budget("100s");
    let (first, _) = stage.launch();
    stage.rehearsal.start("sweep");
    let event = json!({});
    let meanwhile = async {
        while stage.rehearsal.lab.journal.count("ca", "*") == 0 {
            tokio::task::yield_now().await;
        }
        let (second, _) = stage.launch();
        stage.start(Stage::compiler(&second)).reported().await.unwrap();
        stage.start(Stage::compiler(&first));
        second
    };
    let (answer, second) = tokio::join!(stage.rehearsal.lab.invoke("sweep", &event), meanwhile);
    let answer = answer.unwrap();
    assert_eq!(outcomes(&receipts(&answer)), [Outcome::Continued; 2], "{answer:#}");
    for instance in [first, second] {
        assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
    }
}

#[tokio::test]
async fn where_instances_are_reused_one_that_terminates_and_whose_event_is_lost_is_purged() {
    let mut stage = Stage::open_source("").await;
    regroup(&stage, |group| {
        group["warm_pool"] = json!("Stopped");
        group["reuse_on_scale_in"] = json!(true);
    });
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-1200));
    let (instance, agent, _) = stage.enrol().await;
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(600));
    stage.rehearsal.lab.aws.terminate(&instance, &Terminate::default()).unwrap();
    drop(agent);
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts), [Outcome::Continued], "{receipts:#?}");
    assert!(matches!(receipts[0].code, Code::Purged(_)), "{receipts:#?}");
    assert_ne!(stage.state_of(&instance).as_deref(), Some("Terminating:Wait"));
    assert!(!stage.rehearsal.puppet_has(&stage.name_of(&instance)).0);
}

#[tokio::test]
async fn those_in_the_warm_pool_are_found_on_their_way_in_and_back() {
    let mut stage = Stage::open_source("").await;
    regroup(&stage, |group| {
        group["warm_pool"] = json!("Stopped");
        group["reuse_on_scale_in"] = json!(true);
    });
    let (instance, _) = stage.launch_as(&Launch { to: Some(Place::WarmPool), ..Launch::default() });
    stage.start(Stage::compiler(&instance));
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts), [Outcome::Continued], "{receipts:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Warmed:Stopped"));
    assert!(stage.rehearsal.puppet_has(&stage.name_of(&instance)).0);
}

#[tokio::test]
async fn while_the_ca_hangs_other_instances_are_released_first_and_the_timeout_still_expires() {
    // So long that the AWS data is stale when the call to the CA is abandoned.
    let options = Options { function_timeout: Duration::from_secs(42), ..Options::default() };
    let mut stage = Rehearsal::with(json!({}), options).await;
    let mut scene = compilers("InService");
    scene["nodes"].as_array_mut().unwrap().pop();
    stage.lab.clock.advance(SignedDuration::from_secs(-900));
    stage.lab.set_scene(&Scene::from_json(scene).unwrap()).unwrap();
    for instance in [LEAVING, OTHER] {
        stage.lab.aws.terminate(instance, &Terminate::default()).unwrap();
    }
    stage.lab.clock.advance(SignedDuration::from_secs(900));
    stage.fault("ca", "PUT /puppet-ca/v1/clean", None, FaultKind::Delay { ms: 120_000 });
    let answer = stage.invoke("sweep", &json!({})).await;
    let receipts = receipts(&answer);
    assert_eq!(outcomes(&receipts), [Outcome::Continued; 2], "{receipts:#?}");
    assert_eq!(receipts[0].code, Code::TimeoutExpired, "{receipts:#?}");
    assert_eq!(receipts[1].code, Code::NotInPuppet, "{receipts:#?}");
    assert!(!receipts[0].steps.iter().any(|step| step.kind == receipt::StepKind::Proven), "{receipts:#?}");
    let calls: Vec<String> = stage.lab.journal.entries().into_iter().map(|entry| entry.call).collect();
    let first = |prefix: &str| calls.iter().position(|call| call.starts_with(prefix));
    assert!(first("CompleteLifecycleAction") < first("PUT /puppet-ca/v1/clean"), "{calls:#?}");
}

#[tokio::test]
async fn while_the_ca_takes_long_over_some_the_others_have_their_turn_next() {
    // A request holds two hundred certificates.
    let options = Options { function_timeout: Duration::from_secs(120), ..Options::default() };
    let mut stage = Rehearsal::with(fleet(0..250, 0..0), options).await;
    for number in 0..250 {
        stage.lab.aws.terminate(&id(number), &Terminate::default()).unwrap();
    }
    let timed_out =
        FaultKind::Status { status: 500, body: "{:kind :lock-acquisition-timeout}".to_owned(), content_type: None };
    let clean = "PUT /puppet-ca/v1/clean";
    stage.fault("ca", clean, Some(1), FaultKind::Delay { ms: 30_000 });
    stage.fault("ca", clean, Some(1), timed_out);
    let answer = stage.invoke("sweep", &json!({})).await;
    let receipts = receipts(&answer);
    assert_eq!((count(&receipts, Outcome::Failed), count(&receipts, Outcome::Continued)), (200, 50));
    let calls = stage.lab.journal.calls("ca");
    let cleans: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].call.starts_with(clean)).collect();
    let asked = |at: &usize| calls[*at].request["body"]["certnames"].as_array().unwrap().len();
    assert_eq!(cleans.iter().map(asked).collect::<Vec<_>>(), [200, 50], "and not the first two hundred again");
    let between = &calls[cleans[0]..cleans[1]];
    assert!(between.iter().any(|entry| entry.call.starts_with("GET ")), "with a look in between, and whatever was due");
}

#[tokio::test]
async fn while_the_hooks_of_a_group_cannot_be_read_the_sweep_goes_on_looking() {
    let mut stage = Stage::open_source("").await;
    let (instance, _) = stage.launch();
    stage.start(Stage::compiler(&instance));
    let refused = FaultKind::Status { status: 500, body: String::new(), content_type: None };
    for nth in 1..=6 {
        stage.rehearsal.fault("autoscaling", "DescribeLifecycleHooks", Some(nth), refused.clone());
    }
    assert_eq!(outcomes(&sweep(&mut stage).await), [Outcome::Continued]);
}

#[tokio::test]
async fn a_group_whose_tag_names_no_profile_is_told_of_each_instance_that_waits() {
    let mut stage = Stage::open_source("").await;
    stage.budget("1s");
    regroup(&stage, |group| group["tags"]["stagedoor:profile"] = json!("compilr"));
    stage.launch();
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts), [Outcome::Failed], "{receipts:#?}");
    assert_eq!(receipts[0].code, Code::ProfileUnknown, "{receipts:#?}");
}

#[tokio::test]
async fn the_timeout_expires_even_while_an_effect_never_succeeds() {
    let mut stage = Stage::open_source("timeout  = { launch = \"10m\", terminate = \"5m\" }").await;
    stage.budget("2s");
    stage.rehearsal.lab.puppet.configure(|options| options.allow_subject_alt_names = false);
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-700));
    let (arriving, _) = stage.launch();
    stage.start(Stage::compiler(&arriving)).waits_for_certificate().await.unwrap();
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts)[0], Outcome::Abandoned, "{receipts:#?}");
}

#[tokio::test]
async fn a_warm_pool_that_cannot_be_read_does_not_keep_other_instances_waiting() {
    let mut stage = Stage::open_source("").await;
    regroup(&stage, |group| group["warm_pool"] = json!("Stopped"));
    let (instance, agent, _) = stage.enrol().await;
    drop(agent);
    stage.rehearsal.lab.aws.terminate(&instance, &Terminate::default()).unwrap();
    let denied = "<ErrorResponse><Error><Code>InternalFailure</Code><Message>no</Message></Error></ErrorResponse>";
    let kind = FaultKind::Status { status: 500, body: denied.into(), content_type: Some("text/xml".into()) };
    stage.rehearsal.fault("autoscaling", "DescribeWarmPool", None, kind);
    let receipts = sweep(&mut stage).await;
    assert_eq!(outcomes(&receipts), [Outcome::Continued], "{receipts:#?}");
}
