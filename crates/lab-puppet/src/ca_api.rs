//! The HTTP API of the CA: routes, authorization, and the answers outside of any route. No network I/O.
//! (<https://www.puppet.com/docs/puppet/8/http_api/http_api_index.html>)

mod certificate;
mod clean;
mod request;
mod sign;
mod status;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::DATE;
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Call, Reply, Request, Service};

use super::auth_conf::authorize;
use super::ca::Thrown;
use super::enterprise::admission::Services;
use super::enterprise::file_sync;
use super::options::{PuppetOptions, ServiceState};
use super::reply::{PLAIN_UTF8, bare, header, typed};
use super::site::Site;
use super::status_api::{self, Reported};
use super::x509::certificate::ClientName;

/// The CA and the status service beside it: port 8140 of the CA host.
pub struct CaService {
    site: Arc<Site>,
}

impl CaService {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }

    /// What runs in Puppet Server on the CA's host.
    fn services(&self, request: &Request, options: &PuppetOptions) -> Vec<Reported> {
        let mut services = ["ca", "server"].map(|name| Reported::new(name, &options.server_version)).to_vec();
        if options.enterprise {
            let status = self.site.file_sync().status(request.query("level"), self.site.clock.now());
            let storage = Reported::new(file_sync::SERVICE, &options.server_version);
            services.push(Reported { status, state: Some(options.file_sync_state), ..storage });
        }
        services
    }

    async fn route(&self, request: &Request, options: &PuppetOptions) -> Reply {
        let site = &*self.site;
        let segments = request.segments();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let Some(["puppet-ca", "v1"]) = segments.get(..2) else {
            return not_found();
        };
        match (&request.method, &segments[2..]) {
            (_, ["certificate_status", name]) => status::answer(site, request, name, options).await,
            (_, ["certificate_statuses", ""]) => typed(StatusCode::BAD_REQUEST, PLAIN_UTF8, "Missing URL Segment"),
            (_, ["certificate_statuses", _]) => status::all(site, request),
            (&Method::GET, ["certificate", name]) => certificate::get(site, request, name),
            (&Method::GET, ["certificate_request", name]) => request::get(site, name),
            (&Method::PUT, ["certificate_request", name]) => request::put(site, request, name, options).await,
            (&Method::DELETE, ["certificate_request", name]) => request::delete(site, name),
            (&Method::GET, ["certificate_revocation_list", _]) => certificate::get_crl(site, request, options),
            (&Method::GET, ["expirations"]) => certificate::expirations(site),
            (&Method::PUT, ["clean"]) if options.server_version.has_clean() => clean::put(site, request, options).await,
            (&Method::POST, ["sign"]) if options.server_version.has_bulk_signing() => {
                sign::post(site, request, options).await
            }
            (&Method::POST, ["sign", "all"]) if options.server_version.has_bulk_signing() => {
                sign::post_all(site, options).await
            }
            _ => not_found(),
        }
    }
}

impl Service for CaService {
    fn describe(&self, request: &Request) -> Call {
        // What the controller calls is counted apart from what agents do on their own.
        let from_agent = header(&request.headers, "user-agent").is_some_and(|agent| agent.starts_with("Puppet/"));
        describe(if from_agent { "agent" } else { "ca" }, request)
    }

    fn accepts(&self) -> bool {
        self.site.services() != Services::Refusing
    }

    async fn answer(&self, request: &Request) -> Reply {
        if self.site.services() == Services::Starting {
            return status_api::starting();
        }
        let options = self.site.options();
        let client = client(request);
        let token = header(&request.headers, "x-authentication");
        let now = self.site.clock.now();
        let allowed = authorize(&request.method, &request.path, client.as_ref(), token, &options, now);
        if request.path.starts_with("/status/v1/") {
            return match allowed {
                Ok(()) => status_api::answer(request, options.server_state, &self.services(request, &options)),
                Err(refusal) => bare(StatusCode::FORBIDDEN, refusal),
            };
        }
        let mut reply = match allowed {
            Ok(()) => self.route(request, &options).await,
            Err(refusal) => bare(StatusCode::FORBIDDEN, refusal),
        };
        if let Ok(version) = HeaderValue::try_from(options.server_version.to_string()) {
            reply.headers_mut().insert("X-Puppet-Version", version);
        }
        let date = options.on_ca_clock(self.site.clock.host_now()).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = HeaderValue::try_from(date) {
            reply.headers_mut().insert(DATE, date);
        }
        reply
    }
}

