//! The clients over a network that is not made of sockets: in memory, and in time that only the test moves.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use stagedoor_puppet::{Attempt, Ca, Error, Failure, Network, Reply, ServiceState, StatusApi};

use crate::pki::PKI;

/// What was sent, and what is still to be answered.
#[derive(Default)]
struct Memory {
    script: Mutex<VecDeque<Result<Reply, Failure>>>,
    sent: Arc<Mutex<Vec<String>>>,
}

impl Memory {
    fn new(script: impl IntoIterator<Item = Result<Reply, Failure>>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), sent: Arc::default() })
    }

    fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap().clone()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "an entry of the script")]
fn says(status: u16, body: &str) -> Result<Reply, Failure> {
    Ok(Reply { status, puppet_version: Some("8.7.0".to_owned()), body: body.into(), ..Reply::default() })
}

impl Network for Memory {
    fn attempt<'a>(&'a self, request: Attempt<'a>) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            self.sent.lock().unwrap().push(format!("{} {}", request.method, request.url));
            // The clock of the test moves on by itself while every task waits.
            tokio::time::sleep(Duration::from_secs(60)).await;
            self.script.lock().unwrap().pop_front().unwrap_or_else(|| Err(Failure::Unreachable("it is over".into())))
        })
    }

    fn anonymous(&self, host: Option<(&str, SocketAddr)>) -> Option<Arc<dyn Network>> {
        let (name, address) = host?;
        self.sent.lock().unwrap().push(format!("{name} is {address}"));
        let script = std::mem::take(&mut *self.script.lock().unwrap());
        Some(Arc::new(Self { script: Mutex::new(script), sent: self.sent.clone() }))
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<()>> {
        Box::pin(async move {
            self.sent.lock().unwrap().push(format!("connect {address}"));
            Err(std::io::ErrorKind::ConnectionRefused.into())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_in_memory_is_tried_once_more_and_no_socket_is_opened() {
    let memory = Memory::new([Err(Failure::Cut("closed".into())), says(404, "Resource not found.")]);
    let transport = PKI.credentials().transport().unwrap().over(memory.clone());
    let ca = Ca::new(&transport, &"https://puppet.example.com:8140".parse().unwrap());
    assert_eq!(ca.certificate(&"n.example.net".parse().unwrap()).await, Ok(None));
    let sent = "GET https://puppet.example.com:8140/puppet-ca/v1/certificate/n.example.net";
    assert_eq!(memory.sent(), [sent, sent]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_memory_is_the_error_that_sockets_would_give() {
    for (failure, name) in [
        (Failure::Unreachable("refused".into()), "Unreachable"),
        (Failure::TlsRefused("revoked".into()), "TlsRefused"),
        (Failure::NotUnderstood("no TLS".into()), "Unexpected"),
    ] {
        let transport = PKI.credentials().transport().unwrap().over(Memory::new([Err(failure)]));
        let ca = Ca::new(&transport, &"https://puppet.example.com:8140".parse().unwrap());
        let error: Error = ca.certificate(&"n.example.net".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.name(), name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_nodes_own_services_are_asked_over_the_same_network() {
    let memory = Memory::new([says(200, "running")]);
    let transport = PKI.credentials().transport().unwrap().over(memory.clone());
    let (name, address) = ("n.example.net".parse().unwrap(), "10.0.0.7:8140".parse().unwrap());
    let status = StatusApi::of_node(&transport, &name, address).unwrap();
    assert_eq!(status.simple().await, Ok(ServiceState::Running));
    assert_eq!(transport.connect(address).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let asked = "GET https://n.example.net:8140/status/v1/simple";
    assert_eq!(memory.sent(), ["n.example.net is 10.0.0.7:8140", asked, "connect 10.0.0.7:8140"]);
}
