//! The orchestrator's answers.

use serde_json::{Value, json};

use super::{World, enterprise};
use crate::{Node, PuppetOptions, RunScript};

fn world() -> World {
    let world = enterprise(&["puppet_agent:run:*", "orchestrator:view:*", "nodes:view_data:*"]);
    world.puppet.configure(|options| options.run_ms = 0);
    world
}

fn order(nodes: &[&str]) -> String {
    json!({
        "environment": "", "enforce_environment": false, "scope": {"nodes": nodes},
        "description": "why", "userdata": {"controller": "stagedoor", "event": "e1"},
    })
    .to_string()
}

impl World {
    /// Orders a run on these nodes and waits until the job is over: the job and its nodes.
    async fn ran(&self, nodes: &[&str]) -> (Value, Value) {
        let (status, ordered) = self.orchestrator("POST command/deploy", order(nodes)).await;
        assert_eq!(status, 202, "{ordered}");
        self.puppet.jobs_over().await;
        let id = ordered["job"]["name"].as_str().unwrap();
        let (_, job) = self.orchestrator(&format!("GET jobs/{id}"), "").await;
        let (_, nodes) = self.orchestrator(&format!("GET jobs/{id}/nodes"), "").await;
        (job, nodes["items"].clone())
    }

    async fn kind_of(&self, line: &str, body: &str) -> (u16, String) {
        let (status, answer) = self.orchestrator(line, body.to_owned()).await;
        (status, answer["kind"].as_str().unwrap_or_default().replace("puppetlabs.", ""))
    }
}

