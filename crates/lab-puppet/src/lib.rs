//! The lab's simulated Puppet site: a CA with real certificates and CRLs, PuppetDB, Puppet Enterprise's services, and the
//! TLS in front of them. In memory; [`stagedoor_lab_core::server`] does the network I/O.

pub mod agent_side;
mod auth_conf;
mod authority;
mod ca;
mod ca_api;
mod enterprise;
mod jobs;
mod node;
mod options;
mod puppetdb;
mod reply;
mod site;
mod status_api;
mod tls;
mod truth;
mod x509;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::TlsSource;

pub use self::ca_api::{CaService, compiler_status};
use self::enterprise::admission::Classes;
pub use self::enterprise::{BegunRun, ConsoleService, NodeGroup, OrchestratorService, Right, RunScript};
pub use self::node::{CertificateState, CsrAttributes, InPuppetdb, Node, PuppetdbRecord};
pub use self::options::{Autosign, PuppetOptions, QueueDelay, ServerVersion, ServiceState, TokenState};
pub use self::puppetdb::PuppetdbService;
use self::puppetdb::store::{Command, millis};
use self::site::{NotSubmitted, SERVER, Site, key_pair, pending};
pub use self::truth::HeldCertificate;

/// The whole simulated Puppet site. Clones are the same site.
#[derive(Clone)]
pub struct Puppet {
    site: Arc<Site>,
}

