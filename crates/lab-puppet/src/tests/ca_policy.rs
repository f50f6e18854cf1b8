//! Signing requests, what the CA refuses, what it issues, and who may ask.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::extensions::ParsedExtension;

use super::{World, said, version, world};
use crate::{Autosign, CsrAttributes, Node, TokenState};

const SIGN: &str = r#"{"desired_state":"signed"}"#;
const N: &str = "n.example.net";
const ALT_NAME_TEXT: &str = "CSR 'n.example.net' contains extra subject alternative names \
    (DNS:puppet.example.net), which are disallowed. To allow subject alternative names, set \
    allow-subject-alt-names to true in your ca.conf file. Then restart the puppetserver and try signing this \
    certificate again.";
const AUTHORIZATION_TEXT: &str = "CSR 'n.example.net' contains an authorization extension, which is \
    disallowed. To allow authorization extensions, set allow-authorization-extensions to true in your ca.conf \
    file. Then restart the puppetserver and try signing this certificate again.";
const CLI_AUTH_TEXT: &str = "Found extensions that are not permitted: 1.3.6.1.4.1.34380.1.3.39";

fn alt_name() -> CsrAttributes {
    CsrAttributes { alt_names: vec!["puppet.example.net".to_owned()], ..CsrAttributes::default() }
}

fn extension(name: &str, value: &str) -> CsrAttributes {
    CsrAttributes { extensions: [(name.to_owned(), value.to_owned())].into(), ..CsrAttributes::default() }
}

async fn submit(world: &World, request: &CsrAttributes) -> super::Answer {
    let csr = world.puppet.csr_pem(N, request).unwrap();
    world.ca(&format!("PUT certificate_request/{N}"), csr).await
}

async fn sign(world: &World) -> super::Answer {
    world.ca(&format!("PUT certificate_status/{N}"), SIGN).await
}

#[tokio::test]
async fn signing_refuses_alternative_names_and_authorization_while_the_switches_are_off() {
    for (request, text) in [(alt_name(), ALT_NAME_TEXT), (extension("pp_auth_role", "compiler"), AUTHORIZATION_TEXT)] {
        let world = world(|_| {});
        assert_eq!(submit(&world, &request).await, said(200, ""));
        assert_eq!(sign(&world).await, said(409, text));
        let allowing = super::world(|options| {
            options.allow_subject_alt_names = true;
            options.allow_authorization_extensions = true;
        });
        submit(&allowing, &request).await;
        assert_eq!(sign(&allowing).await, said(204, ""));
    }
}

#[tokio::test]
async fn autosign_refuses_the_same_with_400_and_keeps_the_request() {
    for (request, text) in [(alt_name(), ALT_NAME_TEXT), (extension("pp_auth_role", "compiler"), AUTHORIZATION_TEXT)] {
        let world = world(|options| options.autosign = Autosign::Switch(true));
        assert_eq!(submit(&world, &request).await, said(400, text));
        assert_eq!(world.ca(&format!("GET certificate_request/{N}"), "").await.0, 200);
        assert_eq!(world.ca(&format!("GET certificate/{N}"), "").await.0, 404);
    }
}

#[tokio::test]
async fn cli_auth_is_never_signed_from_a_request() {
    let world = world(|options| options.allow_authorization_extensions = true);
    submit(&world, &extension("pp_cli_auth", "true")).await;
    assert_eq!(sign(&world).await, said(409, CLI_AUTH_TEXT));
}

#[tokio::test]
async fn a_name_alone_in_the_alternative_names_needs_no_switch() {
    let world = world(|_| {});
    let own = CsrAttributes { alt_names: vec![N.to_owned()], ..CsrAttributes::default() };
    submit(&world, &own).await;
    assert_eq!(sign(&world).await, said(204, ""));
}

