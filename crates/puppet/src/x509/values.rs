//! The small values that certificates are made of. No I/O.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use aws_lc_rs::digest;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// A certificate's serial number: a non-negative integer of any size (RFC 5280 allows 20 octets).
///
/// Printed as in the CA's `inventory.txt`: `0x01A1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(BigUint);

impl Serial {
    pub(crate) fn from_be_bytes(bytes: &[u8]) -> Self {
        Self(BigUint::from_bytes_be(bytes))
    }

    /// Reads decimal digits: the JSON form.
    pub(crate) fn from_decimal(digits: &str) -> Option<Self> {
        // Far beyond any serial number; keeps a hostile answer from costing quadratic time.
        if digits.len() > 100 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        BigUint::parse_bytes(digits.as_bytes(), 10).map(Self)
    }
}

impl From<u64> for Serial {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}", self.0)
    }
}

/// A SHA-256 digest, printed as Puppet prints it: upper-case hex, colon separated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

/// A text that is no SHA-256 fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 fingerprint: expected 32 hexadecimal bytes with colons between them")]
pub struct InvalidFingerprint;

impl Fingerprint {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(sum)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let mut sum = [0; 32];
        let mut parts = text.split(':');
        for byte in &mut sum {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(InvalidFingerprint)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidFingerprint)?;
        }
        parts.next().map_or(Ok(Self(sum)), |_| Err(InvalidFingerprint))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kind of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// Elliptic curve (Weierstraß).
    Ec(Curve),
    /// Anything else, by the name of its algorithm, or its OID.
    Other(String),
}

/// An elliptic curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256, which OpenSSL calls prime256v1.
    P256,
    /// NIST P-384, secp384r1.
    P384,
    /// NIST P-521, secp521r1.
    P521,
    /// Any other, as part of a sentence ("the curve secp256k1").
    Other(String),
}

/// Names of other curves, as OpenSSL has them.
const CURVES: [(&str, &str); 6] = [
    ("1.2.840.10045.3.1.1", "prime192v1"),
    ("1.3.132.0.33", "secp224r1"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
];

/// Names of the other kinds of keys.
const KINDS: [(&str, &str); 5] = [
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
    ("1.3.101.110", "X25519"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
];

/// The name of an OID among these, or the OID.
pub(crate) fn named(names: &[(&str, &str)], oid: String) -> String {
    match names.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => (*name).to_owned(),
        // A sender may make one of any length.
        None if oid.len() > 64 => "unknown".to_owned(),
        None => oid,
    }
}

impl Curve {
    /// The curve that a key's algorithm names ([RFC 5480, section 2.1.1](https://www.rfc-editor.org/rfc/rfc5480#section-2.1.1)).
    fn of(algorithm: &AlgorithmIdentifier<'_>) -> Self {
        // as_oid() does not look at the tag.
        let named_by_oid = |parameters: &&Any<'_>| parameters.tag() == Tag::Oid;
        let parameters = algorithm.parameters.as_ref().filter(named_by_oid);
        let Some(oid) = parameters.and_then(|parameters| parameters.as_oid().ok()) else {
            return Self::Other("a curve that is given by its parameters instead of its name".to_owned());
        };
        match oid.to_id_string().as_str() {
            "1.2.840.10045.3.1.7" => Self::P256,
            "1.3.132.0.34" => Self::P384,
            "1.3.132.0.35" => Self::P521,
            other => Self::Other(format!("the curve {}", named(&CURVES, other.to_owned()))),
        }
    }
}

/// A public key, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its kind.
    pub kind: KeyKind,
    /// Its strength in bits: the size of the modulus or of the curve's field; 0 where unknown.
    pub bits: usize,
    /// SHA-256 over its `SubjectPublicKeyInfo`: equal in a CSR and the certificate made from it.
    pub fingerprint: Fingerprint,
}

impl PublicKey {
    pub(crate) fn new(info: &SubjectPublicKeyInfo<'_>) -> Self {
        let (kind, bits) = match info.parsed() {
            // Counted here: key_size() rounds up to bytes and takes a leading zero for granted.
            Ok(ParsedKey::RSA(key)) => {
                (KeyKind::Rsa, usize::try_from(BigUint::from_bytes_be(key.modulus).bits()).unwrap_or(0))
            }
            Ok(ParsedKey::EC(point)) => {
                let size = point.key_size();
                // P-521's field elements are padded to whole bytes.
                (KeyKind::Ec(Curve::of(&info.algorithm)), if size == 528 { 521 } else { size })
            }
            _ => (KeyKind::Other(named(&KINDS, info.algorithm.algorithm.to_id_string())), 0),
        };
        Self { kind, bits, fingerprint: Fingerprint::of(info.raw) }
    }
}

/// A subject's alternative name, printed in Puppet's notation (`DNS:puppet.example.net`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AltName {
    /// A host name, as written, wildcards included.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// Any other kind, in words.
    Other(String),
}

impl AltName {
    /// Reads the value of a subjectAltName extension.
    pub(crate) fn parse_all(der: &[u8]) -> Option<Vec<Self>> {
        let (rest, names) = SubjectAlternativeName::from_der(der).ok()?;
        rest.is_empty().then(|| names.general_names.iter().map(Self::new).collect())
    }

    fn new(name: &GeneralName<'_>) -> Self {
        match name {
            GeneralName::DNSName(name) => Self::Dns((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                    .map_or_else(|_| Self::Other(name.to_string()), Self::Ip)
            }
            other => Self::Other(other.to_string()),
        }
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_the_same_number_from_json_and_from_der_beyond_64_bits() {
        let from_json = Serial::from_decimal("73786976294838206464").unwrap(); // 2^66
        assert_eq!(from_json, Serial::from_be_bytes(&[0, 4, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(from_json.to_string(), "0x40000000000000000");
        assert_eq!(Serial::from(417).to_string(), "0x01A1");
        for bad in ["", "-1", "1.5", "1e3", "x", &"9".repeat(101)] {
            assert_eq!(Serial::from_decimal(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_reads_what_it_prints_and_nothing_else() {
        let sum = Fingerprint::of(b"");
        assert!(sum.to_string().starts_with("E3:B0:C4:42:"));
        assert_eq!(sum.to_string().parse(), Ok(sum));
        for bad in [String::new(), "E3:B0".into(), format!("{sum}:00"), sum.to_string().replace(':', "")] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(InvalidFingerprint), "{bad}");
        }
    }
}
