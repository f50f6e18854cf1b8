//! `/status/v1`, the same on every Puppet service. No I/O.
//! (<https://www.puppet.com/docs/puppet/8/server/status-api/v1/services.html>)

use http::StatusCode;
use serde_json::{Map, Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use crate::options::ServiceState;
use crate::reply::{PLAIN_UTF8, json as json_reply, typed};

const JSON: &str = "application/json; charset=utf-8";

/// One service behind a port.
pub(crate) struct Reported {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) status: Value,
}

/// Answers a request whose path begins with `/status/v1/`.
pub(crate) fn answer(request: &Request, state: ServiceState, services: &[Reported]) -> Reply {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().skip(2).map(String::as_str).collect();
    let known = |name: &str| services.iter().find(|service| service.name == name);
    let missing = |name: &str| typed(StatusCode::NOT_FOUND, PLAIN_UTF8, format!("not found: {name}"));
    let status = if state == ServiceState::Running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match segments[..] {
        ["simple"] => typed(status, PLAIN_UTF8, state.word()),
        ["simple", name] if known(name).is_some() => typed(status, PLAIN_UTF8, state.word()),
        ["simple", name] => missing(name),
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
                        .map(|service| (service.name.to_owned(), object(service, state, level)))
                        .collect();
                    json_reply(status, JSON, &Value::Object(all))
                }
                [name] => match known(name) {
                    Some(service) => json_reply(status, JSON, &object(service, state, level)),
                    None => missing(name),
                },
                _ => typed(StatusCode::NOT_FOUND, PLAIN_UTF8, "Not Found"),
            }
        }
        _ => typed(StatusCode::NOT_FOUND, PLAIN_UTF8, "Not Found"),
    }
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
