//! The status API: one test for each answer it is known to give, and who is believed.

use stagedoor_puppet::{Error, ServiceState, StatusApi};
use stagedoor_types::Certname;
use tokio::net::TcpListener;

use crate::pki::{Pki, issue};
use crate::stage::{Act, Stage, balancer_says, pe_fails, pe_says};

/// A name that no resolver knows (RFC 6761).
const NODE: &str = "i-0a1b2c3d4e5f60718.invalid";

fn text(status: u16, body: &str) -> Act {
    Act::Say(status, "Content-Type: text/plain; charset=utf-8\r\n", body.to_owned())
}

fn node() -> Certname {
    NODE.parse().unwrap()
}

/// A CA, and a server that has its certificate for this name.
async fn serving_as(name: &str, script: impl IntoIterator<Item = Act>) -> (Pki, Stage) {
    let mut pki = Pki::new("Puppet CA: status");
    pki.server = issue(&pki.ca, name, 9, &[]);
    let stage = Stage::with(&pki, &[], script).await;
    (pki, stage)
}

async fn simple(act: Act) -> Result<ServiceState, Error> {
    let stage = Stage::new([act]).await;
    StatusApi::new(&Stage::transport(), &stage.endpoint).unwrap().simple().await
}

#[tokio::test]
async fn simple_200_is_running_and_503_says_why_not() {
    assert_eq!(simple(text(200, "running")).await, Ok(ServiceState::Running));
    for (word, state) in [
        ("starting", ServiceState::Starting),
        ("stopping", ServiceState::Stopping),
        ("error", ServiceState::Error),
        ("unknown\n", ServiceState::Unknown),
    ] {
        assert_eq!(simple(text(503, word)).await, Ok(state));
    }
}

#[tokio::test]
async fn one_service_is_asked_by_its_name_and_need_not_be_there_yet() {
    let stage = Stage::new([
        text(200, "running"),
        text(503, "starting"),
        text(404, "not found: broker-service"),
        pe_fails(404, "service-not-found", "No status information found for service broker-service"),
        text(404, "Not Found"),
        balancer_says(404, "<html>"),
        text(200, "starting"),
        Act::Cut,
        Act::Cut,
    ])
    .await;
    let status = StatusApi::new(&Stage::transport(), &stage.endpoint).unwrap();
    assert_eq!(status.simple_of("broker-service").await, Ok(Some(ServiceState::Running)));
    assert_eq!(status.simple_of("broker-service").await, Ok(Some(ServiceState::Starting)));
    assert_eq!(status.simple_of("broker-service").await, Ok(None));
    assert_eq!(status.simple_of("broker-service").await, Ok(None));
    for _ in 0..3 {
        assert_eq!(status.simple_of("broker-service").await.unwrap_err().name(), "Unexpected");
    }
    let cut = status.simple_of("broker-service").await.unwrap();
    assert!(matches!(cut, Some(ServiceState::Unreachable { .. })), "{cut:?}");
    assert_eq!(stage.lines()[0], "GET /status/v1/simple/broker-service");
}

#[tokio::test]
async fn what_the_status_api_does_not_say_is_no_state() {
    for (act, error) in [
        (balancer_says(503, "<html>"), "Busy"),
        (text(503, "running"), "Busy"),
        (balancer_says(502, "<html>"), "Busy"),
        (balancer_says(200, "OK"), "Unexpected"),
        (text(200, "starting"), "Unexpected"),
        (text(404, "Not Found"), "Unexpected"),
        (text(403, "Forbidden request: /status/v1/simple (method :get)."), "NotPermitted"),
    ] {
        assert_eq!(simple(act).await.unwrap_err().name(), error);
    }
}

