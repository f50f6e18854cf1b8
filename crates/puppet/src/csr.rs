//! Certificate signing requests as Puppet agents send them: faithful parsing, no judgement. No I/O.
//!
//! A request comes from a machine that is not known yet, so anything that could be read in two ways
//! (two extension requests, one extension twice, bytes after the end) is refused here.

mod signature;

use std::collections::BTreeSet;

use secrecy::SecretString;
use stagedoor_types::InstanceId;
use x509_parser::asn1_rs::{Any, BitString, Class, FromDer, Oid, Tag};
use x509_parser::prelude::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Extension, X509Name};

pub use signature::SelfSignature;

use crate::x509::{AltName, Extensions, Fingerprint, PublicKey, Unreadable, common_name, der_of};

/// Longest PEM text that is looked at. An RSA 4096 request with an identity document in an
/// attribute has about 6 KiB.
pub(crate) const SIZE_LIMIT: usize = 64 * 1024;

/// PKCS #9 `extensionRequest` (RFC 2985).
const EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";
/// Microsoft's older OID for the same.
const MICROSOFT_EXTENSION_REQUEST: &str = "1.3.6.1.4.1.311.2.1.14";
/// PKCS #9 `challengePassword` (RFC 2985).
const CHALLENGE_PASSWORD: &str = "1.2.840.113549.1.9.7";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";

/// A certificate signing request.
#[derive(Debug, Clone)]
pub struct Csr {
    common_name: String,
    subject: String,
    key: PublicKey,
    self_signature: SelfSignature,
    fingerprint: Fingerprint,
    alt_names: Vec<AltName>,
    extensions: Extensions,
    challenge: Option<SecretString>,
}

impl Csr {
    /// Reads a PEM request of at most 64 KiB.
    pub fn from_pem(pem: &str) -> Result<Self, Unreadable> {
        if pem.len() > SIZE_LIMIT {
            return Err(unreadable("it is longer than 64 KiB"));
        }
        let labels = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
        Self::from_der(&der_of(pem, &labels).map_err(unreadable)?)
    }

    /// Reads a DER request (`CertificationRequest`, RFC 2986).
    ///
    /// The attributes are parsed manually: x509-parser refuses requests whose
    /// challengePassword has an unusual string type, and drops values it does not know.
    pub fn from_der(der: &[u8]) -> Result<Self, Unreadable> {
        if der.len() > SIZE_LIMIT {
            return Err(unreadable("it is longer than 64 KiB"));
        }
        let not_der = |_| unreadable("it is not DER of PKCS #10");
        let request = whole(der, Tag::Sequence)?;
        let (rest, info) = element(request, Class::Universal, Tag::Sequence)?;
        let signed = &request[..request.len() - rest.len()];
        let (rest, algorithm) = AlgorithmIdentifier::from_der(rest).map_err(not_der)?;
        let (rest, signature) = BitString::from_der(rest).map_err(|_| unreadable("it has no signature"))?;
        if !rest.is_empty() {
            return Err(unreadable("something follows its signature"));
        }

        let (rest, _version) = element(info, Class::Universal, Tag::Integer)?;
        let (rest, subject) = X509Name::from_der(rest).map_err(not_der)?;
        let (rest, key) = SubjectPublicKeyInfo::from_der(rest).map_err(not_der)?;
        let attributes = if rest.is_empty() {
            rest
        } else {
            let (rest, attributes) = element(rest, Class::ContextSpecific, Tag(0))?;
            if !rest.is_empty() {
                return Err(unreadable("something follows its attributes"));
            }
            attributes
        };

        let described = PublicKey::new(&key);
        let mut csr = Self {
            common_name: common_name(&subject).map_err(unreadable)?,
            subject: subject.to_string(),
            self_signature: signature::check(&described, &key, &algorithm.algorithm, &signature.data, signed),
            key: described,
            fingerprint: Fingerprint::of(der),
            alt_names: Vec::new(),
            extensions: Extensions::default(),
            challenge: None,
        };
        csr.read_attributes(attributes)?;
        Ok(csr)
    }

