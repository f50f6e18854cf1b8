//! Puppet Enterprise's role-based access control: how long the token is valid. I/O.
//!
//! See Puppet Enterprise's
//! [token endpoints](https://help.puppet.com/pe/current/topics/rbac_api_v2_tokens.htm).

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, Service};
use crate::http::{Ask, Connection, Endpoint};
use crate::tls::Transport;

const TIMEOUT: Duration = Duration::from_secs(15);

/// The errors for a token that is not valid. Other services translate all of them to 401; this one does not.
const NO_GOOD: [&str; 6] =
    ["invalid-token", "token-expired", "token-revoked", "token-timed-out", "user-revoked", "user-unauthenticated"];

/// Puppet Enterprise's role-based access control, read only.
#[derive(Debug, Clone)]
pub struct Rbac {
    connection: Connection,
}

/// A token that is valid now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TokenStatus {
    /// The user it speaks for.
    #[serde(default)]
    pub login: Option<String>,
    /// When it expires.
    #[serde(default)]
    pub expiration: Option<Timestamp>,
    #[serde(default)]
    is_revoked: bool,
}

impl Rbac {
    /// The RBAC service at an address. It shares port 4433 with the classifier.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::Rbac) }
    }

    /// `POST v2/auth/token/authenticate`: the state of the credentials' RBAC token; `None` when they hold none.
    /// Needs no permission, and does not count as use of the token.
    ///
    /// A token that is expired, revoked or wrong is [`Error::Unauthorized`].
    pub async fn token(&self) -> Result<Option<TokenStatus>, Error> {
        let Some(token) = self.connection.token().and_then(|token| token.to_str().ok()) else { return Ok(None) };
        let path = ["rbac-api", "v2", "auth", "token", "authenticate"];
        let ask = Ask::new(Method::POST, "POST token/authenticate", &path, TIMEOUT)
            .without_token()
            .json(json!({ "token": token, "update_last_activity?": false }));
        let answer = self.connection.send(ask).await?;
        match answer.status {
            200 => {
                let status: TokenStatus = answer.json()?;
                if status.is_revoked {
                    Err(answer.unauthorized("the token has been revoked"))
                } else {
                    Ok(Some(status))
                }
            }
            400 | 403 if answer.kind().is_some_and(|kind| NO_GOOD.contains(&kind.as_str())) => {
                Err(answer.unauthorized(answer.words()))
            }
            _ => Err(answer.into_error()),
        }
    }
}
