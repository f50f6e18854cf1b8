//! Mutual TLS: which certificates each side refuses, and how a refusal differs from a server that is not there.

use std::time::Duration;

use stagedoor_puppet::{Ca, Error, PuppetDb};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::apply::Applicant;
use super::site::{Identity, Site, endpoint, fresh};

pub(super) async fn a_revoked_certificate_is_refused_in_tls(site: &Site) {
    let applicant = Applicant::new("web").enrol(site).await;
    let identity = applicant.identity(site).await;
    site.ca_as(&identity).expirations().await.expect("a valid certificate is accepted");
    site.ca_admin().revoke(&applicant.certname).await.unwrap();

    let error = wait_until_refused(site, &identity).await;
    let Error::TlsRefused { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("the server did not accept the controller's certificate"), "{reason}");
    site.ca().expirations().await.expect("others are still accepted");
}

pub(super) async fn puppetdb_does_not_look_at_the_crl(site: &Site) {
    // As it is shipped. What keeps a purged node out of PuppetDB is its allowlist, not the revocation.
    let applicant = Applicant::new("web").enrol(site).await;
    let identity = applicant.identity(site).await;
    site.ca_admin().revoke(&applicant.certname).await.unwrap();
    wait_until_refused(site, &identity).await;
    let error = site.puppetdb_as(&identity).version().await.unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
}

pub(super) async fn a_bundle_of_another_ca_is_refused_by_the_client(site: &Site) {
    let mut credentials = site.credentials(&site.controller);
    credentials.ca_cert = other_ca().0;
    let transport = credentials.transport().unwrap();
    let ca = Ca::new(&transport, &endpoint(&site.ca_url)).certificate(&fresh("web")).await.map(drop);
    let puppetdb = PuppetDb::new(&transport, &endpoint(&site.puppetdb_url)).version().await.map(drop);
    for answer in [ca, puppetdb] {
        let error = answer.unwrap_err();
        let Error::TlsRefused { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("the server's certificate was not accepted"), "{reason}");
    }
}

pub(super) async fn a_certificate_of_another_ca_is_refused_by_the_server(site: &Site) {
    let (_, identity) = other_ca();
    let ca = site.ca_as(&identity).certificate(&fresh("web")).await.map(drop);
    let puppetdb = site.puppetdb_as(&identity).version().await.map(drop);
    for answer in [ca, puppetdb] {
        let error = answer.unwrap_err();
        let Error::TlsRefused { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("the server did not accept the controller's certificate"), "{reason}");
    }
}

pub(super) async fn nobody_listening_is_unreachable(site: &Site) {
    // A port that was free a moment ago.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nobody = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let transport = site.credentials(&site.controller).transport().unwrap();
    let error = Ca::new(&transport, &endpoint(&nobody)).certificate(&fresh("web")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = PuppetDb::new(&transport, &endpoint(&nobody)).node(&fresh("web")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

pub(super) async fn a_connection_is_used_again(site: &Site) {
    // What a warm function does: several calls, one after the other and side by side, over one client.
    let (ca, puppetdb) = (site.ca(), site.puppetdb());
    for _ in 0..3 {
        let name = fresh("nobody");
        let (certificate, csr, node) = tokio::join!(ca.certificate(&name), ca.csr(&name), puppetdb.node(&name));
        assert!(certificate.unwrap().is_none() && csr.unwrap().is_none() && node.unwrap().is_none());
    }
}

/// A real server reads its CRL again about a second after it has changed; connections that stand are not looked at.
async fn wait_until_refused(site: &Site, identity: &Identity) -> Error {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match site.ca_as(identity).expirations().await {
            Err(error) => return error,
            Ok(_) if Instant::now() > until => panic!("a revoked certificate still gets in after 30 s"),
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The certificate of a CA that the site does not know, and a client that this CA has certified.
fn other_ca() -> (String, Identity) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "another CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "controller.stagedoor.test");
    let cert = params.signed_by(&key, &ca).unwrap().pem();
    (ca.pem(), Identity { cert, key: key.serialize_pem() })
}
