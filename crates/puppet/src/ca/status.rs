//! What the CA says about certificates, as values. No I/O.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use stagedoor_types::Certname;

use crate::csr::Csr;
use crate::error::Error;
use crate::http::Answer;
use crate::x509::{AltName, Fingerprint, Serial};

/// The state of a name at the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A CSR waits, and there is no certificate.
    Requested,
    /// There is a certificate, and it is not revoked.
    Signed,
    /// There is a certificate, and it is revoked.
    Revoked,
}

impl State {
    /// The CA's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Signed => "signed",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the CA says about one name. Old servers omit much of it, so only name and state are
/// always present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The name as the CA has it; a CA may hold names that are no [`Certname`]s any more.
    pub name: String,
    /// Its state.
    pub state: State,
    /// The certificate's serial number.
    pub serial: Option<Serial>,
    /// SHA-256 of the certificate or CSR.
    pub fingerprint: Option<Fingerprint>,
    /// The certificate is valid from here on.
    pub not_before: Option<Timestamp>,
    /// The certificate is valid until here.
    pub not_after: Option<Timestamp>,
    /// The alternative names in Puppet's notation: `DNS:puppet.example.net`.
    pub alt_names: Vec<String>,
    /// The extensions of the arc 1.3.6.1.4.1.34380.1.3 by short name; no others are shown.
    pub authorization_extensions: BTreeMap<String, String>,
}

/// The JSON form. The serial number is kept as text, for it may exceed 64 bits.
#[derive(Deserialize)]
struct Wire {
    name: String,
    state: State,
    serial_number: Option<Box<RawValue>>,
    fingerprint: Option<String>,
    #[serde(default)]
    fingerprints: BTreeMap<String, String>,
    not_before: Option<String>,
    not_after: Option<String>,
    subject_alt_names: Option<Vec<String>>,
    dns_alt_names: Option<Vec<String>>,
    #[serde(default)]
    authorization_extensions: BTreeMap<String, serde_json::Value>,
}

impl CertificateStatus {
    pub(crate) fn from_answer(answer: &Answer) -> Result<Self, Error> {
        answer.json::<Wire>().map(Self::from)
    }

    pub(crate) fn list_from_answer(answer: &Answer) -> Result<Vec<Self>, Error> {
        Ok(answer.json::<Vec<Wire>>()?.into_iter().map(Self::from).collect())
    }

    /// The status that a pending CSR would have.
    pub(crate) fn requested(certname: &Certname, csr: &Csr) -> Self {
        Self {
            name: certname.to_string(),
            state: State::Requested,
            serial: None,
            fingerprint: Some(*csr.fingerprint()),
            not_before: None,
            not_after: None,
            alt_names: csr.alt_names().iter().map(AltName::to_string).collect(),
            authorization_extensions: BTreeMap::new(),
        }
    }
}

impl From<Wire> for CertificateStatus {
    fn from(wire: Wire) -> Self {
        let sha256 = wire.fingerprints.get("SHA256").or(wire.fingerprint.as_ref());
        Self {
            state: wire.state,
            serial: wire.serial_number.and_then(|number| Serial::from_decimal(number.get())),
            fingerprint: sha256.and_then(|text| text.parse().ok()),
            not_before: wire.not_before.as_deref().and_then(timestamp),
            not_after: wire.not_after.as_deref().and_then(timestamp),
            alt_names: wire.subject_alt_names.or(wire.dns_alt_names).unwrap_or_default(),
            authorization_extensions: wire
                .authorization_extensions
                .into_iter()
                .map(|(name, value)| match value {
                    serde_json::Value::String(text) => (name, text),
                    other => (name, other.to_string()),
                })
                .collect(),
            name: wire.name,
        }
    }
}

/// When the CA's own certificates and CRLs expire, by the CN of the CA certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expirations {
    /// The certificates.
    pub ca_certs: BTreeMap<String, Timestamp>,
    /// The CRLs. An expired one takes the whole site down.
    pub crls: BTreeMap<String, Timestamp>,
}

impl Expirations {
    pub(crate) fn from_answer(answer: &Answer) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(rename = "ca-certs")]
            ca_certs: BTreeMap<String, String>,
            crls: BTreeMap<String, String>,
        }
        let wire: Wire = answer.json()?;
        let dates = |texts: BTreeMap<String, String>| {
            texts
                .into_iter()
                .map(|(name, text)| match timestamp(&text) {
                    Some(date) => Ok((name, date)),
                    None => Err(answer.unexpected(format!("the date of {name} cannot be read"))),
                })
                .collect::<Result<_, _>>()
        };
        Ok(Self { ca_certs: dates(wire.ca_certs)?, crls: dates(wire.crls)? })
    }

    /// The first to expire of all.
    #[must_use]
    pub fn earliest(&self) -> Option<Timestamp> {
        self.ca_certs.values().chain(self.crls.values()).min().copied()
    }
}

/// Puppet Server writes `2026-03-01T10:00:00UTC`.
fn timestamp(text: &str) -> Option<Timestamp> {
    match text.strip_suffix("UTC") {
        Some(date) => format!("{date}Z").parse().ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> CertificateStatus {
        serde_json::from_str::<Wire>(json).unwrap().into()
    }

    #[test]
    fn a_serial_number_beyond_64_bits_is_exact() {
        let status = read(r#"{"name":"n","state":"signed","serial_number":73786976294838206465}"#);
        assert_eq!(status.serial.unwrap().to_string(), "0x40000000000000001");
    }

    #[test]
    fn an_old_servers_two_keys_are_enough() {
        let status = read(r#"{"name":"n","state":"requested"}"#);
        assert_eq!((status.state, status.serial, status.not_after), (State::Requested, None, None));
    }

    #[test]
    fn dates_end_in_the_letters_utc() {
        let status = read(r#"{"name":"n","state":"signed","not_after":"2031-03-02T10:00:00UTC"}"#);
        assert_eq!(status.not_after.unwrap().to_string(), "2031-03-02T10:00:00Z");
    }

    #[test]
    fn an_unknown_state_is_not_guessed_at() {
        assert!(serde_json::from_str::<Wire>(r#"{"name":"n","state":"paused"}"#).is_err());
    }
}
