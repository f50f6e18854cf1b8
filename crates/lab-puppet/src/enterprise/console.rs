//! What answers on port 4433: classifier and RBAC. No network I/O.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;
use stagedoor_lab_core::server::{Call, Reply, Request, Service};

use super::access::Caller;
use super::admission::Services;
use super::describe::describe;
use super::{classifier, failure, rbac};
use crate::site::Site;
use crate::status_api::{self, Reported};

/// Classifier, RBAC and the status service beside them: port 4433.
pub struct ConsoleService {
    site: Arc<Site>,
}

impl ConsoleService {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }
}

impl Service for ConsoleService {
    fn describe(&self, request: &Request) -> Call {
        describe(if request.path.starts_with("/rbac-api/") { "rbac" } else { "classifier" }, request)
    }

    fn accepts(&self) -> bool {
        self.site.services() != Services::Refusing
    }

    async fn answer(&self, request: &Request) -> Reply {
        if self.site.services() == Services::Starting {
            return status_api::starting();
        }
        let options = self.site.options();
        let now = self.site.clock.now();
        if request.path.starts_with("/status/v1/") {
            let services =
                ["rbac-service", "classifier-service", "activity-service"].map(|name| Reported::new(name, &"2023.8.0"));
            return status_api::answer(request, options.enterprise_state, &services);
        }
        if request.method == Method::POST && request.path == "/rbac-api/v2/auth/token/authenticate" {
            return rbac::authenticate(request, &options, now);
        }
        let caller = match Caller::of(request, &options, now) {
            Ok(caller) => caller,
            Err(refusal) => return refusal.reply(),
        };
        classifier::answer(&self.site, request, &caller)
    }
}

pub(super) fn not_found(request: &Request) -> Reply {
    let message = "The resource could not be found";
    failure(StatusCode::NOT_FOUND, "not-found", message, Some(json!(request.path))).reply()
}
