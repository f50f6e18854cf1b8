//! The state of the CA — what its directory would hold — and the operations on it. No I/O.

pub(crate) mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use stagedoor_lab_core::clock::Clock;

use super::authority::{Authority, Contents, Crl};
use super::options::PuppetOptions;
use super::x509::certificate::{fingerprint, pem_block};
use super::x509::request::{AltNames, Extension, SigningRequest, trusted};
use super::x509::{oid, utc};

/// A file in `signed/`.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) serial: u64,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) alt_names: AltNames,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) written: Timestamp,
    /// The private key, where the lab made it.
    pub(crate) key: Option<Arc<KeyPair>>,
}

impl Issued {
    pub(crate) fn pem(&self) -> String {
        pem_block("CERTIFICATE", &self.der)
    }
}

/// A file in `requests/`.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) request: SigningRequest,
    /// The private key, where the lab made it.
    pub(crate) key: Option<Arc<KeyPair>>,
}

/// A line of `inventory.txt`.
#[derive(Clone)]
struct Row {
    serial: u64,
    certname: String,
    not_after: Timestamp,
}

/// Why an operation on the CA failed: an exception in Puppet Server, which ends as a 500.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Thrown {
    pub(crate) class: &'static str,
    pub(crate) message: String,
}

impl Thrown {
    pub(crate) fn file_not_found(directory: &str, certname: &str) -> Self {
        Self {
            class: "java.io.FileNotFoundException",
            message: format!("{CA_DIRECTORY}/{directory}/{certname}.pem (No such file or directory)"),
        }
    }

    /// A file that should hold one certificate holds none.
    pub(crate) fn not_a_certificate() -> Self {
        Self {
            class: "java.lang.IllegalArgumentException",
            message: "The PEM stream must contain exactly 1 certificate".to_owned(),
        }
    }
}

impl From<anyhow::Error> for Thrown {
    fn from(error: anyhow::Error) -> Self {
        Self { class: "java.lang.RuntimeException", message: format!("{error:#}") }
    }
}

/// Where Puppet Server keeps its CA; appears in error texts.
pub(crate) const CA_DIRECTORY: &str = "/etc/puppetlabs/puppetserver/ca";

/// The first serial of the certificates that are only counted.
const CROWD: u64 = 1_000_000_000;

/// Everything the CA knows.
pub(crate) struct Ca {
    last_serial: u64,
    pub(crate) signed: BTreeMap<String, Issued>,
    /// Names whose file in `signed/` is empty, as after a full disk or a crash.
    pub(crate) emptied: BTreeSet<String>,
    /// How many more certificates its list shows, of which there are no files.
    pub(crate) crowd: u32,
    pub(crate) requests: BTreeMap<String, Pending>,
    inventory: Vec<Row>,
    revoked: BTreeMap<u64, Timestamp>,
    infra_revoked: BTreeSet<u64>,
    crl_number: u64,
    pub(crate) crl: Crl,
    pub(crate) infra_crl: Crl,
    /// Modification times of `ca_crl.pem` and `infra_crl.pem`, by the same clock as the header `Date`.
    pub(crate) crl_written: Timestamp,
    pub(crate) infra_crl_written: Timestamp,
    clock: Clock,
}

impl Ca {
    pub(crate) fn new(authority: &Authority, clock: Clock) -> anyhow::Result<Self> {
        let now = clock.now();
        let crl = authority.crl(&[], 0, now)?;
        Ok(Self {
            last_serial: 0,
            signed: BTreeMap::new(),
            emptied: BTreeSet::new(),
            crowd: 0,
            requests: BTreeMap::new(),
            inventory: Vec::new(),
            revoked: BTreeMap::new(),
            infra_revoked: BTreeSet::new(),
            crl_number: 0,
            infra_crl: crl.clone(),
            crl,
            crl_written: clock.host_now(),
            infra_crl_written: clock.host_now(),
            clock,
        })
    }

