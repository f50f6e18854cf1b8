//! PuppetDB: commands, their delays and staleness, queries, and who may ask.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{World, said, world};
use crate::{InPuppetdb, Node, PuppetdbRecord, QueueDelay, ServiceState, TokenState};

const N: &str = "n.example.net";
const DEACTIVATE: &str = "POST cmd/v1?command=deactivate_node&version=3&certname=n.example.net";

fn deactivation(world: &World, ago_s: i64) -> String {
    let produced = world.clock.now() - SignedDuration::from_secs(ago_s);
    json!({"certname": N, "producer_timestamp": produced.to_string()}).to_string()
}

async fn node(world: &World) -> Value {
    world.pdb_json(&format!("GET query/v4/nodes/{N}"), "").await
}

async fn pql(world: &World, query: &str) -> Value {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    world.pdb_json(&format!("GET query/v4?query={query}"), "").await
}

fn placed(change: impl FnOnce(&mut crate::PuppetOptions)) -> World {
    let world = world(change);
    world.puppet.place_node(&Node::of_instance(N, "i-0a1b2c3d4e5f60718")).unwrap();
    world
}

#[tokio::test]
async fn deactivating_hides_a_node_from_default_queries() {
    let world = placed(|_| {});
    let done = world.pdb(DEACTIVATE, deactivation(&world, 0)).await;
    assert_eq!(done.0, 200);
    assert_eq!(node(&world).await["deactivated"], "2026-03-04T05:06:07.500Z");
    assert_eq!(pql(&world, "nodes[certname] { }").await, json!([]));
    let any = pql(&world, "nodes[certname] { node_state = \"any\" }").await;
    assert_eq!(any, json!([{"certname": N}]));
}

#[tokio::test]
async fn a_stale_deactivation_is_reported_as_done_and_changes_nothing() {
    let world = placed(|_| {});
    let line = format!("{DEACTIVATE}&secondsToWaitForCompletion=5");
    let (status, body) = world.pdb(&line, deactivation(&world, 3600)).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["processed"], &body["timed_out"]), (200, &json!(true), &json!(false)));
    assert_eq!(node(&world).await["deactivated"], Value::Null);
}

#[tokio::test]
async fn a_later_report_reactivates_a_node() {
    let world = placed(|_| {});
    world.pdb(DEACTIVATE, deactivation(&world, 0)).await;
    world.clock.advance(SignedDuration::from_secs(1));
    world.puppet.report(N, "changed", world.clock.now());
    let node = node(&world).await;
    assert_eq!(node["deactivated"], Value::Null);
    assert_eq!(node["latest_report_status"], "changed");
}

#[tokio::test]
async fn deactivating_an_unknown_name_creates_a_phantom() {
    let world = world(|_| {});
    assert_eq!(world.pdb(&format!("GET query/v4/nodes/{N}"), "").await.0, 404);
    world.pdb(DEACTIVATE, deactivation(&world, 0)).await;
    let phantom = node(&world).await;
    assert_eq!(phantom["certname"], N);
    assert_eq!(phantom["report_timestamp"], Value::Null);
    assert_ne!(phantom["deactivated"], Value::Null);
}

#[tokio::test]
async fn a_queued_command_times_out_and_shows_later() {
    let world = placed(|options| options.puppetdb_queue = QueueDelay::Reads(2));
    let line = format!("{DEACTIVATE}&secondsToWaitForCompletion=5");
    let (status, body) = world.pdb(&line, deactivation(&world, 0)).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["processed"], &body["timed_out"]), (503, &json!(false), &json!(true)));
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(!node(&world).await["deactivated"].is_null());
    }
    assert_eq!(seen, [false, false, true]);
}

#[tokio::test]
async fn a_delay_in_time_goes_by_the_labs_clock() {
    let world = placed(|options| options.puppetdb_queue = QueueDelay::Ms(60_000));
    world.pdb(DEACTIVATE, deactivation(&world, 0)).await;
    assert_eq!(node(&world).await["deactivated"], Value::Null);
    world.clock.advance(SignedDuration::from_secs(60));
    assert_ne!(node(&world).await["deactivated"], Value::Null);
}

