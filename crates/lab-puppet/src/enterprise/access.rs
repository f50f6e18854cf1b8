//! Who calls a Puppet Enterprise service, and what he may do. No I/O.

use http::StatusCode;
use jiff::Timestamp;
use stagedoor_lab_core::server::Request;

use super::token::{Token, look_up};
use super::{Failure, failure};
use crate::ca_api::client;
use crate::options::PuppetOptions;
use crate::reply::header;

/// Who calls.
pub(super) struct Caller {
    /// `None`: everything.
    permissions: Option<Vec<String>>,
}

/// The login that jobs show as their owner.
pub(super) const LOGIN: &str = "lifecycle";
/// The id of that user.
pub(super) const USER_ID: &str = "42bf351c-f9ec-40af-84ad-e976fec7f4bd";

impl Caller {
    /// By certificate first, then by token; an invalid token is refused although the certificate is on the
    /// allow list.
    pub(super) fn of(request: &Request, options: &PuppetOptions, now: Timestamp) -> Result<Self, Failure> {
        let listed =
            client(request).is_some_and(|client| options.rbac_certificate_allowlist.contains(&client.common_name));
        let token = header(&request.headers, "x-authentication").or_else(|| request.query("token"));
        match (look_up(token.map(str::trim), options, now), listed) {
            (Token::Rejected { kind, message }, _) => Err(unauthenticated(kind, message)),
            (_, true) => Ok(Self { permissions: None }),
            (Token::Accepted(held), false) => Ok(Self { permissions: Some(held.to_vec()) }),
            (Token::Absent, false) => Err(unauthenticated("user-unauthenticated", "Route requires authentication")),
        }
    }

    /// Whether he has a permission, `type:action`, on this instance of the type.
    pub(super) fn may(&self, permission: &str, instance: &str) -> bool {
        let held = |one: &String| {
            one.strip_prefix(permission)
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|on| on == "*" || on == instance)
        };
        self.permissions.as_ref().is_none_or(|all| all.iter().any(held))
    }

    /// Whether he has a permission on any instance.
    pub(super) fn may_somewhere(&self, permission: &str) -> bool {
        let held = |one: &String| one.strip_prefix(permission).is_some_and(|rest| rest.starts_with(':'));
        self.permissions.as_ref().is_none_or(|all| all.iter().any(held))
    }
}

fn unauthenticated(kind: &str, message: &str) -> Failure {
    failure(StatusCode::UNAUTHORIZED, &format!("puppetlabs.rbac/{kind}"), message, None)
}
