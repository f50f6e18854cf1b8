//! The node classifier: its routes and their answers. No network I/O.
//! (<https://help.puppet.com/pe/current/topics/node_classifier_service_api.htm>)

mod groups;
mod rule;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Reply, Request};

pub use groups::NodeGroup;
pub(crate) use groups::{Group, Groups};

use super::access::Caller;
use super::console::not_found;
use super::{Failure, failure, ok};
use crate::reply::bare;
use crate::site::Site;

pub(super) fn answer(site: &Site, request: &Request, caller: &Caller) -> Reply {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let mut groups = site.node_groups();
    match (&request.method, &segments[..]) {
        (&Method::GET, ["classifier-api", "v1", "groups"]) => {
            if !caller.may_somewhere("node_groups:view") {
                return denied("view");
            }
            let seen = groups.all().filter(|group| caller.may("node_groups:view", &group.id));
            ok(&seen.map(groups::Group::json).collect())
        }
        (&Method::GET, ["classifier-api", "v1", "groups", id]) => match groups.get(id) {
            Some(group) if caller.may("node_groups:view", id) => ok(&group.json()),
            Some(_) => denied("view"),
            None => not_found(request),
        },
        (&Method::POST, ["classifier-api", "v1", "groups", id, verb @ ("pin" | "unpin")]) => {
            let nodes = match named(request) {
                Ok(nodes) => nodes,
                Err(refusal) => return refusal.reply(),
            };
            let Some(group) = groups.get_mut(id) else {
                return not_found(request);
            };
            if !may_edit(caller, group) {
                return denied("edit_child_rules");
            }
            for node in &nodes {
                if *verb == "pin" {
                    group.pin(node);
                } else {
                    group.unpin(node);
                }
            }
            bare(StatusCode::NO_CONTENT, "")
        }
        (&Method::POST, ["classifier-api", "v1", "commands", "unpin-from-all"]) => {
            unpin_from_all(&mut groups, request, caller)
        }
        (&Method::POST, ["classifier-api", version @ ("v1" | "v2"), "classified", "nodes", name]) => {
            if !caller.may_somewhere("node_groups:view") {
                return denied("view");
            }
            classified(&groups, request, version, name)
        }
        _ => not_found(request),
    }
}

/// A group is edited with the right to do so on its parent.
fn may_edit(caller: &Caller, group: &groups::Group) -> bool {
    ["node_groups:modify_children", "node_groups:edit_child_rules"].iter().any(|one| caller.may(one, &group.parent))
}

fn denied(action: &str) -> Reply {
    let message = format!("You don't have permission to {action} node groups.");
    failure(StatusCode::FORBIDDEN, "permission-denied", &message, Some(json!({"object_type": "node_groups"}))).reply()
}

fn violation(message: &str, submitted: &Value) -> Failure {
    failure(StatusCode::BAD_REQUEST, "schema-violation", message, Some(json!({"submitted": submitted})))
}

/// The nodes that a call names: in the query, as an object's only key, or as a bare string.
fn named(request: &Request) -> Result<Vec<String>, Failure> {
    if let Some(nodes) = request.query("nodes") {
        return Ok(nodes.split(',').map(str::to_owned).collect());
    }
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        let message = "The request body could not be parsed as JSON.";
        return Err(failure(StatusCode::BAD_REQUEST, "malformed-request", message, None));
    };
    if let Some(node) = body.as_str() {
        return Ok(vec![node.to_owned()]);
    }
    let only_key = body.as_object().is_some_and(|body| body.len() == 1);
    let nodes: Option<Vec<String>> = body["nodes"].as_array().filter(|_| only_key).and_then(|nodes| texts(nodes));
    nodes
        .filter(|nodes| !nodes.is_empty())
        .ok_or_else(|| violation("The request must have the key nodes alone, with at least one name.", &body))
}

fn texts(names: &[Value]) -> Option<Vec<String>> {
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

fn unpin_from_all(groups: &mut Groups, request: &Request, caller: &Caller) -> Reply {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let Some(nodes) = body["nodes"].as_array().and_then(|nodes| texts(nodes)) else {
        return violation("The request must have the key nodes.", &body).reply();
    };
    let mut unpinned = Vec::new();
    for node in &nodes {
        let mut from = Vec::new();
        for group in groups.all_mut().filter(|group| may_edit(caller, group)) {
            if group.unpin(node) {
                from.push(json!({"id": group.id, "name": group.name, "environment": group.environment}));
            }
        }
        if !from.is_empty() {
            unpinned.push(json!({"name": node, "groups": from}));
        }
    }
    ok(&json!({"nodes": unpinned}))
}

/// How a node with these facts is classified now.
fn classified(groups: &Groups, request: &Request, version: &str, name: &str) -> Reply {
    let facts = if request.body.is_empty() { Ok(json!({})) } else { serde_json::from_slice::<Value>(&request.body) };
    let Ok(facts) = facts else {
        let message = "The request body could not be parsed as JSON.";
        return failure(StatusCode::BAD_REQUEST, "malformed-request", message, None).reply();
    };
    if !facts.is_object() {
        return violation("The request must be an object with the keys fact and trusted.", &facts).reply();
    }
    let members: Vec<&groups::Group> = groups.of_node(name, &facts);
    let classes: serde_json::Map<String, Value> = members.iter().flat_map(|group| group.classes.clone()).collect();
    let environment = members.last().map_or("production", |group| group.environment.as_str());
    let (groups, classes) = if version == "v1" {
        (members.iter().map(|group| json!(group.id)).collect::<Value>(), Value::Object(classes))
    } else {
        let named = members.iter().map(|group| json!({"id": group.id, "name": group.name})).collect();
        (named, classes.into_iter().map(|(class, _)| Value::String(class)).collect())
    };
    ok(&json!({
        "name": name,
        "environment": environment,
        "groups": groups,
        "classes": classes,
        "parameters": {},
        "config_data": {},
    }))
}