/// The call for the journal. Certnames in paths become `{certname}`; the text of a signing request may
/// hold a one-time secret and is left out.
pub(crate) fn describe(service: &'static str, request: &Request) -> Call {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let named = match segments[..] {
        ["puppet-ca", "v1", "certificate" | "certificate_request" | "certificate_status", name]
        | ["pdb", "query", "v4", "nodes", name] => Some(name.to_owned()),
        _ => None,
    };
    let path = match (&named, segments.split_last()) {
        (Some(_), Some((_, parents))) => format!("/{}/{{certname}}", parents.join("/")),
        _ => request.path.clone(),
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let in_body = || {
        let one = body.get("certname").or_else(|| body.pointer("/payload/certname"));
        let only = body.get("certnames").and_then(Value::as_array).filter(|names| names.len() == 1);
        one.or_else(|| only?.first()).and_then(Value::as_str).map(str::to_owned)
    };
    let subject = named.or_else(|| request.query("certname").map(str::to_owned)).or_else(in_body);
    journalled(service, request, &path, subject, &body)
}

/// A request as the journal has it: with its query, but for a token.
pub(crate) fn journalled(
    service: &'static str,
    request: &Request,
    path: &str,
    subject: Option<String>,
    body: &Value,
) -> Call {
    let query: serde_json::Map<String, Value> = request
        .query
        .iter()
        .filter(|(key, _)| key != "token")
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    Call {
        service,
        call: format!("{} {path}", request.method),
        subject,
        caller: client(request).map(|client| client.common_name),
        request: json!({"query": query, "body": body}),
    }
}

/// The client certificate of the connection.
pub(crate) fn client(request: &Request) -> Option<ClientName> {
    thread_local! {
        /// The client that was read last: most calls in a row are of one client.
        static LAST: RefCell<Option<(CertificateDer<'static>, ClientName)>> = const { RefCell::new(None) };
    }
    let certificate = request.peer.as_ref()?.chain.first()?;
    LAST.with_borrow_mut(|last| match last {
        Some((of, client)) if of == certificate => Some(client.clone()),
        _ => {
            let client = ClientName::read(certificate).ok()?;
            *last = Some((certificate.clone(), client.clone()));
            Some(client)
        }
    })
}

/// The Status API of Puppet Server on a compiler, which has no CA. `states` are those of services that are in another state than the
/// rest.
#[must_use]
pub fn compiler_status(
    request: &Request,
    state: ServiceState,
    states: &BTreeMap<String, ServiceState>,
    options: &PuppetOptions,
) -> Reply {
    if !request.path.starts_with("/status/v1/") {
        return not_found();
    }
    let names: &[&'static str] =
        if options.enterprise { &["server", "file-sync-client-service", "broker-service"] } else { &["server"] };
    let service = |name: &&'static str| Reported {
        state: states.get(*name).copied(),
        ..Reported::new(name, &options.server_version)
    };
    let services: Vec<Reported> = names.iter().map(service).collect();
    status_api::answer(request, state, &services)
}

fn not_found() -> Reply {
    typed(StatusCode::NOT_FOUND, "text/html; charset=utf-8", "Not Found")
}

/// An exception that no handler caught.
fn uncaught(thrown: &Thrown) -> Reply {
    let body = format!("Internal Server Error: {}: {}", thrown.class, thrown.message);
    typed(StatusCode::INTERNAL_SERVER_ERROR, PLAIN_UTF8, body)
}

/// Whether a file written then is newer than what the client has. A date that cannot be read does not count.
fn is_newer(request: &Request, written: Timestamp) -> bool {
    header(&request.headers, "if-modified-since")
        .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
        .is_none_or(|known| written > known.timestamp())
}

/// The body as JSON; `null` and `false` count as no JSON, as they do in Puppet Server.
fn json_body(request: &Request) -> Option<Value> {
    serde_json::from_slice(&request.body).ok().filter(|body| !matches!(body, Value::Null | Value::Bool(false)))
}
