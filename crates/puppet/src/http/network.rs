//! How requests reach a service: HTTPS over sockets, or what is put in its place. I/O.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, DATE, HeaderName, HeaderValue, IF_MODIFIED_SINCE};
use reqwest::{Method, Url};
use tokio::net::TcpStream;

use super::outcome;

/// Puppet Enterprise's RBAC token goes here. Other Puppets ignore it.
const X_AUTHENTICATION: HeaderName = HeaderName::from_static("x-authentication");

/// How long a TCP and TLS connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Jetty, which serves every Puppet API, drops idle connections after 30 s; ours must go first.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) const MEBIBYTE: usize = 1024 * 1024;

/// The network between the controller and Puppet: sockets, unless something else is put in its place
/// ([`Transport::over`](crate::Transport::over)), as a simulation does.
pub trait Network: Send + Sync {
    /// Sends a request once.
    fn attempt<'a>(&'a self, request: Attempt<'a>) -> BoxFuture<'a, Result<Reply, Failure>>;

    /// The same, for an answer that may be longer than what is to be kept of it: the body of a 200 goes into the sink as it
    /// arrives, and is not in the reply. Without an implementation of its own, a network reads the whole body first.
    fn stream<'a>(&'a self, request: Attempt<'a>, sink: &'a mut dyn Sink) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            let mut reply = self.attempt(request).await?;
            if reply.status == 200 {
                sink.take(&std::mem::take(&mut reply.body)).map_err(Failure::NotUnderstood)?;
            }
            Ok(reply)
        })
    }

    /// The same network without the controller's certificate, and without connections that are kept open. Where a host is given, its
    /// name is not resolved: connections go to this address. `None` if that is not possible.
    fn anonymous(&self, host: Option<(&str, SocketAddr)>) -> Option<Arc<dyn Network>>;

    /// Opens a TCP connection and closes it. How long that may take is for the caller to limit.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<()>>;
}

/// Takes the body of an answer as it arrives.
pub trait Sink: Send {
    /// Takes the next bytes, or says why the rest of them is of no use.
    fn take(&mut self, chunk: &[u8]) -> Result<(), String>;
}

/// One request, as it is sent once.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The method.
    pub method: &'a Method,
    /// The address, encoded.
    pub url: &'a Url,
    /// The RBAC token to send.
    pub token: Option<&'a HeaderValue>,
    /// The body.
    pub body: Option<&'a serde_json::Value>,
    /// How long the whole answer may take.
    pub timeout: Duration,
    /// The most bytes that the answer's body may have.
    pub limit: usize,
    /// Only an answer that has changed since is wanted; otherwise 304.
    pub if_modified_since: Option<&'a HeaderValue>,
}

/// An HTTP answer with its whole body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `X-Puppet-Version`: sent with every answer of Puppet Server's CA, and by no other service.
    pub puppet_version: Option<String>,
    /// `Date`: the server's clock when it answered.
    pub date: Option<HeaderValue>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why one attempt brought no answer; the text says what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A connection that was good when it was taken from the pool, and closed under the request.
    Cut(String),
    /// A new connection that the server closed during the TLS handshake: no part of the request was sent. Puppet Server does
    /// this while it reloads its CRL, after each revocation.
    CutInHandshake(String),
    /// No connection, or no answer in time.
    Unreachable(String),
    /// One side did not accept the other's certificate.
    TlsRefused(String),
    /// Something answered, but not this service.
    NotUnderstood(String),
}

/// HTTPS over sockets.
pub(crate) struct Sockets {
    client: reqwest::Client,
    /// The Puppet CA's certificates: nothing else is trusted.
    anchors: Arc<[reqwest::Certificate]>,
}

impl Sockets {
    /// Connections that trust these certificates and show this identity. Fails if a certificate is no valid trust anchor.
    pub(crate) fn new(anchors: Vec<reqwest::Certificate>, identity: reqwest::Identity) -> reqwest::Result<Self> {
        let client = client_that_trusts(&anchors).identity(identity).pool_idle_timeout(POOL_IDLE_TIMEOUT).build()?;
        Ok(Self { client, anchors: anchors.into() })
    }
}

/// What all connections have in common.
fn client_that_trusts(anchors: &[reqwest::Certificate]) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_certs_only(anchors.iter().cloned())
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_only()
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("stagedoor/", env!("CARGO_PKG_VERSION")))
}

impl Sockets {
    async fn send(&self, attempt: Attempt<'_>, mut sink: Option<&mut dyn Sink>) -> Result<Reply, Failure> {
        let failure = |error: reqwest::Error| outcome::judge(&error, attempt.timeout);
        let request = self.client.request(attempt.method.clone(), attempt.url.clone()).timeout(attempt.timeout);
        // No Accept-Language: texts are localised, and the English ones are documented.
        let mut request = request.header(ACCEPT, "application/json, text/plain");
        if let Some(token) = attempt.token {
            request = request.header(X_AUTHENTICATION, token.clone());
        }
        if let Some(date) = attempt.if_modified_since {
            request = request.header(IF_MODIFIED_SINCE, date.clone());
        }
        if let Some(body) = attempt.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(failure)?;
        let status = response.status().as_u16();
        let version = response.headers().get("x-puppet-version").and_then(|version| version.to_str().ok());
        let puppet_version = version.map(str::to_owned);
        let date = response.headers().get(DATE).cloned();
        // An error is kept: it is short, and says what is wrong.
        sink = sink.filter(|_| status == 200);
        let (mut body, mut length) = (Vec::new(), 0);
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            length += chunk.len();
            if length > attempt.limit {
                let longer = format!("it is longer than {} MiB", attempt.limit / MEBIBYTE);
                return Err(Failure::NotUnderstood(longer));
            }
            match &mut sink {
                Some(sink) => sink.take(&chunk).map_err(Failure::NotUnderstood)?,
                None => body.extend_from_slice(&chunk),
            }
        }
        Ok(Reply { status, puppet_version, date, body })
    }
}

impl Network for Sockets {
    fn attempt<'a>(&'a self, request: Attempt<'a>) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(self.send(request, None))
    }

    fn stream<'a>(&'a self, request: Attempt<'a>, sink: &'a mut dyn Sink) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(self.send(request, Some(sink)))
    }

    fn anonymous(&self, host: Option<(&str, SocketAddr)>) -> Option<Arc<dyn Network>> {
        // Nothing is kept open: each probe is to see the service as it is now.
        let mut builder = client_that_trusts(&self.anchors).pool_max_idle_per_host(0);
        if let Some((name, address)) = host {
            builder = builder.resolve(name, address);
        }
        Some(Arc::new(Self { client: builder.build().ok()?, anchors: self.anchors.clone() }))
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<()>> {
        Box::pin(async move { TcpStream::connect(address).await.map(drop) })
    }
}
