//! What speaks against signing a certificate request, or against a certificate. Pure.

use stagedoor_types::{Certname, InstanceId};
use thiserror::Error;

/// One objection. Its text is part of a sentence for an operator: "the certificate request of … is refused: …".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Objection {
    /// It cannot be read, for this reason.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its common name is not the instance's certname.
    #[error("its name is {found:?}, not {expected}")]
    OtherName {
        /// The common name.
        found: String,
        /// The instance's certname.
        expected: Certname,
    },
    /// Its subject holds more than a common name.
    #[error("its subject is more than a common name")]
    Subject,
    /// Its sender has not shown that it has the private key.
    #[error("it is not signed with its own key")]
    Signature,
    /// Its signature cannot be verified, for this reason.
    #[error("it cannot be verified: {0}")]
    Unverifiable(String),
    /// Its `pp_instance_id` is not the instance's.
    #[error("its pp_instance_id is {found:?}, not {expected}")]
    OtherInstance {
        /// The extension.
        found: String,
        /// The instance.
        expected: InstanceId,
    },
    /// It has no `pp_instance_id`.
    #[error("it has no pp_instance_id")]
    NoInstance,
    /// An extension that the profile requires has another value.
    #[error("its {extension} is {found:?}, not {required:?}")]
    OtherValue {
        /// Its short name or OID.
        extension: String,
        /// The value in the request.
        found: String,
        /// The value in the profile.
        required: String,
    },
    /// It lacks an extension that the profile requires.
    #[error("it has no {extension}; {required:?} is required")]
    NoExtension {
        /// Its short name or OID.
        extension: String,
        /// The value in the profile.
        required: String,
    },
    /// An extension that the profile allows has a value that it does not allow.
    #[error("its {extension} is {found:?}, which sign.allow of the profile does not list")]
    ValueNotAllowed {
        /// Its short name or OID.
        extension: String,
        /// The value in the request.
        found: String,
    },
    /// The profile neither requires nor allows this Puppet extension.
    #[error("it asks for the extension {0}, which is listed neither in sign.require nor in sign.allow of the profile")]
    ExtensionNotListed(String),
    /// This is no Puppet extension.
    #[error("it asks for the extension {0}, which Puppet does not know")]
    UnknownExtension(String),
    /// An alternative name is protected.
    #[error("it asks for the alternative name {name}, which is protected by {pattern}")]
    ProtectedAltName {
        /// The name.
        name: String,
        /// The pattern that protects it.
        pattern: String,
    },
    /// The profile does not allow this alternative name for this instance.
    #[error("it asks for the alternative name {0}, which the profile does not list")]
    AltNameNotListed(String),
    /// Its challenge is not the secret's, or is missing.
    #[error("its challengePassword is not the one that the instances are given")]
    Challenge,
    /// Its RSA key has so few bits.
    #[error("its RSA key has {0} bits; at least 2048 are required")]
    ShortRsaKey(usize),
    /// Its elliptic curve has so few bits.
    #[error("its elliptic curve has {0} bits; at least 256 are required")]
    ShortCurve(usize),
    /// Its key is of this kind.
    #[error("its key is of the kind {0}; RSA or an elliptic curve is required")]
    KeyKind(String),
}

impl Objection {
    /// All of them, for an operator.
    #[must_use]
    pub fn list(objections: &[Self]) -> String {
        objections.iter().map(Self::to_string).collect::<Vec<_>>().join("; ")
    }
}
