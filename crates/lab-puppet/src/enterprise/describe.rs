//! Calls of Puppet Enterprise's services in the words of the journal. No I/O.

use serde_json::Value;
use stagedoor_lab_core::server::{Call, Request};

use crate::ca_api::journalled;

/// Ids and certnames in the path become placeholders; a token in the query or the body is left out.
pub(super) fn describe(service: &'static str, request: &Request) -> Call {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let mut body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    if let Some(body) = body.as_object_mut() {
        body.remove("token");
    }
    let (path, subject) = match segments[..] {
        ["orchestrator", "v1", "jobs", id] => ("/orchestrator/v1/jobs/{id}".to_owned(), Some(id)),
        ["orchestrator", "v1", "jobs", id, part] => (format!("/orchestrator/v1/jobs/{{id}}/{part}"), Some(id)),
        ["orchestrator", "v1", "inventory", name] => ("/orchestrator/v1/inventory/{certname}".to_owned(), Some(name)),
        ["classifier-api", version, "classified", "nodes", name] => {
            (format!("/classifier-api/{version}/classified/nodes/{{certname}}"), Some(name))
        }
        ["classifier-api", "v1", "groups", id] => ("/classifier-api/v1/groups/{id}".to_owned(), Some(id)),
        ["classifier-api", "v1", "groups", id, verb] => {
            (format!("/classifier-api/v1/groups/{{id}}/{verb}"), only(&body["nodes"]).or(Some(id)))
        }
        _ => (request.path.clone(), only(&body["nodes"]).or_else(|| only(&body["scope"]["nodes"]))),
    };
    journalled(service, request, &path, subject.map(str::to_owned), &body)
}

/// The one name in a list.
fn only(names: &Value) -> Option<&str> {
    match names.as_array()?.as_slice() {
        [name] => name.as_str(),
        _ => None,
    }
}
