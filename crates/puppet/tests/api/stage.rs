//! A server on loopback that does what its script says, one act for each request. I/O.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use stagedoor_puppet::{
    Ca, CaAdmin, Classifier, ClassifierAdmin, Endpoint, Orchestrator, OrchestratorAdmin, PuppetDb, PuppetDbAdmin, Rbac,
    Transport,
};
use stagedoor_types::{Mode, WritePermit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::pki::{PKI, Pki};

/// Tests may write.
pub(crate) fn permit() -> WritePermit {
    Mode::Act.write_permit().unwrap()
}

/// What happens to one request.
pub(crate) enum Act {
    /// An answer: status, header lines, body.
    Say(u16, &'static str, String),
    /// The connection is closed without an answer.
    Cut,
    /// Nothing, with the connection left open.
    Silence,
}

/// An answer as Puppet Server's CA gives it.
pub(crate) fn ca_says(status: u16, body: impl Into<String>) -> Act {
    Act::Say(status, "X-Puppet-Version: 8.10.0\r\nContent-Type: text/plain\r\n", body.into())
}

/// An answer as PuppetDB gives it.
pub(crate) fn pdb_says(status: u16, body: impl Into<String>) -> Act {
    Act::Say(status, "Content-Type: application/json; charset=utf-8\r\n", body.into())
}

/// An answer as the services of Puppet Enterprise give it.
pub(crate) fn pe_says(status: u16, body: impl Into<String>) -> Act {
    Act::Say(status, "Content-Type: application/json; charset=utf-8\r\n", body.into())
}

/// An error as the services of Puppet Enterprise give it.
pub(crate) fn pe_fails(status: u16, kind: &str, msg: &str) -> Act {
    pe_says(status, format!(r#"{{"kind":"{kind}","msg":"{msg}","details":{{}}}}"#))
}

/// An answer of something in between, which claims to speak JSON.
pub(crate) fn balancer_says(status: u16, body: impl Into<String>) -> Act {
    Act::Say(status, "Content-Type: application/json;charset=UTF-8\r\n", body.into())
}

/// A request as it was received.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `PUT /puppet-ca/v1/clean`
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: String,
    /// Whether a client certificate was shown.
    pub(crate) certified: bool,
}

pub(crate) struct Stage {
    pub(crate) endpoint: Endpoint,
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stage {
    pub(crate) async fn new(script: impl IntoIterator<Item = Act>) -> Self {
        Self::with(&PKI, &[], script).await
    }

    /// A server that belongs to this CA and has revoked these serial numbers.
    pub(crate) async fn with(pki: &Pki, revoked: &[u64], script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::at(listener, "localhost", pki, revoked, 0, script)
    }

    /// A server that closes its first connections as soon as it has read something of the handshake.
    pub(crate) async fn that_closes(connections: usize, script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::at(listener, "localhost", &PKI, &[], connections, script)
    }

    /// A server that is called by its IPv6 address; none where this machine has no `::1`.
    pub(crate) async fn on_ipv6(script: impl IntoIterator<Item = Act>) -> Option<Self> {
        let listener = TcpListener::bind("[::1]:0").await.ok()?;
        Some(Self::at(listener, "[::1]", &PKI, &[], 0, script))
    }

    fn at(
        listener: TcpListener,
        host: &str,
        pki: &Pki,
        revoked: &[u64],
        closes: usize,
        script: impl IntoIterator<Item = Act>,
    ) -> Self {
        stagedoor_puppet::install_crypto_provider();
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca.der().clone()).unwrap();
        // Puppet's own setting: `client-auth = want`.
        let clients = WebPkiClientVerifier::builder(Arc::new(roots))
            .with_crls([pki.crl(revoked).der().clone()])
            .allow_unauthenticated()
            .build()
            .unwrap();
        let key = PrivateKeyDer::try_from(pki.server.key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![pki.server.cert.der().clone()], key)
            .unwrap();

        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let journal = Arc::clone(&seen);
        tokio::spawn(async move {
            for _ in 0..closes {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
            }
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script, seen) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&journal));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        perform(stream, &script, &seen).await;
                    }
                });
            }
        });
        let endpoint = format!("https://{host}:{port}").parse().unwrap();
        Self { endpoint, port, seen }
    }

    pub(crate) fn transport() -> Transport {
        PKI.credentials().transport().unwrap()
    }

    pub(crate) fn ca(&self) -> Ca {
        Ca::new(&Self::transport(), &self.endpoint)
    }

    pub(crate) fn ca_admin(&self) -> CaAdmin {
        CaAdmin::new(self.ca(), permit())
    }

    pub(crate) fn puppetdb(&self) -> PuppetDb {
        PuppetDb::new(&Self::transport(), &self.endpoint)
    }

    pub(crate) fn puppetdb_admin(&self) -> PuppetDbAdmin {
        PuppetDbAdmin::new(self.puppetdb(), permit())
    }

    pub(crate) fn orchestrator(&self) -> Orchestrator {
        Orchestrator::new(&Self::transport(), &self.endpoint)
    }

    pub(crate) fn orchestrator_admin(&self) -> OrchestratorAdmin {
        OrchestratorAdmin::new(self.orchestrator(), permit())
    }

    pub(crate) fn classifier(&self) -> Classifier {
        Classifier::new(&Self::transport(), &self.endpoint)
    }

    pub(crate) fn classifier_admin(&self) -> ClassifierAdmin {
        ClassifierAdmin::new(self.classifier(), permit())
    }

    pub(crate) fn rbac(&self) -> Rbac {
        Rbac::new(&Self::transport(), &self.endpoint)
    }

    /// Where it listens, whatever it is called.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The request lines, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

async fn perform(mut stream: TlsStream<TcpStream>, script: &Mutex<VecDeque<Act>>, journal: &Mutex<Vec<Seen>>) {
    while let Some(seen) = read(&mut stream).await {
        journal.lock().unwrap().push(seen);
        let act = script.lock().unwrap().pop_front();
        match act {
            Some(Act::Say(status, headers, body)) => {
                let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
                let answer = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Some(Act::Cut) => return,
            Some(Act::Silence) => std::future::pending().await,
            None => {
                let over = "HTTP/1.1 418 X\r\nContent-Length: 18\r\n\r\nThe script is over";
                let _ = stream.write_all(over.as_bytes()).await;
            }
        }
    }
}

async fn read(stream: &mut TlsStream<TcpStream>) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let certified = stream.get_ref().1.peer_certificates().is_some();
    Some(Seen { line, certified, head, body: String::from_utf8(bytes[end..end + length].to_vec()).ok()? })
}
