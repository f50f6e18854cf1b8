//! The services that only Puppet Enterprise has: orchestrator, classifier, RBAC and file sync. Who may call them, what the
//! journal sees of it, and their errors. No network I/O.

mod access;
pub(crate) mod admission;
pub(crate) mod classifier;
mod console;
mod describe;
pub(crate) mod file_sync;
pub(crate) mod orchestrator;
mod rbac;
pub(crate) mod token;

use http::StatusCode;
use serde_json::{Value, json};
use stagedoor_lab_core::server::Reply;

use super::reply::json as json_reply;

pub use admission::{BegunRun, Right};
pub use classifier::NodeGroup;
pub use console::ConsoleService;
pub use orchestrator::{OrchestratorService, RunScript};

const JSON: &str = "application/json; charset=utf-8";

fn ok(body: &Value) -> Reply {
    json_reply(StatusCode::OK, JSON, body)
}

/// An error as all these services write it.
struct Failure {
    status: StatusCode,
    body: Value,
}

fn failure(status: StatusCode, kind: &str, message: &str, details: Option<Value>) -> Failure {
    let mut body = json!({"kind": kind, "msg": message});
    if let Some(details) = details {
        body["details"] = details;
    }
    Failure { status, body }
}

impl Failure {
    fn reply(&self) -> Reply {
        json_reply(self.status, JSON, &self.body)
    }
}