#[tokio::test]
async fn commands_are_checked_before_they_are_queued() {
    let world = placed(|_| {});
    for (query, text) in [
        (
            "command=deactivate_node&version=3",
            "for certname nil is invalid. Command is missing required parameters: certname.",
        ),
        (
            "command=deactivate_node&version=3&certname=x&foo=1",
            "for certname \"x\" is invalid. Command has invalid parameters: foo.",
        ),
        (
            "command=deactivate_node&version=3&certname=",
            "for certname \"\" is invalid. Certname must be a non-empty string.",
        ),
        (
            "command=deactivate_node&version=x&certname=x",
            "for certname \"x\" is invalid. Version must be a valid integer.",
        ),
        (
            "command=deactivate_node&version=2&certname=x",
            "for certname \"x\" is invalid. Version 2 of command \"deactivate node\" is retired. The minimum supported version is 3.",
        ),
    ] {
        let (status, body) = world.pdb(&format!("POST cmd/v1?{query}"), "{}").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 400);
        assert_eq!(body["error"], format!("Command \"deactivate node\" {text}"));
    }
    let unknown = world.pdb_json("POST cmd/v1?command=explode&version=1&certname=x", "{}").await;
    let text = "Command \"explode\" for certname \"x\" is invalid. Command must be one of: configure expiration, \
                deactivate node, replace catalog, replace catalog inputs, replace facts, store report.";
    assert_eq!(unknown, json!({"error": text}));
    let text = "Command nil for certname nil is invalid. Command was submitted without query parameters (old \
                format). The request body must be a JSON map with required keys: command, version, payload.";
    assert_eq!(world.pdb_json("POST cmd/v1", "").await, json!({"error": text}));
}

#[tokio::test]
async fn the_old_form_of_a_command_still_works() {
    let world = placed(|_| {});
    let payload: Value = serde_json::from_str(&deactivation(&world, 0)).unwrap();
    let body = json!({"command": "deactivate node", "version": 3, "payload": payload}).to_string();
    assert_eq!(world.pdb("POST cmd/v1", body).await.0, 200);
    assert_ne!(node(&world).await["deactivated"], Value::Null);
}

#[tokio::test]
async fn a_payload_that_cannot_be_used_shows_only_to_those_who_wait() {
    let world = placed(|_| {});
    assert_eq!(world.pdb(DEACTIVATE, "{}").await.0, 200);
    let (status, body) = world.pdb(&format!("{DEACTIVATE}&secondsToWaitForCompletion=1"), "{}").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["processed"]), (503, &json!(true)));
    assert!(body["error"].is_string());
}

#[tokio::test]
async fn the_middleware_refuses_other_media_types_with_json() {
    let plain = placed(|_| {}).with_header("content-type", "text/plain");
    let text = r#"{"kind":"unsupported-type","msg":"content-type text/plain is not a supported type for request of type :post at /pdb/cmd/v1"}"#;
    assert_eq!(plain.pdb(DEACTIVATE, "{}").await, said(415, text));
    let html = placed(|_| {}).with_header("accept", "text/html");
    let text = r#"{"kind":"not-acceptable","msg":"accept header must include application/json"}"#;
    assert_eq!(html.pdb(DEACTIVATE, "{}").await, said(406, text));
}

#[tokio::test]
async fn a_name_that_is_not_on_the_allow_list_is_told_so() {
    let world = placed(|options| options.puppetdb_allowlist = Some(vec!["puppet".to_owned()]));
    let text = "Permission denied: The client certificate name stagedoor.example.net doesnt appear in the \
                certificate allowlist. Is your master's (or other PuppetDB client's) certname listed in PuppetDB's \
                certificate-allowlist file?";
    assert_eq!(world.pdb("GET query/v4/nodes", "").await, said(403, text));
    assert_eq!(world.called_by("puppet").pdb("GET query/v4/nodes", "").await.0, 200);
}

#[tokio::test]
async fn an_expired_token_is_a_401() {
    let world = placed(|options| {
        options.rbac_tokens = Some([("old".to_owned(), TokenState::Expired)].into());
    })
    .with_header("x-authentication", "old");
    let text = r#"{"kind":"puppetlabs.rbac/token-expired","msg":"The provided token has expired."}"#;
    assert_eq!(world.pdb("GET query/v4/nodes", "").await, said(401, text));
}

#[tokio::test]
async fn maintenance_and_status_say_503() {
    let world = placed(|options| {
        options.puppetdb_maintenance = true;
        options.puppetdb_state = ServiceState::Starting;
    });
    let text = "PuppetDB is currently down. Try again later.";
    assert_eq!(world.pdb("GET query/v4/nodes", "").await, said(503, text));
    assert_eq!(world.pdb("GET /status/v1/simple", "").await, said(503, "starting"));
}

#[tokio::test]
async fn a_node_is_found_by_its_instance_id_in_trusted_data_and_in_facts() {
    let world = placed(|_| {});
    world.puppet.place_node(&Node::of_instance("other.example.net", "i-0bbbbbbbbbbbbbbbb")).unwrap();
    for query in [
        r#"inventory[certname] { trusted.extensions.pp_instance_id = "i-0a1b2c3d4e5f60718" }"#,
        r#"inventory[certname] { facts.ec2_metadata."instance-id" = "i-0a1b2c3d4e5f60718" }"#,
        r#"inventory[certname]{trusted.extensions.pp_instance_id in ["i-0a1b2c3d4e5f60718", "i-0cccccccccccccccc"]}"#,
        r#"nodes[certname] { certname in inventory[certname] { trusted.extensions.pp_instance_id = "i-0a1b2c3d4e5f60718" } }"#,
        r#"nodes[certname] { !(certname = "other.example.net") and report_timestamp is not null }"#,
    ] {
        assert_eq!(pql(&world, query).await, json!([{"certname": N}]), "{query}");
    }
    let projected =
        pql(&world, "inventory[certname, trusted.extensions.pp_instance_id] { certname = 'n.example.net' }").await;
    assert_eq!(projected, json!([{"certname": N, "trusted.extensions.pp_instance_id": "i-0a1b2c3d4e5f60718"}]));
}

