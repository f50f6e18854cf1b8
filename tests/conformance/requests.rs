//! Pending requests: what agents send, and what the CA says about it.

use secrecy::ExposeSecret;
use stagedoor_puppet::{Outcome, SelfSignature, State};

use super::apply::{Applicant, PP_AUTH_ROLE, PP_CLI_AUTH, PP_ROLE, submit};
use super::site::{Site, fresh, fresh_instance};

pub(super) async fn a_request_says_what_the_agent_wrote(site: &Site) {
    let instance = fresh_instance();
    let applicant = Applicant::new("web").instance(&instance).extension(PP_ROLE, "compiler");
    let applicant = applicant.alt_name("puppet.conformance.test").challenge("one-time-7Qm2").apply(site).await;
    let csr = site.ca().csr(&applicant.certname).await.unwrap().expect("the request");
    assert_eq!(csr.common_name(), applicant.certname.as_str());
    assert_eq!(*csr.self_signature(), SelfSignature::Valid);
    assert_eq!(csr.instance_id(), Some(instance));
    assert_eq!(csr.extensions().get("pp_role"), Some("compiler"));
    assert_eq!(csr.challenge().map(ExposeSecret::expose_secret), Some("one-time-7Qm2"));
    let names: Vec<String> = csr.alt_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNS:puppet.conformance.test".to_owned(), format!("DNS:{}", applicant.certname)]);
}

pub(super) async fn a_request_shows_every_extension_that_it_asks_for(site: &Site) {
    const FOREIGN: &[u64] = &[1, 2, 3, 4];
    let applicant = Applicant::new("intruder").extension(PP_AUTH_ROLE, "pe_compiler").extension(PP_CLI_AUTH, "true");
    let applicant = applicant.extension(FOREIGN, "x").apply(site).await;
    let csr = site.ca().csr(&applicant.certname).await.unwrap().expect("the request");
    assert_eq!(csr.extensions().get("pp_auth_role"), Some("pe_compiler"));
    assert_eq!(csr.extensions().get("pp_cli_auth"), Some("true"));
    assert_eq!(csr.extensions().iter().count(), 2, "and no others of Puppet's");
    assert_eq!(csr.extensions().others(), ["1.2.3.4"]);
    assert!(csr.challenge().is_none() && csr.alt_names().is_empty() && csr.instance_id().is_none());
}

pub(super) async fn an_unknown_request_is_none(site: &Site) {
    assert!(site.ca().csr(&fresh("nobody")).await.unwrap().is_none());
}

pub(super) async fn a_pending_request_has_a_status_without_serial(site: &Site) {
    let applicant = Applicant::new("web").apply(site).await;
    let csr = site.ca().csr(&applicant.certname).await.unwrap().expect("the request");
    let status = site.ca().status(&applicant.certname).await.unwrap().expect("a status");
    assert_eq!(status.state, State::Requested);
    assert_eq!(status.fingerprint.as_ref(), Some(csr.fingerprint()));
    assert_eq!((status.serial, status.not_before, status.not_after), (None, None, None));
    assert!(site.ca().certificate(&applicant.certname).await.unwrap().is_none());
}

pub(super) async fn deleting_a_request_leaves_nothing_and_twice_is_done_already(site: &Site) {
    let certname = Applicant::new("web").apply(site).await.certname;
    assert_eq!(site.ca_admin().delete_csr(&certname).await, Ok(Outcome::Done));
    assert!(site.ca().csr(&certname).await.unwrap().is_none());
    assert_eq!(site.ca().status(&certname).await, Ok(None));
    assert_eq!(site.ca_admin().delete_csr(&certname).await, Ok(Outcome::AlreadyDone));
    assert_eq!(site.ca_admin().delete_csr(&fresh("nobody")).await, Ok(Outcome::AlreadyDone));
}

pub(super) async fn deleting_a_request_where_there_is_a_certificate_leaves_that(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    let certificate = site.ca().certificate(&certname).await.unwrap();
    assert_eq!(site.ca_admin().delete_csr(&certname).await, Ok(Outcome::AlreadyDone));
    assert!(certificate.is_some());
    assert_eq!(site.ca().certificate(&certname).await.unwrap(), certificate);
    assert_eq!(site.ca().status(&certname).await.unwrap().expect("a status").state, State::Signed);
}

pub(super) async fn a_deleted_request_may_be_sent_again(site: &Site) {
    let first = Applicant::new("web").apply(site).await;
    site.ca_admin().delete_csr(&first.certname).await.unwrap();
    let again = Applicant::named(first.certname.clone()).apply(site).await;
    let kept = site.ca().csr(&again.certname).await.unwrap().expect("the request");
    site.ca_admin().sign(&again.certname).await.unwrap();
    let certificate = site.ca().certificate(&again.certname).await.unwrap().expect("the certificate");
    assert_eq!(certificate.key(), kept.key());
}

pub(super) async fn a_second_request_of_a_name_is_refused(site: &Site) {
    let first = Applicant::new("web").apply(site).await;
    let second = Applicant::named(first.certname.clone());
    let text = format!("{} already has a requested certificate; ignoring certificate request", first.certname);
    assert_eq!(submit(site, first.certname.as_str(), second.request()).await, (400, text));
    let kept = site.ca().csr(&first.certname).await.unwrap().expect("the request");
    site.ca_admin().sign(&first.certname).await.unwrap();
    let certificate = site.ca().certificate(&first.certname).await.unwrap().expect("the certificate");
    assert_eq!(certificate.key(), kept.key(), "the first one counts");
}

pub(super) async fn a_request_under_a_certificates_name_is_refused(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    let again = || Applicant::named(certname.clone()).request();
    let text = |state| (400, format!("{certname} already has a {state} certificate; ignoring certificate request"));
    assert_eq!(submit(site, certname.as_str(), again()).await, text("signed"));
    site.ca_admin().revoke(&certname).await.unwrap();
    assert_eq!(submit(site, certname.as_str(), again()).await, text("revoked"));
    site.ca_admin().delete(&certname).await.unwrap();
    assert_eq!(submit(site, certname.as_str(), again()).await, (200, String::new()));
}

pub(super) async fn a_request_in_another_name_is_refused(site: &Site) {
    let (own, other) = (Applicant::new("web"), fresh("other"));
    let text = format!("Instance name \"{}\" does not match requested key \"{other}\"", own.certname);
    assert_eq!(submit(site, other.as_str(), own.request()).await, (400, text));
    assert!(site.ca().csr(&other).await.unwrap().is_none());
    assert!(site.ca().csr(&own.certname).await.unwrap().is_none());
}

pub(super) async fn a_request_that_is_none_is_an_error_of_the_server(site: &Site) {
    let certname = fresh("web");
    let (status, text) = submit(site, certname.as_str(), "no request".to_owned()).await;
    assert_eq!(status, 500, "{text}");
    assert!(text.starts_with("Internal Server Error: "), "{text}");
    assert!(site.ca().csr(&certname).await.unwrap().is_none());
}
