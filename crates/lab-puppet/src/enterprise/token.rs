//! What RBAC says about a token. No I/O.

use jiff::Timestamp;

use crate::options::{PuppetOptions, TokenState};

/// Where a token stands.
pub(crate) enum Token<'a> {
    /// None was sent, or this site ignores tokens.
    Absent,
    /// Valid, with these permissions.
    Accepted(&'a [String]),
    /// Not valid.
    Rejected {
        /// The last part of the error's kind.
        kind: &'static str,
        message: &'static str,
    },
}

/// Looks a token up, as it came in a header or a body.
pub(crate) fn look_up<'a>(token: Option<&str>, options: &'a PuppetOptions, now: Timestamp) -> Token<'a> {
    let (Some(token), Some(known)) = (token, &options.rbac_tokens) else {
        return Token::Absent;
    };
    let token = token.strip_suffix("|no_keepalive").unwrap_or(token);
    let (kind, message) = match known.get(token) {
        Some(TokenState::Valid(permissions)) if options.rbac_token_expires.is_none_or(|at| now < at) => {
            return Token::Accepted(permissions);
        }
        Some(TokenState::Valid(_) | TokenState::Expired) => ("token-expired", "The provided token has expired."),
        Some(TokenState::Revoked) => ("token-revoked", "The provided token has been revoked."),
        None => ("invalid-token", "The provided token is invalid."),
    };
    Token::Rejected { kind, message }
}
