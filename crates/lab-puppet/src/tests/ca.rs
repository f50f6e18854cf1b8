//! Status, revocation, deletion, clean and what is public.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{said, version, world};
use crate::{CertificateState, CsrAttributes, Node, ServiceState};

const REVOKE: &str = r#"{"desired_state":"revoked"}"#;
const SIGN: &str = r#"{"desired_state":"signed"}"#;
const N: &str = "n.example.net";

fn revoked(certname: &str) -> Node {
    Node { certificate: CertificateState::Revoked, ..Node::new(certname) }
}

#[tokio::test]
async fn revoking_a_name_without_a_file_is_404_before_8_2_2_and_204_while_the_inventory_lists_it() {
    for (release, expected) in [("7.9.5", said(404, "Invalid certificate subject.")), ("8.2.2", said(204, ""))] {
        let world = version(release);
        world.puppet.place_node(&Node::new(N)).unwrap();
        let serial = world.serial(N);
        assert_eq!(world.ca(&format!("DELETE certificate_status/{N}"), "").await.0, 204);
        assert_eq!(world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await, expected);
        assert_eq!(world.crl().await.contains(&serial), release == "8.2.2");
        let never = world.ca("PUT certificate_status/never.example.net", REVOKE).await;
        assert_eq!(never, said(404, "Invalid certificate subject."));
    }
}

#[tokio::test]
async fn revoking_twice_answers_204_both_times_and_writes_one_crl() {
    for release in ["7.9.5", "8.7.0"] {
        let world = version(release);
        world.puppet.place_node(&Node::new(N)).unwrap();
        let first = world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await;
        let crl = world.ca("GET certificate_revocation_list/ca", "").await;
        let second = world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await;
        assert_eq!((first, second), (said(204, ""), said(204, "")));
        assert_eq!(world.crl().await, [world.serial(N)]);
        assert_eq!(world.ca("GET certificate_revocation_list/ca", "").await, crl);
    }
}

#[tokio::test]
async fn deleting_twice_is_404_before_8_2_2_and_204_since() {
    for (release, expected) in [("7.9.5", said(404, "Resource not found.")), ("8.7.0", said(204, ""))] {
        let world = version(release);
        world.puppet.place_node(&Node::new(N)).unwrap();
        assert_eq!(world.ca(&format!("DELETE certificate_status/{N}"), "").await, said(204, ""));
        assert_eq!(world.ca(&format!("DELETE certificate_status/{N}"), "").await, expected);
        assert!(world.crl().await.is_empty());
    }
}

#[tokio::test]
async fn clean_names_the_unknown_in_a_clojure_vector_and_cleans_the_rest() {
    let world = world(|_| {});
    world.puppet.place_node(&Node::new(N)).unwrap();
    let serial = world.serial(N);
    let body = json!({"certnames": ["x.example.net", N, "y.example.net"]}).to_string();
    let text = r#"The following certs do not exist and cannot be revoked: ["x.example.net" "y.example.net"]"#;
    assert_eq!(world.ca("PUT clean", body).await, said(200, text));
    assert_eq!(world.crl().await, [serial]);
    let gone = said(404, "Could not find certificate n.example.net");
    assert_eq!(world.ca(&format!("GET certificate/{N}"), "").await, gone);
    let again = world.ca("PUT clean", json!({"certnames": [N]}).to_string()).await;
    assert_eq!(again, said(200, "Successfully cleaned all certs."));
}

