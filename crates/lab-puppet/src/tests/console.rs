//! The answers of classifier and RBAC.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{World, enterprise};
use crate::NodeGroup;

const PIN: &str = "/classifier-api/v1/groups";

fn world() -> World {
    enterprise(&["node_groups:view:*", "node_groups:edit_child_rules:*"])
}

impl World {
    fn id_of(&self, group: &str) -> String {
        let groups = self.puppet.node_groups();
        let found = groups.iter().find(|one| one["name"] == group).unwrap();
        found["id"].as_str().unwrap().to_owned()
    }

    async fn unpin_from_all(&self, body: &Value) -> (u16, Value) {
        self.console("POST /classifier-api/v1/commands/unpin-from-all", body.to_string()).await
    }
}

#[tokio::test]
async fn groups_are_listed_with_their_rules() {
    let world = world();
    let (status, groups) = world.console("GET /classifier-api/v1/groups", "").await;
    let names: Vec<&Value> = groups.as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(status, 200);
    assert_eq!(
        names,
        ["All Nodes", "PE Infrastructure", "PE Master", "PE Compiler", "PE Database", "PE Infrastructure Agent"]
    );
    assert_eq!(groups[0]["id"], "00000000-0000-4000-8000-000000000000");
    assert!(groups[1].get("rule").is_none(), "a group without a rule has no such key");
    let (status, one) = world.console(&format!("GET {PIN}/{}", world.id_of("PE Master")), "").await;
    assert_eq!((status, &one), (200, &groups[2]));
    let (status, missing) = world.console(&format!("GET {PIN}/nope"), "").await;
    assert_eq!((status, &missing["kind"]), (404, &json!("not-found")));
    assert_eq!(missing["msg"], "The resource could not be found");
}

