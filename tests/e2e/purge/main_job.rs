//! The main job: a terminating instance is removed from Puppet, which is verified before the action is completed.

use insta::assert_snapshot;
use serde_json::{Value, json};
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_types::Mode;

use crate::e2e::rehearsal::{LEAVING, NAME, OTHER, Rehearsal};
use crate::e2e::rehearsal::{compilers, count, event, kinds, only, receipts, redacted};

const CLEAN: &str = "PUT /puppet-ca/v1/clean";

#[tokio::test]
async fn a_leaving_instance_is_forgotten_by_puppet_and_then_let_go() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    let serial = stage.serial_of(NAME);
    let receipt = stage.receipt("eventbridge-terminate").await;

    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert!(matches!(receipt.code, Code::Purged(_)), "{receipt:#?}");
    assert_eq!(receipt.instance_id, LEAVING.parse().ok());
    assert_eq!(receipt.group, "compilers".parse().ok());
    assert_eq!(receipt.hook, "stagedoor-terminate".parse().ok());
    assert_eq!(receipt.certname, NAME.parse().ok());
    let expected = [
        StepKind::Observed,
        StepKind::Observed,
        StepKind::Applied,
        StepKind::Applied,
        StepKind::Proven,
        StepKind::Proven,
        StepKind::Completed,
    ];
    assert_eq!(kinds(&receipt), expected, "{receipt:#?}");
    assert_snapshot!("continued", redacted(&receipt));

    assert_eq!(stage.puppet_has(NAME), (false, false));
    assert!(stage.lab.puppet.is_revoked(serial), "{receipt:#?}");
    assert_eq!(stage.puppet_has("ip-10-0-3-8.ec2.internal"), (true, true), "the neighbour is untouched");
    assert_ne!(stage.state_of(LEAVING).as_deref(), Some("Terminating:Wait"));
}

#[tokio::test]
async fn a_warm_purge_takes_at_most_five_round_trips() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    // Warm: the process runs and has its secret and its connections.
    stage.receipt("eventbridge-terminate-reused-name").await;
    let mut scene = compilers("Terminating:Wait");
    scene["secrets"] = json!({"stagedoor/puppet": stage.puppet_secret()});
    stage.lab.set_scene(&stagedoor_lab::scene::Scene::from_json(scene).unwrap()).unwrap();
    // Each answer takes so long that calls made side by side overlap.
    stage.fault("*", "*", None, FaultKind::Delay { ms: 150 });

    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    let until_completed: Vec<_> = stage.lab.journal.entries();
    let publishing = stage.lab.journal.count("sns", "Publish");
    assert_eq!(publishing, 1, "the outcome is published after the action was completed");
    assert!(stage.lab.journal.round_trips() - publishing <= 5, "{until_completed:#?}");
}

#[tokio::test]
async fn every_shape_of_the_event_does_the_same() {
    for name in ["eventbridge-terminate", "hook-terminate", "sns-terminate"] {
        let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
        assert_eq!(stage.receipt(name).await.outcome, Outcome::Continued, "{name}");
        assert_eq!(stage.puppet_has(NAME), (false, false), "{name}");
    }
    for name in ["sqs-eventbridge-terminate", "sqs-hook-terminate", "sqs-sns-terminate"] {
        let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
        assert_eq!(stage.purge(&event(name)).await, json!({"batchItemFailures": []}), "{name}");
        assert_eq!(stage.puppet_has(NAME), (false, false), "{name}");
    }
}

#[tokio::test]
async fn a_batch_is_one_set_with_one_clean() {
    let mut scene = compilers("Terminating:Wait");
    scene["groups"][0]["instances"][1]["state"] = "Terminating:Wait".into();
    let mut stage = Rehearsal::of(scene).await;

    // Two instances, one of them twice, a test notification and something that is not JSON.
    assert_eq!(stage.purge(&event("sqs-batch")).await, json!({"batchItemFailures": []}));
    assert_eq!(stage.puppet_has(NAME), (false, false));
    assert_eq!(stage.puppet_has("ip-10-0-3-8.ec2.internal"), (false, false));
    assert_eq!(stage.lab.journal.count("ca", CLEAN), 1);
    assert_eq!(stage.lab.journal.count("autoscaling", "DescribeAutoScalingGroups"), 1);
    assert_eq!(stage.lab.journal.count("ec2", "DescribeInstances"), 1);
    assert_eq!(stage.lab.journal.count("autoscaling", "CompleteLifecycleAction"), 2);
}

