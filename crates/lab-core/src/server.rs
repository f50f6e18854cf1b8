//! The accept loop of every simulated service, for plain HTTP and for TLS. Network I/O on loopback.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::faults::{FaultKind, Faults};
use crate::journal::Journal;

/// The largest request body that is read, in bytes.
const BODY_LIMIT: usize = 16 << 20;

/// One HTTP request, read to its end.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: http::Method,
    /// The path, percent-encoded as it was sent.
    pub path: String,
    /// The query's pairs, decoded, in the order in which they were sent.
    pub query: Vec<(String, String)>,
    /// The header fields.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Who called, where TLS has verified a client certificate.
    pub peer: Option<Peer>,
}

impl Request {
    /// The first value of a query parameter.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a header, if there is one and it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The path's segments, percent-decoded, without the leading empty one.
    #[must_use]
    pub fn segments(&self) -> Vec<String> {
        let decode = |part| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        self.path.trim_start_matches('/').split('/').map(decode).collect()
    }
}

/// The client at the other end of a TLS connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its certificate chain as sent, verified by TLS; its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A request in the words of the journal.
#[derive(Clone, Debug)]
pub struct Call {
    /// See [`crate::journal::Entry::service`].
    pub service: &'static str,
    /// See [`crate::journal::Entry::call`].
    pub call: String,
    /// See [`crate::journal::Entry::subject`].
    pub subject: Option<String>,
    /// See [`crate::journal::Entry::caller`].
    pub caller: Option<String>,
    /// See [`crate::journal::Entry::request`]. Must not hold a secret's value.
    pub request: serde_json::Value,
}

/// An answer.
pub type Reply = http::Response<Bytes>;

/// A simulated service.
pub trait Service: Send + Sync + 'static {
    /// Whether a call is carried out to its end although the caller hung up. A server does that; only a long
    /// poll must not.
    const OUTLIVES_ITS_CALLER: bool = true;

    /// Whether it is there at all. While it is not, connections are closed before a byte is read.
    fn accepts(&self) -> bool {
        true
    }

    /// Names the call for journal and faults, without carrying it out.
    fn describe(&self, request: &Request) -> Call;

    /// Carries the call out.
    fn answer(&self, request: &Request) -> impl Future<Output = Reply> + Send;
}

/// Where an accepting server gets its TLS configuration.
pub trait TlsSource: Send + Sync + 'static {
    /// The configuration for the next connection; asked at every accept, as the CRL may have changed.
    fn config(&self) -> Arc<rustls::ServerConfig>;
}

/// One configuration for all connections.
impl TlsSource for Arc<rustls::ServerConfig> {
    fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(self)
    }
}

/// What all servers of a lab share.
#[derive(Clone, Debug, Default)]
pub struct Backstage {
    /// The time.
    pub clock: Clock,
    /// What was called.
    pub journal: Journal,
    /// What goes wrong.
    pub faults: Faults,
}

/// Serves HTTP/1.1 with keep-alive until the future is dropped; then open connections are closed too.
pub async fn serve<S: Service>(
    listener: TcpListener,
    tls: Option<Arc<dyn TlsSource>>,
    service: Arc<S>,
    stage: Backstage,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let tls = tls.as_ref().map(|source| source.config());
                    connections.spawn(connection(stream, tls, Arc::clone(&service), stage.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: give the open connections time to end.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<S: Service>(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: Arc<S>,
    stage: Backstage,
) {
    if !service.accepts() {
        return;
    }
    let _ = stream.set_nodelay(true);
    let Some(config) = tls else {
        return talk(stream, None, service, stage).await;
    };
    match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates();
            let peer =
                chain.map(|chain| Peer { chain: chain.iter().cloned().map(CertificateDer::into_owned).collect() });
            talk(stream, peer, service, stage).await;
        }
        // The client sees the alert; there is no request to journal.
        Err(error) => tracing::debug!(%error, "TLS handshake failed"),
    }
}

async fn talk<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<Peer>,
    service: Arc<S>,
    stage: Backstage,
) {
    let each = service_fn(move |incoming| handle(incoming, peer.clone(), Arc::clone(&service), stage.clone()));
    // An error here is a client that went away or a fault that closed the connection.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), each).await;
}

/// An error makes hyper close the connection without an answer.
type Closed = Box<dyn Error + Send + Sync>;

async fn handle<S: Service>(
    incoming: http::Request<Incoming>,
    peer: Option<Peer>,
    service: Arc<S>,
    stage: Backstage,
) -> Result<http::Response<Full<Bytes>>, Closed> {
    if !service.accepts() {
        return Err("the service has gone away".into());
    }
    let request = read(incoming, peer).await?;
    let carried_out = carry_out(request, service, stage);
    let reply = if S::OUTLIVES_ITS_CALLER { tokio::spawn(carried_out).await? } else { carried_out.await };
    reply.map(|reply| reply.map(Full::new)).ok_or_else(|| "closed by a fault".into())
}

async fn read(incoming: http::Request<Incoming>, peer: Option<Peer>) -> Result<Request, Closed> {
    let (head, body) = incoming.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await?.to_bytes();
    let query = form_urlencoded::parse(head.uri.query().unwrap_or("").as_bytes());
    Ok(Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: query.into_owned().collect(),
        headers: head.headers,
        body,
        peer,
    })
}

/// Journals the call, lets the faults have it, and answers; `None` closes the connection. For requests that come over no socket as
/// well.
pub async fn carry_out<S: Service>(request: Request, service: Arc<S>, stage: Backstage) -> Option<Reply> {
    let call = service.describe(&request);
    let hit = stage.faults.strike(&call);
    let open = stage.journal.begin(call);
    let reply = match hit.failure {
        Some(FaultKind::Status { status, body, content_type }) => Some(faulty_answer(status, body, content_type)),
        Some(FaultKind::Reset) => None,
        Some(FaultKind::Cut) => {
            service.answer(&request).await;
            None
        }
        Some(FaultKind::Delay { .. }) | None => Some(service.answer(&request).await),
    };
    if hit.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(hit.delay_ms)).await;
    }
    open.end(reply.as_ref().map(|reply| reply.status().as_u16()));
    reply
}

fn faulty_answer(status: u16, body: String, content_type: Option<String>) -> Reply {
    let mut reply = Reply::new(Bytes::from(body));
    *reply.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(value) = content_type.and_then(|text| text.parse().ok()) {
        reply.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    reply
}
