//! Certificate signing requests: reading any agent's, writing the ones that simulated agents send. No I/O.

use std::net::IpAddr;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, UnparsedPublicKey};
use rcgen::{Attribute, CertificateParams, CustomExtension, DnType, KeyPair};
use secrecy::{ExposeSecret as _, SecretString};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::{der, oid, text};

/// An extension as it stands in a request or a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    /// Dotted OID.
    pub(crate) oid: String,
    pub(crate) critical: bool,
    /// What is inside the OCTET STRING.
    pub(crate) value: Vec<u8>,
}

/// The alternative names of a request or a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AltNames {
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
}

impl AltNames {
    /// With the prefixes `IP:` and `DNS:`, addresses first, as the CA lists them.
    pub(crate) fn labelled(&self) -> Vec<String> {
        let addresses = self.ip.iter().map(|ip| format!("IP:{ip}"));
        addresses.chain(self.labelled_dns()).collect()
    }

    /// The DNS names alone, each with the prefix `DNS:`.
    pub(crate) fn labelled_dns(&self) -> Vec<String> {
        self.dns.iter().map(|name| format!("DNS:{name}")).collect()
    }

    pub(crate) fn read<'a>(extensions: impl Iterator<Item = &'a ParsedExtension<'a>>) -> Self {
        let mut names = Self::default();
        for extension in extensions {
            let ParsedExtension::SubjectAlternativeName(listed) = extension else {
                continue;
            };
            for name in &listed.general_names {
                match name {
                    GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                    GeneralName::IPAddress(bytes) => names.ip.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        names
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A parsed signing request. Its attributes may hold a one-time secret.
#[derive(Clone)]
pub(crate) struct SigningRequest {
    pub(crate) der: Vec<u8>,
    pub(crate) common_name: String,
    /// The public key with its algorithm, DER.
    pub(crate) public_key: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) alt_names: AltNames,
    /// Whether the request is signed with the key that it carries.
    pub(crate) signature_is_valid: bool,
}

impl SigningRequest {
    /// Reads a PEM request. Fails on anything that is not one.
    pub(crate) fn from_pem(body: &[u8]) -> anyhow::Result<Self> {
        let block = pem::parse(body).context("the body is not PEM")?;
        anyhow::ensure!(
            matches!(block.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"),
            "the PEM block is a {}, not a certificate request",
            block.tag()
        );
        Self::from_der(block.contents())
    }

    pub(crate) fn from_der(bytes: &[u8]) -> anyhow::Result<Self> {
        let (_, request) =
            X509CertificationRequest::from_der(bytes).map_err(|error| anyhow!("not a certificate request: {error}"))?;
        let info = &request.certification_request_info;
        let common_name = info
            .subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .context("the request's subject has no common name")?
            .to_owned();
        let mut extensions = Vec::new();
        for attribute in info.iter_attributes() {
            if let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() {
                extensions.extend(requested.extensions.iter().map(|extension| Extension {
                    oid: extension.oid.to_id_string(),
                    critical: extension.critical,
                    value: extension.value.to_vec(),
                }));
            }
        }
        Ok(Self {
            der: bytes.to_vec(),
            common_name,
            public_key: info.subject_pki.raw.to_vec(),
            extensions,
            alt_names: AltNames::read(request.requested_extensions().into_iter().flatten()),
            signature_is_valid: signed_with_its_key(&request),
        })
    }

    pub(crate) fn pem(&self) -> String {
        super::certificate::pem_block("CERTIFICATE REQUEST", &self.der)
    }
}

/// Curve, signature algorithm, verification: what Puppet Server accepts and x509-parser does not verify. Agents sign with SHA-256 on
/// every curve.
const ECDSA: [(&str, &str, &EcdsaVerificationAlgorithm); 5] = [
    ("1.2.840.10045.3.1.7", "1.2.840.10045.4.3.4", &signature::ECDSA_P256_SHA512_ASN1),
    ("1.3.132.0.34", "1.2.840.10045.4.3.4", &signature::ECDSA_P384_SHA512_ASN1),
    ("1.3.132.0.35", "1.2.840.10045.4.3.2", &signature::ECDSA_P521_SHA256_ASN1),
    ("1.3.132.0.35", "1.2.840.10045.4.3.3", &signature::ECDSA_P521_SHA384_ASN1),
    ("1.3.132.0.35", "1.2.840.10045.4.3.4", &signature::ECDSA_P521_SHA512_ASN1),
];

fn signed_with_its_key(request: &X509CertificationRequest<'_>) -> bool {
    let info = &request.certification_request_info;
    let curve = info.subject_pki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let curve = curve.map(|curve| curve.to_id_string());
    let with = request.signature_algorithm.algorithm.to_id_string();
    let known = ECDSA.iter().find(|(of, digest, _)| curve.as_deref() == Some(of) && with == *digest);
    known.map_or_else(
        || request.verify_signature().is_ok(),
        |(.., algorithm)| {
            let key = UnparsedPublicKey::new(*algorithm, &info.subject_pki.subject_public_key.data);
            key.verify(info.raw, &request.signature_value.data).is_ok()
        },
    )
}

/// What a simulated agent asks for, as `puppet.conf` and `csr_attributes.yaml` would say it.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    pub(crate) certname: String,
    /// OID and text of each extension request.
    pub(crate) extensions: Vec<(String, String)>,
    /// `dns_alt_names`: plain, `DNS:` or `IP:`. The certname is added to them, as agents do.
    pub(crate) alt_names: Vec<String>,
    /// The attribute `challengePassword`.
    pub(crate) challenge: Option<SecretString>,
    /// Extension values as bare bytes, the way very old agents wrote them.
    pub(crate) legacy_encoding: bool,
}

/// Writes the request for a wish, signed with `key`.
pub(crate) fn write(wish: &Wish, key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    const UTF8_STRING: u8 = 0x0c;
    const PRINTABLE_STRING: u8 = 0x13;
    const SET: u8 = 0x31;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, wish.certname.as_str());
    if !wish.alt_names.is_empty() {
        params.subject_alt_names =
            super::certificate::general_names(wish.alt_names.iter().chain([&wish.certname]).map(String::as_str))?;
    }
    for (name, value) in &wish.extensions {
        let content = if wish.legacy_encoding { value.as_bytes().to_vec() } else { der(UTF8_STRING, value.as_bytes()) };
        let oid = oid::components(name)?;
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, content));
    }
    let challenge = wish.challenge.iter().map(|challenge| Attribute {
        oid: &[1, 2, 840, 113_549, 1, 9, 7],
        values: der(SET, &der(PRINTABLE_STRING, challenge.expose_secret().as_bytes())),
    });
    let request = params
        .serialize_request_with_attributes(key, challenge.collect())
        .with_context(|| format!("could not write a signing request for {}", wish.certname))?;
    Ok(request.der().to_vec())
}