/// Nine instances that terminate, and one that stays.
fn nine() -> Value {
    let id = |number: usize| format!("i-0{number:016x}");
    let name = |number: usize| format!("ip-10-0-4-{number}.ec2.internal");
    let mut scene = compilers("InService");
    scene["groups"][0]["instances"] = (0..10)
        .map(|number| {
            let state = if number < 9 { "Terminating:Wait" } else { "InService" };
            json!({"id": id(number), "state": state, "private_dns": name(number)})
        })
        .collect();
    scene["nodes"] = (0..10).map(|number| json!({"certname": name(number), "instance_id": id(number)})).collect();
    scene
}

#[tokio::test]
async fn nine_terminations_pass_although_an_empty_file_fails_the_list_of_certificates() {
    let mut stage = Rehearsal::of(nine()).await;
    stage.lab.puppet.empty_certificate_file("ip-10-0-4-9.ec2.internal");
    let answer = stage.invoke("sweep", &json!({})).await;
    let receipts = receipts(&answer);
    assert_eq!((receipts.len(), count(&receipts, Outcome::Continued)), (9, 9), "{answer:#}");
    for number in 0..9 {
        assert_eq!(stage.puppet_has(&format!("ip-10-0-4-{number}.ec2.internal")), (false, false));
    }
    assert_eq!(stage.lists_of_certificates(), 0);
}

#[tokio::test]
async fn an_instance_whose_own_certificate_file_is_empty_is_the_only_one_that_waits() {
    let mut stage = Rehearsal::of(nine()).await;
    stage.lab.puppet.empty_certificate_file("ip-10-0-4-3.ec2.internal");
    let answer = stage.invoke("sweep", &json!({})).await;
    let receipts = receipts(&answer);
    assert_eq!((count(&receipts, Outcome::Continued), count(&receipts, Outcome::Failed)), (8, 1), "{answer:#}");
}

#[tokio::test]
async fn a_list_of_requests_that_fails_is_no_answer_about_any_name() {
    let mut scene = nine();
    scene["nodes"][4]["pending_csr"] = json!({"instance_id": "i-00000000000000004"});
    let mut stage = Rehearsal::of(scene).await;
    let broken = FaultKind::Status { status: 500, body: "broken".into(), content_type: None };
    stage.fault("ca", "GET /puppet-ca/v1/certificate_statuses*", None, broken);
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(count(&receipts(&answer), Outcome::Continued), 9, "{answer:#}");
    assert!(!stage.lab.puppet.has_request("ip-10-0-4-4.ec2.internal"), "it was found by its name, and deleted");
}

#[tokio::test]
async fn a_certificate_that_is_signed_between_the_two_reads_of_its_name_is_not_missed() {
    let mut scene = nine();
    scene["nodes"][4]["pending_csr"] = json!({"instance_id": "i-00000000000000004"});
    // It has not reported yet.
    scene["nodes"][4]["puppetdb"] = Value::Null;
    let mut stage = Rehearsal::of(scene).await;
    // As if signed after the certificate was looked for, and before the request was.
    for what in ["certificate", "certificate_request"] {
        let call = format!("GET /puppet-ca/v1/{what}/{{certname}}");
        let body = format!("Could not find {what} ip-10-0-4-4.ec2.internal");
        let kind = FaultKind::Status { status: 404, body, content_type: Some("text/plain".to_owned()) };
        let subject = Some("ip-10-0-4-4.ec2.internal".to_owned());
        stage.lab.faults.add(Fault { service: "ca".into(), call, nth: Some(1), subject, kind });
    }
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(count(&receipts(&answer), Outcome::Continued), 9, "{answer:#}");
    assert_eq!(stage.puppet_has("ip-10-0-4-4.ec2.internal"), (false, false));
}

