//! The network between the controller and Puppet: requests become calls of the lab's services, in one process. Delays come from the
//! seed, and time comes from Tokio's clock. No sockets.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use http::header::{CONTENT_TYPE, DATE, IF_MODIFIED_SINCE};
use rustls::pki_types::CertificateDer;
use stagedoor_lab_core::server::{self, Backstage, Peer, Request, Service, carry_out};
use stagedoor_lab_puppet::{CaService, ConsoleService, OrchestratorService, PuppetdbService};
use stagedoor_puppet::{Attempt, Failure, Network, Reply};

use crate::chance::Chance;
use crate::watch::Watched;

/// The ports in a simulation's configuration.
pub(crate) const CA: u16 = 8140;
pub(crate) const PUPPETDB: u16 = 8081;
pub(crate) const ORCHESTRATOR: u16 = 8143;
pub(crate) const CONSOLE: u16 = 4433;

/// The services of one Puppet site, each wrapped in the checks of the invariants.
pub(crate) struct Services {
    pub(crate) ca: Arc<Watched<CaService>>,
    pub(crate) puppetdb: Arc<Watched<PuppetdbService>>,
    pub(crate) orchestrator: Arc<Watched<OrchestratorService>>,
    pub(crate) console: Arc<Watched<ConsoleService>>,
}

/// The controller's network to Puppet.
#[derive(Clone)]
pub(crate) struct InMemory {
    pub(crate) services: Arc<Services>,
    pub(crate) back: Backstage,
    /// The controller's certificate.
    pub(crate) identity: Option<CertificateDer<'static>>,
    pub(crate) chance: Chance,
}

impl InMemory {
    async fn carry(&self, attempt: Attempt<'_>) -> Result<Reply, Failure> {
        let unreachable = |what: String| Failure::Unreachable(what);
        let request = self.request(&attempt);
        let port = attempt.url.port_or_known_default().unwrap_or_default();
        let answering = async {
            self.chance.delay().await;
            let reply = match port {
                CA => self.call(request, &self.services.ca).await,
                PUPPETDB => self.call(request, &self.services.puppetdb).await,
                ORCHESTRATOR => self.call(request, &self.services.orchestrator).await,
                CONSOLE => self.call(request, &self.services.console).await,
                _ => return Err(unreachable(format!("nothing listens on port {port}"))),
            };
            self.chance.delay().await;
            reply.ok_or_else(|| unreachable("the connection was closed".to_owned()))
        };
        let reply = tokio::time::timeout(attempt.timeout, answering);
        let reply =
            reply.await.map_err(|_| unreachable(format!("no answer within {} s", attempt.timeout.as_secs())))??;
        if reply.body().len() > attempt.limit {
            return Err(Failure::NotUnderstood("it is longer than what is read".to_owned()));
        }
        let version = reply.headers().get("x-puppet-version").and_then(|version| version.to_str().ok());
        let host_date = self.back.clock.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let date = reply.headers().get(DATE).cloned().or_else(|| HeaderValue::try_from(host_date).ok());
        Ok(Reply {
            status: reply.status().as_u16(),
            puppet_version: version.map(str::to_owned),
            date,
            body: reply.body().to_vec(),
        })
    }

    fn request(&self, attempt: &Attempt<'_>) -> Request {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json, text/plain"));
        if let Some(token) = attempt.token {
            headers.insert("x-authentication", token.clone());
        }
        if let Some(date) = attempt.if_modified_since {
            headers.insert(IF_MODIFIED_SINCE, date.clone());
        }
        if attempt.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Request {
            method: attempt.method.clone(),
            path: attempt.url.path().to_owned(),
            query: attempt.url.query_pairs().into_owned().collect(),
            headers,
            body: attempt.body.map(|body| body.to_string().into()).unwrap_or_default(),
            peer: self.identity.clone().map(|certificate| Peer { chain: vec![certificate] }),
        }
    }

    async fn call<S: Service>(&self, request: Request, service: &Arc<S>) -> Option<server::Reply> {
        if !service.accepts() {
            return None;
        }
        served(request, service, &self.back).await
    }
}

/// A service's answer, or `None` if it closes the connection. Like a server, it carries out a request that it has read even if the caller
/// is killed meanwhile. A panic of the service becomes a panic of the caller.
pub(crate) async fn served<S: Service>(request: Request, service: &Arc<S>, back: &Backstage) -> Option<server::Reply> {
    let carried_out = tokio::spawn(carry_out(request, Arc::clone(service), back.clone())).await;
    carried_out.unwrap_or_else(|stopped| resume_unwind(stopped.into_panic()))
}

impl Network for InMemory {
    fn attempt<'a>(&'a self, request: Attempt<'a>) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(self.carry(request))
    }

    fn anonymous(&self, _host: Option<(&str, SocketAddr)>) -> Option<Arc<dyn Network>> {
        Some(Arc::new(Self { identity: None, ..self.clone() }))
    }

    fn connect(&self, _address: SocketAddr) -> BoxFuture<'_, std::io::Result<()>> {
        Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
    }
}
