//! `certificate_request`: what agents submit. No I/O.

use http::StatusCode;
use stagedoor_lab_core::server::{Reply, Request};

use super::uncaught;
use crate::ca::{CA_DIRECTORY, Pending, Thrown};
use crate::options::PuppetOptions;
use crate::reply::{PLAIN, PLAIN_UTF8, bare, typed};
use crate::site::{NotSubmitted, Site};
use crate::x509::request::SigningRequest;

pub(super) fn get(site: &Site, name: &str) -> Reply {
    if let Some(pending) = site.ca().requests.get(name) {
        return typed(StatusCode::OK, PLAIN, pending.request.pem());
    }
    typed(StatusCode::NOT_FOUND, PLAIN, format!("Could not find certificate_request {name}"))
}

/// Answers 200 for "saved" and for "saved and signed" alike.
pub(super) async fn put(site: &Site, request: &Request, name: &str, options: &PuppetOptions) -> Reply {
    let pending = match SigningRequest::from_pem(&request.body) {
        Ok(request) => Pending { request, key: None },
        Err(error) => {
            return uncaught(&Thrown { class: "java.io.IOException", message: format!("{error:#}") });
        }
    };
    // Only issuing is a write that others wait for.
    let _turn = if options.autosign.covers(name) { Some(site.take_time_to_write(options).await) } else { None };
    match site.submit(name, &pending, options) {
        Ok(()) => typed(StatusCode::OK, PLAIN, ""),
        Err(NotSubmitted::Refused(text)) => typed(StatusCode::BAD_REQUEST, PLAIN_UTF8, text),
        Err(NotSubmitted::Failed(thrown)) => uncaught(&thrown),
    }
}

/// Needs a rule in `auth.conf` that is not shipped.
pub(super) fn delete(site: &Site, name: &str) -> Reply {
    if site.ca().requests.remove(name).is_some() {
        return bare(StatusCode::NO_CONTENT, "");
    }
    let body = format!("No certificate request for {name} at expected path {CA_DIRECTORY}/requests/{name}.pem");
    typed(StatusCode::NOT_FOUND, PLAIN, body)
}
