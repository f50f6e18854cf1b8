//! What happens on the wire: TLS, time-outs, cut connections, tokens.

use secrecy::SecretString;
use stagedoor_puppet::{Ca, Endpoint, Error};
use stagedoor_types::Certname;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::pki::{OWN_SERIAL, PKI, Pki, TOKEN};
use crate::stage::{Act, Stage, ca_says, pdb_says};

fn name() -> Certname {
    "n.example.net".parse().unwrap()
}

fn is_there() -> Act {
    ca_says(200, r#"{"name":"n.example.net","state":"signed"}"#)
}

#[tokio::test]
async fn a_connection_cut_under_a_request_is_replaced_once() {
    let stage = Stage::new([is_there(), Act::Cut, is_there()]).await;
    let ca = stage.ca();
    ca.status(&name()).await.unwrap();
    assert!(ca.status(&name()).await.unwrap().is_some());
    assert_eq!(stage.lines().len(), 3);
}

#[tokio::test]
async fn a_service_may_be_named_by_its_ipv6_address() {
    let Some(stage) = Stage::on_ipv6([is_there()]).await else {
        eprintln!("skipped: this machine has no ::1");
        return;
    };
    assert!(stage.ca().status(&name()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_connection_cut_twice_means_that_nobody_could_be_asked() {
    let stage = Stage::new([Act::Cut, Act::Cut, is_there()]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(stage.lines().len(), 2);
}

#[tokio::test]
async fn a_handshake_that_the_server_cuts_is_tried_once_more() {
    for (cut, expected) in [(1, "answered"), (2, "Unreachable")] {
        let stage = Stage::that_closes(cut, [is_there()]).await;
        let answer = stage.ca().status(&name()).await;
        assert_eq!(answer.as_ref().map_or_else(Error::name, |_| "answered"), expected, "{answer:?}");
    }
}

#[tokio::test]
async fn connections_are_kept_and_the_token_is_sent_trimmed() {
    let stage = Stage::new([is_there(), is_there()]).await;
    let ca = stage.ca();
    ca.status(&name()).await.unwrap();
    ca.status(&name()).await.unwrap();
    for seen in stage.seen() {
        assert!(seen.head.contains(&format!("x-authentication: {TOKEN}\r\n")), "{}", seen.head);
        assert!(!seen.head.to_lowercase().contains("accept-language"), "{}", seen.head);
    }
}

#[tokio::test]
async fn without_a_token_no_header_is_sent() {
    let stage = Stage::new([is_there()]).await;
    let mut credentials = PKI.credentials();
    credentials.rbac_token = Some(SecretString::from(" \n"));
    let ca = Ca::new(&credentials.transport().unwrap(), &stage.endpoint);
    ca.status(&name()).await.unwrap();
    assert!(!stage.seen()[0].head.contains("x-authentication"));
}

#[tokio::test]
async fn a_transport_without_its_token_shows_the_certificate_alone() {
    let stage = Stage::new([is_there(), is_there()]).await;
    for transport in [Stage::transport(), Stage::transport().without_token()] {
        Ca::new(&transport, &stage.endpoint).status(&name()).await.unwrap();
    }
    let shown: Vec<_> =
        stage.seen().iter().map(|seen| (seen.certified, seen.head.contains("x-authentication"))).collect();
    assert_eq!(shown, [(true, true), (true, false)]);
}

#[tokio::test]
async fn silence_ends_in_time_and_names_the_time() {
    let stage = Stage::new([is_there(), Act::Silence]).await;
    let ca = stage.ca();
    ca.status(&name()).await.unwrap();
    tokio::time::pause();
    let error = ca.status(&name()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("15 s")), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_not_a_matter_of_credentials() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let endpoint: Endpoint = format!("https://localhost:{port}").parse().unwrap();
    let error = Ca::new(&Stage::transport(), &endpoint).status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_revoked_client_certificate_is_refused_by_tls() {
    let stage = Stage::with(&PKI, &[OWN_SERIAL], [is_there()]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
    assert!(error.to_string().contains("CertificateRevoked"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused_by_us() {
    let stage = Stage::with(&Pki::new("another"), &[], [is_there()]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
    assert!(error.to_string().contains("ca_cert"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_by_us() {
    let stage = Stage::new([is_there()]).await;
    let elsewhere = stage.endpoint.to_string().replace("localhost", "127.0.0.1");
    let ca = Ca::new(&Stage::transport(), &elsewhere.parse().unwrap());
    let error = ca.status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_not_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        std::future::pending::<()>().await;
    });
    let endpoint: Endpoint = format!("https://localhost:{port}").parse().unwrap();
    let error = Ca::new(&Stage::transport(), &endpoint).status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Act::Say(302, "Location: https://localhost:1/\r\n", String::new());
    let stage = Stage::new([elsewhere]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
    assert_eq!(stage.lines().len(), 1);
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let stage = Stage::new([pdb_says(200, "x".repeat(5 * 1024 * 1024))]).await;
    let error = stage.puppetdb().version().await.unwrap_err();
    assert!(error.to_string().contains("longer than 4 MiB"), "{error}");
}

#[tokio::test]
async fn an_expired_token_is_401_and_worth_another_look_at_the_secret() {
    let body = r#"{"kind":"puppetlabs.rbac/token-expired","msg":"The provided token has expired."}"#;
    let stage = Stage::new([pdb_says(401, body)]).await;
    let error = stage.puppetdb().node(&name()).await.unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { words, .. } if words == "The provided token has expired."));
}

#[tokio::test]
async fn no_secret_is_printed_by_anything() {
    let credentials = PKI.credentials();
    let key = PKI.client.key.serialize_pem();
    let key = key.lines().nth(1).unwrap();
    let stage = Stage::new([ca_says(500, format!("you sent {TOKEN}"))]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    for text in [
        format!("{credentials:?}"),
        format!("{:?}", credentials.transport().unwrap()),
        format!("{:?} {:?}", stage.ca_admin(), stage.puppetdb_admin()),
        format!("{:?} {:?} {:?}", stage.orchestrator_admin(), stage.classifier_admin(), stage.rbac()),
        format!("{error} {error:?}"),
    ] {
        assert!(!text.contains(TOKEN) && !text.contains(key), "{text}");
    }
}
