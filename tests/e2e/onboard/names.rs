//! Names are used again, and keys are made anew.

use insta::assert_snapshot;
use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab::agent::{Agent, RunningAgent};
use stagedoor_lab_aws::scene::Place;
use stagedoor_lab_aws::{Launch, Terminate};
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::{CsrAttributes, PuppetOptions};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;

use super::stage::{CHALLENGE, PRIMARY, Stage, with_duplicates};
use crate::e2e::rehearsal::{only, redacted_reason};

const ADDRESS: &str = "127.9.8.7";
const NAME: &str = "ip-127-9-8-7.ec2.internal";

fn launch() -> Launch {
    Launch { private_ip: Some(ADDRESS.to_owned()), private_dns: Some(NAME.to_owned()), ..Launch::default() }
}

#[tokio::test]
async fn a_recycled_name_enrols_after_the_certificate_of_its_dead_owner_is_cleaned() {
    let mut stage = Stage::open_source("").await;
    let (old, event) = stage.launch_as(&launch());
    let agent = stage.start(Stage::compiler(&old));
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
    agent.stop().await;
    let serial = stage.rehearsal.serial_of(NAME);
    // It terminates at once, without its hooks, and is not purged.
    stage.rehearsal.lab.aws.terminate(&old, &Terminate { force: true, ..Terminate::default() }).unwrap();

    let (new, event) = stage.launch_as(&launch());
    let agent = stage.start(Agent { name: Some("new".to_owned()), ..Stage::compiler(&new) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(agent.state().reports, 1, "the run that its dead owner ended just before is not taken for its own");
    assert!(stage.rehearsal.lab.puppet.is_revoked(serial) && serial != stage.rehearsal.serial_of(NAME), "{receipt:#?}");
    assert_eq!(stage.rehearsal.puppet_has(NAME), (true, true));
}

#[tokio::test]
async fn a_name_whose_owner_lives_is_not_given_away() {
    let mut stage = Stage::open_source("").await;
    stage.budget("4s");
    let (_, event) = stage.launch_as(&launch());
    let owner = event["detail"]["EC2InstanceId"].as_str().unwrap().to_owned();
    stage.start(Stage::compiler(&owner));
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
    let before = stage.rehearsal.lab.puppet.snapshot()["certificates"].clone();

    let (second, event) = stage.launch_as(&launch());
    stage.start(Agent { name: Some("second".to_owned()), ..Stage::compiler(&second) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Refused, "{receipt:#?}");
    assert_eq!(receipt.code, Code::OwnedByAnotherInstance, "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[(&owner, "[owner]")]), @"[certname] belongs to [owner], which is not known to be gone: two instances cannot have one name");
    assert_eq!(stage.rehearsal.lab.puppet.snapshot()["certificates"], before);
    assert_eq!(stage.state_of(&second).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn a_certificate_of_nobody_knows_whom_waits_for_a_person() {
    let mut stage = Stage::open_source("").await;
    stage.budget("2s");
    stage.rehearsal.lab.puppet.issue(NAME, &stagedoor_lab_puppet::CsrAttributes::default()).unwrap();
    let (instance, event) = stage.launch_as(&launch());
    stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Refused, "{receipt:#?}");
    assert_eq!(receipt.code, Code::OwnerUnknown, "{receipt:#?}");
}

#[tokio::test]
async fn an_instance_from_the_warm_pool_keeps_the_certificate_that_it_got_on_its_way_in() {
    let mut stage = Stage::open_source("").await;
    let mut scene = super::stage::scene();
    scene["groups"][0]["warm_pool"] = json!("Stopped");
    scene["secrets"] = json!({"stagedoor/puppet": stage.rehearsal.puppet_secret()});
    stage.rehearsal.lab.set_scene(&stagedoor_lab::scene::Scene::from_json(scene).unwrap()).unwrap();
    let (instance, event) = stage.launch_as(&Launch { to: Some(Place::WarmPool), ..launch() });
    stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    let before = stage.rehearsal.lab.puppet.snapshot()["certificates"].clone();

    let (same, event) = stage.launch_as(&Launch { id: Some(instance.clone()), ..Launch::default() });
    assert_eq!(same, instance);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.rehearsal.lab.puppet.snapshot()["certificates"], before);
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
}

/// An instance that serves, and whose root volume is replaced: its agent has a new key, and the CA its old certificate.
async fn replaced(profile: &str) -> (Stage, String, serde_json::Value) {
    replaced_at(PuppetOptions::default(), profile).await
}

/// The same at this Puppet site.
async fn replaced_at(puppet: PuppetOptions, profile: &str) -> (Stage, String, serde_json::Value) {
    let mut stage = Stage::with(puppet, profile).await;
    stage.budget("8s");
    // The certificate is older than the launch that follows by more than clocks may differ.
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-1000));
    let (instance, event) = stage.launch_as(&launch());
    stage.start(Stage::compiler(&instance));
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(1000));

    let begun = stage.rehearsal.lab.aws.replace_root_volume(&instance).unwrap();
    let is_leaving = |event: &&stagedoor_lab_aws::Event| {
        event.eventbridge["detail-type"] == "EC2 Instance-terminate Lifecycle Action"
    };
    let leaving = begun.events.iter().find(is_leaving);
    let leaving = leaving.expect("the event of the terminate hook comes first").eventbridge.clone();
    let answer = stage.rehearsal.purge(&leaving).await;
    assert_eq!(only(&answer).outcome, Outcome::Continued, "{answer:#}");
    assert!(stage.rehearsal.puppet_has(NAME).0, "purge ignores an instance that only gets another disk");
    let events = stage.rehearsal.lab.aws.events();
    let arriving = events.last().expect("the event of the launch hook comes next").eventbridge.clone();
    assert_eq!(arriving["detail-type"], "EC2 Instance-launch Lifecycle Action", "{arriving:#}");
    (stage, instance, arriving)
}

#[tokio::test]
async fn an_instance_whose_root_volume_was_replaced_gets_a_new_certificate() {
    let (mut stage, instance, event) = replaced("").await;
    let serial = stage.rehearsal.serial_of(NAME);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert!(stage.rehearsal.lab.puppet.is_revoked(serial) && serial != stage.rehearsal.serial_of(NAME), "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
}

#[tokio::test]
async fn a_profile_that_allows_no_new_key_leaves_the_old_certificate_to_a_person() {
    let (mut stage, instance, event) = replaced("rekey = \"refuse\"").await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Refused, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn a_certificate_whose_request_cannot_be_read_is_not_taken_for_lost() {
    let (mut stage, _, event) = replaced_at(with_duplicates(), "").await;
    stage.budget("4s");
    let before = stage.rehearsal.lab.puppet.snapshot()["revoked_serials"].clone();
    let broken = FaultKind::Status { status: 500, body: "broken".into(), content_type: None };
    stage.rehearsal.fault("ca", "GET /puppet-ca/v1/certificate_request/*", None, broken);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Failed, "{receipt:#?}");
    assert_eq!(stage.rehearsal.lab.puppet.snapshot()["revoked_serials"], before, "{receipt:#?}");
}

/// An instance that uses its certificate and is held: its id, the event of its launch, its agent.
async fn held() -> (Stage, String, Value, RunningAgent) {
    let mut stage = Stage::with(with_duplicates(), "").await;
    stage.budget("3s");
    // It is held until this target has run, which does not happen.
    stage.rehearsal.configure(|config| format!("{config}refresh = [\"{PRIMARY}\"]\nawait_refresh = true\n"));
    let (instance, event) = stage.launch();
    let agent = stage.start(Stage::compiler(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    agent.reported().await.unwrap();
    (stage, instance, event, agent)
}

/// The request that is pending under the name of its certificate costs it nothing.
async fn assert_keeps_its_certificate(stage: &mut Stage, instance: &str, event: &Value, agent: &RunningAgent) {
    assert!(stage.rehearsal.lab.puppet.has_request(&stage.name_of(instance)), "the CA took the request");
    let certificates = stage.rehearsal.lab.puppet.snapshot()["certificates"].clone();
    for function in ["sweep", "onboard"] {
        let answer = stage.rehearsal.invoke(function, event).await;
        assert_eq!(stage.rehearsal.lab.puppet.snapshot()["certificates"], certificates, "{function}: {answer:#}");
        assert_eq!(stage.rehearsal.lab.puppet.snapshot()["revoked_serials"], json!([]), "{function}: {answer:#}");
    }
    agent.run("unchanged").await.expect("Puppet still accepts it");
    assert_eq!(stage.state_of(instance).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn a_request_that_an_agent_sends_again_does_not_cost_it_its_certificate() {
    let (mut stage, instance, event, agent) = held().await;
    agent.submit_again().await.unwrap();
    assert!(agent.state().refusal.is_none());
    assert_keeps_its_certificate(&mut stage, &instance, &event, &agent).await;
}

#[tokio::test]
async fn a_request_with_another_key_does_not_cost_an_instance_the_certificate_that_it_uses() {
    let (mut stage, instance, event, agent) = held().await;
    // A stranger has read the request, which any client may do, and asks for everything that was in it.
    let strangers = CsrAttributes {
        instance_id: Some(instance.clone()),
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        challenge: Some(CHALLENGE.to_owned().into()),
        ..CsrAttributes::default()
    };
    stage.rehearsal.lab.puppet.submit_csr(&stage.name_of(&instance), &strangers).unwrap();
    assert_keeps_its_certificate(&mut stage, &instance, &event, &agent).await;
}
