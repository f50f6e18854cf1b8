//! The orchestrator: its routes and their answers. No network I/O.
//! (<https://help.puppet.com/pe/current/topics/orchestrator_api_v1_endpoints.htm>)

mod deploy;
mod job;
mod run;
mod state;

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Call, Reply, Request, Service};

pub(crate) use job::Job;
pub use state::RunScript;
pub(crate) use state::{Connected, Orchestrator, Ran};

use super::access::Caller;
use super::admission::Services;
use super::describe::describe;
use super::{Failure, failure, ok};
use crate::site::Site;
use crate::status_api::{self, Reported};

/// The orchestrator and the status service beside it: port 8143.
pub struct OrchestratorService {
    site: Arc<Site>,
}

impl OrchestratorService {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }
}

impl Service for OrchestratorService {
    fn describe(&self, request: &Request) -> Call {
        describe("orchestrator", request)
    }

    fn accepts(&self) -> bool {
        !self.site.orchestrator().is_down && self.site.services() != Services::Refusing
    }

    async fn answer(&self, request: &Request) -> Reply {
        if self.site.services() == Services::Starting {
            return status_api::starting();
        }
        let options = self.site.options();
        if request.path.starts_with("/status/v1/") {
            let services = ["orchestrator-service", "broker-service"].map(|name| Reported::new(name, &"2023.8.0"));
            return status_api::answer(request, options.enterprise_state, &services);
        }
        let caller = match Caller::of(request, &options, self.site.clock.now()) {
            Ok(caller) => caller,
            Err(refusal) => return refusal.reply(),
        };
        route(&self.site, request, &caller)
    }
}

fn route(site: &Arc<Site>, request: &Request, caller: &Caller) -> Reply {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let Some(["orchestrator", "v1"]) = segments.get(..2) else {
        return not_found(request);
    };
    let needed = match segments[2] {
        "command" => "puppet_agent:run",
        "inventory" => "nodes:view_data",
        _ => "orchestrator:view",
    };
    if !caller.may(needed, "*") {
        let message = format!("You are not permitted to do this: it needs {needed}.");
        return error(StatusCode::FORBIDDEN, "not-permitted", &message, Some(json!({"permission": needed}))).reply();
    }
    match (&request.method, &segments[2..]) {
        (&Method::POST, ["command", "deploy"]) => deploy::answer(site, request),
        (&Method::GET, ["jobs"]) => jobs(site, request),
        (&Method::GET, ["jobs", id]) => of_job(site, id, Job::json),
        (&Method::GET, ["jobs", id, "nodes"]) => of_job(site, id, Job::nodes_json),
        (&Method::GET, ["jobs", id, "events"]) => {
            let start = request.query("start").and_then(|start| start.parse().ok()).unwrap_or(0);
            of_job(site, id, |job| job.events_json(start))
        }
        (&Method::GET, ["inventory"]) => {
            let orchestrator = site.orchestrator();
            let names: Vec<String> = orchestrator.connected_names().map(str::to_owned).collect();
            ok(&json!({"items": names.iter().map(|name| orchestrator.inventory(name)).collect::<Vec<_>>()}))
        }
        (&Method::GET, ["inventory", name]) => ok(&site.orchestrator().inventory(name)),
        (&Method::POST, ["inventory"]) => inventory(site, request),
        _ => not_found(request),
    }
}

fn error(status: StatusCode, kind: &str, message: &str, details: Option<Value>) -> Failure {
    failure(status, &format!("puppetlabs.orchestrator/{kind}"), message, details)
}

fn invalid(message: &str) -> Failure {
    error(StatusCode::BAD_REQUEST, "validation-error", message, None)
}

fn not_found(request: &Request) -> Reply {
    let message = format!("Not found: {}", request.path);
    failure(StatusCode::NOT_FOUND, "puppetlabs.orchestrator/not-found", &message, None).reply()
}

fn of_job(site: &Site, id: &str, show: impl FnOnce(&Job) -> Value) -> Reply {
    let Ok(number) = id.parse::<u64>() else {
        return invalid(&format!("Expected an integer as job id, got {id}")).reply();
    };
    let shown = site.orchestrator().jobs.get(&number).map(show);
    shown.map_or_else(
        || {
            let message = format!("Job with id {id} not found");
            error(StatusCode::NOT_FOUND, "unknown-job", &message, Some(json!({"job": id}))).reply()
        },
        |shown| ok(&shown),
    )
}

/// `GET jobs`: in pages, sorted.
fn jobs(site: &Site, request: &Request) -> Reply {
    let number = |name: &str, default: usize| match request.query(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| invalid(&format!("{name} must be a non-negative integer, not {text}"))),
    };
    let (limit, offset) = match (number("limit", 1000), number("offset", 0)) {
        (Ok(limit), Ok(offset)) => (limit, offset),
        (Err(refusal), _) | (_, Err(refusal)) => return refusal.reply(),
    };
    let order_by = request.query("order_by").unwrap_or("timestamp");
    let order = request.query("order").unwrap_or("asc");
    let kind = request.query("type").unwrap_or("");
    if !["owner", "timestamp", "environment", "name", "state"].contains(&order_by) {
        return invalid(&format!("order_by cannot be {order_by}")).reply();
    }
    if !["asc", "desc"].contains(&order) {
        return invalid(&format!("order must be asc or desc, not {order}")).reply();
    }
    let orchestrator = site.orchestrator();
    // Puppet runs are the only jobs here; tasks and plans would be others.
    let mut jobs: Vec<&Job> = orchestrator.jobs.values().filter(|_| kind.is_empty() || kind == "deploy").collect();
    match order_by {
        "timestamp" => jobs.sort_by_key(|job| (job.changed(), job.id)),
        "environment" => jobs.sort_by_key(|job| (job.environment.clone(), job.id)),
        "state" => jobs.sort_by_key(|job| (job.state(), job.id)),
        // They all have one owner.
        _ => jobs.sort_by_key(|job| job.id),
    }
    if order == "desc" {
        jobs.reverse();
    }
    let items: Vec<Value> = jobs.iter().skip(offset).take(limit).map(|job| job.json()).collect();
    ok(&json!({
        "items": items,
        "pagination": {
            "limit": limit, "offset": offset, "order_by": order_by, "order": order,
            "total": jobs.len(), "type": kind,
        },
    }))
}

fn inventory(site: &Site, request: &Request) -> Reply {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let names = body["nodes"].as_array().map(|names| names.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let Some(Some(names)) = names else {
        return invalid("The request must have the key nodes, a list of certnames").reply();
    };
    let orchestrator = site.orchestrator();
    ok(&json!({"items": names.iter().map(|name| orchestrator.inventory(name)).collect::<Vec<_>>()}))
}
