//! Reading certificates, CRLs and dates from the CA.

use jiff::{SignedDuration, Timestamp};
use stagedoor_lab_core::clock::Clock;
use stagedoor_puppet::{CertificateStatus, Curve, KeyKind, State};
use stagedoor_types::Certname;

use super::apply::{Applicant, PP_ROLE};
use super::site::{Site, fresh, fresh_instance};

pub(super) async fn a_certificate_says_what_its_request_said(site: &Site) {
    let instance = fresh_instance();
    let applicant = Applicant::new("web").instance(&instance).extension(PP_ROLE, "compiler").challenge("one-time-7Qm2");
    let applicant = applicant.apply(site).await;
    let csr = site.ca().csr(&applicant.certname).await.unwrap().expect("the request");
    site.ca_admin().sign(&applicant.certname).await.unwrap();

    let certificate = site.ca().certificate(&applicant.certname).await.unwrap().expect("the certificate");
    assert_eq!(certificate.common_name(), applicant.certname.as_str());
    assert_eq!(certificate.instance_id(), Some(instance));
    assert_eq!(certificate.extensions().get("pp_role"), Some("compiler"));
    assert_eq!(certificate.key(), csr.key());
    assert_eq!(certificate.key().kind, KeyKind::Ec(Curve::P256));
    let names: Vec<String> = certificate.alt_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, [format!("DNS:{}", applicant.certname)], "the CA adds the name itself");
    let texts: Vec<&str> = certificate.extensions().iter().map(|(_, text)| text).collect();
    assert!(!texts.contains(&"one-time-7Qm2"), "the challenge stays in the request");

    let now = Clock::machine_now();
    assert!(certificate.not_after() > now + SignedDuration::from_hours(24 * 365 * 4), "it is valid for five years");
}

pub(super) async fn a_revoked_certificate_can_still_be_read(site: &Site) {
    let applicant = Applicant::new("web").enrol(site).await;
    site.ca_admin().revoke(&applicant.certname).await.unwrap();
    assert!(site.ca().certificate(&applicant.certname).await.unwrap().is_some());
    let status = site.ca().status(&applicant.certname).await.unwrap().expect("a status");
    assert_eq!(status.state, State::Revoked);
}

pub(super) async fn status_and_certificate_agree(site: &Site) {
    let applicant = Applicant::new("web").enrol(site).await;
    let certificate = site.ca().certificate(&applicant.certname).await.unwrap().expect("the certificate");
    let status = site.ca().status(&applicant.certname).await.unwrap().expect("a status");
    assert_eq!(status.name, applicant.certname.as_str());
    assert_eq!(status.state, State::Signed);
    assert_eq!(status.serial.as_ref(), Some(certificate.serial()));
    assert_eq!(status.fingerprint.as_ref(), Some(certificate.fingerprint()));
    assert_eq!(status.not_before, Some(certificate.not_before()));
    assert_eq!(status.not_after, Some(certificate.not_after()));
    assert_eq!(status.alt_names, [format!("DNS:{}", applicant.certname)]);
    assert!(status.authorization_extensions.is_empty());
}

pub(super) async fn the_status_of_an_unknown_name_is_none(site: &Site) {
    assert_eq!(site.ca().status(&fresh("nobody")).await, Ok(None));
}

pub(super) async fn an_unknown_certificate_is_none(site: &Site) {
    assert_eq!(site.ca().certificate(&fresh("nobody")).await, Ok(None));
}

pub(super) async fn statuses_lists_every_name_in_its_state(site: &Site) {
    let requested = Applicant::new("requested").apply(site).await.certname;
    let signed = Applicant::new("signed").enrol(site).await.certname;
    let revoked = Applicant::new("revoked").enrol(site).await.certname;
    site.ca_admin().revoke(&revoked).await.unwrap();

    let names = [(&requested, State::Requested), (&signed, State::Signed), (&revoked, State::Revoked)];
    let all = statuses(site, None).await;
    for (certname, state) in names {
        let found: Vec<State> = all.iter().filter(|one| one.name == certname.as_str()).map(|one| one.state).collect();
        assert_eq!(found, [state], "{certname} among all");
    }
    for asked in [State::Requested, State::Signed, State::Revoked] {
        let listed = statuses(site, Some(asked)).await;
        assert!(listed.iter().all(|one| one.state == asked), "only {asked} ones");
        for (certname, state) in names {
            let is_listed = listed.iter().any(|one| one.name == certname.as_str());
            assert_eq!(is_listed, state == asked, "{certname} among the {asked} ones");
        }
    }
}

pub(super) async fn statuses_leaves_out_a_name_that_was_cleaned(site: &Site) {
    let (cleaned, kept) = (Applicant::new("cleaned").enrol(site).await, Applicant::new("kept").enrol(site).await);
    let result = site.ca_admin().clean(std::slice::from_ref(&cleaned.certname)).await;
    assert!(result.values().all(Result::is_ok), "{result:?}");
    let listed: Vec<String> = statuses(site, None).await.into_iter().map(|one| one.name).collect();
    assert!(!listed.iter().any(|name| name == cleaned.certname.as_str()), "its serial is in the inventory still");
    assert!(listed.iter().any(|name| name == kept.certname.as_str()));
}

