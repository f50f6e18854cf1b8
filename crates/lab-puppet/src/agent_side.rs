//! What a simulated agent does with keys, certificates and Puppet's services beyond plain HTTP calls. No I/O.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use stagedoor_lab_core::server::TlsSource;

use crate::enterprise::orchestrator::{Connected, Ran};
use crate::site::{key_pair, pending};
use crate::x509::certificate::ClientName;
use crate::{BegunRun, CsrAttributes, Node, Puppet};

/// An agent's private key.
#[derive(Clone)]
pub struct AgentKey(pub(crate) Arc<KeyPair>);

impl AgentKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// The key cannot be generated.
    pub fn generate() -> anyhow::Result<Self> {
        Ok(Self(key_pair()?))
    }

    /// The agent's signing request for this key, PEM.
    ///
    /// # Errors
    /// As [`CsrAttributes::check`].
    pub fn signing_request(&self, certname: &str, attributes: &CsrAttributes) -> anyhow::Result<String> {
        Ok(pending(&attributes.wish(certname)?, Arc::clone(&self.0))?.request.pem())
    }
}

/// An agent's key and the certificate that fits it.
#[derive(Clone)]
pub struct AgentIdentity {
    key: Arc<KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
}

impl AgentIdentity {
    /// The certificate with the key that is to fit it; `None`: it does not.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn of(key: &AgentKey, certificate_pem: &[u8]) -> anyhow::Result<Option<Self>> {
        let AgentKey(key) = key;
        let certificate = CertificateDer::from_pem_slice(certificate_pem)
            .context("what the CA gave for the certificate is none")?
            .into_owned();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| anyhow!("the certificate cannot be read: {error}"))?;
        let fits = parsed.tbs_certificate.subject_pki.raw == key.subject_public_key_info();
        Ok(fits.then(|| Self { key: Arc::clone(key), certificate: certificate.clone() }))
    }
}

impl Puppet {
    /// TLS of an agent's connections to Puppet, with its certificate as soon as it has one.
    ///
    /// # Errors
    /// The certificates are not usable.
    pub fn agent_tls(&self, identity: Option<&AgentIdentity>) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        for certificate in self.site.authority.certificates() {
            roots.add(certificate)?;
        }
        let clock = Arc::new(self.site.clock.clone());
        let config = ClientConfig::builder_with_details(Arc::new(default_provider()), clock)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(AgentIdentity { key, certificate }) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![certificate.clone()], key)?
            }
        };
        Ok(Arc::new(config))
    }

    /// TLS of the services on an agent's node.
    ///
    /// # Errors
    /// The certificates are not usable.
    pub fn node_tls(&self, identity: &AgentIdentity) -> anyhow::Result<Arc<dyn TlsSource>> {
        let config = self.site.node_tls(identity.certificate.clone(), identity.key.serialize_der())?;
        Ok(Arc::new(config))
    }

    /// The facts that an agent sends, with the trusted ones that Puppet Server adds.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn agent_facts(
        certname: &str,
        instance_id: Option<&str>,
        identity: &AgentIdentity,
    ) -> anyhow::Result<Map<String, Value>> {
        let node = Node { instance_id: instance_id.map(str::to_owned), ..Node::new(certname) };
        Ok(node.facts(&Map::new(), &ClientName::read(&identity.certificate)?.extensions))
    }

    /// A run of the agent's own has sent its facts and gets its catalog now. `started` is when it began by the node's clock.
    ///
    /// # Errors
    /// Its certificate has been revoked, or the services that it needs are restarting.
    pub fn agent_begins(
        &self,
        certname: &str,
        started: Timestamp,
        facts: Map<String, Value>,
    ) -> anyhow::Result<BegunRun> {
        self.accepts(certname)?;
        anyhow::ensure!(!self.site.keeps_agents_out(), "the primary's services are restarting");
        Ok(self.site.begin_run(certname, Some(facts), started, self.site.clock.now()))
    }

    /// That run ends now, which is this time by the node's clock.
    ///
    /// # Errors
    /// Its certificate has been revoked meanwhile.
    pub fn agent_ends(&self, certname: &str, run: BegunRun, status: &str, ended: Timestamp) -> anyhow::Result<()> {
        self.accepts(certname)?;
        self.site.end_run(run, status, None, ended);
        Ok(())
    }

    fn accepts(&self, certname: &str) -> anyhow::Result<()> {
        anyhow::ensure!(!self.site.ca().has_revoked(certname), "the certificate of {certname} is revoked");
        Ok(())
    }

    /// Held by the one run that a node may have at a time.
    #[must_use]
    pub fn run_lock(&self, certname: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.site.orchestrator().lock_of(certname)
    }

    /// The node's PXP agent connects, and stays connected until the returned value is dropped. Runs that the orchestrator orders
    /// end as `status` says, store `facts`, and report their status to `ran`.
    pub fn connect_agent(
        &self,
        certname: &str,
        status: &str,
        facts: Map<String, Value>,
        ran: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> PxpConnection {
        let connected = Connected {
            since: self.site.clock.now(),
            status: status.to_owned(),
            facts: Some(facts),
            ran: Some(Arc::clone(&ran)),
        };
        self.site.orchestrator().connected.insert(certname.to_owned(), connected);
        self.site.has_changed();
        PxpConnection { puppet: self.clone(), certname: certname.to_owned(), ran }
    }
}

/// A PXP agent's connection to the broker.
pub struct PxpConnection {
    puppet: Puppet,
    certname: String,
    ran: Ran,
}

impl Drop for PxpConnection {
    fn drop(&mut self) {
        let mut orchestrator = self.puppet.site.orchestrator();
        // A later connection of the name stays.
        let own = |connected: &Connected| connected.ran.as_ref().is_some_and(|ran| Arc::ptr_eq(ran, &self.ran));
        if orchestrator.connected.get(&self.certname).is_some_and(own) {
            orchestrator.connected.remove(&self.certname);
        }
        drop(orchestrator);
        self.puppet.site.has_changed();
    }
}