#[tokio::test]
async fn a_service_tells_its_state_and_more_whether_200_or_503() {
    let body = |state: &str| {
        format!(
            r#"{{"service_version":"8.7.2","service_status_version":1,"detail_level":"info","state":"{state}","status":{{"queue_depth":3}},"active_alerts":[]}}"#
        )
    };
    let stage = Stage::new([pe_says(200, body("running")), pe_says(503, body("starting"))]).await;
    let status = StatusApi::new(&Stage::transport(), &stage.endpoint).unwrap();
    let running = status.service("puppetdb-status").await.unwrap().unwrap();
    assert!(running.state.is_running());
    assert_eq!((running.version.as_deref(), &running.status["queue_depth"]), (Some("8.7.2"), &3.into()));
    let starting = status.service("puppetdb-status").await.unwrap().unwrap();
    assert_eq!(starting.state, ServiceState::Starting);
    assert_eq!(stage.lines()[0], "GET /status/v1/services/puppetdb-status");
}

#[tokio::test]
async fn a_service_404_of_the_status_api_is_absence_and_of_anybody_else_is_not() {
    let stage = Stage::new([
        text(404, "not found: nope"),
        pe_fails(404, "service-not-found", "No status information found for service nope"),
        text(404, "Not Found"),
        balancer_says(404, "<html>"),
        balancer_says(503, "<html>"),
    ])
    .await;
    let status = StatusApi::new(&Stage::transport(), &stage.endpoint).unwrap();
    assert_eq!(status.service("nope").await, Ok(None));
    assert_eq!(status.service("nope").await, Ok(None));
    for _ in 0..3 {
        assert!(status.service("nope").await.is_err());
    }
}

#[tokio::test]
async fn a_node_is_asked_at_its_address_under_its_name_and_is_shown_nothing() {
    let (pki, stage) = serving_as(NODE, [text(200, "running")]).await;
    let transport = pki.credentials().transport().unwrap();
    let status = StatusApi::of_node(&transport, &node(), stage.address()).unwrap();
    assert_eq!(status.simple().await, Ok(ServiceState::Running));
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "GET /status/v1/simple");
    assert!(seen.head.contains(&format!("host: {NODE}:{}\r\n", stage.address().port())), "{}", seen.head);
    assert!(!seen.certified && !seen.head.contains("x-authentication"), "{}", seen.head);
}

#[tokio::test]
async fn a_server_with_another_name_at_that_address_is_not_trusted() {
    let (pki, stage) = serving_as("i-0ffffffffffffffff.invalid", [text(200, "running")]).await;
    let transport = pki.credentials().transport().unwrap();
    let status = StatusApi::of_node(&transport, &node(), stage.address()).unwrap();
    let error = status.simple().await.unwrap_err();
    assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
    assert_eq!(stage.lines().len(), 0);
}

#[tokio::test]
async fn a_server_with_that_name_from_another_ca_is_not_trusted() {
    let (_, stage) = serving_as(NODE, [text(200, "running")]).await;
    let status = StatusApi::of_node(&Stage::transport(), &node(), stage.address()).unwrap();
    let error = status.simple().await.unwrap_err();
    assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_an_ordinary_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let status = StatusApi::of_node(&Stage::transport(), &node(), address).unwrap();
    let state = status.simple().await.unwrap();
    assert!(matches!(&state, ServiceState::Unreachable { reason } if reason.contains("refused")), "{state:?}");
    let service = status.service("server").await.unwrap().unwrap();
    assert!(matches!(service.state, ServiceState::Unreachable { .. }), "{service:?}");
}

#[tokio::test]
async fn a_service_that_is_restarted_under_the_question_is_an_ordinary_answer() {
    let stage = Stage::new([Act::Cut, Act::Cut]).await;
    let status = StatusApi::new(&Stage::transport(), &stage.endpoint).unwrap();
    assert!(matches!(status.simple().await, Ok(ServiceState::Unreachable { .. })));
}

#[tokio::test]
async fn a_node_whose_name_is_an_ip_address_cannot_be_asked_under_it() {
    let address = "127.0.0.1:8140".parse().unwrap();
    let error = StatusApi::of_node(&Stage::transport(), &"10.0.0.1".parse().unwrap(), address).unwrap_err();
    assert!(error.to_string().contains("cannot be a host name"), "{error}");
}
