//! Who may do what: the controller, another certificate of the same CA, and a stranger.

use std::fmt::Debug;

use secrecy::SecretString;
use stagedoor_lab_core::clock::Clock;
use stagedoor_puppet::{Ca, CaAdmin, Error, PuppetDbAdmin};

use super::apply::Applicant;
use super::site::{OUTSIDER, Site, answer, endpoint, fresh, fresh_instance, permit};

/// How the CA's access rules refuse a request.
fn forbidden(method: &str, path: &str) -> String {
    format!("Forbidden request: /puppet-ca/v1/{path} (method :{method}). Please see the server logs for details.")
}

/// How PuppetDB's certificate-allowlist refuses one.
fn not_listed(certname: &str) -> String {
    format!(
        "Permission denied: The client certificate name {certname} doesnt appear in the certificate allowlist. \
         Is your master's (or other PuppetDB client's) certname listed in PuppetDB's certificate-allowlist file?"
    )
}

fn assert_not_permitted<T: Debug>(answer: Result<T, Error>, expected: &str) {
    match answer {
        Err(Error::NotPermitted { words, remedy, .. }) => {
            assert_eq!(words, expected);
            assert!(remedy.contains(OUTSIDER), "the remedy names who has to be allowed: {remedy}");
        }
        other => panic!("not refused with 403: {other:?}"),
    }
}

pub(super) async fn an_outsider_may_not_administer_the_ca(site: &Site) {
    let target = Applicant::new("web").enrol(site).await.certname;
    let pending = Applicant::new("web").apply(site).await.certname;
    let admin = CaAdmin::new(site.ca_as(&site.outsider), permit());
    let status = format!("certificate_status/{target}");
    assert_not_permitted(admin.ca().status(&target).await, &forbidden("get", &status));
    assert_not_permitted(admin.ca().statuses(None).await, &forbidden("get", "certificate_statuses/any"));
    assert_not_permitted(admin.revoke(&target).await, &forbidden("put", &status));
    assert_not_permitted(admin.delete(&target).await, &forbidden("delete", &status));
    let cleaned = admin.clean(std::slice::from_ref(&target)).await.remove(&target).expect("a result");
    assert_not_permitted(cleaned, &forbidden("put", "clean"));
    let status = format!("certificate_status/{pending}");
    assert_not_permitted(admin.sign(&pending).await, &forbidden("put", &status));
    let request = format!("certificate_request/{pending}");
    assert_not_permitted(admin.delete_csr(&pending).await, &forbidden("delete", &request));

    assert!(site.ca().certificate(&target).await.unwrap().is_some(), "nothing has happened");
    assert!(site.ca().csr(&pending).await.unwrap().is_some(), "nothing has happened");
}

pub(super) async fn an_outsider_may_read_what_everyone_may(site: &Site) {
    let target = Applicant::new("web").enrol(site).await.certname;
    let pending = Applicant::new("web").apply(site).await.certname;
    let ca = site.ca_as(&site.outsider);
    assert!(ca.certificate(&target).await.unwrap().is_some());
    assert!(ca.csr(&pending).await.unwrap().is_some());
    assert_eq!(ca.crl().await.unwrap().lists().len(), 2);
    assert!(ca.expirations().await.is_ok());
    assert_eq!(ca.version().await, Ok(site.puppetserver_version.clone()));
}

pub(super) async fn an_outsider_may_not_use_puppetdb(site: &Site) {
    let certname = fresh("web");
    let admin = PuppetDbAdmin::new(site.puppetdb_as(&site.outsider), permit());
    let refused = not_listed(OUTSIDER);
    assert_not_permitted(admin.puppetdb().node(&certname).await, &refused);
    assert_not_permitted(admin.puppetdb().nodes(std::slice::from_ref(&certname)).await, &refused);
    assert_not_permitted(admin.puppetdb().identities(std::slice::from_ref(&certname)).await, &refused);
    assert_not_permitted(admin.puppetdb().certnames_of(&[fresh_instance()]).await, &refused);
    assert_not_permitted(
        admin.puppetdb().query::<serde_json::Value>(&serde_json::json!(["from", "nodes"])).await,
        &refused,
    );
    assert_not_permitted(admin.puppetdb().server_time().await, &refused);
    assert_not_permitted(admin.puppetdb().version().await, &refused);
    assert_not_permitted(admin.deactivate(&certname, Clock::machine_now()).await, &refused);
    assert_eq!(site.puppetdb().node(&certname).await, Ok(None), "nothing has happened");
}

pub(super) async fn a_stranger_without_certificate_reads_what_agents_need_and_no_status(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    let http = site.http(None);
    for (path, expected) in [
        ("certificate/ca".to_owned(), 200),
        (format!("certificate/{certname}"), 200),
        ("certificate_revocation_list/ca".to_owned(), 200),
        (format!("certificate_request/{certname}"), 404),
        (format!("certificate_status/{certname}"), 403),
        ("expirations".to_owned(), 403),
    ] {
        let answer = answer(http.get(format!("{}/puppet-ca/v1/{path}", site.ca_url))).await;
        assert_eq!(answer.status(), expected, "{path}");
        if path == "certificate/ca" {
            assert_eq!(answer.text().await.expect("text"), site.ca_cert);
        } else if expected == 403 {
            assert_eq!(answer.text().await.expect("text"), forbidden("get", &path));
        }
    }
}

pub(super) async fn puppetdb_refuses_a_stranger_without_certificate(site: &Site) {
    let url = format!("{}/pdb/meta/v1/version", site.puppetdb_url);
    let answer = answer(site.http(None).get(url)).await;
    assert_eq!(answer.status(), 403);
    let text = answer.text().await.expect("text");
    assert!(text.starts_with("Permission denied: "), "{text}");
}

pub(super) async fn a_token_is_ignored_where_there_is_no_rbac(site: &Site) {
    let certname = Applicant::new("web").enrol(site).await.certname;
    let mut credentials = site.credentials(&site.controller);
    credentials.rbac_token = Some(SecretString::from("0AnyTokenAtAll"));
    let transport = credentials.transport().unwrap();
    let ca = Ca::new(&transport, &endpoint(&site.ca_url));
    assert!(ca.status(&certname).await.unwrap().is_some());
    let puppetdb = stagedoor_puppet::PuppetDb::new(&transport, &endpoint(&site.puppetdb_url));
    assert_eq!(puppetdb.node(&certname).await, Ok(None));
}