/// So one list says of many names which of them have a request to read.
pub(super) async fn the_list_of_requests_names_them_and_no_certificate(site: &Site) {
    let requested = Applicant::new("requested").apply(site).await.certname;
    let signed = Applicant::new("signed").enrol(site).await.certname;
    let listed = site.ca().requested().await.unwrap();
    assert!(listed.iter().all(|one| one.state == State::Requested), "{listed:#?}");
    let named = |name: &Certname| listed.iter().any(|one| one.name == name.as_str());
    assert!(named(&requested) && !named(&signed) && !named(&fresh("nobody")));
}

pub(super) async fn the_names_of_signed_certificates_are_listed(site: &Site) {
    let requested = Applicant::new("requested").apply(site).await.certname;
    let signed = Applicant::new("signed").enrol(site).await.certname;
    let revoked = Applicant::new("revoked").enrol(site).await.certname;
    site.ca_admin().revoke(&revoked).await.unwrap();
    let mut tries = 0;
    let names = loop {
        let mut names = Vec::new();
        match site.ca().signed_names(|name| names.push(name)).await {
            Ok(()) => break names,
            Err(stagedoor_puppet::Error::Busy { .. } | stagedoor_puppet::Error::Unreachable { .. }) if tries < 20 => {
                tries += 1;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let is_listed = [&requested, &signed, &revoked].map(|name| names.iter().any(|listed| listed == name.as_str()));
    assert_eq!(is_listed, [false, true, false]);
}

/// The time of issue is derived from this.
pub(super) async fn a_certificate_is_valid_from_a_day_before_it_was_issued(site: &Site) {
    let applicant = Applicant::new("web").apply(site).await;
    let before = Clock::machine_now();
    site.ca_admin().sign(&applicant.certname).await.unwrap();
    let after = Clock::machine_now();
    let certificate = site.ca().certificate(&applicant.certname).await.unwrap().expect("the certificate");
    let issued = certificate.not_before() + SignedDuration::from_hours(24);
    // Certificates have whole seconds.
    let tolerance = SignedDuration::from_secs(1);
    assert!(before - tolerance <= issued && issued <= after + tolerance, "{before} {issued} {after}");
}

/// A real CA lists its directory and then reads every file; when a certificate is deleted in between, which other tests
/// do all the time, the answer is a 500 that says to ask again.
async fn statuses(site: &Site, state: Option<State>) -> Vec<CertificateStatus> {
    let mut tries = 0;
    loop {
        match site.ca().statuses(state).await {
            Ok(listed) => return listed,
            Err(stagedoor_puppet::Error::Busy { .. } | stagedoor_puppet::Error::Unreachable { .. }) if tries < 20 => {
                tries += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) async fn the_name_ca_means_the_cas_own_certificate(site: &Site) {
    let ca = site.ca().certificate(&"ca".parse().unwrap()).await.unwrap().expect("the CA's certificate");
    let node = Applicant::new("web").enrol(site).await.certname;
    let node = site.ca().certificate(&node).await.unwrap().expect("the certificate");
    let crls = site.ca().crl().await.unwrap();
    let own = crls.lists().iter().find(|list| list.issuer == node.issuer()).expect("the signing CA's list");
    // The first certificate of the bundle is the one that signs.
    assert!(own.issuer_name.contains(ca.common_name()), "{} in {}", ca.common_name(), own.issuer_name);
}

pub(super) async fn the_crls_are_one_for_each_certificate_of_the_chain(site: &Site) {
    let crls = site.ca().crl().await.unwrap();
    assert_eq!(crls.lists().len(), 2, "the signing CA's and the root's");
    assert_ne!(crls.lists()[0].issuer, crls.lists()[1].issuer);
    let now = Clock::machine_now();
    assert!(crls.lists().iter().all(|list| list.this_update <= now));
    assert!(crls.next_update().expect("a date") > now + SignedDuration::from_hours(24 * 365));
}

pub(super) async fn expirations_are_those_of_the_chain(site: &Site) {
    let expirations = site.ca().expirations().await.unwrap();
    assert_eq!(expirations.ca_certs.len(), 2, "{expirations:?}");
    assert!(
        expirations.crls.keys().eq(expirations.ca_certs.keys()),
        "one CRL for each CA certificate: {expirations:?}"
    );
    let mut dates: Vec<Timestamp> =
        site.ca().crl().await.unwrap().lists().iter().filter_map(|list| list.next_update).collect();
    let mut told: Vec<Timestamp> = expirations.crls.values().copied().collect();
    dates.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, dates, "as the CRLs themselves say");
    assert!(expirations.earliest().expect("a date") > Clock::machine_now());
}

pub(super) async fn the_version_is_the_servers(site: &Site) {
    assert_eq!(site.ca().version().await, Ok(site.puppetserver_version.clone()));
}
