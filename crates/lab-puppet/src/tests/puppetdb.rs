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

/// The rows of a query on the root endpoint.
async fn rows(world: &World, query: Value) -> Value {
    world.pdb_json("POST query/v4", json!({"query": query}).to_string()).await
}

/// The words with which a query on the root endpoint is refused.
async fn refusal(world: &World, query: Value) -> String {
    let (status, words) = world.pdb("POST query/v4", json!({"query": query}).to_string()).await;
    assert_eq!(status, 400, "{query}: {words}");
    words
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
    assert_eq!(rows(&world, json!(["from", "nodes", ["extract", ["certname"]]])).await, json!([]));
    for state in ["any", "inactive"] {
        let query = json!(["from", "nodes", ["extract", ["certname"], ["=", "node_state", state]]]);
        assert_eq!(rows(&world, query).await, json!([{"certname": N}]), "{state}");
    }
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
    let id = "i-0a1b2c3d4e5f60718";
    let certified = json!(["=", "trusted.extensions.pp_instance_id", id]);
    let path = json!(["=", "path", ["ec2_metadata", "instance-id"]]);
    for (entity, condition) in [
        ("inventory", certified.clone()),
        ("inventory", json!(["=", "facts.ec2_metadata.\"instance-id\"", id])),
        ("inventory", json!(["=", "facts.ec2_metadata.instance-id", id])),
        ("fact_contents", json!(["and", path, ["in", "value", ["array", [id, "i-0cccccccccccccccc"]]]])),
        ("nodes", json!(["in", "certname", ["from", "inventory", ["extract", "certname", certified]]])),
        ("nodes", json!(["in", ["certname"], ["extract", ["certname"], ["select_inventory", certified]]])),
        (
            "nodes",
            json!(["and", ["not", ["=", "certname", "other.example.net"]], ["null?", "report_timestamp", false]]),
        ),
        ("nodes", json!(["not", ["in", "certname", ["array", ["other.example.net"]]]])),
    ] {
        let query = json!(["from", entity, ["extract", ["certname"], condition]]);
        assert_eq!(rows(&world, query.clone()).await, json!([{"certname": N}]), "{query}");
    }
    let fields = ["certname", "trusted.extensions.pp_instance_id"];
    let projected = rows(&world, json!(["from", "inventory", ["extract", fields, ["=", "certname", N]]])).await;
    assert_eq!(projected, json!([{"certname": N, "trusted.extensions.pp_instance_id": id}]));
}

#[tokio::test]
async fn a_subquery_has_the_states_that_the_whole_query_asks_for() {
    let world = placed(|_| {});
    world.pdb(DEACTIVATE, deactivation(&world, 0)).await;
    let with_facts = json!(["in", "certname", ["from", "facts", ["extract", "certname", ["=", "name", "trusted"]]]]);
    let any = json!(["and", with_facts, ["=", "node_state", "any"]]);
    for (condition, expected) in [(with_facts, json!([])), (any, json!([{"certname": N}]))] {
        let query = json!(["from", "nodes", ["extract", ["certname"], condition]]);
        assert_eq!(rows(&world, query.clone()).await, expected, "{query}");
    }
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
    let reply = world.pdb_reply("GET query/v4?query=%5B%22nodes%22%5D", "").await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.headers()["content-type"], "text/plain; charset=utf-8");
    assert!(reply.body().starts_with(b"Your initial query must be of the form"));
    assert_eq!(world.pdb("GET query/v4/nodes?foo=1", "").await, said(400, "Unsupported query parameter 'foo'"));
    let pql = "nodes%5Bcertname%5D%20%7B%7D";
    let answer = world.pdb(&format!("GET query/v4?query={pql}"), "").await;
    assert_eq!(answer, said(400, "PQL is not simulated; send the query as JSON"));
}

