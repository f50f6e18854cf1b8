//! Reading issued certificates, fingerprints and PEM. No I/O.

use std::net::IpAddr;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::digest;
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::X509Extension;

use super::oid;
use super::request::{AltNames, Extension};

/// A block of PEM with the line ends that Puppet writes.
pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

/// Names for the subjectAltName extension, each once and sorted. `IP:` marks an address; `DNS:` may
/// mark a name.
pub(crate) fn general_names<'a>(names: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<SanType>> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let general = names.into_iter().map(|name| {
        if let Some(address) = name.strip_prefix("IP:") {
            let address: IpAddr = address.parse().with_context(|| format!("`{name}` is not an IP address"))?;
            return Ok(SanType::IpAddress(address));
        }
        let name = name.strip_prefix("DNS:").unwrap_or(name);
        let name = name.try_into().with_context(|| format!("`{name}` cannot be an alternative name"))?;
        Ok(SanType::DnsName(name))
    });
    general.collect()
}

/// Upper-case hexadecimal pairs with colons, of a whole certificate or request.
pub(crate) fn fingerprint(algorithm: &'static digest::Algorithm, der: &[u8]) -> String {
    let sum = digest::digest(algorithm, der);
    let pairs: Vec<String> = sum.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// What authorization looks at in a client certificate.
#[derive(Clone, Debug)]
pub(crate) struct ClientName {
    pub(crate) common_name: String,
    pub(crate) dns: Vec<String>,
    pub(crate) extensions: Vec<Extension>,
}

impl ClientName {
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| anyhow!("the client certificate cannot be read: {error}"))?;
        let common_name = parsed
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .context("the client certificate has no common name")?
            .to_owned();
        let extensions = parsed.extensions();
        Ok(Self {
            common_name,
            dns: AltNames::read(extensions.iter().map(X509Extension::parsed_extension)).dns,
            extensions: extensions
                .iter()
                .map(|extension| Extension {
                    oid: extension.oid.to_id_string(),
                    critical: extension.critical,
                    value: extension.value.to_vec(),
                })
                .collect(),
        })
    }

    /// Whether the certificate has the extension with exactly this value.
    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.extensions
            .iter()
            .any(|extension| oid::short_name(&extension.oid) == name && super::text(&extension.value) == value)
    }
}
