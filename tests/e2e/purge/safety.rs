//! What `purge` must never do, whatever an event says.

use insta::assert_snapshot;
use serde_json::json;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;

use crate::e2e::rehearsal::{LEAVING, NAME, OTHER, Rehearsal, compilers, event, only, redacted, redacted_reason};

#[tokio::test]
async fn a_node_that_carries_the_name_with_another_instance_id_is_untouched() {
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0]["instance_id"] = OTHER.into();
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(receipt.code, Code::OwnedByAnotherInstance, "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[(OTHER, "[other]")]), @"[certname] belongs to [other] now and was left alone");
    assert_eq!(stage.puppet_has(NAME), (true, true));
    let writes = stage.writes();
    assert!(
        writes.iter().all(|write| write.contains("CompleteLifecycleAction") || write.contains("Publish")),
        "{writes:?}"
    );
}

#[tokio::test]
async fn a_replayed_event_for_an_instance_in_service_is_refused_and_nothing_is_written() {
    let mut stage = Rehearsal::of(compilers("InService")).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Refused, "{receipt:#?}");
    assert_snapshot!("refused", redacted(&receipt));
    assert_eq!(stage.lab.journal.calls("ca").len() + stage.lab.journal.calls("puppetdb").len(), 0);
    let writes = stage.writes();
    assert!(writes.iter().all(|write| write.starts_with("sns")), "{writes:?}");
    assert_eq!(stage.puppet_has(NAME), (true, true));
}

#[tokio::test]
async fn protected_names_are_never_purged() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    stage.configure(|config| config.replace("[puppet]", "[puppet]\nprotected = [\"*.ec2.internal\"]"));
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.code, Code::ProtectedName, "{receipt:#?}");
    assert_eq!(stage.puppet_has(NAME), (true, true));
}

#[tokio::test]
async fn the_controllers_own_certificate_is_protected_without_being_named() {
    let own = stagedoor_lab_puppet::PuppetOptions::default().controller;
    let mut scene = compilers("Terminating:Wait");
    scene["groups"][0]["instances"][0]["private_dns"] = own.as_str().into();
    scene["nodes"] = json!([{"certname": own, "instance_id": LEAVING}]);
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.code, Code::ProtectedName, "{receipt:#?}");
    assert_eq!(stage.puppet_has(&own), (true, true));
}

#[tokio::test]
async fn a_group_that_has_not_opted_in_is_left_alone() {
    let mut scene = compilers("Terminating:Wait");
    scene["groups"][0]["tags"] = json!({});
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Ignored, "{receipt:#?}");
    assert_snapshot!("ignored", redacted(&receipt));
    assert_eq!(stage.writes(), Vec::<String>::new());
    assert_eq!(stage.state_of(LEAVING).as_deref(), Some("Terminating:Wait"));
}

#[tokio::test]
async fn the_request_of_a_successor_that_waits_for_the_name_stays() {
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0]["pending_csr"] = json!({"instance_id": OTHER});
    let mut stage = Rehearsal::of(scene).await;
    assert_eq!(stage.receipt("eventbridge-terminate").await.outcome, Outcome::Continued);
    assert!(stage.lab.puppet.has_request(NAME));
}

#[tokio::test]
async fn its_own_pending_request_goes_too() {
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0]["pending_csr"] = json!({"instance_id": LEAVING});
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert!(!stage.lab.puppet.has_request(NAME), "{receipt:#?}");
}

#[tokio::test]
async fn its_request_stays_while_its_certificate_could_not_be_revoked() {
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0]["pending_csr"] = json!({"instance_id": LEAVING});
    let mut stage = Rehearsal::of(scene).await;
    let busy = FaultKind::Status { status: 503, body: "busy".into(), content_type: Some("text/plain".into()) };
    stage.fault("ca", "PUT *", None, busy);
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    // The route that is allowed for requests deletes the certificate as well, and revokes nothing.
    assert!(stage.puppet_has(NAME).0, "the certificate must not be deleted unrevoked");
}

#[tokio::test]
async fn facts_that_are_older_than_a_certificate_do_not_speak_for_it() {
    // The name was the terminating instance's; its successor has its certificate and has not run Puppet yet.
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0] = json!({
        "certname": NAME,
        "puppetdb": {"facts": {"ec2_metadata": {"instance-id": LEAVING}}, "age_s": 3600},
    });
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert_eq!(stage.puppet_has(NAME), (true, true));
}

#[tokio::test]
async fn a_node_whose_owner_nobody_can_tell_waits_for_a_person() {
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0] = json!({"certname": NAME, "puppetdb": {"facts": {}}});
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    assert_eq!(receipt.code, Code::OwnerUnknown, "{receipt:#?}");
    assert_eq!(stage.puppet_has(NAME), (true, true));
    assert_eq!(stage.state_of(LEAVING).as_deref(), Some("Terminating:Wait"));
}

#[tokio::test]
async fn a_name_that_the_profile_did_not_foresee_is_found_by_the_instance_id() {
    let mut scene = compilers("Terminating:Wait");
    scene["nodes"][0]["certname"] = "renamed.example.net".into();
    let mut stage = Rehearsal::of(scene).await;
    let receipt = stage.receipt("eventbridge-terminate").await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.puppet_has("renamed.example.net"), (false, false));
}

#[tokio::test]
async fn a_launch_event_is_not_purges_business() {
    let mut stage = Rehearsal::of(compilers("Terminating:Wait")).await;
    let answer = stage.purge(&event("eventbridge-launch")).await;
    assert_eq!(only(&answer).outcome, Outcome::Ignored);
    assert!(stage.lab.journal.entries().is_empty());
}