#[tokio::test]
async fn clean_refuses_bodies_that_it_cannot_use() {
    let world = world(|_| {});
    assert_eq!(world.ca("PUT clean", "").await, said(400, "Request body is not JSON."));
    let missing = "Missing required key: 'certnames'. Please supply the list of certs you want to clean.";
    assert_eq!(world.ca("PUT clean", "{}").await, said(400, missing));
    let later = world.ca("PUT clean", r#"{"async":true,"certnames":[]}"#).await;
    assert_eq!(later, said(400, "Async mode is not currently supported."));
}

#[tokio::test]
async fn clean_leaves_a_pending_request_which_blocks_the_next_one() {
    let world = world(|_| {});
    let node = Node { pending_csr: Some(CsrAttributes::default()), ..Node::new(N) };
    world.puppet.place_node(&node).unwrap();
    world.ca("PUT clean", json!({"certnames": [N]}).to_string()).await;
    assert_eq!(world.ca(&format!("GET certificate_request/{N}"), "").await.0, 200);
    let csr = world.puppet.csr_pem(N, &CsrAttributes::default()).unwrap();
    let text = "n.example.net already has a requested certificate; ignoring certificate request";
    assert_eq!(world.ca(&format!("PUT certificate_request/{N}"), csr).await, said(400, text));
}

#[tokio::test]
async fn a_server_without_clean_answers_404_to_the_controller() {
    assert_eq!(version("5.3.14").ca("PUT clean", "{}").await, said(404, "Not Found"));
    assert_eq!(version("5.3.15").ca("PUT clean", "{}").await.0, 400);
}

#[tokio::test]
async fn a_late_revocation_hits_the_successor_that_reuses_the_name() {
    let world = world(|_| {});
    world.puppet.place_node(&Node::of_instance(N, "i-0aaaaaaaaaaaaaaaa")).unwrap();
    let first = world.serial(N);
    world.ca(&format!("DELETE certificate_status/{N}"), "").await;
    world.puppet.place_node(&Node::of_instance(N, "i-0bbbbbbbbbbbbbbbb")).unwrap();
    let second = world.serial(N);
    world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await;
    assert_eq!(world.crl().await, [first, second]);
}

#[tokio::test]
async fn before_8_2_2_only_the_certificate_on_file_is_revoked() {
    let world = version("8.2.1");
    world.puppet.place_node(&Node::new(N)).unwrap();
    world.puppet.place_node(&Node::new(N)).unwrap();
    world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await;
    assert_eq!(world.crl().await, [world.serial(N)]);
}

#[tokio::test]
async fn a_name_with_nothing_but_expired_rows_breaks_the_server() {
    let world = world(|options| options.ca_ttl_s = 60);
    world.puppet.place_node(&Node::new(N)).unwrap();
    world.ca(&format!("DELETE certificate_status/{N}"), "").await;
    world.clock.advance(SignedDuration::from_secs(61));
    let path = "/etc/puppetlabs/puppetserver/ca/signed/n.example.net.pem (No such file or directory)";
    let text = format!("Internal Server Error: java.io.FileNotFoundException: {path}");
    assert_eq!(world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await, said(500, &text));
    let text = format!("Error while cleaning certs: {path}");
    let cleaned = world.ca("PUT clean", json!({"certnames": [N]}).to_string()).await;
    assert_eq!(cleaned, said(500, &text));
}

#[tokio::test]
async fn the_status_of_a_deleted_name_is_a_500_from_8_2_2_to_8_6_0() {
    for (release, expected) in [("8.2.1", 404), ("8.2.2", 500), ("8.6.0", 500), ("8.6.1", 404)] {
        let world = version(release);
        world.puppet.place_node(&Node::new(N)).unwrap();
        world.ca(&format!("DELETE certificate_status/{N}"), "").await;
        let (status, body) = world.ca(&format!("GET certificate_status/{N}"), "").await;
        assert_eq!(status, expected, "{release}: {body}");
        assert_eq!(body.contains("java.io.FileNotFoundException"), status == 500);
    }
}

#[tokio::test]
async fn a_status_error_claims_to_be_json_and_is_text() {
    let reply = world(|_| {}).ca_reply("GET certificate_status/no.example.net", "").await;
    assert_eq!(reply.headers()["content-type"], "application/json;charset=UTF-8");
    assert_eq!(&reply.body()[..], b"Resource not found.");
}

#[tokio::test]
async fn a_status_tells_state_serial_names_and_authorization() {
    let world = world(|_| {});
    let mut node = Node::of_instance(N, "i-0a1b2c3d4e5f60718");
    node.extensions.insert("pp_auth_role".to_owned(), "compiler".to_owned());
    node.alt_names = vec!["puppet.example.net".to_owned()];
    world.puppet.place_node(&node).unwrap();
    let (_, body) = world.ca(&format!("GET certificate_status/{N}"), "").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["state"], "signed");
    assert_eq!(status["serial_number"], world.serial(N));
    assert_eq!(status["not_before"], "2026-03-03T05:06:07UTC");
    assert_eq!(status["authorization_extensions"], json!({"pp_auth_role": "compiler"}));
    assert_eq!(status["subject_alt_names"], json!(["DNS:n.example.net", "DNS:puppet.example.net"]));
    assert_eq!(status["fingerprint"].as_str().unwrap().len(), 95);
}

