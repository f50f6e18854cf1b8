//! Revoking, deleting, cleaning, and the CRL that proves it.

use std::collections::BTreeMap;

use stagedoor_puppet::{Certificate, Outcome, Signed, State};
use stagedoor_types::Certname;

use super::apply::{Applicant, submit};
use super::site::{Site, fresh};

async fn certificate(site: &Site, applicant: &Applicant) -> Certificate {
    site.ca().certificate(&applicant.certname).await.unwrap().expect("the certificate")
}

/// Cleans these names, each of which must succeed; the names that had nothing to clean.
async fn missing(site: &Site, names: &[Certname]) -> Vec<Certname> {
    let cleaned = site.ca_admin().clean(names).await;
    assert!(cleaned.len() == names.len() && cleaned.values().all(Result::is_ok), "{cleaned:?}");
    cleaned.into_iter().filter(|(_, result)| *result == Ok(Outcome::AlreadyDone)).map(|(name, _)| name).collect()
}

fn sorted<const N: usize>(mut names: [Certname; N]) -> [Certname; N] {
    names.sort();
    names
}

pub(super) async fn revoking_twice_answers_done_both_times(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    assert_eq!(site.ca_admin().revoke(&certname).await, Ok(Outcome::Done));
    assert_eq!(site.ca_admin().revoke(&certname).await, Ok(Outcome::Done));
    assert_eq!(site.ca().status(&certname).await.unwrap().expect("a status").state, State::Revoked);
}

pub(super) async fn revoking_puts_the_serial_into_the_crl(site: &Site) {
    let (leaving, staying) = (Applicant::new("leaving").enrol(site).await, Applicant::new("staying").enrol(site).await);
    let (leaves, stays) = (certificate(site, &leaving).await, certificate(site, &staying).await);
    let before = site.ca().crl().await.unwrap();
    assert!(!before.contains(leaves.serial()) && !before.revokes(&leaves));

    site.ca_admin().revoke(&leaving.certname).await.unwrap();
    let after = site.ca().crl().await.unwrap();
    assert!(after.contains(leaves.serial()) && after.revokes(&leaves));
    assert!(!after.contains(stays.serial()) && !after.revokes(&stays));
    let list = after.lists().iter().find(|list| list.issuer == leaves.issuer()).expect("the signing CA's list");
    assert!(list.serials.contains(leaves.serial()));
}

pub(super) async fn revoking_an_unknown_name_is_done_already(site: &Site) {
    assert_eq!(site.ca_admin().revoke(&fresh("nobody")).await, Ok(Outcome::AlreadyDone));
}

pub(super) async fn revoking_a_mere_request_is_done_already_and_leaves_it(site: &Site) {
    let certname = Applicant::new("web").apply(site).await.certname;
    assert_eq!(site.ca_admin().revoke(&certname).await, Ok(Outcome::AlreadyDone));
    assert!(site.ca().csr(&certname).await.unwrap().is_some());
}

pub(super) async fn deleting_removes_the_certificate_and_revokes_nothing(site: &Site) {
    let applicant = Applicant::new("web").enrol(site).await;
    let deleted = certificate(site, &applicant).await;
    assert_eq!(site.ca_admin().delete(&applicant.certname).await, Ok(Outcome::Done));
    assert_eq!(site.ca().certificate(&applicant.certname).await, Ok(None));
    assert_eq!(site.ca().status(&applicant.certname).await, Ok(None));
    assert!(!site.ca().crl().await.unwrap().revokes(&deleted));
    let again = if site.remembers_deleted_names() { Outcome::Done } else { Outcome::AlreadyDone };
    assert_eq!(site.ca_admin().delete(&applicant.certname).await, Ok(again));
}

pub(super) async fn deleting_removes_a_mere_request(site: &Site) {
    let certname = Applicant::new("web").apply(site).await.certname;
    assert_eq!(site.ca_admin().delete(&certname).await, Ok(Outcome::Done));
    assert!(site.ca().csr(&certname).await.unwrap().is_none());
    assert_eq!(site.ca_admin().delete(&certname).await, Ok(Outcome::AlreadyDone));
}

pub(super) async fn deleting_an_unknown_name_is_done_already(site: &Site) {
    assert_eq!(site.ca_admin().delete(&fresh("nobody")).await, Ok(Outcome::AlreadyDone));
}