/// The Puppet extensions among `extensions`, by short name (or OID), as text.
pub(crate) fn trusted(extensions: &[Extension]) -> Vec<(String, String)> {
    let puppet = |oid: &str| [oid::REGISTERED, oid::PRIVATE, oid::AUTHORIZATION].iter().any(|arc| oid.starts_with(arc));
    extensions
        .iter()
        .filter(|extension| puppet(&extension.oid))
        .map(|extension| (oid::short_name(&extension.oid).to_owned(), text(&extension.value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_agents_request_is_read() {
        // Made by Puppet's documented layout with OpenSSL: alternative names, two extension
        // requests, a challenge and the auto-renew attribute.
        let request = SigningRequest::from_pem(
            b"-----BEGIN CERTIFICATE REQUEST-----
MIIBvTCCAWMCAQAwMDEuMCwGA1UEAwwlaS0wYTFiMmMzZDRlNWY2MDcxOC5ub2Rl
cy5leGFtcGxlLm5ldDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGpV/klhb8uc
calhm8Q5B/x/PLe5F94SCMaEeN81nne+uh0JDq1P40eLE8EkiUKEzGbGCFEW9K7X
FALqgHb96QiggdAwFQYLKwYBBAGCjEwBAwIxBhMEdHJ1ZTAcBgkqhkiG9w0BCQcx
DxMNb25lLXRpbWUtN1FtMjCBmAYJKoZIhvcNAQkOMYGKMIGHMCQGCysGAQQBgoxM
AQECBBUME2ktMGExYjJjM2Q0ZTVmNjA3MTgwGQYLKwYBBAGCjEwBAQ0ECgwIY29t
cGlsZXIwRAYDVR0RBD0wO4IlaS0wYTFiMmMzZDRlNWY2MDcxOC5ub2Rlcy5leGFt
cGxlLm5ldIIScHVwcGV0LmV4YW1wbGUubmV0MAoGCCqGSM49BAMCA0gAMEUCIQDX
9wI9eBk9Bq0Co7+M2ZuRLwpGQRg38s8BKUWsmp2f9QIgVv716wZJeAwAY1Z6vpLY
gvNqzbIwZ16fWlYrYbRd5Bw=
-----END CERTIFICATE REQUEST-----
",
        )
        .unwrap();
        assert_eq!(request.common_name, "i-0a1b2c3d4e5f60718.nodes.example.net");
        assert!(request.signature_is_valid);
        assert_eq!(
            trusted(&request.extensions),
            [
                ("pp_instance_id".to_owned(), "i-0a1b2c3d4e5f60718".to_owned()),
                ("pp_role".to_owned(), "compiler".to_owned()),
            ]
        );
        assert_eq!(
            request.alt_names.labelled(),
            ["DNS:i-0a1b2c3d4e5f60718.nodes.example.net", "DNS:puppet.example.net"]
        );
    }

    #[test]
    fn both_encodings_of_an_extension_say_the_same() {
        let key = KeyPair::generate().unwrap();
        for legacy_encoding in [false, true] {
            let wish = Wish {
                certname: "n.example.net".to_owned(),
                extensions: vec![(oid::resolve("pp_role").unwrap(), "compiler".to_owned())],
                legacy_encoding,
                ..Wish::default()
            };
            let request = SigningRequest::from_der(&write(&wish, &key).unwrap()).unwrap();
            let value = &request.extensions[0].value;
            assert_eq!(value == b"compiler", legacy_encoding);
            assert_eq!(trusted(&request.extensions), [("pp_role".to_owned(), "compiler".to_owned())]);
        }
    }
}
