//! The one path that every request takes: time-outs, size limits, the retry on a stale
//! connection, and the judgement of each outcome. I/O.

mod date;
mod elements;
mod endpoint;
mod network;
mod outcome;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use date::ServerDate;
use elements::Elements;
pub use endpoint::{Endpoint, InvalidEndpoint};
use network::MEBIBYTE;
pub(crate) use network::Sockets;
pub use network::{Attempt, Failure, Network, Reply, Sink};
pub(crate) use outcome::Answer;

use crate::error::{Call, Error, Service};
use crate::tls::Transport;

/// A service at an address, with the credentials to talk to it.
#[derive(Clone)]
pub(crate) struct Connection {
    transport: Transport,
    endpoint: Endpoint,
    service: Service,
    /// The clock of Puppet Server, as its newest answer showed it.
    date: Arc<Mutex<Option<ServerDate>>>,
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
    pub(crate) if_modified_since: Option<HeaderValue>,
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
            if_modified_since: None,
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

    /// For answers of which little is kept.
    pub(crate) fn streamed(mut self) -> Self {
        self.limit = 256 * MEBIBYTE;
        self
    }

    /// Only what has changed since is wanted.
    pub(crate) fn if_modified_since(mut self, date: Option<HeaderValue>) -> Self {
        self.if_modified_since = date;
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

impl Connection {
    pub(crate) fn new(transport: &Transport, endpoint: &Endpoint, service: Service) -> Self {
        Self { transport: transport.clone(), endpoint: endpoint.clone(), service, date: Arc::default() }
    }

    /// The clock of Puppet Server, as its newest answer showed it.
    pub(crate) fn date(&self) -> Option<ServerDate> {
        *self.date.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The RBAC token, where the credentials hold one.
    pub(crate) fn token(&self) -> Option<&HeaderValue> {
        self.transport.token.as_ref()
    }

    /// Sends the request; `Ok` is any HTTP answer, whatever its status.
    pub(crate) async fn send(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        self.send_into(ask, None).await
    }

    /// The same; the body of a 200 goes into the sink, if there is one, and not into the answer.
    pub(crate) async fn send_into(&self, ask: Ask<'_>, sink: Option<&mut dyn Sink>) -> Result<Answer, Error> {
        let mut sink = sink.map(|into| Counted { into, bytes: 0 });
        let call = Call { service: self.service, name: ask.name, subject: ask.subject.clone() };
        let url = self.endpoint.url(ask.path, ask.query);
        let started = Instant::now();

        let mut outcome = self.attempt(&ask, &url, ask.timeout, sink.as_mut()).await;
        let again = match &outcome {
            // A Lambda sandbox is frozen between invocations, so a pooled connection may have died unnoticed. What a sink has taken
            // cannot be taken back.
            Err(Failure::Cut(reason)) if !ask.once && sink.as_ref().is_none_or(|sink| sink.bytes == 0) => Some(reason),
            Err(Failure::CutInHandshake(reason)) => Some(reason),
            _ => None,
        };
        if let Some(reason) = again {
            tracing::debug!(%call, reason, "connection cut, asking again");
            let left = ask.timeout.saturating_sub(started.elapsed());
            outcome = self.attempt(&ask, &url, left, sink.as_mut()).await;
        }

        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(Reply { status, puppet_version, date, body }) => {
                // Of a streamed answer it is not known when the header came, so its Date is not used.
                let streamed = sink.is_some();
                let bytes = sink.map_or(0, |sink| sink.bytes) + body.len();
                tracing::debug!(%call, status, bytes, elapsed_ms, "answered");
                // A load balancer's answer has no X-Puppet-Version. Its Date is the balancer's clock.
                let clock =
                    date.as_ref().filter(|_| puppet_version.is_some() && !streamed).and_then(|date| date.to_str().ok());
                if let Some(clock) = clock.and_then(ServerDate::read) {
                    *self.date.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
                }
                Ok(Answer {
                    call,
                    status,
                    puppet_version,
                    date,
                    took: started.elapsed(),
                    body,
                    own_name: self.transport.certname().clone(),
                    token: self.transport.token.clone(),
                })
            }
            Err(failure) => {
                let error = match failure {
                    Failure::Cut(reason) | Failure::CutInHandshake(reason) | Failure::Unreachable(reason) => {
                        Error::Unreachable { call, reason }
                    }
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

    /// Sends a request whose only good answer is 200 with a JSON array, and reads each element as it arrives.
    pub(crate) async fn elements<T: DeserializeOwned>(
        &self,
        ask: Ask<'_>,
        mut each: impl FnMut(T) + Send,
    ) -> Result<(), Error> {
        let mut elements = Elements::new(|element: &[u8]| {
            each(serde_json::from_slice(element).map_err(|error| format!("an element has another shape: {error}"))?);
            Ok(())
        });
        let answer = self.send_into(ask.streamed(), Some(&mut elements)).await?;
        match answer.status {
            200 if elements.is_whole() => Ok(()),
            200 => Err(answer.unexpected("its JSON array has no end")),
            _ => Err(answer.into_error()),
        }
    }

    async fn attempt(
        &self,
        ask: &Ask<'_>,
        url: &reqwest::Url,
        timeout: Duration,
        sink: Option<&mut Counted<'_>>,
    ) -> Result<Reply, Failure> {
        let token = self.token().filter(|_| ask.with_token);
        let Ask { method, body, limit, if_modified_since, .. } = ask;
        let if_modified_since = if_modified_since.as_ref();
        let attempt = Attempt { method, url, token, body: body.as_ref(), timeout, limit: *limit, if_modified_since };
        match sink {
            Some(sink) => self.transport.network.stream(attempt, sink).await,
            None => self.transport.network.attempt(attempt).await,
        }
    }
}

/// A sink that knows how much it has taken.
struct Counted<'a> {
    into: &'a mut dyn Sink,
    bytes: usize,
}

impl Sink for Counted<'_> {
    fn take(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.bytes += chunk.len();
        self.into.take(chunk)
    }
}
