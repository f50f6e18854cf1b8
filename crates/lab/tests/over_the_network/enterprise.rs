//! Stagedoor's own clients against the lab's Puppet Enterprise, over mutual TLS.

use jiff::SignedDuration;
use serde_json::json;
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_puppet::{NodeGroup, PuppetOptions, RunScript, TokenState};
use stagedoor_puppet::{
    Certificate, Classifier, ClassifierAdmin, Credentials, Error, JobState, Orchestrator, OrchestratorAdmin, Rbac,
    Transport, trusted_facts,
};
use stagedoor_types::{Certname, Mode, WritePermit};

use crate::until;

const DEPLOY: &str = "POST /orchestrator/v1/command/deploy";

/// Tests may write.
pub(crate) fn permit() -> WritePermit {
    Mode::Act.write_permit().unwrap()
}

pub(crate) async fn enterprise() -> Lab {
    let options = Options { puppet: PuppetOptions::enterprise(), ..Options::default() };
    Lab::start(options).await.unwrap()
}

pub(crate) fn transport(lab: &Lab) -> Transport {
    let secret = lab.aws.secret("stagedoor/puppet").unwrap();
    Credentials::from_json(&secret).unwrap().transport().unwrap()
}

fn orchestrator(lab: &Lab) -> OrchestratorAdmin {
    let endpoint = lab.orchestrator_url().parse().unwrap();
    OrchestratorAdmin::new(Orchestrator::new(&transport(lab), &endpoint), permit())
}

fn classifier(lab: &Lab) -> ClassifierAdmin {
    let endpoint = lab.classifier_url().parse().unwrap();
    ClassifierAdmin::new(Classifier::new(&transport(lab), &endpoint), permit())
}

pub(crate) fn certname(name: &str) -> Certname {
    name.parse().unwrap()
}

fn fault(service: &str, call: &str, kind: FaultKind) -> Fault {
    Fault { service: service.into(), call: call.into(), nth: Some(1), subject: None, kind }
}

