//! TLS of the site: its own certificate, a client certificate wanted but not needed, and the CRL. No I/O.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use stagedoor_lab_core::clock::Clock;

use crate::authority::Authority;
use crate::ca::Ca;

/// The server's own certificate and key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
}

/// The configuration for connections from now on. A client certificate that is foreign, expired or in
/// the CRLs of `revoking` ends the handshake; none at all does not.
pub(crate) fn server_config(
    identity: &Identity,
    authority: &Authority,
    revoking: Option<&Ca>,
    clock: &Clock,
) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(default_provider());
    let mut anchors = RootCertStore::empty();
    for certificate in authority.certificates() {
        anchors.add(certificate).context("the CA's own certificate is not usable")?;
    }
    let (_, root_crl) = authority.root_crl();
    let crls = revoking.into_iter().flat_map(|ca| [ca.crl.der.clone(), root_crl.der.clone()]);
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(&provider))
        .with_crls(crls)
        .allow_unauthenticated()
        .build()
        .context("the CRLs are not usable")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
    let [intermediate, _] = authority.certificates();
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![identity.certificate.clone(), intermediate], key)?;
    // A resumed session would not look at the CRL again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