#[tokio::test]
async fn a_request_for_a_taken_name_is_refused_and_the_old_certificate_stays_visible() {
    let world = world(|_| {});
    world.puppet.place_node(&Node::of_instance(N, "i-0aaaaaaaaaaaaaaaa")).unwrap();
    let old = world.ca(&format!("GET certificate/{N}"), "").await;
    let text = "n.example.net already has a signed certificate; ignoring certificate request";
    assert_eq!(submit(&world, &CsrAttributes::default()).await, said(400, text));
    assert_eq!(world.ca(&format!("GET certificate/{N}"), "").await, old);
    world.ca(&format!("PUT certificate_status/{N}"), r#"{"desired_state":"revoked"}"#).await;
    let text = "n.example.net already has a revoked certificate; ignoring certificate request";
    assert_eq!(submit(&world, &CsrAttributes::default()).await, said(400, text));
}

#[tokio::test]
async fn with_duplicates_allowed_signing_replaces_the_file_and_revokes_nothing() {
    let world = world(|options| options.allow_duplicate_certs = true);
    world.puppet.place_node(&Node::new(N)).unwrap();
    let first = world.serial(N);
    assert_eq!(submit(&world, &CsrAttributes::default()).await, said(200, ""));
    assert_eq!(sign(&world).await, said(204, ""));
    assert!(world.serial(N) > first);
    assert!(world.crl().await.is_empty());
}

#[tokio::test]
async fn signing_twice_is_a_conflict_the_second_time() {
    let world = world(|_| {});
    submit(&world, &CsrAttributes::default()).await;
    assert_eq!(sign(&world).await, said(204, ""));
    let text = "Cannot sign certificate for host n.example.net without a certificate request";
    assert_eq!(sign(&world).await, said(409, text));
}

#[tokio::test]
async fn a_body_that_is_no_request_breaks_the_server() {
    let (status, body) = world(|_| {}).ca(&format!("PUT certificate_request/{N}"), "hello").await;
    assert_eq!(status, 500);
    assert!(body.starts_with("Internal Server Error: java.io.IOException: "), "{body}");
}

#[tokio::test]
async fn a_request_is_for_the_name_in_the_path() {
    let world = world(|_| {});
    let csr = world.puppet.csr_pem("other.example.net", &CsrAttributes::default()).unwrap();
    let text = r#"Instance name "other.example.net" does not match requested key "n.example.net""#;
    assert_eq!(world.ca(&format!("PUT certificate_request/{N}"), csr).await, said(400, text));
}

#[tokio::test]
async fn bulk_signing_exists_from_8_4_0_and_says_what_became_of_each() {
    assert_eq!(version("8.3.0").ca("POST sign", "{}").await.0, 403);
    let world = version("8.4.0");
    world.puppet.submit_csr(N, &CsrAttributes::default()).unwrap();
    world.puppet.submit_csr("bad.example.net", &alt_name()).unwrap();
    let body = json!({"certnames": [N, "none.example.net", "bad.example.net"]}).to_string();
    let (status, body) = world.ca("POST sign", body).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(body, json!({"signed": [N], "no-csr": ["none.example.net"], "signing-errors": ["bad.example.net"]}));
    let (status, body) = world.ca("POST sign", r#"{"certnames":[1]}"#).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["kind"]), (422, &json!("schema-violation")));
    let (_, body) = world.ca("POST sign/all", "").await;
    assert!(body.contains(r#""signing-errors":["bad.example.net"]"#), "{body}");
}

#[tokio::test]
async fn an_issued_certificate_looks_like_puppets() {
    let world = world(|_| {});
    let mut request = CsrAttributes::of_instance("i-0a1b2c3d4e5f60718");
    request.extensions.insert("1.3.6.1.4.1.34380.1.2.1".to_owned(), "compilers".to_owned());
    world.puppet.submit_csr(N, &request).unwrap();
    assert_eq!(sign(&world).await, said(204, ""));
    let (_, pem) = world.ca(&format!("GET certificate/{N}"), "").await;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let issuer = world.puppet.site.authority.certificates();
    let (_, issuer) = x509_parser::parse_x509_certificate(&issuer[0]).unwrap();
    certificate.verify_signature(Some(issuer.public_key())).unwrap();
    assert_eq!(certificate.issuer(), issuer.subject());
    let found: Vec<(String, bool)> =
        certificate.extensions().iter().map(|extension| (extension.oid.to_id_string(), extension.critical)).collect();
    for (oid, critical) in [
        ("2.16.840.1.113730.1.13", false),
        ("2.5.29.35", false),
        ("2.5.29.14", false),
        ("2.5.29.37", true),
        ("2.5.29.15", true),
        ("2.5.29.19", true),
        ("2.5.29.17", false),
        ("1.3.6.1.4.1.34380.1.1.2", false),
        ("1.3.6.1.4.1.34380.1.2.1", false),
    ] {
        assert!(found.contains(&(oid.to_owned(), critical)), "{oid} in {found:?}");
    }
    assert_eq!(found.len(), 9);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    let names = certificate.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names.len(), 1);
    let comment = certificate.extensions().iter().any(|extension| {
        matches!(extension.parsed_extension(), ParsedExtension::NsCertComment(text)
            if *text == "Puppet Server Internal Certificate")
    });
    assert!(comment);
}

#[tokio::test]
async fn without_a_right_the_answer_is_auth_confs() {
    let text = "Forbidden request: /puppet-ca/v1/clean (method :put). Please see the server logs for details.";
    let body = r#"{"certnames":["n.example.net"]}"#;
    for world in [world(|_| {}).called_by_anyone(), world(|_| {}).called_by("agent.example.net")] {
        assert_eq!(world.ca("PUT clean", body).await, said(403, text));
    }
    let locked_out = world(|options| options.controller_by_certname = false);
    assert_eq!(locked_out.ca("PUT clean", body).await, said(403, text));
    let administrator = world(|options| {
        options.controller_by_certname = false;
        options.controller_cli_auth = true;
    });
    assert_eq!(administrator.ca("PUT clean", body).await.0, 200);
}

#[tokio::test]
async fn a_token_opens_the_ca_of_puppet_enterprise_and_a_bad_one_only_says_why() {
    let enterprise = |token: &str| {
        world(|options| {
            let right = vec!["cert_requests:accept_reject:*".to_owned()];
            options.rbac_tokens = Some(
                [
                    ("good".to_owned(), TokenState::Valid(right)),
                    ("weak".to_owned(), TokenState::Valid(Vec::new())),
                    ("old".to_owned(), TokenState::Expired),
                ]
                .into(),
            );
        })
        .with_header("x-authentication", token)
    };
    let line = "GET certificate_statuses/any";
    let head = "Forbidden request: /puppet-ca/v1/certificate_statuses/any (method :get). ";
    let tail = "Please see the server logs for details.";
    assert_eq!(enterprise("good").called_by_anyone().ca(line, "").await.0, 200);
    let weak = enterprise("weak").called_by_anyone().ca(line, "").await;
    assert_eq!(weak, said(403, &format!("{head}{tail}")));
    let old = enterprise("old").called_by_anyone().ca(line, "").await;
    assert_eq!(old, said(403, &format!("{head}RBAC Message: The provided token has expired. {tail}")));
    assert_eq!(enterprise("old").ca(line, "").await.0, 200);
}

#[tokio::test]
async fn deleting_a_request_by_itself_needs_an_added_rule() {
    let line = format!("DELETE certificate_request/{N}");
    let shipped = world(|_| {});
    shipped.puppet.submit_csr(N, &CsrAttributes::default()).unwrap();
    assert_eq!(shipped.ca(&line, "").await.0, 403);
    let ruled = world(|options| options.allow_request_deletion = true);
    ruled.puppet.submit_csr(N, &CsrAttributes::default()).unwrap();
    assert_eq!(ruled.ca(&line, "").await, said(204, ""));
    let (status, body) = ruled.ca(&line, "").await;
    assert_eq!(status, 404);
    assert!(body.starts_with("No certificate request for n.example.net at expected path /"), "{body}");
}
