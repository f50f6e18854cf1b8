//! `certificate`, `certificate_revocation_list` and `expirations`. No I/O.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use super::is_newer;
use crate::ca::Issued;
use crate::options::PuppetOptions;
use crate::reply::{PLAIN, json as json_reply, typed};
use crate::site::Site;
use crate::x509::utc;

/// `GET certificate/{name}`; the name `ca` means the CA's own certificates.
pub(super) fn get(site: &Site, request: &Request, name: &str) -> Reply {
    let found = if name == "ca" {
        Some((site.authority.bundle_pem(), site.authority.made))
    } else {
        let ca = site.ca();
        let text = |issued: &Issued| if ca.emptied.contains(name) { String::new() } else { issued.pem() };
        ca.signed.get(name).map(|issued| (text(issued), issued.written))
    };
    match found {
        Some((pem, written)) if is_newer(request, written) => typed(StatusCode::OK, PLAIN, pem),
        Some(_) => typed(StatusCode::NOT_MODIFIED, PLAIN, ""),
        None => typed(StatusCode::NOT_FOUND, PLAIN, format!("Could not find certificate {name}")),
    }
}

/// `GET certificate_revocation_list/{any}`: the chain's CRLs, the signing CA's first.
pub(super) fn get_crl(site: &Site, request: &Request, options: &PuppetOptions) -> Reply {
    let ca = site.ca();
    let (crl, written) =
        if options.enable_infra_crl { (&ca.infra_crl, ca.infra_crl_written) } else { (&ca.crl, ca.crl_written) };
    if !is_newer(request, options.on_ca_clock(written)) {
        return typed(StatusCode::NOT_MODIFIED, PLAIN, "");
    }
    let (_, root) = site.authority.root_crl();
    typed(StatusCode::OK, PLAIN, crl.pem() + &root.pem())
}

/// `GET expirations`.
pub(super) fn expirations(site: &Site) -> Reply {
    let ca = site.ca();
    let (root, root_crl) = site.authority.root_crl();
    let crls = [(site.authority.signing_name(), ca.crl.next_update), (root, root_crl.next_update)];
    let dated = |entries: [(&'static str, Timestamp); 2]| {
        let entries = entries.map(|(name, at)| (name.to_owned(), Value::from(utc(at))));
        Map::from_iter(entries)
    };
    let body = json!({"ca-certs": dated(site.authority.expirations()), "crls": dated(crls)});
    json_reply(StatusCode::OK, "application/json", &body)
}
