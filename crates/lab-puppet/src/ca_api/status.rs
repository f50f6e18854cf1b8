//! `certificate_status` and `certificate_statuses`, with the order of checks of the Liberator library:
//! method, malformed body, content type, `Accept`, existence, conflict, action. No I/O.

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use jiff::SignedDuration;
use serde_json::Value;
use stagedoor_lab_core::server::{Reply, Request};

use super::{json_body, uncaught};
use crate::ca::policy::{check_contents, check_subject};
use crate::ca::{Ca, Thrown};
use crate::options::PuppetOptions;
use crate::reply::{PLAIN, accepts, bare, json as json_reply, media_type, typed};
use crate::site::{SERVER, Site, crowd_name};

const MEDIA_TYPES: [&str; 3] = ["application/json", "text/pson", "pson"];
/// What Liberator says before it has negotiated a type …
const PLAIN_LIBERATOR: &str = "text/plain;charset=UTF-8";
/// … and after, for texts too.
const JSON_LIBERATOR: &str = "application/json;charset=UTF-8";
/// What the handlers of conflicts set themselves.
const PLAIN_CONFLICT: &str = "text/plain; charset=UTF-8";

/// What a PUT asks for.
enum Desired {
    Signed { ttl: Option<SignedDuration> },
    Revoked,
}

/// `certificate_status/{name}`.
pub(super) async fn answer(site: &Site, request: &Request, name: &str, options: &PuppetOptions) -> Reply {
    let desired = match request.method {
        Method::PUT => match desired(request, name) {
            Ok(desired) => Some(desired),
            Err(text) => return typed(StatusCode::BAD_REQUEST, PLAIN_LIBERATOR, text),
        },
        Method::GET | Method::DELETE => None,
        _ => return method_not_allowed("GET, PUT, DELETE"),
    };
    let json_type = media_type(&request.headers).is_none_or(|sent| MEDIA_TYPES.contains(&sent));
    if desired.is_some() && !json_type {
        let text = "Unsupported media type.";
        return typed(StatusCode::UNSUPPORTED_MEDIA_TYPE, PLAIN_LIBERATOR, text);
    }
    if !accepts(&request.headers, &MEDIA_TYPES) {
        return not_acceptable();
    }
    match desired {
        Some(desired) => put(site, name, &desired, options).await,
        None if request.method == Method::GET => get(&site.ca(), name, options),
        None => delete(site, name, options),
    }
}

fn get(ca: &Ca, name: &str, options: &PuppetOptions) -> Reply {
    if ca.emptied.contains(name) {
        return uncaught(&Thrown::not_a_certificate());
    }
    match ca.status(name) {
        Some(status) => json_reply(StatusCode::OK, JSON_LIBERATOR, &status),
        // The name counts as there, so the server goes on to read a file that is not.
        None if options.server_version.status_needs_file() && ca.is_in_inventory(name) => {
            uncaught(&Thrown::file_not_found("requests", name))
        }
        None => typed(StatusCode::NOT_FOUND, JSON_LIBERATOR, "Resource not found."),
    }
}

/// Removes certificate and request; revokes nothing.
fn delete(site: &Site, name: &str, options: &PuppetOptions) -> Reply {
    let mut ca = site.ca();
    if !ca.is_issued(name, options) && !ca.requests.contains_key(name) {
        return typed(StatusCode::NOT_FOUND, JSON_LIBERATOR, "Resource not found.");
    }
    ca.signed.remove(name);
    ca.requests.remove(name);
    bare(StatusCode::NO_CONTENT, "")
}

