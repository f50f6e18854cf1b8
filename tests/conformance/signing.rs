//! Signing, and what the CA will not sign.

use stagedoor_puppet::{Error, Signed, State};

use super::apply::{Applicant, PP_AUTH_ROLE, PP_CLI_AUTH};
use super::site::{Site, fresh};

pub(super) async fn signing_a_request_makes_a_certificate(site: &Site) {
    let certname = Applicant::new("web").apply(site).await.certname;
    assert_eq!(site.ca_admin().sign(&certname).await, Ok(Signed::Done));
    assert!(site.ca().certificate(&certname).await.unwrap().is_some());
    assert!(site.ca().csr(&certname).await.unwrap().is_none());
    assert_eq!(site.ca().status(&certname).await.unwrap().expect("a status").state, State::Signed);
}

pub(super) async fn signing_twice_says_already_signed(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    let status = site.ca().status(&certname).await.unwrap().expect("a status");
    assert_eq!(site.ca_admin().sign(&certname).await, Ok(Signed::AlreadySigned(Box::new(status))));
}

pub(super) async fn signing_without_a_request_says_so(site: &Site) {
    assert_eq!(site.ca_admin().sign(&fresh("nobody")).await, Ok(Signed::NoRequest));
}

pub(super) async fn signing_a_revoked_name_says_there_is_no_request(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    site.ca_admin().revoke(&certname).await.unwrap();
    assert_eq!(site.ca_admin().sign(&certname).await, Ok(Signed::NoRequest));
}

pub(super) async fn alternative_names_are_signed_where_allowed(site: &Site) {
    let applicant = Applicant::new("compiler").alt_name("puppet.conformance.test").enrol(site).await;
    let certificate = site.ca().certificate(&applicant.certname).await.unwrap().expect("the certificate");
    let mut names: Vec<String> = certificate.alt_names().iter().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, [format!("DNS:{}", applicant.certname), "DNS:puppet.conformance.test".to_owned()]);
    let mut status = site.ca().status(&applicant.certname).await.unwrap().expect("a status");
    status.alt_names.sort();
    assert_eq!(status.alt_names, names);
}

pub(super) async fn authorization_extensions_are_signed_where_allowed_and_shown_in_the_status(site: &Site) {
    let applicant = Applicant::new("compiler").extension(PP_AUTH_ROLE, "pe_compiler").apply(site).await;
    for signed in [false, true] {
        if signed {
            assert_eq!(site.ca_admin().sign(&applicant.certname).await, Ok(Signed::Done));
        }
        let status = site.ca().status(&applicant.certname).await.unwrap().expect("a status");
        let shown: Vec<_> = status.authorization_extensions.into_iter().collect();
        assert_eq!(shown, [("pp_auth_role".to_owned(), "pe_compiler".to_owned())], "signed: {signed}");
    }
    let certificate = site.ca().certificate(&applicant.certname).await.unwrap().expect("the certificate");
    assert_eq!(certificate.extensions().get("pp_auth_role"), Some("pe_compiler"));
}

pub(super) async fn the_right_to_administer_the_ca_is_never_signed(site: &Site) {
    let applicant = Applicant::new("intruder").extension(PP_CLI_AUTH, "true").apply(site).await;
    assert_refused(site, &applicant, "1.3.6.1.4.1.34380.1.3.39").await;
}

pub(super) async fn a_foreign_extension_is_not_signed(site: &Site) {
    const FOREIGN: &[u64] = &[1, 2, 3, 4];
    let applicant = Applicant::new("intruder").extension(FOREIGN, "x").apply(site).await;
    assert_refused(site, &applicant, "1.2.3.4").await;
}

pub(super) async fn a_request_that_is_not_signed_stays(site: &Site) {
    let applicant = Applicant::new("intruder").extension(PP_CLI_AUTH, "true").apply(site).await;
    site.ca_admin().sign(&applicant.certname).await.unwrap_err();
    let status = site.ca().status(&applicant.certname).await.unwrap().expect("a status");
    assert_eq!(status.state, State::Requested);
    assert!(site.ca().csr(&applicant.certname).await.unwrap().is_some());
}

pub(super) async fn signing_a_set_says_of_each_name_what_signing_it_alone_would(site: &Site) {
    let fit = [Applicant::new("fit").apply(site).await.certname, Applicant::new("fit").apply(site).await.certname];
    let unfit = Applicant::new("unfit").extension(PP_CLI_AUTH, "true").apply(site).await.certname;
    let signed = Applicant::new("signed").enrol(site).await.certname;
    let unknown = fresh("nobody");
    let asked = [fit[0].clone(), unfit.clone(), signed.clone(), unknown.clone(), fit[1].clone()];
    let told = site.ca_admin().sign_all(&asked).await;
    assert_eq!(told.len(), asked.len());
    assert_eq!((&told[&fit[0]], &told[&fit[1]]), (&Ok(Signed::Done), &Ok(Signed::Done)));
    assert!(matches!(told[&unfit], Err(Error::Refused { status: 409, .. })), "{told:?}");
    assert!(matches!(told[&signed], Ok(Signed::AlreadySigned(_))), "{told:?}");
    assert_eq!(told[&unknown], Ok(Signed::NoRequest));
    for certname in &fit {
        assert!(site.ca().certificate(certname).await.unwrap().is_some());
    }
}

async fn assert_refused(site: &Site, applicant: &Applicant, oid: &str) {
    let error = site.ca_admin().sign(&applicant.certname).await.unwrap_err();
    let Error::Refused { status, words, remedy, .. } = &error else { panic!("{error}") };
    assert_eq!(*status, 409);
    assert_eq!(words, &format!("Found extensions that are not permitted: {oid}"));
    assert!(remedy.is_some_and(|remedy| remedy.contains("csr_attributes.yaml")), "{remedy:?}");
    assert_eq!(site.ca().certificate(&applicant.certname).await, Ok(None));
}
