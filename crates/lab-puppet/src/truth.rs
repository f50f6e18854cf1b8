//! The actual state of the site, for the checks of tests. No client can query it like this. No I/O.

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use rcgen::PublicKeyData as _;
use x509_parser::parse_x509_certificate;

use crate::Puppet;
use crate::agent_side::{AgentIdentity, AgentKey};

/// A certificate in the CA's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCertificate {
    /// Its serial number.
    pub serial: u64,
    /// SHA-256 over its public key.
    pub key: [u8; 32],
    /// The extension `pp_instance_id`.
    pub instance_id: Option<String>,
    /// Whether it is in the CRL.
    pub revoked: bool,
}

impl Puppet {
    /// The certificate of this name in the CA's directory.
    #[must_use]
    pub fn certificate(&self, certname: &str) -> Option<HeldCertificate> {
        let ca = self.site.ca();
        let issued = ca.signed.get(certname)?;
        let (_, parsed) = parse_x509_certificate(&issued.der).ok()?;
        let key = print(parsed.tbs_certificate.subject_pki.raw);
        let trusted = crate::x509::request::trusted(&issued.extensions);
        let instance_id = trusted.into_iter().find(|(name, _)| name == "pp_instance_id").map(|(_, value)| value);
        Some(HeldCertificate { serial: issued.serial, key, instance_id, revoked: ca.is_revoked(issued.serial) })
    }

    /// SHA-256 over the public key of the request that waits under this name.
    #[must_use]
    pub fn requested_key(&self, certname: &str) -> Option<[u8; 32]> {
        let ca = self.site.ca();
        Some(print(&ca.requests.get(certname)?.request.public_key))
    }

    /// Whether the certificate with this serial number is in the CRL.
    #[must_use]
    pub fn is_revoked(&self, serial: u64) -> bool {
        self.site.ca().is_revoked(serial)
    }

    /// Whether PuppetDB has this node, and has it active.
    #[must_use]
    pub fn is_active(&self, certname: &str) -> Option<bool> {
        let store = self.site.puppetdb();
        let record = store.nodes.get(certname)?;
        Some(record.deactivated.is_none())
    }

    /// Whether this node has had a Puppet run that began at this time or later and had a catalog, whether it could apply all of it or not.
    #[must_use]
    pub fn has_run_since(&self, certname: &str, since: Timestamp) -> bool {
        let store = self.site.puppetdb();
        let reports = store.nodes.get(certname).map(|record| &record.reports);
        reports.into_iter().flatten().any(|report| report.started >= since && report.catalog_uuid.is_some())
    }

    /// The site's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.site.clock.now()
    }
}

impl AgentKey {
    /// SHA-256 over the public key.
    #[must_use]
    pub fn print(&self) -> [u8; 32] {
        print(&self.0.subject_public_key_info())
    }
}

impl AgentIdentity {
    /// The serial number of its certificate.
    ///
    /// # Errors
    /// The certificate cannot be read, or its serial number has more than 64 bits.
    pub fn serial(&self) -> anyhow::Result<u64> {
        let (_, parsed) = parse_x509_certificate(&self.certificate)?;
        u64::try_from(&parsed.tbs_certificate.serial).context("a serial number of at most 64 bits")
    }
}

fn print(key: &[u8]) -> [u8; 32] {
    let mut print = [0; 32];
    print.copy_from_slice(digest(&SHA256, key).as_ref());
    print
}
