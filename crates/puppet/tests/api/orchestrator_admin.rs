//! Ordering Puppet runs: one test for each answer the orchestrator is known to give.

use stagedoor_puppet::Error;
use stagedoor_types::Certname;

use crate::orchestrator::JOB;
use crate::stage::{Act, Stage, balancer_says, pe_fails, pe_says};

const LOOK: &str = "GET /orchestrator/v1/jobs?limit=50&order_by=timestamp&order=desc&type=deploy";
const ORDER: &str = "POST /orchestrator/v1/command/deploy";

fn targets() -> [Certname; 1] {
    ["puppet.example.net".parse().unwrap()]
}

fn accepted() -> Act {
    pe_says(202, r#"{"job":{"id":"https://elsewhere:8143/orchestrator/v1/jobs/81","name":"81"}}"#)
}

fn jobs(items: &str) -> Act {
    pe_says(200, format!(r#"{{"items":[{items}]}}"#))
}

/// What ordering once under this key came to, and what was asked.
async fn deploy_once(event: &str, script: impl IntoIterator<Item = Act>) -> (Result<String, Error>, Vec<String>) {
    let stage = Stage::new(script).await;
    let job = stage.orchestrator_admin().deploy_once(&targets(), "why", event).await;
    (job.map(|job| job.to_string()), stage.lines())
}

#[tokio::test]
async fn deploy_202_is_a_job_and_leaves_each_node_its_environment() {
    let stage = Stage::new([accepted()]).await;
    let job = stage.orchestrator_admin().deploy(&targets(), "i-0a1b joined", "0f3c").await.unwrap();
    assert_eq!(job.as_str(), "81");
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, ORDER);
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "environment": "", "enforce_environment": false,
            "scope": {"nodes": ["puppet.example.net"]},
            "description": "i-0a1b joined",
            "userdata": {"controller": "stagedoor", "event": "0f3c"},
        })
    );
}

#[tokio::test]
async fn an_order_is_never_sent_a_second_time_by_itself() {
    let stage = Stage::new([Act::Cut, accepted()]).await;
    let error = stage.orchestrator_admin().deploy(&targets(), "why", "0f3c").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(stage.lines(), [ORDER]);
}

#[tokio::test]
async fn an_order_of_which_nothing_was_sent_is_sent() {
    let stage = Stage::that_closes(1, [accepted()]).await;
    assert_eq!(stage.orchestrator_admin().deploy(&targets(), "why", "0f3c").await.unwrap().as_str(), "81");
    assert_eq!(stage.lines(), [ORDER]);
}

#[tokio::test]
async fn ordering_once_looks_first_and_then_orders() {
    let (job, asked) = deploy_once("0f3c", [jobs(""), accepted()]).await;
    assert_eq!(job.unwrap(), "81");
    assert_eq!(asked, [LOOK, ORDER]);
}

#[tokio::test]
async fn what_was_ordered_in_an_earlier_life_is_found_and_not_ordered_again() {
    let (job, asked) = deploy_once("0f3c", [jobs(JOB)]).await;
    assert_eq!(job.unwrap(), "81");
    assert_eq!(asked, [LOOK]);
}

#[tokio::test]
async fn a_lost_202_is_found_by_its_userdata_and_not_ordered_again() {
    for lost in [Act::Cut, balancer_says(502, "<html>"), balancer_says(504, "<html>")] {
        let (job, asked) = deploy_once("0f3c", [jobs(""), lost, jobs(JOB)]).await;
        assert_eq!(job.unwrap(), "81");
        assert_eq!(asked, [LOOK, ORDER, LOOK]);
    }
}

#[tokio::test]
async fn an_order_that_did_not_arrive_is_sent_again() {
    let (job, asked) = deploy_once("0f3c", [jobs(""), Act::Cut, jobs(""), accepted()]).await;
    assert_eq!(job.unwrap(), "81");
    assert_eq!(asked, [LOOK, ORDER, LOOK, ORDER]);
}