    fn read_attributes(&mut self, mut rest: &[u8]) -> Result<(), Unreadable> {
        let mut standard = None;
        let mut microsoft = None;
        let mut others = BTreeSet::new();
        while !rest.is_empty() {
            let (next, attribute) = element(rest, Class::Universal, Tag::Sequence)?;
            rest = next;
            let (values, oid) = Oid::from_der(attribute).map_err(|_| unreadable("an attribute has no OID"))?;
            let values = whole(values, Tag::Set)?;
            let oid = oid.to_id_string();
            match oid.as_str() {
                EXTENSION_REQUEST => {
                    if standard.replace(values).is_some() {
                        return Err(unreadable("it holds more than one extension request"));
                    }
                }
                MICROSOFT_EXTENSION_REQUEST => {
                    if microsoft.replace(values).is_some() {
                        return Err(unreadable("it holds more than one extension request"));
                    }
                }
                CHALLENGE_PASSWORD => {
                    let text = single_text(values).ok_or(unreadable("its challengePassword is not one text"))?;
                    if self.challenge.replace(text).is_some() {
                        return Err(unreadable("it holds more than one challengePassword"));
                    }
                }
                _ => {
                    if !others.insert(oid) {
                        return Err(unreadable("it holds an attribute twice"));
                    }
                }
            }
        }
        match standard.or(microsoft) {
            Some(values) => self.read_extensions(whole(values, Tag::Sequence)?),
            None => Ok(()),
        }
    }

    fn read_extensions(&mut self, mut rest: &[u8]) -> Result<(), Unreadable> {
        let mut seen = BTreeSet::new();
        while !rest.is_empty() {
            let (next, extension) =
                X509Extension::from_der(rest).map_err(|_| unreadable("an extension cannot be read"))?;
            rest = next;
            let oid = extension.oid.to_id_string();
            if !seen.insert(oid.clone()) {
                return Err(unreadable("it requests an extension twice"));
            }
            if oid == SUBJECT_ALT_NAME {
                self.alt_names =
                    AltName::parse_all(extension.value).ok_or(unreadable("its subjectAltName cannot be read"))?;
            } else {
                self.extensions.insert(oid, extension.value);
            }
        }
        Ok(())
    }

    /// The subject's CN: the certname asked for.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The whole subject; of a Puppet agent's request `CN=` and the certname, nothing else.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The key to be certified.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether the sender of the request holds its private key.
    #[must_use]
    pub fn self_signature(&self) -> &SelfSignature {
        &self.self_signature
    }

    /// SHA-256 over the DER request: what `certificate_status` calls `fingerprints.SHA256` while
    /// the state is `requested`.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The alternative names asked for.
    #[must_use]
    pub fn alt_names(&self) -> &[AltName] {
        &self.alt_names
    }

    /// The extensions asked for but subjectAltName.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The EC2 instance it claims to come from (`pp_instance_id`).
    #[must_use]
    pub fn instance_id(&self) -> Option<InstanceId> {
        self.extensions.instance_id()
    }

    /// The one-time secret in attribute challengePassword.
    #[must_use]
    pub fn challenge(&self) -> Option<&SecretString> {
        self.challenge.as_ref()
    }
}

fn unreadable(problem: &'static str) -> Unreadable {
    Unreadable { kind: "CSR", problem }
}

/// The content of the next element, which must be of this kind, and what follows it.
fn element(input: &[u8], class: Class, tag: Tag) -> Result<(&[u8], &[u8]), Unreadable> {
    match Any::from_der(input) {
        // asn1-rs does not ask whether what holds other elements says that it does (X.690, 8.1.2.5).
        Ok((rest, any))
            if any.class() == class && any.tag() == tag && any.header.is_constructed() == (tag != Tag::Integer) =>
        {
            Ok((rest, any.data))
        }
        _ => Err(unreadable("it is not DER of PKCS #10")),
    }
}

/// The content of the only element.
fn whole(input: &[u8], tag: Tag) -> Result<&[u8], Unreadable> {
    match element(input, Class::Universal, tag)? {
        ([], content) => Ok(content),
        _ if tag == Tag::Sequence => Err(unreadable("it holds more than one value where one belongs")),
        _ => Err(unreadable("something follows a set of values")),
    }
}

/// The text of an attribute that has exactly one value, of whatever string type.
fn single_text(values: &[u8]) -> Option<SecretString> {
    match Any::from_der(values) {
        Ok(([], any)) if any.class() == Class::Universal && any.header.is_primitive() => {
            std::str::from_utf8(any.data).ok().map(SecretString::from)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
