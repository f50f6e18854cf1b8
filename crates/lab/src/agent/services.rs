//! What listens on an agent's node: the Status API under its own certificate, and plain ports. Network I/O on loopback.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stagedoor_lab_core::server::{self, Call, Reply, Request, Service};
use stagedoor_lab_puppet::agent_side::AgentIdentity;
use stagedoor_lab_puppet::{ServiceState, compiler_status};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::running::{Inner, Services};

/// The pause between two attempts to bind a port that is in use.
const PORT_RETRY: Duration = Duration::from_millis(20);
/// The pause between two check-ins with file sync: 5 s in reality.
const CODE_POLL: Duration = Duration::from_millis(200);

/// Serves while the agent is set to listen; does not return.
pub(super) async fn serve(inner: &Arc<Inner>, identity: &AgentIdentity) {
    let mut settings = inner.services.subscribe();
    loop {
        is_listening(&mut settings, true).await;
        let failed = tokio::select! {
            biased;
            ended = listen(inner, identity) => ended.err(),
            () = is_listening(&mut settings, false) => None,
        };
        inner.note(|state| state.serving = false);
        if let Some(error) = failed {
            inner.note(|state| state.error = Some(format!("cannot serve its ports: {error:#}")));
            tokio::time::sleep(PORT_RETRY).await;
        }
    }
}

async fn is_listening(settings: &mut watch::Receiver<Services>, wanted: bool) {
    // An error would mean that the sender is gone, which the agent has.
    let _ = settings.wait_for(|services| services.listening == wanted).await;
}

async fn listen(inner: &Arc<Inner>, identity: &AgentIdentity) -> anyhow::Result<()> {
    let agent = &inner.agent;
    let Some(address) = agent.address else { return std::future::pending().await };
    let code = Arc::clone(inner);
    let mut servers = JoinSet::new();
    for port in &agent.status_ports {
        let listener = bind(address, *port).await?;
        let tls = inner.world.puppet.node_tls(identity)?;
        let service = Arc::new(NodeService { inner: Arc::clone(inner) });
        servers.spawn(server::serve(listener, Some(tls), service, inner.world.back.clone()));
    }
    for port in &agent.tcp_ports {
        let listener = bind(address, *port).await?;
        servers.spawn(async move {
            loop {
                // Taken, and closed again.
                drop(listener.accept().await);
            }
        });
    }
    if !agent.status_ports.is_empty() {
        // In Puppet Server, like the Status API.
        servers.spawn(async move { sync_code(&code).await });
    }
    inner.note(|state| state.serving = true);
    while servers.join_next().await.is_some() {}
    // Without ports there is nothing to wait for.
    std::future::pending().await
}

/// Checks in with the primary's file sync, with what it has fetched after the check-in before.
async fn sync_code(inner: &Inner) {
    let puppet = &inner.world.puppet;
    let mut fetched = None;
    loop {
        if inner.services.borrow().syncing && puppet.options().enterprise {
            // The primary refuses the compiler with 403 until it has learnt of it. Until then, the compiler has no code.
            if puppet.check_in(&inner.agent.certname, fetched.as_deref()) {
                fetched = puppet.newest_code();
            }
        }
        tokio::time::sleep(CODE_POLL).await;
    }
}

async fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((address, port)).await
}

/// Puppet Server on a compiler, as far as the Status API shows it.
struct NodeService {
    inner: Arc<Inner>,
}

impl Service for NodeService {
    fn describe(&self, request: &Request) -> Call {
        Call {
            service: "node",
            call: format!("{} {}", request.method, request.path),
            subject: Some(self.inner.agent.certname.clone()),
            caller: None,
            request: json!({"query": request.query, "body": Value::Null}),
        }
    }

    async fn answer(&self, request: &Request) -> Reply {
        let (mut state, mut states) = (ServiceState::Running, BTreeMap::new());
        self.inner.services.send_modify(|services| {
            state = services.state;
            states.clone_from(&services.states);
            if services.starting_answers > 0 {
                services.starting_answers -= 1;
                state = ServiceState::Starting;
                states.clear();
            }
        });
        let puppet = &self.inner.world.puppet;
        // The broker starts as soon as the orchestrator lets it connect.
        if !puppet.admits(&self.inner.agent.certname) {
            states.insert("broker-service".to_owned(), ServiceState::Starting);
        }
        compiler_status(request, state, &states, &puppet.options())
    }
}
