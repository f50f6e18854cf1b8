//! Over real TLS on loopback: who gets through the handshake, and what faults do to a call.

use std::sync::Arc;

use anyhow::Context as _;
use jiff::SignedDuration;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_core::server::{Backstage, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::{Credentials, Node, Puppet, PuppetOptions};

/// A CA that listens.
struct Listening {
    puppet: Puppet,
    stage: Backstage,
    port: u16,
    server: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn listening() -> Listening {
    let stage = Backstage::default();
    let puppet = Puppet::new(PuppetOptions::default(), stage.clock.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = serve(listener, Some(puppet.tls()), puppet.ca_service(), stage.clone());
    let server = tokio::spawn(serving).abort_handle();
    Listening { puppet, stage, port, server }
}

/// One request over a connection of its own: status and body, or why there was no answer.
async fn ask(
    stage: &Listening,
    credentials: Option<&Credentials>,
    line: &str,
    body: &str,
) -> anyhow::Result<(u16, String)> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(stage.puppet.ca_bundle_pem().as_bytes()) {
        roots.add(ca?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match credentials {
        None => config.with_no_client_auth(),
        Some(credentials) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(credentials.cert_pem.as_bytes())?],
            PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes())?,
        )?,
    };
    let stream = TcpStream::connect(("127.0.0.1", stage.port)).await?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

const STATUS: &str = "GET /puppet-ca/v1/certificate_status/n.example.net";

#[tokio::test]
async fn the_controller_is_let_in_and_a_caller_without_a_certificate_gets_a_403() {
    let stage = listening().await;
    stage.puppet.place_node(&Node::new("n.example.net")).unwrap();
    let controller = stage.puppet.controller_credentials().unwrap();
    assert_eq!(ask(&stage, Some(&controller), STATUS, "").await.unwrap().0, 200);
    assert_eq!(ask(&stage, None, STATUS, "").await.unwrap().0, 403);
    let callers: Vec<Option<String>> = stage.stage.journal.entries().into_iter().map(|entry| entry.caller).collect();
    assert_eq!(callers, [Some("stagedoor.example.net".to_owned()), None]);
}

#[tokio::test]
async fn a_revoked_client_is_refused_in_the_handshake() {
    let stage = listening().await;
    stage.puppet.place_node(&Node::new("n.example.net")).unwrap();
    let agent = stage.puppet.credentials("n.example.net").unwrap();
    let controller = stage.puppet.controller_credentials().unwrap();
    let line = "GET /puppet-ca/v1/certificate/ca";
    assert_eq!(ask(&stage, Some(&agent), line, "").await.unwrap().0, 200);
    let clean = r#"{"certnames":["n.example.net"]}"#;
    let cleaned = ask(&stage, Some(&controller), "PUT /puppet-ca/v1/clean", clean).await.unwrap();
    assert_eq!(cleaned, (200, "Successfully cleaned all certs.".to_owned()));
    let refused = ask(&stage, Some(&agent), line, "").await.unwrap_err();
    assert!(format!("{refused:#}").contains("CertificateRevoked"), "{refused:#}");
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused_in_the_handshake() {
    let stage = listening().await;
    let elsewhere = Puppet::new(PuppetOptions::default(), Clock::new()).unwrap();
    let stranger = elsewhere.controller_credentials().unwrap();
    assert!(ask(&stage, Some(&stranger), "GET /puppet-ca/v1/certificate/ca", "").await.is_err());
    assert_eq!(stage.stage.journal.entries().len(), 0);
}

#[tokio::test]
async fn an_expired_client_is_refused_in_the_handshake() {
    let stage = listening().await;
    let agent = stage.puppet.credentials("n.example.net").unwrap();
    stage.stage.clock.advance(SignedDuration::from_hours(6 * 365 * 24));
    let refused = ask(&stage, Some(&agent), "GET /puppet-ca/v1/certificate/ca", "").await.unwrap_err();
    assert!(format!("{refused:#}").contains("CertificateExpired"), "{refused:#}");
}

#[tokio::test]
async fn a_reset_empties_the_crl_and_keeps_the_ca_and_the_controller() {
    let stage = listening().await;
    let bundle = stage.puppet.ca_bundle_pem();
    let controller = stage.puppet.controller_credentials().unwrap();
    stage.puppet.place_node(&Node::new("n.example.net")).unwrap();
    stage.puppet.reset().unwrap();
    assert_eq!(stage.puppet.ca_bundle_pem(), bundle);
    assert_eq!(ask(&stage, Some(&controller), STATUS, "").await.unwrap().0, 404);
    let certificates = &stage.puppet.snapshot()["certificates"];
    assert_eq!(certificates.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_lock_that_times_out_is_a_500_and_the_next_try_succeeds() {
    let stage = listening().await;
    let text = "Internal Server Error: clojure.lang.ExceptionInfo: {:kind :lock-acquisition-timeout, :msg \
                \"Failed to acquire write lock \\\"crl-file\\\" within 60 seconds\"}";
    stage.stage.faults.add(Fault {
        service: "ca".to_owned(),
        call: "PUT /puppet-ca/v1/clean".to_owned(),
        nth: Some(1),
        subject: None,
        kind: FaultKind::Status {
            status: 500,
            body: text.to_owned(),
            content_type: Some("text/plain; charset=utf-8".to_owned()),
        },
    });
    let controller = stage.puppet.controller_credentials().unwrap();
    let clean = r#"{"certnames":[]}"#;
    let line = "PUT /puppet-ca/v1/clean";
    assert_eq!(ask(&stage, Some(&controller), line, clean).await.unwrap(), (500, text.to_owned()));
    assert_eq!(ask(&stage, Some(&controller), line, clean).await.unwrap().0, 200);
}