#[tokio::test]
async fn statuses_filter_by_state_and_want_a_segment() {
    let world = world(|_| {});
    world.puppet.place_node(&Node::new(N)).unwrap();
    world.puppet.place_node(&revoked("r.example.net")).unwrap();
    world.puppet.submit_csr("c.example.net", &CsrAttributes::default()).unwrap();
    for (state, expected) in [("requested", &["c.example.net"][..]), ("revoked", &["r.example.net"]), ("bogus", &[])] {
        let (_, body) = world.ca(&format!("GET certificate_statuses/any?state={state}"), "").await;
        let listed: Vec<Value> = serde_json::from_str(&body).unwrap();
        let names: Vec<&str> = listed.iter().map(|one| one["name"].as_str().unwrap()).collect();
        if state == "bogus" {
            assert_eq!(names.first(), Some(&"c.example.net"));
            assert!(names.contains(&N) && names.contains(&"r.example.net"));
        } else {
            assert_eq!(names, expected);
        }
    }
    let missing = world.ca("GET certificate_statuses/", "").await;
    assert_eq!(missing, said(400, "Missing URL Segment"));
}

#[tokio::test]
async fn a_put_is_checked_in_liberators_order() {
    let line = format!("PUT certificate_status/{N}");
    let odd = world(|_| {}).with_header("content-type", "text/plain").with_header("accept", "text/html");
    assert_eq!(odd.ca(&line, "{}").await, said(400, "Missing required parameter \"desired_state\""));
    assert_eq!(odd.ca(&line, REVOKE).await, said(415, "Unsupported media type."));
    let odd = world(|_| {}).with_header("accept", "text/html");
    assert_eq!(odd.ca(&line, REVOKE).await, said(406, "No acceptable resource available."));
    let plain = world(|_| {}).with_header("content-type", "application/json; charset=utf-8");
    assert_eq!(plain.ca(&line, "x").await, said(400, "Request body is not JSON."));
    let bogus = "State bogus invalid; Must specify desired state of 'signed' or 'revoked' for host n.example.net.";
    assert_eq!(plain.ca(&line, r#"{"desired_state":"bogus"}"#).await, said(400, bogus));
    let ttl = r#"cert_ttl specified for host n.example.net must be an integer, not "abc""#;
    let body = r#"{"desired_state":"signed","cert_ttl":"abc"}"#;
    assert_eq!(plain.ca(&line, body).await, said(400, ttl));
    assert_eq!(plain.ca(&line, SIGN).await, said(404, "Invalid certificate subject."));
    assert_eq!(plain.ca("PUT certificate_statuses/any", "").await, said(405, "Method not allowed."));
}

#[tokio::test]
async fn revoking_a_name_that_only_has_a_request_is_a_conflict() {
    let world = world(|_| {});
    world.puppet.submit_csr(N, &CsrAttributes::default()).unwrap();
    let text = "Cannot revoke certificate for host n.example.net without a signed certificate";
    assert_eq!(world.ca(&format!("PUT certificate_status/{N}"), REVOKE).await, said(409, text));
}

#[tokio::test]
async fn anyone_reads_certificates_and_the_crl_and_sees_the_version() {
    let world = version("8.6.1").called_by_anyone();
    let reply = world.ca_reply("GET certificate/ca", "").await;
    assert_eq!(reply.headers()["x-puppet-version"], "8.6.1");
    let bundle = String::from_utf8(reply.into_body().into()).unwrap();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(bundle, world.puppet.ca_bundle_pem());
    let (_, crls) = world.ca("GET certificate_revocation_list/ca", "").await;
    assert_eq!(crls.matches("BEGIN X509 CRL").count(), 2);
}

#[tokio::test]
async fn an_unchanged_crl_is_not_sent_again() {
    let world = world(|_| {}).with_header("if-modified-since", "Wed, 04 Mar 2026 06:00:00 GMT");
    assert_eq!(world.ca("GET certificate_revocation_list/ca", "").await, said(304, ""));
    assert_eq!(world.ca("GET certificate/ca", "").await, said(304, ""));
    world.clock.advance(SignedDuration::from_hours(1));
    world.puppet.place_node(&revoked(N)).unwrap();
    assert_eq!(world.ca("GET certificate_revocation_list/ca", "").await.0, 200);
}

#[tokio::test]
async fn the_infra_crl_hides_revoked_agents() {
    let world = world(|options| {
        options.enable_infra_crl = true;
        options.infra_nodes = vec!["compiler.example.net".to_owned()];
    });
    world.puppet.place_node(&revoked(N)).unwrap();
    assert!(world.crl().await.is_empty());
    world.puppet.place_node(&revoked("compiler.example.net")).unwrap();
    assert_eq!(world.crl().await, [world.serial("compiler.example.net")]);
}

#[tokio::test]
async fn expirations_name_both_cas() {
    let (status, body) = world(|_| {}).called_by("agent.example.net").ca("GET expirations", "").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    for kind in ["ca-certs", "crls"] {
        assert_eq!(body[kind].as_object().unwrap().len(), 2);
    }
    assert_eq!(body["crls"]["Puppet CA: puppet"], "2031-03-03T05:06:07UTC");
}

#[tokio::test]
async fn the_status_service_starts_and_then_runs() {
    let world = world(|options| options.server_state = ServiceState::Starting).called_by_anyone();
    assert_eq!(world.ca("GET /status/v1/simple", "").await, said(503, "starting"));
    world.puppet.configure(|options| options.server_state = ServiceState::Running);
    assert_eq!(world.ca("GET /status/v1/simple", "").await, said(200, "running"));
    assert_eq!(world.ca("GET /status/v1/simple/foo", "").await, said(404, "not found: foo"));
    let (_, body) = world.ca("GET /status/v1/services", "").await;
    let services: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(services["ca"]["service_version"], "8.7.0");
}

#[tokio::test]
async fn writes_of_the_ca_come_one_after_the_other() {
    let world = world(|options| options.ca_write_ms = 20);
    let body = json!({"certnames": [N]}).to_string();
    let started = tokio::time::Instant::now();
    let (first, second) = tokio::join!(world.ca("PUT clean", body.clone()), world.ca("PUT clean", body));
    assert_eq!((first.0, second.0), (200, 200));
    assert!(started.elapsed() >= std::time::Duration::from_millis(40));
}

#[tokio::test]
async fn an_empty_certificate_file_fails_the_lists_of_certificates_and_no_other_name() {
    let world = world(|_| {});
    world.puppet.place_node(&Node::new(N)).unwrap();
    world.puppet.place_node(&Node::new("damaged.example.net")).unwrap();
    world.puppet.empty_certificate_file("damaged.example.net");
    let text = "The PEM stream must contain exactly 1 certificate";
    let broken = said(500, &format!("Internal Server Error: java.lang.IllegalArgumentException: {text}"));
    for list in ["GET certificate_statuses/any", "GET certificate_statuses/any?state=signed"] {
        assert_eq!(world.ca(list, "").await, broken, "{list}");
    }
    let cleaned = world.ca("PUT clean", json!({"certnames": [N, "damaged.example.net"]}).to_string()).await;
    assert_eq!(cleaned, said(500, &format!("Error while cleaning certs: {text}")));
    assert_eq!(world.ca("GET certificate_statuses/any?state=requested", "").await, said(200, "[]"));
    assert_eq!(world.ca(&format!("GET certificate_status/{N}"), "").await.0, 200);
    assert_eq!(world.ca("GET certificate_status/damaged.example.net", "").await, broken);
    assert_eq!(world.ca("GET certificate/damaged.example.net", "").await, said(200, ""));
}

#[tokio::test]
async fn a_large_ca_lists_and_revokes_as_many_as_it_is_told_to() {
    let world = world(|_| {});
    world.puppet.grow(300).unwrap();
    let (status, body) = world.ca("GET certificate_statuses/any?state=signed", "").await;
    let list: Vec<Value> = serde_json::from_str(&body).unwrap();
    let names: std::collections::BTreeSet<&str> = list.iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(status == 200 && names.len() >= 300 && list.iter().all(|one| one["state"] == "signed"), "{names:?}");
    assert_eq!(world.puppet.snapshot()["revoked_serials"].as_array().unwrap().len(), 300);
}