    /// Forgets everything but the named certificates. Serials go on counting, as old certificates
    /// are still about.
    pub(crate) fn reset(&mut self, keep: &[String], authority: &Authority) -> anyhow::Result<()> {
        let serial = self.last_serial;
        let mut kept = std::mem::take(&mut self.signed);
        kept.retain(|certname, _| keep.contains(certname));
        *self = Self::new(authority, self.clock.clone())?;
        self.last_serial = serial;
        for (certname, issued) in &kept {
            self.note(certname, issued);
        }
        self.signed = kept;
        Ok(())
    }

    /// Whether `certificate_status` counts this name as having a certificate, for everything but GET.
    pub(crate) fn is_issued(&self, certname: &str, options: &PuppetOptions) -> bool {
        self.signed.contains_key(certname)
            || (options.server_version.looks_into_inventory() && self.is_in_inventory(certname))
    }

    pub(crate) fn is_in_inventory(&self, certname: &str) -> bool {
        self.inventory.iter().any(|row| row.certname == certname)
    }

    pub(crate) fn is_revoked(&self, serial: u64) -> bool {
        self.revoked.contains_key(&serial)
    }

    /// Whether Puppet rejects the certificate of this name: it is revoked, or gone from the CA's directory.
    pub(crate) fn has_revoked(&self, certname: &str) -> bool {
        match self.signed.get(certname) {
            Some(issued) => self.is_revoked(issued.serial),
            None => self.is_in_inventory(certname),
        }
    }

