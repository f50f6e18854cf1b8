//! The HTTP API of PuppetDB: who may call, routes, and the answers of its middleware. No network I/O.
//! (<https://www.puppet.com/docs/puppetdb/8/api/overview.html>)

mod admin;
mod command;
mod pretty;
pub(crate) mod query;
pub(crate) mod store;

use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Call, Reply, Request, Service};

use super::ca_api::{client, describe};
use super::enterprise::admission::Services;
use super::enterprise::token::{Token, look_up};
use super::options::PuppetOptions;
use super::reply::{PLAIN_UTF8, accepts, header, json as compact, media_type, typed};
use super::site::Site;
use super::status_api::{self, Reported};

const JSON: &str = "application/json; charset=utf-8";

/// PuppetDB and the status service beside it: port 8081.
pub struct PuppetdbService {
    site: Arc<Site>,
}

impl PuppetdbService {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }
}

impl Service for PuppetdbService {
    fn describe(&self, request: &Request) -> Call {
        describe("puppetdb", request)
    }

    fn accepts(&self) -> bool {
        self.site.services() != Services::Refusing
    }

    async fn answer(&self, request: &Request) -> Reply {
        if self.site.services() == Services::Starting {
            return status_api::starting();
        }
        let options = self.site.options();
        if request.path.starts_with("/status/v1/") {
            let status = json!({
                "maintenance_mode?": options.puppetdb_maintenance,
                "read_db_up?": true,
                "write_db_up?": true,
                "queue_depth": self.site.puppetdb().queue_depth(),
            });
            let service = Reported { status, ..Reported::new("puppetdb-status", &options.puppetdb_version) };
            return status_api::answer(request, options.puppetdb_state, &[service]);
        }
        if options.puppetdb_maintenance {
            let text = "PuppetDB is currently down. Try again later.";
            return typed(StatusCode::SERVICE_UNAVAILABLE, PLAIN_UTF8, text);
        }
        if let Some(refusal) = not_allowed(request, &options, self.site.clock.now()).or_else(|| not_negotiable(request))
        {
            return refusal;
        }
        self.site.puppetdb().settle(options.on_puppetdb_clock(self.site.clock.now()));
        route(&self.site, request, &options).await
    }
}

async fn route(site: &Site, request: &Request, options: &PuppetOptions) -> Reply {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (&request.method, &segments[..]) {
        (_, ["pdb", "cmd", "v1"]) => command::answer(site, request, options).await,
        (&Method::POST, ["pdb", "admin", "v1", "cmd"]) => admin::answer(site, request),
        (&Method::GET, ["pdb", "meta", "v1", "version"]) => {
            ok(&json!({"version": options.puppetdb_version.to_string()}))
        }
        (&Method::GET, ["pdb", "meta", "v1", "server-time"]) => {
            ok(&json!({"server_time": store::millis(options.on_puppetdb_clock(site.clock.now()))}))
        }
        (&Method::GET, ["pdb", "query", "v4", "nodes", certname]) => {
            let mut store = site.puppetdb();
            let node = store.nodes.get(*certname).map(|record| record.node(certname));
            store.was_read();
            match node {
                Some(node) => ok(&node),
                None => error(StatusCode::NOT_FOUND, &format!("No information is known about node {certname}")),
            }
        }
        (&Method::GET | &Method::POST, ["pdb", "query", "v4"]) => query::answer(site, request, None),
        (&Method::GET | &Method::POST, ["pdb", "query", "v4", entity]) => query::answer(site, request, Some(entity)),
        _ => typed(StatusCode::NOT_FOUND, "text/html; charset=utf-8", "Not Found"),
    }
}

fn ok(body: &Value) -> Reply {
    pretty_reply(StatusCode::OK, body)
}

fn error(status: StatusCode, text: &str) -> Reply {
    pretty_reply(status, &json!({"error": text}))
}

fn pretty_reply(status: StatusCode, body: &Value) -> Reply {
    typed(status, JSON, pretty::print(body))
}

/// The certificate allow list, and tokens where RBAC is there.
fn not_allowed(request: &Request, options: &PuppetOptions, now: Timestamp) -> Option<Reply> {
    let reads = request.path.starts_with("/pdb/query/") || request.path.starts_with("/pdb/meta/");
    let needed = if reads { "nodes:view_data:*" } else { "nodes:edit_data:*" };
    match look_up(header(&request.headers, "x-authentication"), options, now) {
        Token::Accepted(held) if held.iter().any(|one| one == needed) => return None,
        Token::Rejected { kind, message } => {
            let body = json!({"kind": format!("puppetlabs.rbac/{kind}"), "msg": message});
            return Some(compact(StatusCode::UNAUTHORIZED, JSON, &body));
        }
        Token::Accepted(_) | Token::Absent => {}
    }
    let name = client(request).map(|client| client.common_name);
    let allowed = match (&name, &options.puppetdb_allowlist) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(name), Some(list)) => list.contains(name),
    };
    if allowed {
        return None;
    }
    let name = name.as_deref().unwrap_or("null");
    let text = format!(
        "Permission denied: The client certificate name {name} doesnt appear in the certificate allowlist. \
         Is your master's (or other PuppetDB client's) certname listed in PuppetDB's certificate-allowlist file?"
    );
    Some(typed(StatusCode::FORBIDDEN, PLAIN_UTF8, text))
}

/// Content type and `Accept`.
fn not_negotiable(request: &Request) -> Option<Reply> {
    if request.method == Method::POST
        && let Some(sent) = media_type(&request.headers)
        && sent != "application/json"
    {
        let text = format!("content-type {sent} is not a supported type for request of type :post at {}", request.path);
        let body = json!({"kind": "unsupported-type", "msg": text});
        return Some(compact(StatusCode::UNSUPPORTED_MEDIA_TYPE, JSON, &body));
    }
    if !accepts(&request.headers, &["application/json"]) {
        let body = json!({"kind": "not-acceptable", "msg": "accept header must include application/json"});
        return Some(compact(StatusCode::NOT_ACCEPTABLE, JSON, &body));
    }
    None
}
