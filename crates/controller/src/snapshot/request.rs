//! Certificate requests and certificates in the terms of the checks. No I/O.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use stagedoor_lifecycle::signing::{Challenge, Key, Request};
use stagedoor_puppet::{AltName, Certificate, Csr, Extensions, KeyKind, PublicKey, short_name};
use subtle::ConstantTimeEq;

/// The arc of Puppet's own extensions.
const PUPPET_ARC: &str = "1.3.6.1.4.1.34380.";

/// What a request asks for; `challenge` is the one that instances are given, if they are given one.
pub(super) fn asks(csr: &Csr, challenge: Option<&SecretString>) -> Request {
    Request {
        common_name: sole_name(csr.subject(), csr.common_name()),
        signature_valid: csr.is_self_signed(),
        challenge: match (challenge, csr.challenge()) {
            (None, _) => Challenge::NotRequired,
            (Some(wanted), Some(given)) if equal(wanted, given) => Challenge::Equal,
            (Some(_), _) => Challenge::Different,
        },
        ..described(csr.extensions(), csr.alt_names(), csr.key())
    }
}

/// What a certificate holds. It is signed by the CA, which adds extensions of its own (basic constraints, key usage …),
/// and no certificate can hold a challenge.
pub(crate) fn holds(certificate: &Certificate) -> Request {
    let mut request = described(certificate.extensions(), certificate.alt_names(), certificate.key());
    request.common_name = Some(certificate.common_name().to_owned());
    request.other_extensions.retain(|oid| oid.starts_with(PUPPET_ARC));
    request
}

/// A request of which nothing is known but that it cannot be read.
pub(super) fn unreadable(problem: &str) -> Request {
    Request {
        common_name: None,
        signature_valid: false,
        extensions: BTreeMap::new(),
        other_extensions: Vec::new(),
        alt_names: Vec::new(),
        challenge: Challenge::NotRequired,
        key: Key::Other("unknown".to_owned()),
        key_print: String::new(),
        unreadable: Some(problem.to_owned()),
    }
}

fn described(extensions: &Extensions, alt_names: &[AltName], key: &PublicKey) -> Request {
    let named = |(oid, text): (&str, &str)| (short_name(oid).unwrap_or(oid).to_owned(), text.to_owned());
    Request {
        common_name: None,
        signature_valid: true,
        extensions: extensions.iter().map(named).collect(),
        other_extensions: extensions.others().to_vec(),
        alt_names: alt_names.iter().map(written).collect(),
        challenge: Challenge::NotRequired,
        key_print: key.fingerprint.to_string(),
        unreadable: None,
        key: match &key.kind {
            KeyKind::Rsa => Key::Rsa(key.bits),
            KeyKind::Ec => Key::Ec(key.bits),
            KeyKind::Other(oid) => Key::Other(oid.clone()),
        },
    }
}

fn written(name: &AltName) -> String {
    match name {
        AltName::Dns(name) => name.clone(),
        other => other.to_string(),
    }
}

/// The common name, if the subject is nothing else.
fn sole_name(subject: &str, common_name: &str) -> Option<String> {
    (subject == format!("CN={common_name}")).then(|| common_name.to_owned())
}

/// Compares in a time that reveals nothing but whether the lengths differ.
fn equal(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret().as_bytes().ct_eq(other.expose_secret().as_bytes()).into()
}
