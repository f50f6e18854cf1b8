//! The one path that every request takes: time-outs, size limits, the retry on a stale
//! connection, and the judgement of each outcome. I/O.

mod endpoint;
mod outcome;

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;

pub use endpoint::{Endpoint, InvalidEndpoint};
pub(crate) use outcome::Answer;

use crate::error::{Call, Error, Service};
use crate::tls::Transport;

/// Puppet Enterprise's RBAC token goes here. Other Puppets ignore it.
const X_AUTHENTICATION: HeaderName = HeaderName::from_static("x-authentication");

const MEBIBYTE: usize = 1024 * 1024;

/// A service at an address, with the credentials to talk to it.
#[derive(Clone)]
pub(crate) struct Connection {
    transport: Transport,
    endpoint: Endpoint,
    service: Service,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("service", &self.service)
            .field("endpoint", &self.endpoint)
            .field("certname", self.transport.certname())
            .finish_non_exhaustive()
    }
}

/// One request. Nearly every call of these APIs is idempotent, the writes included, so it may be sent
/// a second time; the one that is not says [`Ask::once`].
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// Unencoded path segments.
    pub(crate) path: &'a [&'a str],
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) body: Option<serde_json::Value>,
    /// For errors and logs; see [`Call`].
    pub(crate) name: &'static str,
    pub(crate) subject: Option<String>,
    /// For the whole call, a second try included.
    pub(crate) timeout: Duration,
    pub(crate) limit: usize,
    pub(crate) once: bool,
    pub(crate) with_token: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, name: &'static str, path: &'a [&'a str], timeout: Duration) -> Self {
        let limit = 4 * MEBIBYTE;
        Self {
            method,
            path,
            query: &[],
            body: None,
            name,
            subject: None,
            timeout,
            limit,
            once: false,
            with_token: true,
        }
    }

    pub(crate) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.subject = Some(subject.to_string());
        self
    }

    pub(crate) fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Self {
        self.query = query;
        self
    }

    pub(crate) fn json(mut self, body: serde_json::Value) -> Self {
        self.body = Some(body);
        self
    }

    /// For lists that grow with the site.
    pub(crate) fn large(mut self) -> Self {
        self.limit = 64 * MEBIBYTE;
        self
    }

    /// Not to be sent a second time, for the first may have been carried out.
    pub(crate) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// For a route that requires no authentication: there an invalid token can only do harm.
    pub(crate) fn without_token(mut self) -> Self {
        self.with_token = false;
        self
    }
}

/// Why one try brought no answer.
enum Failure {
    /// A connection that was good when it was taken from the pool, and closed under the request.
    Cut(String),
    Unreachable(String),
    TlsRefused(String),
    /// Something answered, but not this service.
    NotUnderstood(String),
}

impl Connection {
    pub(crate) fn new(transport: &Transport, endpoint: &Endpoint, service: Service) -> Self {
        Self { transport: transport.clone(), endpoint: endpoint.clone(), service }
    }

    /// The RBAC token, where the credentials hold one.
    pub(crate) fn token(&self) -> Option<&HeaderValue> {
        self.transport.token.as_ref()
    }

    /// Sends the request; `Ok` is any HTTP answer, whatever its status.
    pub(crate) async fn send(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        let call = Call { service: self.service, name: ask.name, subject: ask.subject.clone() };
        let url = self.endpoint.url(ask.path, ask.query);
        let started = Instant::now();

        let mut outcome = self.attempt(&ask, &url, ask.timeout).await;
        if let Err(Failure::Cut(reason)) = &outcome
            && !ask.once
        {
            // A Lambda sandbox is frozen between invocations, so a pooled connection may have
            // died unnoticed.
            tracing::debug!(%call, reason, "connection cut, asking again");
            let left = ask.timeout.saturating_sub(started.elapsed());
            outcome = self.attempt(&ask, &url, left).await;
        }

        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok((status, puppet_version, body)) => {
                tracing::debug!(%call, status, elapsed_ms, "answered");
                Ok(Answer {
                    call,
                    status,
                    puppet_version,
                    body,
                    own_name: self.transport.certname().clone(),
                    token: self.transport.token.clone(),
                })
            }
            Err(failure) => {
                let error = match failure {
                    Failure::Cut(reason) | Failure::Unreachable(reason) => Error::Unreachable { call, reason },
                    Failure::TlsRefused(reason) => Error::TlsRefused { call, reason },
                    Failure::NotUnderstood(reason) => Error::Unexpected { call, reason },
                };
                tracing::debug!(error = %error, elapsed_ms, "no answer");
                Err(error)
            }
        }
    }

    /// Sends a request whose only good answer is 200 with a JSON document.
    pub(crate) async fn json<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, Error> {
        let answer = self.send(ask).await?;
        match answer.status {
            200 => answer.json(),
            _ => Err(answer.into_error()),
        }
    }

    async fn attempt(
        &self,
        ask: &Ask<'_>,
        url: &reqwest::Url,
        timeout: Duration,
    ) -> Result<(u16, Option<String>, Vec<u8>), Failure> {
        let failure = |error: reqwest::Error| outcome::judge(&error, ask.timeout);

        let mut request = self
            .transport
            .client
            .request(ask.method.clone(), url.clone())
            .timeout(timeout)
            // No Accept-Language: texts are localised, and the English ones are documented.
            .header(ACCEPT, "application/json, text/plain");
        if let Some(token) = self.token().filter(|_| ask.with_token) {
            request = request.header(X_AUTHENTICATION, token.clone());
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }

        let mut response = request.send().await.map_err(failure)?;
        let puppet_version =
            response.headers().get("x-puppet-version").and_then(|version| version.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            if body.len() + chunk.len() > ask.limit {
                return Err(Failure::NotUnderstood(format!("it is longer than {} MiB", ask.limit / MEBIBYTE)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status().as_u16(), puppet_version, body))
    }
}
