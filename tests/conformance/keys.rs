//! Requests with every kind of key that agents make, and the certificates that the CA makes from them.

use rcgen::{
    Error, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA256, PKCS_ECDSA_P521_SHA512,
    PKCS_RSA_SHA256, PKCS_RSA_SHA512, RsaKeySize,
};
use stagedoor_puppet::{Curve, KeyKind, SelfSignature, Signed};

use super::apply::Applicant;
use super::site::Site;

/// A key, and the digest of the signature under its request.
struct Kind {
    label: &'static str,
    key: KeyKind,
    bits: usize,
    make: fn() -> Result<KeyPair, Error>,
}

/// Puppet's agents sign with SHA-256, whatever the key; other tools take a digest as long as the key. P-384 with SHA-256 is missing,
/// because rcgen does not make it: `tests/live/keys.rs` has it from OpenSSL.
const KINDS: [Kind; 7] = [
    Kind {
        label: "p256-sha256",
        key: KeyKind::Ec(Curve::P256),
        bits: 256,
        make: || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
    },
    Kind {
        label: "p384-sha384",
        key: KeyKind::Ec(Curve::P384),
        bits: 384,
        make: || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
    },
    Kind {
        label: "p521-sha256",
        key: KeyKind::Ec(Curve::P521),
        bits: 521,
        make: || KeyPair::generate_for(&PKCS_ECDSA_P521_SHA256),
    },
    Kind {
        label: "p521-sha512",
        key: KeyKind::Ec(Curve::P521),
        bits: 521,
        make: || KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512),
    },
    Kind {
        label: "rsa2048-sha256",
        key: KeyKind::Rsa,
        bits: 2048,
        make: || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    },
    Kind {
        label: "rsa2048-sha512",
        key: KeyKind::Rsa,
        bits: 2048,
        make: || KeyPair::generate_rsa_for(&PKCS_RSA_SHA512, RsaKeySize::_2048),
    },
    Kind {
        label: "rsa4096-sha256",
        key: KeyKind::Rsa,
        bits: 4096,
        make: || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    },
];

impl Kind {
    fn applicant(&self) -> Applicant {
        Applicant::new(self.label).key((self.make)().expect("a key"))
    }
}

pub(super) async fn a_request_with_any_kind_of_key_is_verified_signed_and_recognised_in_its_certificate(site: &Site) {
    for kind in KINDS {
        let certname = kind.applicant().apply(site).await.certname;
        let csr = site.ca().csr(&certname).await.unwrap().expect("the request");
        assert_eq!(*csr.self_signature(), SelfSignature::Valid, "{certname}");
        assert_eq!((&csr.key().kind, csr.key().bits), (&kind.key, kind.bits), "{certname}");
        assert_eq!(site.ca_admin().sign(&certname).await, Ok(Signed::Done), "{certname}");
        let certificate = site.ca().certificate(&certname).await.unwrap().expect("the certificate");
        assert_eq!(certificate.key(), csr.key(), "{certname}");
    }
}

pub(super) async fn a_certificate_with_any_kind_of_key_is_accepted_in_tls(site: &Site) {
    for kind in KINDS {
        let applicant = kind.applicant().enrol(site).await;
        let identity = applicant.identity(site).await;
        let answer = site.ca_as(&identity).expirations().await;
        assert!(answer.is_ok(), "{}: {answer:?}", applicant.certname);
    }
}
