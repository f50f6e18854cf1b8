//! RBAC: introspection of a token. No I/O.
//! (<https://help.puppet.com/pe/current/topics/rbac_api_v2_tokens.htm>)

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use super::access::{LOGIN, USER_ID};
use super::token::{Token, look_up};
use super::{failure, ok};
use crate::options::PuppetOptions;
use crate::puppetdb::store::millis;

/// How long a token is valid after it was made.
const LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);

/// `POST v2/auth/token/authenticate`: asks for no credentials, and says 400 and 403 where other services say 401.
pub(super) fn authenticate(request: &Request, options: &PuppetOptions, now: Timestamp) -> Reply {
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        let message = "The request body is not valid JSON.";
        return failure(StatusCode::BAD_REQUEST, "puppetlabs.rbac/malformed-request", message, None).reply();
    };
    let Some(token) = body["token"].as_str() else {
        let message = "The request does not match the schema: token is missing.";
        return failure(StatusCode::BAD_REQUEST, "puppetlabs.rbac/schema-violation", message, None).reply();
    };
    match look_up(Some(token), options, now) {
        Token::Accepted(_) => ok(&json!({
            "id": USER_ID,
            "login": LOGIN,
            "role_ids": [7],
            "is_revoked": false,
            "timeout": null,
            "expiration": millis(options.rbac_token_expires.unwrap_or(now + LIFETIME)),
            "last_active": millis(now),
            "client": "",
        })),
        Token::Rejected { kind, message } => {
            let status = if kind == "invalid-token" { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
            failure(status, &format!("puppetlabs.rbac/{kind}"), message, None).reply()
        }
        Token::Absent => {
            let message = "The provided token is invalid.";
            failure(StatusCode::BAD_REQUEST, "puppetlabs.rbac/invalid-token", message, None).reply()
        }
    }
}
