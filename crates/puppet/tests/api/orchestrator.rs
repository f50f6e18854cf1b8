//! Reading from the orchestrator: one test for each answer it is known to give.

use stagedoor_puppet::{Error, JobId, JobState};
use stagedoor_types::Certname;

use crate::pki::TOKEN;
use crate::stage::{Stage, balancer_says, pe_fails, pe_says};

pub(crate) const JOB: &str = r#"{"id":"https://puppet.example.net:8143/orchestrator/v1/jobs/81","name":"81","state":"finished","type":"deploy","command":"deploy","node_count":1,
"node_states":{"finished":1},
"options":{"concurrency":null,"noop":false,"trace":false,"debug":false,"evaltrace":false,
  "scope":{"nodes":["puppet.example.net","Not A Certname"]},"enforce_environment":false,"environment":"","description":"i-0a1b joined","target":null},
"owner":{"id":"42bf351c-f9ec-40af-84ad-e976fec7f4bd","login":"lifecycle"},
"timestamp":"2026-03-04T05:06:40Z","started_timestamp":"2026-03-04T05:06:09Z","finished_timestamp":"2026-03-04T05:06:40Z","duration":"31.0",
"environment":{"name":"production"},
"status":[{"state":"new","enter_time":"2026-03-04T05:06:08Z","exit_time":"2026-03-04T05:06:08Z"},{"state":"finished","enter_time":"2026-03-04T05:06:40Z","exit_time":null}],
"nodes":{"id":"x"},"report":{"id":"x"},"events":{"id":"x"},"userdata":{"controller":"stagedoor","event":"0f3c"}}"#;

fn target() -> Certname {
    "puppet.example.net".parse().unwrap()
}

fn id() -> JobId {
    "81".parse().unwrap()
}

#[tokio::test]
async fn jobs_200_lists_the_newest_deployments() {
    let body = format!(r#"{{"items":[{JOB}],"pagination":{{"limit":20,"offset":0,"total":1}}}}"#);
    let stage = Stage::new([pe_says(200, body)]).await;
    let jobs = stage.orchestrator().jobs(20).await.unwrap();
    let [job] = jobs.as_slice() else { panic!("{jobs:?}") };
    assert_eq!((&job.id, &job.state), (&id(), &JobState::Finished));
    assert_eq!(job.nodes, [target()]);
    assert!(job.is_for(&target()) && !job.is_for(&"x".parse().unwrap()));
    assert_eq!((job.event.as_deref(), job.owner.as_deref()), (Some("0f3c"), Some("lifecycle")));
    assert_eq!(job.description.as_deref(), Some("i-0a1b joined"));
    let times = [job.created, job.started, job.finished].map(|time| time.unwrap().to_string());
    assert_eq!(times, ["2026-03-04T05:06:08Z", "2026-03-04T05:06:09Z", "2026-03-04T05:06:40Z"]);
    assert_eq!(job.node_states["finished"], 1);
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "GET /orchestrator/v1/jobs?limit=20&order_by=timestamp&order=desc&type=deploy");
    assert!(seen.head.contains(&format!("x-authentication: {TOKEN}\r\n")) && seen.certified);
}

#[tokio::test]
async fn the_inventory_of_a_set_is_one_call_and_speaks_of_each_name() {
    let body = r#"{"items":[{"name":"a","connected":true,"broker":"pcp://puppet.example.net/server","timestamp":"2026-03-04T05:06:09.123Z"},{"name":"b","connected":false}]}"#;
    let stage = Stage::new([pe_says(200, body)]).await;
    let names: [Certname; 3] = ["a", "b", "c"].map(|name| name.parse().unwrap());
    let inventory = stage.orchestrator().inventory(&names).await.unwrap();
    assert_eq!(inventory.into_values().collect::<Vec<_>>(), [true, false, false]);
    let seen = stage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /orchestrator/v1/inventory");
    assert_eq!(seen[0].body, r#"{"nodes":["a","b","c"]}"#);
}

#[tokio::test]
async fn the_inventory_of_nobody_asks_nobody() {
    let stage = Stage::new([]).await;
    assert!(stage.orchestrator().inventory(&[]).await.unwrap().is_empty());
    assert_eq!(stage.lines().len(), 0);
}

#[tokio::test]
async fn an_inventory_500_says_nothing_about_anybody() {
    let stage = Stage::new([pe_fails(500, "puppetlabs.orchestrator/unknown-error", "broker unreachable")]).await;
    let error = stage.orchestrator().inventory(&[target()]).await.unwrap_err();
    assert!(matches!(error, Error::Busy { status: 500, .. }), "{error}");
}

#[tokio::test]
async fn a_401_of_any_kind_is_worth_another_look_at_the_secret() {
    for (kind, msg) in [
        ("puppetlabs.rbac/user-unauthenticated", "Route requires authentication"),
        ("puppetlabs.rbac/token-expired", "The provided token has expired."),
        ("puppetlabs.rbac/token-revoked", "The provided token has been revoked."),
        ("puppetlabs.rbac/invalid-token", "The provided token is invalid."),
    ] {
        let stage = Stage::new([pe_fails(401, kind, msg)]).await;
        let error = stage.orchestrator().jobs(1).await.unwrap_err();
        assert!(matches!(&error, Error::Unauthorized { words, .. } if words == msg), "{error}");
        assert!(error.to_string().contains("rbac_token"), "{error}");
    }
}

#[tokio::test]
async fn a_403_names_the_permission() {
    let stage = Stage::new([pe_fails(403, "puppetlabs.orchestrator/not-permitted", "no")]).await;
    let error = stage.orchestrator().jobs(1).await.unwrap_err();
    assert!(matches!(&error, Error::NotPermitted { remedy, .. } if remedy.contains("orchestrator:view")), "{error}");
}

#[tokio::test]
async fn html_in_place_of_an_answer_is_not_understood_or_busy() {
    let stage = Stage::new([balancer_says(200, "<html>"), balancer_says(502, "<html>")]).await;
    let orchestrator = stage.orchestrator();
    assert!(matches!(orchestrator.jobs(1).await, Err(Error::Unexpected { .. })));
    assert!(matches!(orchestrator.jobs(1).await, Err(Error::Busy { status: 502, .. })));
}