    /// Signs a certificate for a request's key and extensions and files it, in place of an older one.
    pub(crate) fn issue(
        &mut self,
        certname: &str,
        pending: Pending,
        ttl: SignedDuration,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<&Issued, Thrown> {
        let SigningRequest { public_key, extensions, mut alt_names, .. } = pending.request;
        let (not_before, not_after) = (now - SignedDuration::from_hours(24), now + ttl);
        let serial = self.last_serial + 1;
        let der = authority.issue(&Contents {
            serial,
            certname,
            public_key: &public_key,
            extensions: &extensions,
            alt_names: &alt_names,
            not_before,
            not_after,
        })?;
        self.last_serial = serial;
        if !alt_names.dns.iter().any(|name| name == certname) {
            alt_names.dns.push(certname.to_owned());
        }
        let issued =
            Issued { serial, der, extensions, alt_names, not_before, not_after, written: now, key: pending.key };
        self.note(certname, &issued);
        self.signed.insert(certname.to_owned(), issued);
        Ok(&self.signed[certname])
    }

    fn note(&mut self, certname: &str, issued: &Issued) {
        self.inventory.push(Row { serial: issued.serial, certname: certname.to_owned(), not_after: issued.not_after });
    }

    /// Signs the pending request of this name, which must exist, and removes it.
    pub(crate) fn sign(
        &mut self,
        certname: &str,
        ttl: SignedDuration,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<(), Thrown> {
        let pending =
            self.requests.get(certname).cloned().ok_or_else(|| Thrown::file_not_found("requests", certname))?;
        self.issue(certname, pending, ttl, authority, now)?;
        self.requests.remove(certname);
        Ok(())
    }

    /// Puts the serials of these names into the CRL, with one CRL write. Says whether the CRL changed.
    pub(crate) fn revoke<'a>(
        &mut self,
        certnames: impl IntoIterator<Item = &'a str>,
        options: &PuppetOptions,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<bool, Thrown> {
        let mut serials = BTreeSet::new();
        for certname in certnames {
            serials.extend(self.serials_to_revoke(certname, options, now)?);
        }
        serials.retain(|serial| !self.is_revoked(*serial));
        if serials.is_empty() {
            return Ok(false);
        }
        let infra: Vec<u64> = self
            .inventory
            .iter()
            .filter(|row| serials.contains(&row.serial) && options.infra_nodes.contains(&row.certname))
            .map(|row| row.serial)
            .collect();
        self.revoked.extend(serials.into_iter().map(|serial| (serial, now)));
        self.crl_number += 1;
        let entries: Vec<_> = self.revoked.iter().map(|(serial, at)| (*serial, *at)).collect();
        self.crl = authority.crl(&entries, self.crl_number, now)?;
        self.crl_written = self.clock.host_now();
        if !infra.is_empty() {
            self.infra_revoked.extend(infra);
            let entries: Vec<_> =
                entries.into_iter().filter(|(serial, _)| self.infra_revoked.contains(serial)).collect();
            self.infra_crl = authority.crl(&entries, self.crl_number, now)?;
            self.infra_crl_written = self.clock.host_now();
        }
        Ok(true)
    }

    fn serials_to_revoke(&self, certname: &str, options: &PuppetOptions, now: Timestamp) -> Result<Vec<u64>, Thrown> {
        if self.emptied.contains(certname) {
            return Err(Thrown::not_a_certificate());
        }
        let on_file = self.signed.get(certname).map(|issued| issued.serial);
        let mut serials: Vec<u64> = if options.server_version.looks_into_inventory() {
            let valid = |row: &&Row| row.certname == certname && row.not_after > now;
            self.inventory.iter().filter(valid).map(|row| row.serial).collect()
        } else {
            Vec::new()
        };
        serials.extend(on_file);
        if serials.is_empty() {
            return Err(Thrown::file_not_found("signed", certname));
        }
        Ok(serials)
    }

    /// Makes the CA as large as this: so many more names in its list of certificates, and so many more serials in its CRL.
    pub(crate) fn grow(&mut self, count: u32, authority: &Authority, now: Timestamp) -> anyhow::Result<()> {
        self.crowd = count;
        self.revoked.extend((0..u64::from(count)).map(|number| (CROWD + number, now)));
        self.crl_number += 1;
        let entries: Vec<_> = self.revoked.iter().map(|(serial, at)| (*serial, *at)).collect();
        self.crl = authority.crl(&entries, self.crl_number, now)?;
        self.crl_written = self.clock.host_now();
        Ok(())
    }

    /// The object of `certificate_status`: of the certificate, else of the request.
    pub(crate) fn status(&self, certname: &str) -> Option<Value> {
        self.certificate_status(certname).or_else(|| self.request_status(certname))
    }

    pub(crate) fn certificate_status(&self, certname: &str) -> Option<Value> {
        let issued = self.signed.get(certname)?;
        let state = if self.is_revoked(issued.serial) { "revoked" } else { "signed" };
        let mut status = status(certname, state, &issued.der, &issued.extensions, &issued.alt_names);
        status["not_before"] = utc(issued.not_before).into();
        status["not_after"] = utc(issued.not_after).into();
        status["serial_number"] = issued.serial.into();
        Some(status)
    }

    pub(crate) fn request_status(&self, certname: &str) -> Option<Value> {
        let request = &self.requests.get(certname)?.request;
        Some(status(certname, "requested", &request.der, &request.extensions, &request.alt_names))
    }

    /// Serials in the full CRL.
    pub(crate) fn revoked_serials(&self) -> Vec<u64> {
        self.revoked.keys().copied().collect()
    }

    /// Serials in the infrastructure CRL.
    pub(crate) fn infra_revoked_serials(&self) -> Vec<u64> {
        self.infra_revoked.iter().copied().collect()
    }
}

fn status(certname: &str, state: &str, der: &[u8], extensions: &[Extension], alt_names: &AltNames) -> Value {
    let authorization: Vec<Extension> =
        extensions.iter().filter(|extension| extension.oid.starts_with(oid::AUTHORIZATION)).cloned().collect();
    let authorization: BTreeMap<_, _> = trusted(&authorization).into_iter().collect();
    let sha256 = fingerprint(&digest::SHA256, der);
    json!({
        "name": certname,
        "state": state,
        "dns_alt_names": alt_names.labelled_dns(),
        "subject_alt_names": alt_names.labelled(),
        "authorization_extensions": authorization,
        "fingerprint": sha256,
        "fingerprints": {
            "SHA1": fingerprint(&digest::SHA1_FOR_LEGACY_USE_ONLY, der),
            "SHA256": sha256,
            "SHA512": fingerprint(&digest::SHA512, der),
            "default": sha256,
        },
    })
}