#[tokio::test]
async fn a_run_is_ordered_and_seen_to_end() {
    let lab = enterprise().await;
    let puppet = orchestrator(&lab);
    let primary = certname("puppet");
    let id = puppet.deploy(std::slice::from_ref(&primary), "why", "e1").await.unwrap();
    lab.puppet.jobs_over().await;
    let job = puppet.orchestrator().jobs(1).await.unwrap().remove(0);
    assert_eq!(job.id, id);
    assert_eq!((&job.state, job.event.as_deref()), (&JobState::Finished, Some("e1")));
    assert_eq!((job.description.as_deref(), job.is_for(&primary)), (Some("why"), true));
    assert!(job.created.is_some() && job.started.is_some() && job.finished.is_some());
    assert_eq!(lab.journal.count("orchestrator", DEPLOY), 1);
    let ordered = &lab.journal.calls("orchestrator")[0];
    assert_eq!(
        (ordered.subject.as_deref(), ordered.request["body"]["userdata"]["event"].as_str()),
        (Some("puppet"), Some("e1"))
    );
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_is_found_and_not_repeated() {
    let lab = enterprise().await;
    let puppet = orchestrator(&lab);
    lab.faults.add(fault("orchestrator", DEPLOY, FaultKind::Cut));
    let id = puppet.deploy_once(&[certname("puppet")], "why", "e1").await.unwrap();
    assert_eq!(id.as_str(), "1");
    assert_eq!((lab.puppet.times_ordered("puppet"), lab.journal.count("orchestrator", DEPLOY)), (1, 1));
    // A second caller does not repeat it either.
    assert_eq!(puppet.deploy_once(&[certname("puppet")], "why", "e1").await.unwrap(), id);
    assert_eq!(lab.puppet.times_ordered("puppet"), 1);
}

#[tokio::test]
async fn an_order_that_did_not_arrive_is_repeated() {
    let lab = enterprise().await;
    lab.faults.add(fault("orchestrator", DEPLOY, FaultKind::Reset));
    orchestrator(&lab).deploy_once(&[certname("puppet")], "why", "e1").await.unwrap();
    assert_eq!((lab.puppet.times_ordered("puppet"), lab.journal.count("orchestrator", DEPLOY)), (1, 2));
}

#[tokio::test]
async fn while_the_orchestrator_restarts_it_is_unreachable_and_afterwards_the_job_is_unknown() {
    let lab = enterprise().await;
    let puppet = orchestrator(&lab);
    lab.puppet.script("puppet", RunScript::Restart { down_ms: 300 });
    let id = puppet.deploy(&[certname("puppet")], "why", "e1").await.unwrap();
    until(|| lab.puppet.orchestrator_is_down()).await;
    let error = puppet.orchestrator().jobs(1).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    lab.puppet.orchestrator_is_back().await;
    assert_eq!(puppet.orchestrator().jobs(1).await.unwrap(), []);
    // The run itself went well, and PuppetDB knows of it.
    let reported = lab.state()["puppet"]["nodes"][0].clone();
    assert_eq!((&reported["certname"], &reported["latest_report_job_id"]), (&json!("puppet"), &json!(id.as_str())));
}

#[tokio::test]
async fn an_expired_token_is_unauthorized_everywhere_and_a_new_one_works() {
    let lab = enterprise().await;
    let rbac = |lab: &Lab| Rbac::new(&transport(lab), &lab.classifier_url().parse().unwrap());
    let status = rbac(&lab).token().await.unwrap().unwrap();
    assert!(status.expiration.unwrap() > lab.clock.now() + SignedDuration::from_hours(24));
    let tokens = lab.puppet.options().rbac_tokens.unwrap();
    let permissions = tokens.values().next().unwrap().clone();
    let expired = tokens.keys().map(|token| (token.clone(), TokenState::Expired));
    let both = expired.chain([("new-token".to_owned(), permissions)]).collect();
    lab.puppet.configure(|options| options.rbac_tokens = Some(both));
    for error in [
        orchestrator(&lab).orchestrator().jobs(5).await.unwrap_err(),
        classifier(&lab).unpin_from_all(&[certname("n")]).await.unwrap_err(),
        rbac(&lab).token().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    }
    let mut secret: serde_json::Value =
        serde_json::from_str(secrecy::ExposeSecret::expose_secret(&lab.aws.secret("stagedoor/puppet").unwrap()))
            .unwrap();
    secret["rbac_token"] = "new-token".into();
    lab.aws.put_secret("stagedoor/puppet", secret.to_string().into());
    orchestrator(&lab).orchestrator().jobs(5).await.unwrap();
    let journal = serde_json::to_string(&lab.journal.entries()).unwrap();
    assert!(tokens.keys().all(|token| !journal.contains(token)), "no token is in the journal");
}

#[tokio::test]
async fn who_may_not_order_runs_is_told_the_permission() {
    let lab = enterprise().await;
    lab.puppet.configure(|options| {
        for state in options.rbac_tokens.iter_mut().flat_map(|tokens| tokens.values_mut()) {
            *state = TokenState::Valid(vec!["orchestrator:view:*".into()]);
        }
    });
    let error = orchestrator(&lab).deploy(&[certname("puppet")], "why", "e").await.unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
    orchestrator(&lab).orchestrator().jobs(5).await.unwrap();
}

#[tokio::test]
async fn pins_and_classification_are_what_the_client_makes_of_them() {
    let lab = enterprise().await;
    let rule = json!(["and", ["=", ["trusted", "extensions", "pp_role"], "compiler"]]);
    let scene = json!({
        "node_groups": [{"name": "Compilers", "parent": "PE Infrastructure", "rule": rule}],
        "nodes": [{"certname": "n.example.net", "extensions": {"pp_role": "compiler"}}],
    });
    lab.set_scene(&Scene::from_json(scene).unwrap()).unwrap();
    let admin = classifier(&lab);
    let (node, stranger) = (certname("n.example.net"), certname("x.example.net"));
    let certificate = Certificate::from_pem(&lab.puppet.credentials(node.as_str()).unwrap().cert_pem).unwrap();
    let trusted = trusted_facts(&certificate);
    let found = admin.classifier().classified(&node, &json!({}), &trusted).await.unwrap();
    assert!(found.is_in("Compilers") && !found.is_in("PE Master"));
    let mut groups = admin.classifier().groups().await.unwrap();
    groups.retain(|group| group.name == "PE Infrastructure Agent");
    admin.pin(&groups[0].id, &[node.clone(), stranger.clone()]).await.unwrap();
    let mut groups = admin.classifier().groups().await.unwrap();
    groups.retain(|group| group.name == "PE Infrastructure Agent");
    assert!(groups[0].pins(&node) && groups[0].pins(&stranger));
    let unpinned = admin.unpin_from_all(std::slice::from_ref(&node)).await.unwrap();
    assert_eq!(unpinned[0].groups[0].name, "PE Infrastructure Agent");
    assert_eq!(admin.unpin_from_all(std::slice::from_ref(&node)).await.unwrap(), []);
    admin.unpin(&groups[0].id, &[stranger]).await.unwrap();
    assert!(!lab.puppet.is_pinned("PE Infrastructure Agent", "x.example.net"));
    assert!(lab.puppet.is_pinned("PE Infrastructure Agent", "puppet"), "the others stay");
}

#[tokio::test]
async fn a_pin_whose_answer_was_lost_is_no_second_pin() {
    let lab = enterprise().await;
    lab.puppet.put_node_group(&NodeGroup { name: "own".into(), ..NodeGroup::default() }).unwrap();
    let admin = classifier(&lab);
    let mut groups = admin.classifier().groups().await.unwrap();
    groups.retain(|group| group.name == "own");
    lab.faults.add(fault("classifier", "POST /classifier-api/v1/groups/{id}/pin", FaultKind::Cut));
    admin.pin(&groups[0].id, &[certname("n")]).await.unwrap();
    assert_eq!(lab.journal.count("classifier", "POST /classifier-api/v1/groups/{id}/pin"), 2);
    assert_eq!(lab.puppet.node_groups().last().unwrap()["rule"], json!(["or", ["=", "name", "n"]]));
}

#[tokio::test]
async fn the_secrets_challenge_is_as_the_set_up_says() {
    for (given, expected) in [(Some("one-time"), Some("one-time")), (Some(""), None)] {
        let puppet =
            PuppetOptions { challenge: given.map(|text| text.to_owned().into()), ..PuppetOptions::enterprise() };
        let lab = Lab::start(Options { puppet, ..Options::default() }).await.unwrap();
        let challenge = lab.credential("challenge");
        assert_eq!(challenge.as_ref().map(secrecy::ExposeSecret::expose_secret), expected);
    }
    assert!(enterprise().await.credential("challenge").is_some(), "else one is made up");
}

#[tokio::test]
async fn an_open_source_site_has_none_of_it() {
    let lab = Lab::start(Options::default()).await.unwrap();
    assert_eq!((lab.orchestrator_url(), lab.classifier_url()), ("", ""));
    assert!(!lab.environment()["STAGEDOOR_CONFIG"].contains("orchestrator"));
    let enterprise = enterprise().await;
    let config = &enterprise.environment()["STAGEDOOR_CONFIG"];
    let line = format!(
        "orchestrator = \"{}\"\nclassifier = \"{}\"\n",
        enterprise.orchestrator_url(),
        enterprise.classifier_url()
    );
    assert!(config.contains(&line), "{config}");
}
