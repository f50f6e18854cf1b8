//! `POST command/deploy`: what it demands of an order, and the job that it makes. No I/O of its own.
//! (<https://help.puppet.com/pe/current/topics/orchestrator_api_commands_endpoint.htm>)

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use super::job::Job;
use super::{error, invalid, run};
use crate::enterprise::{Failure, JSON};
use crate::reply::json as json_reply;
use crate::site::Site;

pub(super) fn answer(site: &Arc<Site>, request: &Request) -> Reply {
    let order: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let nodes = match check(&order, &site.options().environments) {
        Ok(nodes) => nodes,
        Err(refusal) => return refusal.reply(),
    };
    let job = {
        let mut orchestrator = site.orchestrator();
        let id = orchestrator.next_job(&nodes);
        let job = Job::new(id, nodes, order, site.clock.now());
        let name = job.name();
        let answer = json!({"job": {"id": job.url(), "name": name}});
        orchestrator.jobs.insert(id, job);
        let generation = orchestrator.generation;
        run::start(site, id, generation);
        answer
    };
    site.has_changed();
    json_reply(StatusCode::ACCEPTED, JSON, &job)
}

/// The nodes of an order, if it can be carried out.
fn check(order: &Value, environments: &[String]) -> Result<Vec<String>, Failure> {
    if !order.is_object() {
        return Err(invalid("The request body must be a JSON object"));
    }
    let Some(environment) = order["environment"].as_str() else {
        return Err(invalid("The key environment is missing, or not a string"));
    };
    let scope = &order["scope"];
    if environment.is_empty() && (order["enforce_environment"] != json!(false) || !scope.is_object()) {
        return Err(invalid("An empty environment needs enforce_environment to be false, and a scope"));
    }
    if order["noop"] == json!(true) && order["no_noop"] == json!(true) {
        return Err(invalid("noop and no_noop cannot both be true"));
    }
    if !environment.is_empty() && !environments.iter().any(|known| known == environment) {
        let message = format!("Unknown environment {environment}");
        let details = json!({"environment": environment});
        return Err(error(StatusCode::NOT_FOUND, "unknown-environment", &message, Some(details)));
    }
    let kinds = ["nodes", "query", "node_group"];
    if kinds.iter().filter(|kind| !scope[**kind].is_null()).count() != 1 {
        return Err(invalid("The scope must have exactly one of nodes, query and node_group"));
    }
    let Some(nodes) = scope["nodes"].as_array() else {
        return Err(invalid("This simulated orchestrator takes a scope of nodes only, a list of certnames"));
    };
    let Some(mut nodes) = nodes.iter().map(|node| node.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>() else {
        return Err(invalid("scope.nodes must be a list of strings"));
    };
    if nodes.is_empty() {
        let message = "No nodes were found for the specified target. Nothing to do.";
        let details = json!({"environment": environment, "target": "nodes"});
        return Err(error(StatusCode::BAD_REQUEST, "empty-target", message, Some(details)));
    }
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}