#[tokio::test]
async fn ast_queries_are_understood_on_the_entitys_endpoint() {
    let world = placed(|_| {});
    for ast in [
        json!(["=", "certname", N]),
        json!(["extract", ["certname"], ["in", "certname", ["array", [N]]]]),
        json!(["and", ["or", ["=", "certname", "x"], ["=", "certname", N]], ["not", ["=", "certname", "y"]]]),
        json!(["in", "certname", ["extract", "certname", ["select_facts", ["=", "name", "trusted"]]]]),
    ] {
        let query: String = form_urlencoded::byte_serialize(ast.to_string().as_bytes()).collect();
        let rows = world.pdb_json(&format!("GET query/v4/nodes?query={query}"), "").await;
        assert_eq!(rows[0]["certname"], N, "{ast}");
        let posted = world.pdb_json("POST query/v4/nodes", json!({"query": ast}).to_string()).await;
        assert_eq!(posted, rows);
    }
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_a_400_in_plain_text() {
    let world = placed(|_| {});
    let reply = world.pdb_reply("GET query/v4?query=nodes%5Bcertname", "").await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.headers()["content-type"], "text/plain; charset=utf-8");
    assert!(reply.body().starts_with(b"PQL parse error at line 1, column 15:"));
    assert_eq!(world.pdb("GET query/v4/nodes?foo=1", "").await, said(400, "Unsupported query parameter 'foo'"));
}

#[tokio::test]
async fn pages_are_cut_after_ordering_and_counted_before() {
    let world = placed(|_| {});
    world.puppet.place_node(&Node::new("a.example.net")).unwrap();
    let order: String = form_urlencoded::byte_serialize(br#"[{"field":"certname","order":"desc"}]"#).collect();
    let line = format!("GET query/v4/nodes?limit=1&order_by={order}&include_total=true");
    let reply = world.pdb_reply(&line, "").await;
    assert_eq!(reply.headers()["x-records"], "2");
    let rows: Value = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(rows[0]["certname"], N);
    assert_eq!(rows.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_scene_decides_what_puppetdb_holds() {
    let world = world(|_| {});
    let node: Node = serde_json::from_value(json!({
        "certname": N,
        "instance_id": "i-0a1b2c3d4e5f60718",
        "puppetdb": {"facts": {"ec2_metadata": {"instance-id": "i-0ffffffffffffffff"}}, "report_status": null, "deactivated": true},
    }))
    .unwrap();
    world.puppet.place_node(&node).unwrap();
    let stored = super::puppetdb::node(&world).await;
    assert_eq!(stored["report_timestamp"], Value::Null);
    assert_ne!(stored["deactivated"], Value::Null);
    let absent: Node = serde_json::from_value(json!({"certname": "b", "puppetdb": null})).unwrap();
    world.puppet.place_node(&absent).unwrap();
    assert_eq!(world.pdb("GET query/v4/nodes/b", "").await.0, 404);
    assert!(matches!(Node::new("c").puppetdb, InPuppetdb::Fitting));
    assert!(serde_json::from_value::<Node>(json!({"certname": "d", "puppetbd": {}})).is_err());
    assert_eq!(PuppetdbRecord::default().report_status.as_deref(), Some("unchanged"));
}

#[tokio::test]
async fn a_deleted_node_is_unknown_at_once() {
    let world = placed(|_| {});
    let body = json!({"command": "delete", "version": 1, "payload": {"certname": N}}).to_string();
    assert_eq!(world.pdb_json("POST admin/v1/cmd", body).await, json!({"deleted": N}));
    let text = "{\n  \"error\" : \"No information is known about node n.example.net\"\n}";
    assert_eq!(world.pdb(&format!("GET query/v4/nodes/{N}"), "").await, said(404, text));
}

#[tokio::test]
async fn a_client_that_waits_long_enough_sees_the_command_done() {
    let mut world = placed(|options| options.puppetdb_queue = QueueDelay::Ms(5));
    assert_eq!(
        world.pdb(&format!("{DEACTIVATE}&secondsToWaitForCompletion=0.001"), deactivation(&world, 0)).await.0,
        503
    );
    world.clock = stagedoor_lab_core::clock::Clock::new();
    world.puppet = crate::Puppet::new(world.puppet.options(), world.clock.clone()).unwrap();
    let (status, body) =
        world.pdb(&format!("{DEACTIVATE}&secondsToWaitForCompletion=5"), deactivation(&world, 0)).await;
    assert_eq!(status, 200, "{body}");
    assert_ne!(node(&world).await["deactivated"], Value::Null);
}