#[tokio::test]
async fn an_operator_a_field_or_an_entity_that_there_is_not_is_refused_and_matches_nothing() {
    let world = placed(|_| {});
    let is_n = json!(["=", "certname", N]);
    let extract = |condition: Value| json!(["from", "nodes", ["extract", ["certname"], condition]]);
    let known = "'cached_catalog_status', 'catalog_environment', ";
    for (query, words) in [
        (
            extract(json!(["odd", "certname", N])),
            r#"["odd" "certname" "n.example.net"] is not a valid expression for "extract""#,
        ),
        (extract(json!(["or", is_n, ["odd"]])), r#"["odd"] is not a valid expression for "extract""#),
        (extract(json!([])), r#"[] is not a valid expression for "extract""#),
        (extract(json!(["~", "certname", "."])), "the operator '~' is not simulated"),
        (extract(json!(["=", "certname"])), "= requires exactly two arguments"),
        (extract(json!(["<", "certname", N])), "Query operators >,>=,<,<= are not allowed on field certname"),
        (extract(json!(["and"])), "'and' takes at least one argument, but none were supplied"),
        (extract(json!(["not", is_n, is_n])), "'not' takes exactly one argument, but 2 were supplied"),
        (extract(json!(["=", "node_state", "odd"])), "No matching clause: odd"),
        (extract(json!(["in", "certname", ["array", N]])), "Operator array requires a vector argument"),
        (
            extract(json!(["in", "certname", ["extract", "certname", ["select_odd", is_n]]])),
            "Unsupported subquery `select_odd`",
        ),
        (
            extract(json!(["=", "odd", N])),
            &format!("'odd' is not a queryable object for nodes. Known queryable objects are {known}"),
        ),
        (
            json!(["from", "nodes", ["extract", ["odd"], is_n]]),
            &format!("Can't extract unknown 'nodes' field 'odd'. Acceptable fields are {known}"),
        ),
        (json!(["from", "odd", is_n]), "Invalid entity 'odd' in query"),
        (json!(["from", "nodes", is_n, ["odd", 1]]), r#"["odd" 1] is not a valid expression"#),
    ] {
        let refused = refusal(&world, query.clone()).await;
        assert!(refused.starts_with(words), "{query}: {refused}");
    }
}

#[tokio::test]
async fn a_list_of_values_must_not_look_like_an_expression() {
    let world = placed(|_| {});
    world.puppet.place_node(&Node::new("tag")).unwrap();
    let named =
        |names: Value| json!(["from", "nodes", ["extract", ["certname"], ["in", "certname", ["array", names]]]]);
    for names in [json!(["extract", N]), json!(["in", N]), json!(["not", N, N]), json!(["and"])] {
        let refused = refusal(&world, named(names.clone())).await;
        assert!(refused.ends_with("begins with an operator and is read as an expression"), "{names}: {refused}");
    }
    assert_eq!(rows(&world, named(json!(["a", "tag", "b"]))).await, json!([]), "it is read as \"tags\"");
    for names in [json!(["", "", "tag"]), json!(["", "", "tag", "extract"])] {
        assert_eq!(rows(&world, named(names.clone())).await, json!([{"certname": "tag"}]), "{names}");
    }
}

#[tokio::test]
async fn text_in_a_query_is_only_compared() {
    let world = placed(|_| {});
    for hostile in [r#"x" or certname ~ ".*"#, r#"x"], ["=", "node_state", "any"#, r"\", r#"\""#, "a'b"] {
        for condition in [json!(["=", "certname", hostile]), json!(["in", "certname", ["array", [hostile]]])] {
            let query = json!(["from", "nodes", ["extract", ["certname"], condition]]);
            assert_eq!(rows(&world, query.clone()).await, json!([]), "{query}");
        }
    }
}

#[tokio::test]
async fn pages_are_cut_after_ordering_and_counted_before() {
    let world = placed(|_| {});
    world.puppet.place_node(&Node::new("a.example.net")).unwrap();
    let order: String = form_urlencoded::byte_serialize(br#"[{"field":"certname","order":"desc"}]"#).collect();
    let line = format!("GET query/v4/nodes?limit=1&order_by={order}&include_total=true");
    let reply = world.pdb_reply(&line, "").await;
    assert_eq!(reply.headers()["x-records"], "2");
    let page: Value = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(page[0]["certname"], N);
    assert_eq!(page.as_array().unwrap().len(), 1);
    let clauses = json!(["from", "nodes", ["order_by", [["certname", "desc"]]], ["limit", 1]]);
    assert_eq!(rows(&world, clauses).await, page);
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