fn kind(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

#[tokio::test]
async fn an_order_is_a_job_that_goes_through_its_states_and_leaves_a_report() {
    let world = world();
    world.puppet.place_node(&Node::new("n.example.net")).unwrap();
    let (job, nodes) = world.ran(&["n.example.net"]).await;
    assert_eq!(job["state"], "finished");
    let states: Vec<&Value> = job["status"].as_array().unwrap().iter().map(|status| &status["state"]).collect();
    assert_eq!(states, ["new", "ready", "running", "finished"]);
    assert_eq!(job["status"][3]["exit_time"], Value::Null);
    assert_eq!(job["userdata"]["event"], "e1");
    assert_eq!(job["options"]["scope"]["nodes"], json!(["n.example.net"]));
    assert_eq!(job["options"]["description"], "why");
    assert_eq!(job["node_states"], json!({"finished": 1}));
    assert_eq!((&job["timestamp"], &job["duration"]), (&json!("2026-03-04T05:06:07Z"), &json!("0.0")));
    let node = &nodes[0];
    assert_eq!((&node["state"], &node["result"]["status"]), (&json!("finished"), &json!("changed")));
    assert_eq!(node["details"]["message"], "Finished puppet run on n.example.net - Success! ");
    let stored = world.puppet.snapshot()["nodes"].clone();
    assert_eq!(stored[0]["latest_report_job_id"], "1");
    assert_eq!(stored[0]["latest_report_hash"], node["result"]["hash"]);
}

#[tokio::test]
async fn each_script_ends_the_run_of_its_node_in_its_own_way() {
    for (script, job_state, node_state, words) in [
        (RunScript::Failed, "failed", "failed", "Finished puppet run on n.example.net"),
        (RunScript::Locked, "failed", "errored", "Puppet agent run is already in progress"),
        (RunScript::Disabled, "failed", "errored", "Puppet agent is disabled"),
        (
            RunScript::Disconnected,
            "failed",
            "errored",
            "Error running puppet on n.example.net: n.example.net is not connected to the PCP broker",
        ),
    ] {
        let world = world();
        world.puppet.place_node(&Node { run: script, ..Node::new("n.example.net") }).unwrap();
        let (job, nodes) = world.ran(&["n.example.net"]).await;
        assert_eq!((&job["state"], &nodes[0]["state"]), (&json!(job_state), &json!(node_state)), "{script:?}");
        let message = nodes[0]["details"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        let reported = &world.puppet.snapshot()["nodes"][0]["latest_report_status"];
        assert_eq!(reported, if script == RunScript::Failed { "failed" } else { "unchanged" }, "{script:?}");
    }
}

#[tokio::test]
async fn a_name_that_nobody_has_is_taken_and_cannot_be_run_and_the_others_run_all_the_same() {
    let world = world();
    let (job, nodes) = world.ran(&["puppet", "nobody.example.net"]).await;
    assert_eq!((&job["state"], &job["node_states"]), (&json!("failed"), &json!({"errored": 1, "finished": 1})));
    assert_eq!(nodes[0]["result"]["kind"], "puppetlabs.orchestrator/execution-failure");
    assert_eq!(nodes[0]["result"]["msg"], "nobody.example.net is not connected to the PCP broker");
}

#[tokio::test]
async fn a_revoked_node_cannot_run_puppet() {
    let world = world();
    world.puppet.place_node(&Node::new("n.example.net")).unwrap();
    world.puppet.revoke("n.example.net").unwrap();
    let (_, nodes) = world.ran(&["n.example.net"]).await;
    assert_eq!(nodes[0]["result"]["details"]["error_type"], "agent_exit_non_zero");
}

#[tokio::test]
async fn a_run_that_hangs_holds_the_next_one_up_and_ends_as_it_is_told() {
    let world = world();
    world.puppet.script("puppet", RunScript::Hang);
    let running = |count: usize| {
        move |jobs: &[Value]| jobs.iter().filter(|job| job["node_states"]["running"] == 1).count() == count
    };
    for count in [1, 2] {
        world.orchestrator("POST command/deploy", order(&["puppet"])).await;
        world.puppet.jobs_when(running(count)).await;
    }
    assert_eq!(world.puppet.snapshot()["nodes"], json!([]), "no node has reported");
    let released = world.clock.now() + jiff::SignedDuration::from_secs(60);
    world.clock.advance(jiff::SignedDuration::from_secs(60));
    world.puppet.script("puppet", RunScript::Failed);
    let states: Vec<Value> = world.puppet.jobs_over().await.iter().map(|job| job["state"].clone()).collect();
    assert_eq!(states, ["failed", "failed"]);
    assert_eq!(world.puppet.times_ordered("puppet"), 2);
    let store = world.puppet.site.puppetdb();
    let started: Vec<bool> = store.nodes["puppet"].reports.iter().map(|report| report.started >= released).collect();
    assert_eq!(started, [false, true], "the second run began when the first was over");
}

#[tokio::test]
async fn a_run_that_restarts_the_orchestrator_reports_and_its_job_is_lost() {
    let world = world();
    world.puppet.script("puppet", RunScript::Restart { down_ms: 0 });
    world.orchestrator("POST command/deploy", order(&["puppet"])).await;
    world.puppet.jobs_when(<[Value]>::is_empty).await;
    world.puppet.orchestrator_is_back().await;
    assert_eq!(world.kind_of("GET jobs/1", "").await, kind(404, "orchestrator/unknown-job"));
    assert_eq!(world.puppet.snapshot()["nodes"][0]["latest_report_job_id"], "1");
    assert_eq!(world.puppet.times_ordered("puppet"), 1);
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_told_by_its_kind() {
    let world = world();
    for (body, answer) in [
        ("nonsense", kind(400, "orchestrator/validation-error")),
        ("{}", kind(400, "orchestrator/validation-error")),
        (r#"{"environment":"","scope":{"nodes":["puppet"]}}"#, kind(400, "orchestrator/validation-error")),
        (r#"{"environment":"","enforce_environment":false}"#, kind(400, "orchestrator/validation-error")),
        (r#"{"environment":"production","scope":{}}"#, kind(400, "orchestrator/validation-error")),
        (
            r#"{"environment":"production","scope":{"nodes":["a"],"query":"nodes{}"}}"#,
            kind(400, "orchestrator/validation-error"),
        ),
        (
            r#"{"environment":"production","noop":true,"no_noop":true,"scope":{"nodes":["a"]}}"#,
            kind(400, "orchestrator/validation-error"),
        ),
        (r#"{"environment":"foo","scope":{"nodes":["a"]}}"#, kind(404, "orchestrator/unknown-environment")),
        (r#"{"environment":"production","scope":{"nodes":[]}}"#, kind(400, "orchestrator/empty-target")),
    ] {
        assert_eq!(world.kind_of("POST command/deploy", body).await, answer, "{body}");
    }
    assert!(world.puppet.jobs().is_empty());
    let (_, answer) =
        world.orchestrator("POST command/deploy", r#"{"environment":"production","scope":{"nodes":[]}}"#).await;
    assert_eq!(answer["msg"], "No nodes were found for the specified target. Nothing to do.");
    assert_eq!(answer["details"], json!({"environment": "production", "target": "nodes"}));
}

#[tokio::test]
async fn jobs_come_in_pages_in_the_wanted_order() {
    let world = world();
    for _ in 0..3 {
        world.ran(&["puppet"]).await;
    }
    let line = "GET jobs?limit=2&offset=1&order_by=timestamp&order=desc&type=deploy";
    let (status, page) = world.orchestrator(line, "").await;
    let names: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|job| &job["name"]).collect();
    assert_eq!((status, names), (200, vec![&json!("2"), &json!("1")]));
    let pagination = json!({
        "limit": 2, "offset": 1, "order_by": "timestamp", "order": "desc", "total": 3, "type": "deploy",
    });
    assert_eq!(page["pagination"], pagination);
    assert_eq!(world.orchestrator("GET jobs?type=task", "").await.1["items"], json!([]));
    for wrong in ["limit=x", "offset=-1", "order_by=colour", "order=up"] {
        let answer = world.kind_of(&format!("GET jobs?{wrong}"), "").await;
        assert_eq!(answer, kind(400, "orchestrator/validation-error"), "{wrong}");
    }
}

#[tokio::test]
async fn a_job_that_is_not_there_and_one_that_has_no_number() {
    let world = world();
    for part in ["", "/nodes", "/events"] {
        let unknown = world.kind_of(&format!("GET jobs/7{part}"), "").await;
        assert_eq!(unknown, kind(404, "orchestrator/unknown-job"));
        let invalid = world.kind_of(&format!("GET jobs/seven{part}"), "").await;
        assert_eq!(invalid, kind(400, "orchestrator/validation-error"));
    }
}

#[tokio::test]
async fn events_tell_what_happened_since_the_last_look() {
    let world = world();
    world.ran(&["puppet"]).await;
    let (_, events) = world.orchestrator("GET jobs/1/events", "").await;
    let kinds: Vec<&Value> = events["items"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["node_running", "node_finished", "job_finished"]);
    let (_, rest) = world.orchestrator("GET jobs/1/events?start=2", "").await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_inventory_tells_who_is_connected_and_a_stranger_is_not() {
    let world = world();
    let unsigned = Node { certificate: crate::CertificateState::Requested, ..Node::new("new.example.net") };
    world.puppet.place_node(&Node::new("n.example.net")).unwrap();
    world.puppet.place_node(&unsigned).unwrap();
    let body = json!({"nodes": ["n.example.net", "new.example.net", "nobody"]}).to_string();
    let (status, answer) = world.orchestrator("POST inventory", body).await;
    let connected: Vec<&Value> = answer["items"].as_array().unwrap().iter().map(|item| &item["connected"]).collect();
    assert_eq!((status, connected), (200, vec![&json!(true), &json!(false), &json!(false)]));
    world.puppet.disconnect("n.example.net");
    let (_, one) = world.orchestrator("GET inventory/n.example.net", "").await;
    assert_eq!(one, json!({"name": "n.example.net", "connected": false}));
    let (_, all) = world.orchestrator("GET inventory", "").await;
    assert_eq!((&all["items"][0]["name"], all["items"].as_array().unwrap().len()), (&json!("puppet"), 1));
    assert_eq!(world.kind_of("POST inventory", "{}").await, kind(400, "orchestrator/validation-error"));
}

#[tokio::test]
async fn who_calls_without_a_good_token_is_told_which_kind_it_is() {
    for (token, answer) in [
        ("old", kind(401, "rbac/token-expired")),
        ("revoked", kind(401, "rbac/token-revoked")),
        ("nonsense", kind(401, "rbac/invalid-token")),
    ] {
        let world = world().with_header("x-authentication", token);
        assert_eq!(world.kind_of("GET jobs", "").await, answer);
    }
    let mut nobody = world();
    nobody.headers.clear();
    assert_eq!(nobody.kind_of("GET jobs", "").await, kind(401, "rbac/user-unauthenticated"));
    let (_, answer) = world().with_header("x-authentication", "old").orchestrator("GET jobs", "").await;
    let body = json!({"kind": "puppetlabs.rbac/token-expired", "msg": "The provided token has expired."});
    assert_eq!(answer, body);
}

#[tokio::test]
async fn a_listed_certificate_may_do_everything_unless_a_bad_token_is_sent_with_it() {
    let mut world = world().called_by("stagedoor.example.net");
    world.puppet.configure(|options| options.rbac_certificate_allowlist = vec!["stagedoor.example.net".into()]);
    world.headers.clear();
    assert_eq!(world.orchestrator("POST command/deploy", order(&["puppet"])).await.0, 202);
    let world = world.with_header("x-authentication", "old");
    assert_eq!(world.kind_of("GET jobs", "").await, kind(401, "rbac/token-expired"));
}

#[tokio::test]
async fn who_lacks_a_permission_is_refused_just_that() {
    let world = enterprise(&["orchestrator:view:*"]);
    assert_eq!(world.orchestrator("GET jobs", "").await.0, 200);
    let denied = kind(403, "orchestrator/not-permitted");
    assert_eq!(world.kind_of("POST command/deploy", &order(&["puppet"])).await, denied);
    assert_eq!(world.kind_of("GET inventory", "").await, denied);
}

#[tokio::test]
async fn a_token_expires_by_the_labs_clock() {
    let world = world();
    let at = world.clock.now() + jiff::SignedDuration::from_secs(60);
    world.puppet.configure(|options| options.rbac_token_expires = Some(at));
    assert_eq!(world.orchestrator("GET jobs", "").await.0, 200);
    world.clock.advance(jiff::SignedDuration::from_secs(60));
    assert_eq!(world.kind_of("GET jobs", "").await, kind(401, "rbac/token-expired"));
}

#[tokio::test]
async fn a_new_scene_forgets_jobs_and_runs_under_way() {
    let world = world();
    world.puppet.script("puppet", RunScript::Hang);
    world.orchestrator("POST command/deploy", order(&["puppet"])).await;
    world.puppet.jobs_when(|jobs| jobs[0]["node_states"]["running"] == 1).await;
    world.puppet.reset().unwrap();
    assert!(world.puppet.jobs().is_empty());
    // The run of the old scene has released the node, and stored nothing.
    let (job, _) = world.ran(&["puppet"]).await;
    assert_eq!((&job["name"], &job["state"]), (&json!("2"), &json!("finished")));
    assert_eq!(world.puppet.snapshot()["nodes"][0]["latest_report_job_id"], "2");
}

#[test]
fn an_enterprise_site_without_tokens_is_given_one_and_keeps_it() {
    let puppet = crate::Puppet::new(PuppetOptions::enterprise(), stagedoor_lab_core::clock::Clock::new()).unwrap();
    let tokens = puppet.options().rbac_tokens.unwrap();
    assert_eq!(tokens.len(), 1);
    puppet.configure(|options| *options = PuppetOptions::default());
    assert_eq!(puppet.options().rbac_tokens.unwrap(), tokens);
    assert!(PuppetOptions::default().rbac_tokens.is_none());
}
