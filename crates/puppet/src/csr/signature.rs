//! Whether a request is signed with its own key. No I/O.
//!
//! Verified are the keys that Puppet agents make (`key_type`, `named_curve` and `keylength` of
//! [puppet.conf](https://www.puppet.com/docs/puppet/8/configuration)) with the digests of the SHA-2 family. Everything else is
//! named, so that a signature that was never checked is not called wrong.

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use x509_parser::asn1_rs::Oid;
use x509_parser::prelude::SubjectPublicKeyInfo;

use crate::x509::{Curve, KeyKind, PublicKey, named};

/// What the signature of a request shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfSignature {
    /// Its sender has the private key.
    Valid,
    /// It was made with another key, or for another request.
    Wrong,
    /// It cannot be verified; the text says why ("its key is on the curve secp256k1").
    Unverifiable(String),
}

/// The shortest RSA key whose signatures are verified, in bits.
const MIN_RSA: usize = 2048;
/// The longest.
const MAX_RSA: usize = 8192;

/// Names of signature algorithms that are not verified, as OpenSSL has them.
const UNVERIFIED: [(&str, &str); 9] = [
    ("1.2.840.113549.1.1.4", "md5WithRSAEncryption"),
    ("1.2.840.113549.1.1.5", "sha1WithRSAEncryption"),
    ("1.3.14.3.2.29", "sha1WithRSA"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
    ("1.2.840.113549.1.1.14", "sha224WithRSAEncryption"),
    ("1.2.840.10045.4.1", "ecdsa-with-SHA1"),
    ("1.2.840.10045.4.3.1", "ecdsa-with-SHA224"),
    ("1.2.840.10040.4.3", "dsa-with-SHA1"),
    ("1.3.101.112", "Ed25519"),
];

/// The kind of key that an algorithm signs with, and its digest's size in bits.
fn verified(algorithm: &str) -> Option<(Family, u16)> {
    Some(match algorithm {
        "1.2.840.113549.1.1.11" => (Family::Rsa, 256),
        "1.2.840.113549.1.1.12" => (Family::Rsa, 384),
        "1.2.840.113549.1.1.13" => (Family::Rsa, 512),
        "1.2.840.10045.4.3.2" => (Family::Ec, 256),
        "1.2.840.10045.4.3.3" => (Family::Ec, 384),
        "1.2.840.10045.4.3.4" => (Family::Ec, 512),
        _ => return None,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    Ec,
}

/// The curves whose signatures are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nist {
    P256,
    P384,
    P521,
}

/// Checks the signature over `signed`, made with this algorithm.
pub(super) fn check(
    key: &PublicKey,
    info: &SubjectPublicKeyInfo<'_>,
    algorithm: &Oid<'_>,
    signature: &[u8],
    signed: &[u8],
) -> SelfSignature {
    let unverifiable = |why: String| SelfSignature::Unverifiable(why);
    let (family, curve) = match &key.kind {
        KeyKind::Rsa if key.bits < MIN_RSA => {
            return unverifiable(format!("its RSA key has {} bits; at least {MIN_RSA} are required", key.bits));
        }
        KeyKind::Rsa if key.bits > MAX_RSA => {
            return unverifiable(format!("its RSA key has {} bits; at most {MAX_RSA} are supported", key.bits));
        }
        KeyKind::Rsa => (Family::Rsa, None),
        KeyKind::Ec(Curve::P256) => (Family::Ec, Some(Nist::P256)),
        KeyKind::Ec(Curve::P384) => (Family::Ec, Some(Nist::P384)),
        KeyKind::Ec(Curve::P521) => (Family::Ec, Some(Nist::P521)),
        KeyKind::Ec(Curve::Other(name)) => return unverifiable(format!("its key is on {name}")),
        KeyKind::Other(name) => return unverifiable(format!("its key is of the kind {name}")),
    };
    let oid = algorithm.to_id_string();
    let Some((signs_with, digest)) = verified(&oid) else {
        return unverifiable(format!("it is signed with {}", named(&UNVERIFIED, oid)));
    };
    if signs_with != family {
        return SelfSignature::Wrong;
    }
    match ParsedPublicKey::new(verifier(curve, digest), &info.subject_public_key.data) {
        Err(_) => unverifiable("its key cannot be read".to_owned()),
        Ok(key) if key.verify_sig(signed, signature).is_ok() => SelfSignature::Valid,
        Ok(_) => SelfSignature::Wrong,
    }
}

/// Without a curve, of RSA.
fn verifier(curve: Option<Nist>, digest: u16) -> &'static dyn VerificationAlgorithm {
    match (curve, digest) {
        (None, 256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (None, 384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (None, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (Some(Nist::P256), 256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Some(Nist::P256), 384) => &signature::ECDSA_P256_SHA384_ASN1,
        (Some(Nist::P256), _) => &signature::ECDSA_P256_SHA512_ASN1,
        (Some(Nist::P384), 256) => &signature::ECDSA_P384_SHA256_ASN1,
        (Some(Nist::P384), 384) => &signature::ECDSA_P384_SHA384_ASN1,
        (Some(Nist::P384), _) => &signature::ECDSA_P384_SHA512_ASN1,
        (Some(Nist::P521), 256) => &signature::ECDSA_P521_SHA256_ASN1,
        (Some(Nist::P521), 384) => &signature::ECDSA_P521_SHA384_ASN1,
        (Some(Nist::P521), _) => &signature::ECDSA_P521_SHA512_ASN1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::csr::Csr;
    use crate::x509::der_of;

    /// Each block of the file, by its name.
    fn requests() -> BTreeMap<&'static str, &'static str> {
        let blocks = include_str!("requests.pem").split("# ").skip(1);
        blocks.map(|block| block.split_once('\n').expect("a name and a block")).collect()
    }

    fn says(name: &str) -> SelfSignature {
        let requests = requests();
        let pem = requests.get(name).unwrap_or_else(|| panic!("no request {name}"));
        Csr::from_pem(pem).unwrap().self_signature().clone()
    }

    fn why(name: &str) -> String {
        match says(name) {
            SelfSignature::Unverifiable(why) => why,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn every_key_that_agents_make_is_verified_with_every_digest_of_sha_2() {
        for key in ["p256", "p384", "p521", "rsa2048"] {
            for digest in ["sha256", "sha384", "sha512"] {
                assert_eq!(says(&format!("{key}-{digest}")), SelfSignature::Valid, "{key} {digest}");
            }
        }
        assert_eq!(says("p256-compressed"), SelfSignature::Valid, "a point may be written in two ways");
    }

    #[test]
    fn a_signature_of_another_key_or_request_is_wrong() {
        for name in ["p256-sha256", "p384-sha384", "p521-sha512", "p521-sha256", "rsa2048-sha256"] {
            let mut der = der_of(requests()[name], &["CERTIFICATE REQUEST"]).unwrap();
            let at = der.windows(13).position(|window| window == b"n.example.net").unwrap();
            der[at] = b'm';
            assert_eq!(*Csr::from_der(&der).unwrap().self_signature(), SelfSignature::Wrong, "{name}");
        }
    }

    #[test]
    fn a_signature_that_says_to_be_of_another_kind_than_the_key_is_wrong() {
        let der = der_of(requests()["p256-sha256"], &["CERTIFICATE REQUEST"]).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        let info = &request.certification_request_info;
        let check = |algorithm: &[u64]| {
            let (key, signature) = (&info.subject_pki, &request.signature_value.data);
            super::check(&PublicKey::new(key), key, &Oid::from(algorithm).unwrap(), signature, info.raw)
        };
        assert_eq!(check(&[1, 2, 840, 10045, 4, 3, 2]), SelfSignature::Valid);
        assert_eq!(check(&[1, 2, 840, 113_549, 1, 1, 11]), SelfSignature::Wrong, "RSA with SHA-256");
    }

    #[test]
    fn what_cannot_be_verified_is_refused_by_its_true_name() {
        for (name, reason) in [
            ("secp256k1-sha256", "its key is on the curve secp256k1"),
            ("brainpool-sha256", "its key is on the curve brainpoolP256r1"),
            ("p192-sha256", "its key is on the curve prime192v1"),
            ("p256-explicit", "its key is on a curve that is given by its parameters instead of its name"),
            ("ed25519", "its key is of the kind Ed25519"),
            ("ed448", "its key is of the kind Ed448"),
            ("dsa-sha256", "its key is of the kind DSA"),
            ("rsa-pss-key", "its key is of the kind RSASSA-PSS"),
            ("rsa1024-sha256", "its RSA key has 1024 bits; at least 2048 are required"),
            ("rsa8200-sha256", "its RSA key has 8200 bits; at most 8192 are supported"),
            ("rsa2048-sha1", "it is signed with sha1WithRSAEncryption"),
            ("rsa2048-pss", "it is signed with RSASSA-PSS"),
            ("p256-sha1", "it is signed with ecdsa-with-SHA1"),
            ("p256-sha224", "it is signed with ecdsa-with-SHA224"),
        ] {
            assert_eq!(why(name), reason, "{name}");
        }
    }
}