#[tokio::test]
async fn a_node_is_pinned_and_unpinned_however_often_it_is_asked() {
    let world = world();
    let group = format!("{PIN}/{}", world.id_of("PE Infrastructure Agent"));
    for _ in 0..2 {
        assert_eq!(world.console(&format!("POST {group}/pin"), r#"{"nodes":["n","m"]}"#).await.0, 204);
    }
    assert!(world.puppet.is_pinned("PE Infrastructure Agent", "n"));
    let (_, shown) = world.console(&format!("GET {group}"), "").await;
    assert_eq!(shown["rule"], json!(["or", ["=", "name", "puppet"], ["=", "name", "n"], ["=", "name", "m"]]));
    for _ in 0..2 {
        assert_eq!(world.console(&format!("POST {group}/unpin"), r#"{"nodes":["n"]}"#).await.0, 204);
    }
    assert!(!world.puppet.is_pinned("PE Infrastructure Agent", "n"));
    assert!(world.puppet.is_pinned("PE Infrastructure Agent", "m"));
    assert_eq!(world.console(&format!("POST {group}/pin?nodes=a%2Cb"), "").await.0, 204);
    assert_eq!(world.console(&format!("POST {group}/pin"), r#""c""#).await.0, 204);
    assert!(["a", "b", "c"].iter().all(|node| world.puppet.is_pinned("PE Infrastructure Agent", node)));
}

#[tokio::test]
async fn what_is_wrong_with_a_pin_is_told_by_its_kind() {
    let world = world();
    let pin = format!("POST {PIN}/{}/pin", world.id_of("PE Master"));
    for (body, kind) in [
        ("nonsense", "malformed-request"),
        ("{}", "schema-violation"),
        (r#"{"nodes":[]}"#, "schema-violation"),
        (r#"{"nodes":["n"],"more":1}"#, "schema-violation"),
    ] {
        let (status, answer) = world.console(&pin, body.to_owned()).await;
        assert_eq!((status, &answer["kind"]), (400, &json!(kind)), "{body}");
    }
    let (status, answer) = world.console(&format!("POST {PIN}/nope/pin"), r#"{"nodes":["n"]}"#).await;
    assert_eq!((status, &answer["kind"]), (404, &json!("not-found")));
}

#[tokio::test]
async fn unpinning_from_all_names_the_nodes_that_were_pinned_and_where() {
    let world = world();
    let own = NodeGroup { name: "own".into(), pinned: vec!["n".into()], ..NodeGroup::default() };
    world.puppet.put_node_group(&own).unwrap();
    let (status, answer) = world.unpin_from_all(&json!({"nodes": ["n", "nobody"]})).await;
    let group = json!({"id": world.id_of("own"), "name": "own", "environment": "production"});
    assert_eq!((status, answer), (200, json!({"nodes": [{"name": "n", "groups": [group]}]})));
    assert_eq!(world.unpin_from_all(&json!({"nodes": ["n"]})).await, (200, json!({"nodes": []})));
    assert_eq!(world.unpin_from_all(&json!({})).await.0, 400);
}

#[tokio::test]
async fn unpinning_from_all_touches_only_the_groups_that_the_role_may_edit() {
    // The right to edit the groups under All Nodes, not those under PE Infrastructure.
    let world =
        enterprise(&["node_groups:view:*", "node_groups:edit_child_rules:00000000-0000-4000-8000-000000000000"]);
    for (name, parent) in [("own", None), ("theirs", Some("PE Infrastructure".to_owned()))] {
        let group = NodeGroup { name: name.into(), parent, pinned: vec!["n".into()], ..NodeGroup::default() };
        world.puppet.put_node_group(&group).unwrap();
    }
    let (_, answer) = world.unpin_from_all(&json!({"nodes": ["n"]})).await;
    assert_eq!(answer["nodes"][0]["groups"].as_array().unwrap().len(), 1);
    assert!(world.puppet.is_pinned("theirs", "n") && !world.puppet.is_pinned("own", "n"));
    let (status, answer) =
        world.console(&format!("POST {PIN}/{}/pin", world.id_of("theirs")), r#"{"nodes":["m"]}"#).await;
    assert_eq!((status, &answer["kind"]), (403, &json!("permission-denied")));
}

#[tokio::test]
async fn a_node_is_classified_by_its_trusted_facts_and_its_pins() {
    let world = world();
    let rule = json!(["and", ["=", ["trusted", "extensions", "pp_role"], "compiler"]]);
    let group =
        NodeGroup { name: "Compilers".into(), rule: Some(rule), pinned: vec!["p".into()], ..NodeGroup::default() };
    world.puppet.put_node_group(&group).unwrap();
    let facts = json!({"fact": {}, "trusted": {"extensions": {"pp_role": "compiler"}}}).to_string();
    let other = json!({"fact": {}, "trusted": {"extensions": {"pp_role": "other"}}}).to_string();
    for (node, facts, member) in [("n", &facts, true), ("n", &other, false), ("p", &other, true)] {
        let (status, found) =
            world.console(&format!("POST /classifier-api/v2/classified/nodes/{node}"), facts.clone()).await;
        let names: Vec<&Value> = found["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
        assert_eq!((status, names.contains(&&json!("Compilers"))), (200, member), "{node} {facts}");
        assert_eq!((&found["name"], &found["environment"]), (&json!(node), &json!("production")));
    }
    let (_, old) = world.console("POST /classifier-api/v1/classified/nodes/p", facts).await;
    assert_eq!(old["groups"], json!([world.id_of("All Nodes"), world.id_of("Compilers")]));
}

#[tokio::test]
async fn without_the_right_to_see_groups_nobody_sees_any() {
    let world = enterprise(&[]);
    for line in ["GET /classifier-api/v1/groups", "POST /classifier-api/v2/classified/nodes/n"] {
        let (status, answer) = world.console(line, "{}").await;
        assert_eq!((status, &answer["kind"]), (403, &json!("permission-denied")));
    }
    let mut nobody = enterprise(&[]);
    nobody.headers.clear();
    assert_eq!(nobody.console("GET /classifier-api/v1/groups", "").await.0, 401);
}

#[tokio::test]
async fn a_token_is_introspected_without_credentials() {
    let mut world = world();
    world.headers.clear();
    let at = world.clock.now() + SignedDuration::from_hours(24);
    world.puppet.configure(|options| options.rbac_token_expires = Some(at));
    let ask = async |world: &World, token: &str| {
        let body = json!({"token": token, "update_last_activity?": false}).to_string();
        world.console("POST /rbac-api/v2/auth/token/authenticate", body).await
    };
    let (status, subject) = ask(&world, "good").await;
    assert_eq!((status, &subject["expiration"]), (200, &json!("2026-03-05T05:06:07.500Z")));
    assert_eq!((&subject["is_revoked"], &subject["login"]), (&json!(false), &json!("lifecycle")));
    for (token, status, kind) in
        [("old", 403, "token-expired"), ("revoked", 403, "token-revoked"), ("nonsense", 400, "invalid-token")]
    {
        let (said, answer) = ask(&world, token).await;
        assert_eq!((said, &answer["kind"]), (status, &json!(format!("puppetlabs.rbac/{kind}"))));
    }
    world.clock.advance(SignedDuration::from_hours(24));
    assert_eq!(ask(&world, "good").await.1["kind"], "puppetlabs.rbac/token-expired");
    let (status, answer) = world.console("POST /rbac-api/v2/auth/token/authenticate", "{}").await;
    assert_eq!((status, &answer["kind"]), (400, &json!("puppetlabs.rbac/schema-violation")));
}

#[tokio::test]
async fn the_journal_does_not_hold_the_token() {
    use stagedoor_lab_core::server::Service as _;
    let world = world();
    let body = json!({"token": "good-token-text"}).to_string();
    let request = world.request("POST /rbac-api/v2/auth/token/authenticate?token=good-token-text", body);
    let call = world.puppet.console_service().describe(&request);
    assert_eq!((call.service, call.call.as_str()), ("rbac", "POST /rbac-api/v2/auth/token/authenticate"));
    assert!(!call.request.to_string().contains("good-token-text"));
    let request = world.request("POST /classifier-api/v1/groups/7/pin", r#"{"nodes":["n"]}"#);
    let call = world.puppet.console_service().describe(&request);
    assert_eq!((call.service, call.call.as_str()), ("classifier", "POST /classifier-api/v1/groups/{id}/pin"));
    assert_eq!(call.subject.as_deref(), Some("n"));
}

#[tokio::test]
async fn the_status_services_tell_of_their_own() {
    let world = world();
    let (status, _) = world.console("GET /status/v1/simple/rbac-service", "").await;
    assert_eq!(status, 200);
    world.puppet.configure(|options| options.enterprise_state = crate::ServiceState::Starting);
    let (status, services) = world.orchestrator("GET /status/v1/services", "").await;
    assert_eq!((status, &services["orchestrator-service"]["state"]), (503, &json!("starting")));
}