pub(super) async fn cleaning_revokes_and_deletes(site: &Site) {
    let applicant = Applicant::new("web").enrol(site).await;
    let cleaned = certificate(site, &applicant).await;
    assert!(!site.ca().crl().await.unwrap().revokes(&cleaned));
    let names = [applicant.certname.clone()];
    assert_eq!(missing(site, &names).await, []);
    assert_eq!(site.ca().certificate(&applicant.certname).await, Ok(None));
    assert_eq!(site.ca().status(&applicant.certname).await, Ok(None));
    assert!(site.ca().crl().await.unwrap().revokes(&cleaned));
}

pub(super) async fn cleaning_tells_the_names_it_does_not_know(site: &Site) {
    let known = Applicant::new("web").enrol(site).await.certname;
    let (one, other) = (fresh("nobody"), fresh("nobody"));
    let names = [one.clone(), known.clone(), other.clone()];
    assert_eq!(missing(site, &names).await, sorted([one, other]));
    assert_eq!(site.ca().certificate(&known).await, Ok(None), "the known one is cleaned all the same");
}

pub(super) async fn cleaning_twice_does_nothing_the_second_time(site: &Site) {
    let names = [Applicant::new("web").enrol(site).await.certname];
    assert_eq!(missing(site, &names).await, []);
    let crl = site.ca().crl().await.unwrap();
    let missing = if site.remembers_deleted_names() { vec![] } else { names.to_vec() };
    assert_eq!(self::missing(site, &names).await, missing);
    assert_eq!(site.ca().crl().await.unwrap(), crl);
}

pub(super) async fn cleaning_nothing_calls_nobody(site: &Site) {
    assert_eq!(site.ca_admin().clean(&[]).await, BTreeMap::new());
}

pub(super) async fn cleaning_many_leaves_the_others_alone(site: &Site) {
    let staying = Applicant::new("staying").enrol(site).await;
    let mut leaving = Vec::new();
    for _ in 0..3 {
        leaving.push(Applicant::new("leaving").enrol(site).await);
    }
    let mut certificates = Vec::new();
    for applicant in &leaving {
        certificates.push(certificate(site, applicant).await);
    }
    let names: Vec<_> = leaving.iter().map(|applicant| applicant.certname.clone()).collect();
    assert_eq!(missing(site, &names).await, []);
    let crl = site.ca().crl().await.unwrap();
    assert!(certificates.iter().all(|certificate| crl.revokes(certificate)));
    assert!(!crl.revokes(&certificate(site, &staying).await));
}

pub(super) async fn cleaning_a_mere_request_finds_nothing_and_leaves_it(site: &Site) {
    let applicant = Applicant::new("web").apply(site).await;
    let names = [applicant.certname.clone()];
    assert_eq!(missing(site, &names).await, names);
    assert!(site.ca().csr(&applicant.certname).await.unwrap().is_some());
    let (status, text) = submit(site, names[0].as_str(), Applicant::named(names[0].clone()).request()).await;
    assert!(status == 400 && text.contains("already has a requested certificate"), "{status} {text}");
    assert_eq!(site.ca_admin().delete_csr(&applicant.certname).await, Ok(Outcome::Done));
}

/// The CRL is only sent again if it has changed. On the server's own clock, which a file's time is compared with.
pub(super) async fn a_revocation_is_found_in_the_crl_however_soon_it_is_asked_for_again(site: &Site) {
    let ca = site.ca();
    for _ in 0..3 {
        let applicant = Applicant::new("leaving").enrol(site).await;
        let leaves = certificate(site, &applicant).await;
        // The same client asks before and after, and once more where nothing has changed.
        assert_eq!(ca.revocations(&[&leaves]).await.unwrap().revokes(&leaves), Some(false));
        assert_eq!(missing(site, std::slice::from_ref(&applicant.certname)).await, []);
        for _ in 0..2 {
            assert_eq!(ca.revocations(&[&leaves]).await.unwrap().revokes(&leaves), Some(true));
        }
    }
}

pub(super) async fn a_cleaned_name_may_be_enrolled_again_with_a_new_serial(site: &Site) {
    let first = Applicant::new("web").enrol(site).await;
    let old = certificate(site, &first).await;
    assert_eq!(missing(site, std::slice::from_ref(&first.certname)).await, []);
    let second = Applicant::named(first.certname.clone()).apply(site).await;
    assert_eq!(site.ca_admin().sign(&second.certname).await, Ok(Signed::Done));
    let new = certificate(site, &second).await;
    assert!(new.serial() > old.serial(), "serial numbers count up");
    let crl = site.ca().crl().await.unwrap();
    assert!(crl.revokes(&old) && !crl.revokes(&new));
}
