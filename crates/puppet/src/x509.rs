//! Certificates as the Puppet CA issues them: faithful parsing, no judgement. No I/O.

mod extensions;
mod values;

use std::collections::BTreeSet;

use jiff::Timestamp;
use stagedoor_types::InstanceId;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

pub use extensions::{Extensions, long_name, short_name};
pub(crate) use values::named;
pub use values::{AltName, Curve, Fingerprint, KeyKind, PublicKey, Serial};

/// A certificate, CSR or CRL that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a readable {kind}: {problem}")]
pub struct Unreadable {
    /// What it was taken for.
    pub kind: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Unreadable {
    pub(crate) fn certificate(problem: &'static str) -> Self {
        Self { kind: "certificate", problem }
    }
}

/// A certificate, signed by whomever: signatures are TLS's business, not checked here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    common_name: String,
    issuer: Vec<u8>,
    serial: Serial,
    not_before: Timestamp,
    not_after: Timestamp,
    fingerprint: Fingerprint,
    key: PublicKey,
    alt_names: Vec<AltName>,
    extensions: Extensions,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, Unreadable> {
        let der = der_of(pem, &["CERTIFICATE"]).map_err(Unreadable::certificate)?;
        Self::from_der(&der)
    }

    /// Reads a DER certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, Unreadable> {
        let unreadable = Unreadable::certificate;
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| unreadable("it is not DER of X.509"))?;
        if !rest.is_empty() {
            return Err(unreadable("something follows it"));
        }
        let mut seen = BTreeSet::new();
        let mut extensions = Extensions::default();
        let mut names = Vec::new();
        for extension in parsed.extensions() {
            let oid = extension.oid.to_id_string();
            if !seen.insert(oid.clone()) {
                return Err(unreadable("it holds an extension twice"));
            }
            if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME {
                names = AltName::parse_all(extension.value).ok_or(unreadable("its subjectAltName cannot be read"))?;
            } else {
                extensions.insert(oid, extension.value);
            }
        }
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| unreadable("a date is out of range"))
        };
        Ok(Self {
            common_name: common_name(parsed.subject()).map_err(unreadable)?,
            issuer: parsed.issuer().as_raw().to_vec(),
            serial: Serial::from_be_bytes(parsed.raw_serial()),
            not_before: time(parsed.validity().not_before)?,
            not_after: time(parsed.validity().not_after)?,
            fingerprint: Fingerprint::of(der),
            key: PublicKey::new(parsed.public_key()),
            alt_names: names,
            extensions,
        })
    }

    /// The subject's CN: of a node certificate, the certname.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The issuer's distinguished name, DER.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// The serial number, unique for its issuer.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Valid from here on. The Puppet CA backdates it by a day.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Valid until here.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// SHA-256 over the DER certificate: what `certificate_status` calls `fingerprints.SHA256`.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The certified key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The subject's alternative names. The Puppet CA always adds the CN as a DNS name.
    #[must_use]
    pub fn alt_names(&self) -> &[AltName] {
        &self.alt_names
    }

    /// Puppet's own extensions, and the OIDs of all others but subjectAltName.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The EC2 instance this was issued to (extension `pp_instance_id`), where it says so in the
    /// form of an instance id.
    #[must_use]
    pub fn instance_id(&self) -> Option<InstanceId> {
        self.extensions.instance_id()
    }
}

/// The one CN of a name. Puppet issues certificates with nothing else in the subject.
pub(crate) fn common_name(name: &X509Name<'_>) -> Result<String, &'static str> {
    let mut names = name.iter_common_name();
    match (names.next(), names.next()) {
        (Some(one), None) => one.as_str().map(str::to_owned).map_err(|_| "its CN is not a text"),
        (None, _) => Err("its subject has no CN"),
        (Some(_), Some(_)) => Err("its subject has more than one CN"),
    }
}

/// The first PEM block, which must carry one of these labels.
pub(crate) fn der_of(pem: &str, labels: &[&str]) -> Result<Vec<u8>, &'static str> {
    match x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next() {
        None => Err("it holds no PEM block"),
        Some(Err(_)) => Err("it is not well-formed PEM"),
        Some(Ok(block)) if !labels.contains(&block.label.as_str()) => Err("its PEM block is of another kind"),
        Some(Ok(block)) => Ok(block.contents),
    }
}

#[cfg(test)]
mod tests;