async fn put(site: &Site, name: &str, desired: &Desired, options: &PuppetOptions) -> Reply {
    let _turn = site.take_time_to_write(options).await;
    let (issued, pending) = {
        let ca = site.ca();
        let pending = ca.requests.get(name).map(|pending| pending.request.clone());
        (ca.is_issued(name, options), pending)
    };
    if !issued && pending.is_none() {
        return typed(StatusCode::NOT_FOUND, PLAIN_CONFLICT, "Invalid certificate subject.");
    }
    let conflict = |text: String| typed(StatusCode::CONFLICT, PLAIN_CONFLICT, text);
    let done = match (desired, pending) {
        (Desired::Revoked, _) if !issued => {
            return conflict(format!("Cannot revoke certificate for host {name} without a signed certificate"));
        }
        (Desired::Revoked, _) => site.revoke(&[name], options),
        (Desired::Signed { .. }, None) => {
            return conflict(format!("Cannot sign certificate for host {name} without a certificate request"));
        }
        (Desired::Signed { ttl }, Some(request)) => {
            let checked = check_subject(name, &request.common_name).and_then(|()| check_contents(&request, options));
            match checked {
                Ok(()) => site.sign(name, *ttl, options),
                Err(text) => return conflict(text),
            }
        }
    };
    match done {
        Ok(()) => typed(StatusCode::NO_CONTENT, PLAIN, ""),
        Err(thrown) => uncaught(&thrown),
    }
}

fn desired(request: &Request, name: &str) -> Result<Desired, String> {
    if request.body.is_empty() {
        return Err("Empty request body.".to_owned());
    }
    let body = json_body(request).ok_or("Request body is not JSON.")?;
    let state =
        body.get("desired_state").and_then(Value::as_str).ok_or("Missing required parameter \"desired_state\"")?;
    if !["signed", "revoked"].contains(&state) {
        return Err(format!(
            "State {state} invalid; Must specify desired state of 'signed' or 'revoked' for host {name}."
        ));
    }
    let ttl = match body.get("cert_ttl") {
        None | Some(Value::Null | Value::Bool(false)) => None,
        Some(ttl) => Some(SignedDuration::from_secs(ttl.as_i64().ok_or_else(|| {
            let printed = ttl.as_str().map_or_else(|| ttl.to_string(), str::to_owned);
            format!("cert_ttl specified for host {name} must be an integer, not \"{printed}\"")
        })?)),
    };
    Ok(match state {
        "signed" => Desired::Signed { ttl },
        _ => Desired::Revoked,
    })
}

/// `certificate_statuses/{any}?state=…`: requests first, then certificates.
pub(super) fn all(site: &Site, request: &Request) -> Reply {
    if request.method != Method::GET {
        return method_not_allowed("GET");
    }
    if !accepts(&request.headers, &MEDIA_TYPES) {
        return not_acceptable();
    }
    let ca = site.ca();
    // Requests are read from a directory of their own.
    if request.query("state") != Some("requested") && !ca.emptied.is_empty() {
        return uncaught(&Thrown::not_a_certificate());
    }
    let requests = || ca.requests.keys().filter_map(|name| ca.request_status(name));
    let certificates = || ca.signed.keys().filter_map(|name| ca.certificate_status(name));
    let crowd = if request.query("state").is_none_or(|state| state == "signed") { ca.crowd } else { 0 };
    let statuses: Vec<Value> = match request.query("state") {
        Some("requested") => requests().collect(),
        Some(state @ ("signed" | "revoked")) => certificates().filter(|status| status["state"] == state).collect(),
        _ => requests().chain(certificates()).collect(),
    };
    if crowd == 0 {
        return json_reply(StatusCode::OK, JSON_LIBERATOR, &Value::Array(statuses));
    }
    // As text: as values, so many would not fit into memory.
    let known = statuses.iter().map(Value::to_string);
    let alike = ca.certificate_status(SERVER).unwrap_or_default().to_string();
    let others = (0..crowd).map(|number| alike.replace("\"puppet\"", &format!("\"{}\"", crowd_name(number))));
    let list: Vec<String> = known.chain(others).collect();
    typed(StatusCode::OK, JSON_LIBERATOR, format!("[{}]", list.join(",")))
}

fn method_not_allowed(allowed: &'static str) -> Reply {
    let text = "Method not allowed.";
    let mut reply = typed(StatusCode::METHOD_NOT_ALLOWED, PLAIN_LIBERATOR, text);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

fn not_acceptable() -> Reply {
    let text = "No acceptable resource available.";
    typed(StatusCode::NOT_ACCEPTABLE, PLAIN_LIBERATOR, text)
}
