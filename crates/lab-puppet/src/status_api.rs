//! `/status/v1`, the same on every Puppet service. No I/O.
//! (<https://www.puppet.com/docs/puppet/8/server/status-api/v1/services.html>)

use http::StatusCode;
use serde_json::{Map, Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use crate::options::ServiceState;
use crate::reply::{PLAIN_UTF8, json as json_reply, typed};

const JSON: &str = "application/json; charset=utf-8";

/// One service behind a port.
#[derive(Clone)]
pub(crate) struct Reported {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) status: Value,
    /// Its own state, where that is not the state of all.
    pub(crate) state: Option<ServiceState>,
}

impl Reported {
    /// A service that says nothing of itself but its version, and is in the state of all.
    pub(crate) fn new(name: &'static str, version: &impl ToString) -> Self {
        Self { name, version: version.to_string(), status: json!({}), state: None }
    }
}

/// Answers a request whose path begins with `/status/v1/`. `state` is that of all services that have none of their own.
pub(crate) fn answer(request: &Request, state: ServiceState, services: &[Reported]) -> Reply {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().skip(2).map(String::as_str).collect();
    let known = |name: &str| services.iter().find(|service| service.name == name);
    let missing = |name: &str| typed(StatusCode::NOT_FOUND, PLAIN_UTF8, format!("not found: {name}"));
    let state_of = |service: &Reported| service.state.unwrap_or(state);
    // All of them run, or the first that does not says why.
    let of_all = services.iter().map(state_of).chain([state]).find(|state| *state != ServiceState::Running);
    let of_all = of_all.unwrap_or(ServiceState::Running);
    let simple = |state: ServiceState| typed(status_code(state), PLAIN_UTF8, state.word());
    match segments[..] {
        ["simple"] => simple(of_all),
        ["simple", name] => known(name).map_or_else(|| missing(name), |service| simple(state_of(service))),
        ["services", ..] => {
            let level = request.query("level").unwrap_or("info");
            if !["critical", "info", "debug"].contains(&level) {
                let body = json!({"kind": "request-data-invalid", "msg": format!("Invalid level: {level}")});
                return json_reply(StatusCode::BAD_REQUEST, JSON, &body);
            }
            match segments[1..] {
                [] => {
                    let all: Map<String, Value> = services
                        .iter()
                        .map(|service| (service.name.to_owned(), object(service, state_of(service), level)))
                        .collect();
                    json_reply(status_code(of_all), JSON, &Value::Object(all))
                }
                [name] => match known(name) {
                    Some(service) => {
                        let state = state_of(service);
                        json_reply(status_code(state), JSON, &object(service, state, level))
                    }
                    None => missing(name),
                },
                _ => typed(StatusCode::NOT_FOUND, PLAIN_UTF8, "Not Found"),
            }
        }
        _ => typed(StatusCode::NOT_FOUND, PLAIN_UTF8, "Not Found"),
    }
}

/// What a service answers to every call while it starts again.
pub(crate) fn starting() -> Reply {
    typed(StatusCode::SERVICE_UNAVAILABLE, PLAIN_UTF8, ServiceState::Starting.word())
}

fn status_code(state: ServiceState) -> StatusCode {
    if state == ServiceState::Running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn object(service: &Reported, state: ServiceState, level: &str) -> Value {
    json!({
        "service_version": service.version,
        "service_status_version": 1,
        "detail_level": level,
        "state": state.word(),
        "status": service.status,
        "active_alerts": [],
    })
}