/// Two requests of `clean` are needed for so many.
#[tokio::test]
async fn a_certificate_that_changed_while_others_were_cleaned_is_observed_again_before_it_is_cleaned() {
    let mut scene = compilers("Terminating:Wait");
    let instance = |number: usize| format!("i-{number:017x}");
    let name = |number: usize| format!("ip-10-0-4-{number}.ec2.internal");
    let instances = (1..=201).map(|n| json!({"id": instance(n), "state": "Terminating:Wait", "private_dns": name(n)}));
    scene["groups"][0]["instances"] = instances.collect();
    scene["nodes"] = (1..=201).map(|n| json!({"certname": name(n), "instance_id": instance(n)})).collect();
    let mut stage = Rehearsal::of(scene).await;
    stage.configure(|config| config.replace("budget = \"2s\"", "budget = \"50s\""));
    let read = "GET /puppet-ca/v1/certificate/{certname}";
    let last = name(201);
    let kind = FaultKind::Status {
        status: 404,
        body: format!("Could not find certificate {last}"),
        content_type: Some("text/plain".to_owned()),
    };
    let subject = Some(last.clone());
    stage.lab.faults.add(Fault { service: "ca".into(), call: read.into(), nth: Some(2), subject, kind });
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(count(&receipts(&answer), Outcome::Continued), 201);
    let entries = stage.lab.journal.entries();
    let reads =
        entries.iter().enumerate().filter(|(_, entry)| entry.call == read && entry.subject.as_ref() == Some(&last));
    let third =
        reads.map(|(at, _)| at).nth(2).expect("it is read before it is to be cleaned, and again after it had changed");
    let names = |entry: &stagedoor_lab_core::journal::Entry| entry.request["body"]["certnames"].clone();
    let cleans_it = |entry: &stagedoor_lab_core::journal::Entry| {
        entry.call == CLEAN && names(entry).as_array().is_some_and(|names| names.contains(&json!(last)))
    };
    let cleaned = entries.iter().position(cleans_it);
    assert!(cleaned.expect("it is cleaned in the end") > third);
}

#[tokio::test]
async fn the_outcome_is_published() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.receipt("eventbridge-terminate").await;
    assert_eq!(stage.published_outcomes(), [(LEAVING.to_owned(), "continued".to_owned(), "purged".to_owned())]);
}

#[tokio::test]
async fn the_log_has_the_receipt_with_its_steps_as_json() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    stage.metrics("purge").await;
    let lines = stage.log_lines();
    let line = lines.iter().find(|line| line["outcome"] == "continued").unwrap_or_else(|| panic!("none in {lines:#?}"));
    assert_eq!(line["steps"], json!(receipt.steps), "{line:#}");
    assert_eq!((&line["code"], &line["instance"]), (&json!("purged"), &json!(LEAVING)), "{line:#}");
}

#[tokio::test]
async fn a_second_delivery_of_the_same_event_changes_nothing() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.receipt("eventbridge-terminate").await;
    stage.lab.journal.clear();
    stage.receipt("eventbridge-terminate").await;
    let writes = stage.writes();
    assert!(writes.iter().all(|write| write.starts_with("sns")), "{writes:?}");
}

#[tokio::test]
async fn observe_mode_writes_nothing_anywhere() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.configure(|config| format!("mode = \"observe\"\n{config}"));
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert!(receipt.steps.iter().any(|step| step.kind == StepKind::Withheld), "{receipt:#?}");
    assert_eq!(stage.writes(), Vec::<String>::new());
    assert_eq!(stage.state_of(LEAVING).as_deref(), Some("Terminating:Wait"));
}

