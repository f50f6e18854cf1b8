//! `POST sign` and `POST sign/all`: many requests at once, always 200. No I/O.

use http::StatusCode;
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use super::json_body;
use crate::ca::policy::check_contents;
use crate::options::PuppetOptions;
use crate::reply::json as json_reply;
use crate::site::Site;

const JSON: &str = "application/json";

pub(super) async fn post(site: &Site, request: &Request, options: &PuppetOptions) -> Reply {
    let certnames =
        json_body(request).and_then(|mut body| body.get_mut("certnames").map(Value::take)).unwrap_or_else(|| json!([]));
    if let Some(error) = schema_error(&certnames) {
        let body = json!({"kind": "schema-violation", "submitted": certnames, "error": error});
        return json_reply(StatusCode::UNPROCESSABLE_ENTITY, JSON, &body);
    }
    let listed = certnames.as_array().into_iter().flatten();
    sign(site, listed.filter_map(Value::as_str).map(str::to_owned).collect(), options).await
}

pub(super) async fn post_all(site: &Site, options: &PuppetOptions) -> Reply {
    let pending = site.ca().requests.keys().cloned().collect();
    sign(site, pending, options).await
}

async fn sign(site: &Site, certnames: Vec<String>, options: &PuppetOptions) -> Reply {
    let _turn = site.take_time_to_write(options).await;
    let (mut signed, mut absent, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for name in certnames {
        let request = site.ca().requests.get(&name).map(|pending| pending.request.clone());
        let Some(request) = request else {
            absent.push(name);
            continue;
        };
        // The reason of a failure goes to the server's log only.
        match check_contents(&request, options) {
            Ok(()) if site.sign(&name, None, options).is_ok() => signed.push(name),
            _ => failed.push(name),
        }
    }
    let body = json!({"signed": signed, "no-csr": absent, "signing-errors": failed});
    json_reply(StatusCode::OK, JSON, &body)
}

/// The words of the schema library for a value that is not a list of strings; none is a list too.
fn schema_error(certnames: &Value) -> Option<String> {
    let list = match certnames {
        Value::Null => return None,
        Value::Array(list) => list,
        other => return Some(format!("(not (sequential? {other}))")),
    };
    if list.iter().all(Value::is_string) {
        return None;
    }
    let verdicts: Vec<String> = list
        .iter()
        .map(|entry| match entry {
            Value::String(_) => "nil".to_owned(),
            other => format!("(not (instance? java.lang.String {other}))"),
        })
        .collect();
    Some(format!("[{}]", verdicts.join(" ")))
}
