//! `POST /pdb/admin/v1/cmd`: delete a node at once, clean up. No I/O.

use http::StatusCode;
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use super::{error, ok};
use crate::site::Site;

pub(super) fn answer(site: &Site, request: &Request) -> Reply {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let payload = &body["payload"];
    match (body["command"].as_str(), body["version"].as_u64()) {
        (Some("delete"), Some(1)) => match payload["certname"].as_str() {
            Some(certname) => {
                site.puppetdb().nodes.remove(certname);
                ok(&json!({"deleted": certname}))
            }
            None => error(StatusCode::BAD_REQUEST, &format!("Invalid command {body}")),
        },
        (Some("clean"), Some(1)) if payload.is_array() => {
            if purges(payload) {
                site.puppetdb().nodes.retain(|_, record| record.deactivated.is_none());
            }
            ok(&json!({"ok": true}))
        }
        _ => error(StatusCode::BAD_REQUEST, &format!("Invalid command {body}")),
    }
}

/// An empty list means every kind of clean-up.
fn purges(payload: &Value) -> bool {
    let steps = payload.as_array().map_or(&[][..], Vec::as_slice);
    steps.is_empty() || steps.iter().any(|step| step == "purge_nodes" || step[0] == "purge_nodes")
}