#[tokio::test]
async fn an_order_that_is_lost_twice_is_an_error_to_come_back_with() {
    let (job, asked) = deploy_once("0f3c", [jobs(""), Act::Cut, jobs(""), Act::Cut]).await;
    assert!(matches!(job.unwrap_err(), Error::Unreachable { .. }));
    assert_eq!(asked, [LOOK, ORDER, LOOK, ORDER]);
}

#[tokio::test]
async fn nothing_is_ordered_while_nobody_can_look() {
    let (job, asked) = deploy_once("0f3c", [balancer_says(503, "<html>")]).await;
    assert!(matches!(job.unwrap_err(), Error::Busy { .. }));
    assert_eq!(asked, [LOOK]);
    let (job, asked) = deploy_once("0f3c", [jobs(""), Act::Cut, balancer_says(503, "<html>")]).await;
    assert!(matches!(job.unwrap_err(), Error::Busy { .. }));
    assert_eq!(asked, [LOOK, ORDER, LOOK]);
}

#[tokio::test]
async fn a_job_under_another_key_or_of_another_controller_is_not_ours() {
    let of_another = JOB.replace("\"stagedoor\"", "\"another\"");
    for (event, job) in [("else", JOB), ("0f3c", of_another.as_str())] {
        let (_, asked) = deploy_once(event, [jobs(job), accepted()]).await;
        assert_eq!(asked, [LOOK, ORDER]);
    }
}

#[tokio::test]
async fn an_order_that_is_refused_is_not_sent_again_and_tells_the_remedy() {
    for (status, kind, remedy) in [
        (404, "puppetlabs.orchestrator/unknown-environment", "2019.8"),
        (400, "puppetlabs.orchestrator/empty-environment", "2019.8"),
        (400, "puppetlabs.orchestrator/empty-target", "refresh targets"),
        (400, "puppetlabs.orchestrator/query-error", "orchestrator's log"),
        (400, "puppetlabs.orchestrator/validation-error", "2019.8"),
        (400, "puppetlabs.validators/validation-error", "2019.8"),
    ] {
        let (job, asked) = deploy_once("0f3c", [jobs(""), pe_fails(status, kind, "no")]).await;
        let error = job.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains(remedy), "{kind}: {error}");
        assert_eq!(asked, [LOOK, ORDER]);
    }
}

#[tokio::test]
async fn an_error_of_an_unknown_kind_is_refused_without_a_remedy() {
    let stage = Stage::new([pe_fails(400, "puppetlabs.orchestrator/dependency-cycle", "no")]).await;
    let error = stage.orchestrator_admin().deploy(&targets(), "why", "0f3c").await.unwrap_err();
    assert!(matches!(error, Error::Refused { remedy: None, .. }), "{error}");
}

#[tokio::test]
async fn a_400_because_puppetdb_is_away_is_busy() {
    let stage = Stage::new([pe_fails(400, "puppetlabs.orchestrator/puppetdb-error", "could not reach PuppetDB")]).await;
    let error = stage.orchestrator_admin().deploy(&targets(), "why", "0f3c").await.unwrap_err();
    assert!(matches!(error, Error::Busy { status: 400, .. }), "{error}");
}

#[tokio::test]
async fn a_403_names_the_permission_to_run() {
    let stage = Stage::new([pe_fails(403, "puppetlabs.orchestrator/not-permitted", "no")]).await;
    let error = stage.orchestrator_admin().deploy(&targets(), "why", "0f3c").await.unwrap_err();
    assert!(matches!(&error, Error::NotPermitted { remedy, .. } if remedy.contains("puppet_agent:run")), "{error}");
}

#[tokio::test]
async fn a_202_without_a_job_is_not_understood() {
    for body in ["<html>", "{}", r#"{"job":{"name":"../81"}}"#] {
        let stage = Stage::new([balancer_says(202, body)]).await;
        let error = stage.orchestrator_admin().deploy(&targets(), "why", "0f3c").await.unwrap_err();
        assert!(matches!(error, Error::Unexpected { .. }), "{error}");
    }
}
