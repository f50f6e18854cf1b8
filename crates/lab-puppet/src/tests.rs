//! The answers of the simulated site, call by call and over real TLS on loopback.

mod admission;
mod ca;
mod ca_policy;
mod console;
mod file_sync;
mod orchestrator;
mod puppetdb;
mod wire;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::{Peer, Reply, Request, Service};

use super::{Puppet, PuppetOptions, ServerVersion, TokenState};

/// A site, and who calls it.
struct World {
    puppet: Puppet,
    clock: Clock,
    caller: Option<String>,
    headers: HeaderMap,
}

/// Status and body of an answer.
type Answer = (u16, String);

/// A site with these options, called by the controller.
fn world(change: impl FnOnce(&mut PuppetOptions)) -> World {
    let mut options = PuppetOptions::default();
    change(&mut options);
    let now: Timestamp = "2026-03-04T05:06:07.5Z".parse().unwrap();
    let clock = Clock::standing_at(now);
    let caller = Some(options.controller.clone());
    let puppet = Puppet::new(options, clock.clone()).unwrap();
    World { puppet, clock, caller, headers: HeaderMap::new() }
}

/// A site of this version of Puppet Server.
fn version(text: &str) -> World {
    let version: ServerVersion = text.parse().unwrap();
    world(|options| options.server_version = version)
}

impl World {
    fn called_by_anyone(mut self) -> Self {
        self.caller = None;
        self
    }

    fn called_by(mut self, certname: &str) -> Self {
        self.caller = Some(certname.to_owned());
        self
    }

    fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    fn request(&self, line: &str, body: impl Into<Bytes>) -> Request {
        let (method, target) = line.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let peer = self.caller.as_ref().map(|certname| {
            let pem = self.puppet.credentials(certname).unwrap().cert_pem;
            Peer { chain: vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()] }
        });
        Request {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            path: path.to_owned(),
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers: self.headers.clone(),
            body: body.into(),
            peer,
        }
    }

    /// Calls the CA host; the path is relative to `/puppet-ca/v1/` unless it begins with `/`.
    async fn ca_reply(&self, line: &str, body: impl Into<Bytes>) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/puppet-ca/v1/{path}") };
        let request = self.request(&format!("{method} {path}"), body);
        self.puppet.ca_service().answer(&request).await
    }

    async fn ca(&self, line: &str, body: impl Into<Bytes>) -> Answer {
        answer(self.ca_reply(line, body).await)
    }

    /// Calls PuppetDB; the path is relative to `/pdb/` unless it begins with `/`.
    async fn pdb_reply(&self, line: &str, body: impl Into<Bytes>) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/pdb/{path}") };
        let request = self.request(&format!("{method} {path}"), body);
        self.puppet.puppetdb_service().answer(&request).await
    }

    async fn pdb(&self, line: &str, body: impl Into<Bytes>) -> Answer {
        answer(self.pdb_reply(line, body).await)
    }

    async fn pdb_json(&self, line: &str, body: impl Into<Bytes>) -> Value {
        serde_json::from_str(&self.pdb(line, body).await.1).unwrap()
    }

    /// Calls the orchestrator; the path is relative to `/orchestrator/v1/` unless it begins with `/`.
    async fn orchestrator(&self, line: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/orchestrator/v1/{path}") };
        let request = self.request(&format!("{method} {path}"), body);
        parsed(self.puppet.orchestrator_service().answer(&request).await)
    }

    /// Calls the port of classifier and RBAC.
    async fn console(&self, line: &str, body: impl Into<Bytes>) -> (u16, Value) {
        parsed(self.puppet.console_service().answer(&self.request(line, body)).await)
    }

    /// Serials in the CRL that agents are given.
    async fn crl(&self) -> Vec<u64> {
        let (status, pem) = self.ca("GET certificate_revocation_list/ca", "").await;
        assert_eq!(status, 200);
        let signing = pem::parse_many(pem).unwrap().remove(0);
        let (_, crl) = x509_parser::parse_x509_crl(signing.contents()).unwrap();
        crl.iter_revoked_certificates()
            .map(|entry| entry.raw_serial().iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            .collect()
    }

    fn serial(&self, certname: &str) -> u64 {
        self.puppet.site.ca().signed[certname].serial
    }
}

fn answer(reply: Reply) -> Answer {
    (reply.status().as_u16(), String::from_utf8(reply.into_body().into()).unwrap())
}

/// Status and JSON body of an answer; null: it has none.
fn parsed(reply: Reply) -> (u16, Value) {
    let (status, body) = answer(reply);
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// A Puppet Enterprise site, called with a token that has these permissions.
fn enterprise(permissions: &[&str]) -> World {
    let valid = TokenState::Valid(permissions.iter().map(|one| (*one).to_owned()).collect());
    let tokens = [("good", valid), ("old", TokenState::Expired), ("revoked", TokenState::Revoked)];
    let tokens = tokens.map(|(token, state)| (token.to_owned(), state));
    let world = world(|options| {
        *options = PuppetOptions { rbac_tokens: Some(tokens.into()), ..PuppetOptions::enterprise() };
    });
    world.called_by_anyone().with_header("x-authentication", "good")
}

fn said(status: u16, body: &str) -> Answer {
    (status, body.to_owned())
}
