//! `PUT clean`: revoke and delete many certificates with one CRL write. No I/O.

use http::StatusCode;
use serde_json::Value;
use stagedoor_lab_core::server::{Reply, Request};

use super::json_body;
use crate::options::PuppetOptions;
use crate::reply::{PLAIN, typed};
use crate::site::Site;

pub(super) async fn put(site: &Site, request: &Request, options: &PuppetOptions) -> Reply {
    let refuse = |text: &'static str| typed(StatusCode::BAD_REQUEST, PLAIN, text);
    let Some(body) = json_body(request) else {
        return refuse("Request body is not JSON.");
    };
    if body.get("async") == Some(&Value::Bool(true)) {
        return refuse("Async mode is not currently supported.");
    }
    let Some(certnames) = body.get("certnames").and_then(Value::as_array) else {
        return refuse("Missing required key: 'certnames'. Please supply the list of certs you want to clean.");
    };
    let mut distinct: Vec<&str> = Vec::new();
    for name in certnames.iter().filter_map(Value::as_str) {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    let _turn = site.take_time_to_write(options).await;
    let (issued, missing): (Vec<&str>, Vec<&str>) = {
        let ca = site.ca();
        distinct.into_iter().partition(|name| ca.is_issued(name, options))
    };
    if let Err(thrown) = site.revoke(&issued, options) {
        let body = format!("Error while cleaning certs: {}", thrown.message);
        return typed(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, body);
    }
    let mut ca = site.ca();
    for name in issued {
        // A pending request of the same name stays.
        ca.signed.remove(name);
    }
    if missing.is_empty() {
        return typed(StatusCode::OK, PLAIN, "Successfully cleaned all certs.");
    }
    // A Clojure vector: quoted, separated by spaces.
    let quoted: Vec<String> = missing.into_iter().map(|name| Value::from(name).to_string()).collect();
    let body = format!("The following certs do not exist and cannot be revoked: [{}]", quoted.join(" "));
    typed(StatusCode::OK, PLAIN, body)
}