/// A certificate of this site's CA and its private key. Never printed.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate alone, without its chain, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl Puppet {
    /// Makes the CA, the servers' certificate (`localhost`, `127.0.0.1`, `puppet`) and the controller's.
    pub fn new(options: PuppetOptions, clock: Clock) -> anyhow::Result<Self> {
        Ok(Self { site: Arc::new(Site::new(options.with_token(), clock)?) })
    }

    /// The service of port 8140.
    #[must_use]
    pub fn ca_service(&self) -> Arc<CaService> {
        Arc::new(CaService::new(Arc::clone(&self.site)))
    }

    /// The service of port 8081.
    #[must_use]
    pub fn puppetdb_service(&self) -> Arc<PuppetdbService> {
        Arc::new(PuppetdbService::new(Arc::clone(&self.site)))
    }

    /// The service of port 8143 of Puppet Enterprise.
    #[must_use]
    pub fn orchestrator_service(&self) -> Arc<OrchestratorService> {
        Arc::new(OrchestratorService::new(Arc::clone(&self.site)))
    }

    /// The service of port 4433 of Puppet Enterprise: classifier and RBAC.
    #[must_use]
    pub fn console_service(&self) -> Arc<ConsoleService> {
        Arc::new(ConsoleService::new(Arc::clone(&self.site)))
    }

    /// TLS of port 8140: refuses clients whose certificate is revoked.
    #[must_use]
    pub fn tls(&self) -> Arc<dyn TlsSource> {
        Arc::clone(&self.site) as Arc<dyn TlsSource>
    }

    /// TLS of port 8081: as PuppetDB is shipped, it does not look at the CRL.
    #[must_use]
    pub fn puppetdb_tls(&self) -> Arc<dyn TlsSource> {
        Arc::new(Arc::clone(&self.site.puppetdb_tls))
    }

    /// The CA's certificates, the signing one first, PEM.
    #[must_use]
    pub fn ca_bundle_pem(&self) -> String {
        self.site.authority.bundle_pem()
    }

    /// The set-up as it is now.
    #[must_use]
    pub fn options(&self) -> PuppetOptions {
        self.site.options()
    }

    /// Changes the set-up, as an edit of the configuration and a restart would. The controller's
    /// certificate stays what it was, and so do the RBAC tokens where the new set-up names none.
    pub fn configure(&self, change: impl FnOnce(&mut PuppetOptions)) {
        let mut options = self.site.options_mut();
        let tokens = options.rbac_tokens.clone();
        let enterprise = options.enterprise;
        change(&mut options);
        // Which services listen was decided when the lab started.
        options.enterprise = enterprise;
        if enterprise && options.rbac_tokens.is_none() {
            options.rbac_tokens = tokens;
        }
    }

    /// The controller's credentials.
    pub fn controller_credentials(&self) -> anyhow::Result<Credentials> {
        self.credentials(&self.options().controller)
    }

    /// The certificate and key that this name has; one is issued if it has none.
    ///
    /// # Errors
    ///
    /// The name has a certificate whose key the lab does not have, because a real agent asked for it.
    pub fn credentials(&self, certname: &str) -> anyhow::Result<Credentials> {
        if !self.site.ca().signed.contains_key(certname) {
            self.issue(certname, &CsrAttributes::default())?;
        }
        let ca = self.site.ca();
        let issued = ca.signed.get(certname).context("the certificate was just removed")?;
        let key = issued.key.as_ref().with_context(|| {
            format!("the private key of {certname} is with the agent that asked for its certificate")
        })?;
        Ok(Credentials { cert_pem: issued.pem(), key_pem: key.serialize_pem() })
    }

    /// Issues a certificate with these extensions, whatever the CA's rules for requests say, in place of
    /// an older one of the name.
    pub fn issue(&self, certname: &str, request: &CsrAttributes) -> anyhow::Result<Credentials> {
        self.site.issue(certname, &request.wish(certname)?)?;
        self.credentials(certname)
    }

    /// A new signing request, PEM, as an agent would write it; the CA does not see it.
    pub fn csr_pem(&self, certname: &str, request: &CsrAttributes) -> anyhow::Result<String> {
        Ok(pending(&request.wish(certname)?, key_pair()?)?.request.pem())
    }

    /// Submits a new signing request as an agent would: policy and autosign apply.
    ///
    /// # Errors
    ///
    /// The text with which the CA refuses it.
    pub fn submit_csr(&self, certname: &str, request: &CsrAttributes) -> anyhow::Result<()> {
        let pending = pending(&request.wish(certname)?, key_pair()?)?;
        let submitted = self.site.submit(certname, &pending, &self.site.options());
        submitted.map_err(|refused| match refused {
            NotSubmitted::Refused(text) => anyhow::Error::msg(text),
            NotSubmitted::Failed(thrown) => anyhow::Error::msg(thrown.message),
        })
    }

    /// Empties the file of this certificate in the CA's directory, as a full disk or a crash does. The list of
    /// certificates then fails; other names still answer.
    pub fn empty_certificate_file(&self, certname: &str) {
        self.site.ca().emptied.insert(certname.to_owned());
    }

    /// Makes the site as large as this, cheaply: so many certificates in the CA's list, serials in its CRL and active nodes in
    /// PuppetDB, all of which belong to no instance of the scene. Only lists show them.
    pub fn grow(&self, count: u32) -> anyhow::Result<()> {
        self.site.grow(count)
    }

    /// Whether a signing request of this name waits at the CA.
    #[must_use]
    pub fn has_request(&self, certname: &str) -> bool {
        self.site.ca().requests.contains_key(certname)
    }

    /// Puts a node of a scene on the stage, as if everything that it describes had happened. What the name
    /// had before stays where real Puppet would leave it: in the inventory.
    pub fn place_node(&self, node: &Node) -> anyhow::Result<()> {
        let failed = || format!("could not place the node {}", node.certname);
        let wish = node.request().wish(&node.certname).with_context(failed)?;
        let planned = pending(&wish, key_pair()?).with_context(failed)?;
        let extensions = planned.request.extensions.clone();
        self.site.ca().requests.remove(&node.certname);
        match node.certificate {
            CertificateState::None => {}
            CertificateState::Requested => {
                self.site.ca().requests.insert(node.certname.clone(), planned);
            }
            CertificateState::Signed | CertificateState::Revoked => {
                self.site.issue(&node.certname, &wish).with_context(failed)?;
            }
        }
        if node.certificate == CertificateState::Revoked {
            let revoked = self.site.revoke(&[&node.certname], &self.site.options());
            revoked.map_err(|thrown| anyhow::Error::msg(thrown.message)).with_context(failed)?;
        }
        if let Some(beside) = &node.pending_csr {
            let wish = beside.wish(&node.certname).with_context(failed)?;
            let beside = pending(&wish, key_pair()?).with_context(failed)?;
            self.site.ca().requests.insert(node.certname.clone(), beside);
        }
        self.place_in_puppetdb(node, &extensions);
        if self.site.options().primary.is_some() && node.record().is_some_and(|record| record.report_status.is_some()) {
            self.site.has_been_admitted(&node.certname);
        }
        self.place_in_orchestrator(node);
        Ok(())
    }

    fn place_in_orchestrator(&self, node: &Node) {
        let now = self.site.clock.now();
        let mut orchestrator = self.site.orchestrator();
        orchestrator.scripts.insert(node.certname.clone(), node.run);
        if node.connected.unwrap_or(node.certificate == CertificateState::Signed) {
            orchestrator.connect(&node.certname, now);
        } else {
            orchestrator.connected.remove(&node.certname);
        }
    }

    fn place_in_puppetdb(&self, node: &Node, extensions: &[x509::request::Extension]) {
        let now = self.site.clock.now();
        let mut store = self.site.puppetdb();
        store.nodes.remove(&node.certname);
        let Some(record) = node.record() else {
            return;
        };
        let arrived = now - SignedDuration::from_secs(record.age_s.into());
        let facts = node.facts(&record.facts, extensions);
        store.at_once(&node.certname, Command::Facts { produced: arrived, facts }, arrived);
        if let Some(status) = &record.report_status {
            let started = arrived - SignedDuration::from_secs(10);
            let uuid = uuid::Uuid::new_v4().to_string();
            // Compiled as soon as the run began; the rest of the run applied it.
            let catalog = Command::Catalog { produced: started, uuid: Some(uuid.clone()), classes: Classes::default() };
            store.at_once(&node.certname, catalog, arrived);
            let mut report = store.new_report(status, started, arrived, arrived);
            report.catalog_uuid = Some(uuid);
            store.store_report(&node.certname, report, arrived);
        }
        if record.deactivated {
            store.at_once(&node.certname, Command::Deactivate { produced: Some(arrived) }, now);
        }
    }

    /// An agent's run ends now: its catalog and report arrive in PuppetDB, and a deactivated node is active
    /// again. `started` is when the run began; `status` is `unchanged`, `changed` or `failed`.
    pub fn report(&self, certname: &str, status: &str, started: Timestamp) {
        let run = self.site.begin_run(certname, None, started, started);
        self.site.end_run(run, status, None, self.site.clock.now());
    }

    /// Revokes every certificate of this name; from then on TLS refuses them.
    pub fn revoke(&self, certname: &str) -> anyhow::Result<()> {
        let revoked = self.site.revoke(&[certname], &self.options());
        revoked.map_err(|thrown| anyhow::anyhow!("{certname} cannot be revoked: {thrown:?}"))
    }

    /// Forgets all nodes, certificates and requests but the servers' and the controller's certificate.
    /// The CA stays the same, so that clients that trust it still do.
    pub fn reset(&self) -> anyhow::Result<()> {
        self.site.reset()
    }

    /// Everything that the site knows, for people and for tests.
    #[must_use]
    pub fn snapshot(&self) -> Value {
        let ca = self.site.ca();
        let store = self.site.puppetdb();
        let certificates: Vec<Value> = ca
            .signed
            .iter()
            .map(|(certname, issued)| {
                let state = if ca.is_revoked(issued.serial) { "revoked" } else { "signed" };
                json!({"certname": certname, "serial": issued.serial, "state": state})
            })
            .collect();
        let nodes: Vec<Value> = store.nodes.iter().map(|(certname, record)| record.node(certname)).collect();
        let mut snapshot = json!({
            "servers": [SERVER],
            "certificates": certificates,
            "requests": ca.requests.keys().collect::<Vec<_>>(),
            "revoked_serials": ca.revoked_serials(),
            "infra_revoked_serials": ca.infra_revoked_serials(),
            "nodes": nodes,
            "puppetdb_queue_depth": store.queue_depth(),
            "time": millis(self.site.clock.now()),
        });
        if self.site.options().enterprise {
            snapshot["jobs"] = self.jobs().into();
            snapshot["connected"] = self.site.orchestrator().connected_names().collect();
            snapshot["node_groups"] = self.node_groups().into();
        }
        snapshot
    }
}