#[tokio::test]
async fn a_profile_in_observe_mode_writes_nothing_while_another_acts() {
    const WEB: &str = "i-0c3d4e5f60718293a";
    let mut scene = compilers("Terminating:Wait");
    let mut web = scene["groups"][0].clone();
    web["name"] = "web".into();
    web["tags"]["stagedoor:profile"] = "web".into();
    web["hooks"][0]["heartbeat_timeout_s"] = 30.into();
    web["instances"] = json!([{"id": WEB, "state": "Terminating:Wait", "private_dns": "web.ec2.internal"}]);
    scene["groups"].as_array_mut().unwrap().push(web);
    scene["nodes"].as_array_mut().unwrap().push(json!({"certname": "web.ec2.internal", "instance_id": WEB}));
    let mut stage = Rehearsal::of(scene).await;
    stage.configure(|config| {
        format!(
            "{config}\n[profile.web]\nmode = \"observe\"\ncertname = \"{{private_dns}}\"\ntimeout.terminate = \"1h\"\n"
        )
    });
    let receipts = receipts(&stage.invoke("sweep", &json!({})).await);
    let of = |id: &str| receipts.iter().find(|receipt| receipt.instance_id.as_ref().unwrap().as_str() == id).unwrap();
    assert_eq!((of(LEAVING).mode, of(LEAVING).outcome), (Some(Mode::Act), Outcome::Continued));
    assert_eq!((of(WEB).mode, of(WEB).code), (Some(Mode::Observe), Code::ObserveMode), "{receipts:#?}");
    assert_eq!(stage.state_of(WEB).as_deref(), Some("Terminating:Wait"));
    assert_eq!(stage.puppet_has("web.ec2.internal"), (true, true));

    // What is refused is news to an operator, but not of a profile that only observes.
    let mut event = event("eventbridge-terminate");
    event["detail"]["EC2InstanceId"] = WEB.into();
    event["detail"]["AutoScalingGroupName"] = "web".into();
    event["detail"]["LifecycleHookName"] = "stagedoor-terminate".into();
    event["detail"]["LifecycleTransition"] = "autoscaling:EC2_INSTANCE_LAUNCHING".into();
    let refused = only(&stage.invoke("onboard", &event).await);
    assert_eq!((refused.mode, refused.outcome), (Some(Mode::Observe), Outcome::Refused), "{refused:#?}");
    let writes = stage.writes();
    assert!(writes.iter().all(|write| !write.contains(WEB) && !write.contains("web.ec2.internal")), "{writes:?}");
    let published = stage.published_outcomes();
    let told: Vec<&str> = published.iter().map(|(instance, ..)| instance.as_str()).collect();
    assert_eq!(told, [LEAVING], "{published:#?}");
}

#[tokio::test]
async fn an_instance_that_goes_to_the_warm_pool_is_let_go_and_stays_known() {
    let mut scene = compilers("InService");
    scene["groups"][0]["warm_pool"] = "Stopped".into();
    scene["groups"][0]["reuse_on_scale_in"] = true.into();
    let mut stage = Rehearsal::of(scene).await;
    let how =
        stagedoor_lab_aws::Terminate { to: Some(stagedoor_lab_aws::scene::Place::WarmPool), ..Default::default() };
    let begun = stage.lab.aws.terminate(LEAVING, &how).unwrap();
    let answer = stage.purge(&begun.events[0].eventbridge).await;
    assert_eq!(only(&answer).outcome, Outcome::Continued, "{answer:#}");
    assert_eq!(stage.puppet_has(NAME), (true, true));
    assert_eq!(stage.writes().iter().filter(|write| !write.starts_with("sns")).count(), 1);
}

#[tokio::test]
async fn an_instance_that_leaves_the_warm_pool_is_purged() {
    let mut scene = compilers("InService");
    scene["groups"][0]["warm_pool"] = "Stopped".into();
    scene["groups"][0]["instances"][0]["state"] = "Warmed:Terminating:Wait".into();
    let mut stage = Rehearsal::of(scene).await;
    assert_eq!(stage.receipt("eventbridge-terminate-from-warm-pool").await.outcome, Outcome::Continued);
    assert_eq!(stage.puppet_has(NAME), (false, false));
    assert_eq!(stage.puppet_has("ip-10-0-3-8.ec2.internal"), (true, true), "{OTHER} stays");
}
