//! Certificate requests and certificates in the terms of the checks. No I/O.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use stagedoor_lifecycle::signing::{Challenge, Key, Request, Signature};
use stagedoor_puppet::{AltName, Certificate, Csr, Extensions, KeyKind, PublicKey, SelfSignature, short_name};
use subtle::ConstantTimeEq;

use crate::context::Challenges;

/// The arc of Puppet's own extensions.
const PUPPET_ARC: &str = "1.3.6.1.4.1.34380.";

/// What a request asks for, compared with the challenges that instances are or were given, if they are given one.
pub(super) fn asks(csr: &Csr, challenges: &Challenges) -> Request {
    Request {
        common_name: sole_name(csr.subject(), csr.common_name()),
        signature: match csr.self_signature() {
            SelfSignature::Valid => Signature::Valid,
            SelfSignature::Wrong => Signature::Wrong,
            SelfSignature::Unverifiable(why) => Signature::Unverifiable(why.clone()),
        },
        challenge: compared(challenges, csr.challenge()),
        ..contents(csr)
    }
}

fn compared(challenges: &Challenges, given: Option<&SecretString>) -> Challenge {
    let Challenges { current: Some(current), previous } = challenges else { return Challenge::NotRequired };
    let Some(given) = given else { return Challenge::Different };
    // Both are compared, whatever the first says, so that the time reveals nothing.
    let (is_current, is_previous) = (equal(current, given), previous.as_ref().is_some_and(|it| equal(it, given)));
    if is_current | is_previous { Challenge::Equal } else { Challenge::Different }
}

/// What a request asks for, but for what only the checks compare: its challenge, its signature and its subject.
pub(crate) fn contents(csr: &Csr) -> Request {
    described(csr.extensions(), csr.alt_names(), csr.key())
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
        signature: Signature::Wrong,
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
        signature: Signature::Valid,
        extensions: extensions.iter().map(named).collect(),
        other_extensions: extensions.others().to_vec(),
        alt_names: alt_names.iter().map(written).collect(),
        challenge: Challenge::NotRequired,
        key_print: key.fingerprint.to_string(),
        unreadable: None,
        key: match &key.kind {
            KeyKind::Rsa => Key::Rsa(key.bits),
            KeyKind::Ec(_) => Key::Ec(key.bits),
            KeyKind::Other(name) => Key::Other(name.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    #[test]
    fn the_previous_challenge_counts_as_long_as_the_secret_has_it_and_there_is_a_current_one() {
        let challenges = |current: Option<&str>, previous: Option<&str>| Challenges {
            current: current.map(secret),
            previous: previous.map(secret),
        };
        for (current, previous, given, says) in [
            (Some("new"), None, Some("new"), Challenge::Equal),
            (Some("new"), Some("old"), Some("new"), Challenge::Equal),
            (Some("new"), Some("old"), Some("old"), Challenge::Equal),
            (Some("new"), None, Some("old"), Challenge::Different),
            (Some("new"), Some("old"), Some("older"), Challenge::Different),
            (Some("new"), Some("old"), Some(""), Challenge::Different),
            (Some("new"), Some("old"), None, Challenge::Different),
            (None, Some("old"), Some("x"), Challenge::NotRequired),
        ] {
            let found = compared(&challenges(current, previous), given.map(secret).as_ref());
            assert_eq!(found, says, "{current:?} {previous:?} {given:?}");
        }
    }
}
