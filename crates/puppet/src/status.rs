//! The status API that every Puppet service has on its own port. I/O.
//!
//! See Puppet's
//! [status API](https://www.puppet.com/docs/puppet/8/server/status-api/v1/simple.html).

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use stagedoor_types::Certname;

use crate::error::{Error, Service};
use crate::http::{Answer, Ask, Connection, Endpoint, InvalidEndpoint};
use crate::tls::Transport;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether services are fit to serve, as they report it.
///
/// Called without the controller's certificate and without its token: the API requires neither, and a node must
/// not receive them.
#[derive(Debug, Clone)]
pub struct StatusApi {
    connection: Connection,
}

/// The state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// It serves. Of Puppet Server this does not say that code is in sync.
    Running,
    /// It will serve soon.
    Starting,
    /// It is shutting down.
    Stopping,
    /// It has failed.
    Error,
    /// It does not know, or says something that is not known here.
    Unknown,
    /// It is unreachable: the connection is refused, not answered, or cut. This is normal while a node boots or Puppet
    /// restarts a service.
    Unreachable {
        /// What happened on the wire.
        reason: String,
    },
}

/// One service behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its state.
    pub state: ServiceState,
    /// Its version.
    pub version: Option<String>,
    /// What else it says of itself: an object that differs from service to service.
    pub status: Value,
}

impl std::fmt::Display for ServiceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Starting => f.write_str("starting"),
            Self::Stopping => f.write_str("stopping"),
            Self::Error => f.write_str("error"),
            Self::Unknown => f.write_str("unknown"),
            Self::Unreachable { reason } => f.write_str(reason),
        }
    }
}

impl ServiceState {
    fn of(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "starting" => Self::Starting,
            "stopping" => Self::Stopping,
            "error" => Self::Error,
            _ => Self::Unknown,
        }
    }

    /// Whether it serves.
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self == Self::Running
    }
}

impl StatusApi {
    /// The services at an address.
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Result<Self, InvalidEndpoint> {
        Self::anonymous(transport, endpoint, None)
    }

    /// The services of a node at this address: the server must have the Puppet CA's certificate for this certname.
    /// The name is not resolved; it may have no DNS entry yet, or a stale one.
    ///
    /// A certname that looks like an IP address cannot be asked for in this way.
    pub fn of_node(transport: &Transport, certname: &Certname, address: SocketAddr) -> Result<Self, InvalidEndpoint> {
        Self::anonymous(transport, &Endpoint::of_node(certname, address.port())?, Some(address))
    }

    fn anonymous(
        transport: &Transport,
        endpoint: &Endpoint,
        address: Option<SocketAddr>,
    ) -> Result<Self, InvalidEndpoint> {
        let host = address.map(|address| (endpoint.host(), address));
        let transport = transport.anonymous(host).ok_or(InvalidEndpoint("no connection can be made from it"))?;
        Ok(Self { connection: Connection::new(&transport, endpoint, Service::Status) })
    }

    /// `GET simple`: the state of all services behind the port, taken together.
    pub async fn simple(&self) -> Result<ServiceState, Error> {
        let ask = Ask::new(Method::GET, "GET simple", &["status", "v1", "simple"], TIMEOUT);
        match self.ask(ask).await? {
            Ok(answer) => simple_state(answer),
            Err(unreachable) => Ok(unreachable),
        }
    }

    /// `GET simple/<name>`: the state of one service behind the port, such as `server` or `broker-service`; `None` when there is no
    /// service of this name, or none yet: services are registered while the port starts to answer.
    pub async fn simple_of(&self, name: &str) -> Result<Option<ServiceState>, Error> {
        let path = ["status", "v1", "simple", name];
        let ask = Ask::new(Method::GET, "GET simple", &path, TIMEOUT).about(name);
        match self.ask(ask).await? {
            Ok(answer) if answer.status == 404 && is_no_such_service(&answer, name) => Ok(None),
            Ok(answer) => simple_state(answer).map(Some),
            Err(unreachable) => Ok(Some(unreachable)),
        }
    }

    /// `GET services/<name>`: one service behind the port, such as `ca`, `server`, `puppetdb-status` or
    /// `orchestrator-service`; `None` when there is no service of this name.
    pub async fn service(&self, name: &str) -> Result<Option<ServiceStatus>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            state: String,
            #[serde(default)]
            service_version: Option<String>,
            #[serde(default)]
            status: Value,
        }
        let path = ["status", "v1", "services", name];
        let ask = Ask::new(Method::GET, "GET services", &path, TIMEOUT).about(name);
        let answer = match self.ask(ask).await? {
            Ok(answer) => answer,
            Err(state) => return Ok(Some(ServiceStatus { state, version: None, status: Value::Null })),
        };
        match answer.status {
            // 503: it is not running; the document is the same.
            200 | 503 => match answer.json::<Wire>() {
                Ok(wire) => Ok(Some(ServiceStatus {
                    state: ServiceState::of(&wire.state),
                    version: wire.service_version,
                    status: wire.status,
                })),
                Err(_) if answer.status == 503 => Err(answer.busy()),
                Err(error) => Err(error),
            },
            404 if is_no_such_service(&answer, name) => Ok(None),
            _ => Err(answer.into_error()),
        }
    }

    /// The answer, or that the service is unreachable.
    async fn ask(&self, ask: Ask<'_>) -> Result<Result<Answer, ServiceState>, Error> {
        match self.connection.send(ask).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Error::Unreachable { reason, .. }) => Ok(Err(ServiceState::Unreachable { reason })),
            Err(error) => Err(error),
        }
    }
}

/// The state that an answer to `GET simple` says, whether of all services or of one.
fn simple_state(answer: Answer) -> Result<ServiceState, Error> {
    let text = answer.text();
    match (answer.status, text.trim()) {
        (200, "running") => Ok(ServiceState::Running),
        (503, word @ ("starting" | "stopping" | "error" | "unknown")) => Ok(ServiceState::of(word)),
        _ => Err(answer.into_error()),
    }
}

/// Versions of the status service say it in JSON or in plain text.
pub(crate) fn is_no_such_service(answer: &Answer, name: &str) -> bool {
    answer.kind().is_some_and(|kind| kind == "service-not-found")
        || answer.text().trim() == format!("not found: {name}")
}
