//! May this certificate request be signed? Every check of a profile, as a pure function. No I/O.
//!
//! A certificate is for good: its extensions decide what the node may do and what it is classified as, and they are
//! readable by everyone. So a request must be exactly what the profile expects, and nothing more.

mod objection;

use std::collections::{BTreeMap, BTreeSet};

pub use objection::Objection;
use stagedoor_types::{Certname, InstanceId, Lookup, Machine, Trouble};

use crate::profile::{AltNameTemplate, Protected};

/// The arc of extensions that grant rights: `pp_authorization`, `pp_auth_role`, `pp_cli_auth` …
/// See [CSR attributes and certificate extensions](https://www.puppet.com/docs/puppet/8/ssl_attributes_extensions.html).
const AUTHORIZATION_ARC: &str = "1.3.6.1.4.1.34380.1.3.";

/// What a profile requires of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SigningRules {
    /// Extensions, by short name or OID, that must be there with exactly this value. `pp_instance_id` always must
    /// be the instance's and need not be listed.
    pub require: BTreeMap<String, String>,
    /// Extensions, by short name or OID, that may be there, with one of these values. Every Puppet extension that is listed
    /// neither here nor in `require` is refused.
    pub allow: BTreeMap<String, BTreeSet<String>>,
    /// Alternative names that may be there besides the certname.
    pub alt_names: Vec<AltNameTemplate>,
}

impl SigningRules {
    /// The values that an extension may have in a request.
    pub fn permitted(&self, extension: &str) -> impl Iterator<Item = &str> {
        let required = self.require.get(extension).into_iter();
        required.chain(self.allow.get(extension).into_iter().flatten()).map(String::as_str)
    }
}

/// The alternative names that a profile allows an instance, as far as EC2 shows what they are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AltNames {
    names: Vec<String>,
    /// Why there may be more, if EC2 is unavailable.
    unavailable: Option<Trouble>,
    /// Whether there may be more because EC2 does not show everything that they are made of, such as a tag.
    incomplete: bool,
}

impl AltNames {
    /// Those that these templates give. One that EC2 does not show everything for, such as a tag, allows nothing.
    #[must_use]
    pub fn of(templates: &[AltNameTemplate], instance: &InstanceId, machine: &Lookup<Machine>) -> Self {
        let known = machine.known();
        let name = |template: &AltNameTemplate| template.name(instance, known.ok().flatten());
        let unavailable = known.err().filter(|_| templates.iter().any(AltNameTemplate::needs_machine));
        let names: Vec<String> = templates.iter().filter_map(name).collect();
        Self { incomplete: names.len() < templates.len(), names, unavailable: unavailable.cloned() }
    }

    /// Whether there may be more names than EC2 shows now: a tag may come late, or have been removed since a certificate was signed.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// The names, if it is known whether each that is asked for is among them.
    pub(crate) fn known_for(&self, request: &Request, certname: &Certname) -> Result<&[String], &Trouble> {
        let known = |name: &String| is_host(certname.as_str(), name) || self.names.iter().any(|own| is_host(own, name));
        match &self.unavailable {
            Some(trouble) if !request.alt_names.iter().all(known) => Err(trouble),
            _ => Ok(&self.names),
        }
    }
}

/// Host names are the same in either case (RFC 4343).
fn is_host(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// What a request is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The certname of the instance.
    pub certname: &'a Certname,
    /// The instance.
    pub instance: &'a InstanceId,
    /// The rules of its profile.
    pub rules: &'a SigningRules,
    /// The alternative names that they allow this instance.
    pub alt_names: &'a [String],
    /// Names that no certificate of an instance may hold, whatever the profile allows: with one, it could impersonate the CA.
    pub protected: &'a Protected,
}

/// What a certificate request asks for, or what a certificate holds that was signed by other means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The common name, if the subject consists of that alone.
    pub common_name: Option<String>,
    /// Whether it is signed with its own key.
    pub signature: Signature,
    /// Puppet's extensions, by short name where there is one, else by OID.
    pub extensions: BTreeMap<String, String>,
    /// Other extensions, by OID, except the alternative names.
    pub other_extensions: Vec<String>,
    /// Alternative names; those that are no DNS names with their kind ("IP:10.0.3.7").
    pub alt_names: Vec<String>,
    /// How its challenge compares with the secret's.
    pub challenge: Challenge,
    /// Its key.
    pub key: Key,
    /// SHA-256 over its public key, which a certificate made of it has too.
    pub key_print: String,
    /// Why it cannot be read, if that is so; the rest then says nothing.
    pub unreadable: Option<String>,
}

/// What the signature of a request shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// Its sender has the private key. A certificate is signed by its issuer and counts as such.
    Valid,
    /// It was made with another key, or for another request.
    Wrong,
    /// It cannot be verified; the text says why ("its key is on the curve secp256k1").
    Unverifiable(String),
}

/// How a request's `challengePassword` compares with the one in the secret; compared in constant time elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// The secret has none, or a certificate is looked at, which cannot hold one.
    NotRequired,
    /// It is the secret's, or the previous one that the secret still holds.
    Equal,
    /// They differ, or the request has none.
    Different,
}

/// The kind and strength of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// RSA with a modulus of so many bits.
    Rsa(usize),
    /// Elliptic curve of so many bits.
    Ec(usize),
    /// Anything else, by name.
    Other(String),
}

/// A request that may be signed. Only [`approve`] makes one, so that code that forgets the checks does not compile:
///
/// ```compile_fail,E0451
/// use stagedoor_lifecycle::signing::Signable;
/// # let request: stagedoor_lifecycle::signing::Request = todo!();
/// let forged = Signable { certname: "node.example.com".parse().unwrap(), approved: request };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signable {
    certname: Certname,
    approved: Request,
}

impl Signable {
    /// The name to sign.
    #[must_use]
    pub fn certname(&self) -> &Certname {
        &self.certname
    }

    /// Whether a request, or the certificate that was made from it, has the contents that were approved: the same key and extensions, and no
    /// other alternative name. Its sender can replace a request by another one with the same key.
    #[must_use]
    pub fn is_of(&self, contents: &Request) -> bool {
        let Self { certname, approved } = self;
        let mut names = contents.alt_names.iter();
        approved.key_print == contents.key_print
            && approved.extensions == contents.extensions
            && approved.other_extensions == contents.other_extensions
            && names.all(|name| approved.alt_names.contains(name) || is_host(certname.as_str(), name))
    }
}

/// Approves a request if it passes every check; else returns all objections.
pub fn approve(request: &Request, expected: &Expected<'_>) -> Result<Signable, Vec<Objection>> {
    let mut objections = objections(request, expected);
    if request.unreadable.is_none() {
        objections.extend(unlisted(request, expected.rules, |name| !grants_rights(name)));
    }
    if objections.is_empty() {
        Ok(Signable { certname: expected.certname.clone(), approved: request.clone() })
    } else {
        Err(objections)
    }
}

/// All objections to a certificate, or to signing this request except for extensions that the profile does not list: see
/// [`approve`]. A certificate may hold further ones, unless they grant rights: it may have been signed by other means, or under
/// an older configuration, and revoking it would cost a node its certificate for something that does no harm.
#[must_use]
pub fn objections(request: &Request, expected: &Expected<'_>) -> Vec<Objection> {
    let Expected { certname, instance, rules, alt_names, protected } = *expected;
    if let Some(problem) = &request.unreadable {
        return vec![Objection::Unreadable(problem.clone())];
    }
    let mut objections = Vec::new();
    let mut object = |objection: Objection| objections.push(objection);

    match &request.common_name {
        Some(name) if name == certname.as_str() => {}
        Some(name) => object(Objection::OtherName { found: name.clone(), expected: certname.clone() }),
        None => object(Objection::Subject),
    }
    match &request.signature {
        Signature::Valid => {}
        Signature::Wrong => object(Objection::Signature),
        Signature::Unverifiable(why) => object(Objection::Unverifiable(why.clone())),
    }
    match request.extensions.get("pp_instance_id") {
        Some(id) if id == instance.as_str() => {}
        Some(id) => object(Objection::OtherInstance { found: id.clone(), expected: instance.clone() }),
        None => object(Objection::NoInstance),
    }
    for (name, wanted) in &rules.require {
        let (extension, required) = (name.clone(), wanted.clone());
        match request.extensions.get(name) {
            Some(value) if value == wanted => {}
            Some(value) => object(Objection::OtherValue { extension, found: value.clone(), required }),
            None => object(Objection::NoExtension { extension, required }),
        }
    }
    for objection in unlisted(request, rules, grants_rights) {
        object(objection);
    }
    for oid in &request.other_extensions {
        object(Objection::UnknownExtension(oid.clone()));
    }
    for name in &request.alt_names {
        if is_host(certname.as_str(), name) {
            continue;
        }
        if let Some(pattern) = protected.protects_host(name) {
            object(Objection::ProtectedAltName { name: name.clone(), pattern: pattern.to_owned() });
        } else if !alt_names.iter().any(|allowed| is_host(allowed, name)) {
            object(Objection::AltNameNotListed(name.clone()));
        }
    }
    if request.challenge == Challenge::Different {
        object(Objection::Challenge);
    }
    // What cannot be verified has been named for its key already.
    if let Some(weakness) = weakness(&request.key).filter(|_| !matches!(request.signature, Signature::Unverifiable(_)))
    {
        object(weakness);
    }
    objections
}

/// The extensions of this kind that the profile does not list, or with another value. What is required is compared elsewhere.
fn unlisted(request: &Request, rules: &SigningRules, kind: fn(&str) -> bool) -> Vec<Objection> {
    let unrequired = |name: &String| name != "pp_instance_id" && !rules.require.contains_key(name);
    let extensions = request.extensions.iter().filter(|(name, _)| unrequired(name) && kind(name));
    let objection = |(name, value): (&String, &String)| match rules.allow.get(name) {
        Some(values) if values.contains(value) => None,
        Some(_) => Some(Objection::ValueNotAllowed { extension: name.clone(), found: value.clone() }),
        None => Some(Objection::ExtensionNotListed(name.clone())),
    };
    extensions.filter_map(objection).collect()
}

fn grants_rights(extension: &str) -> bool {
    // By name as well, so that one that is registered in the future is not let through.
    extension.starts_with(AUTHORIZATION_ARC) || extension.starts_with("pp_auth") || extension == "pp_cli_auth"
}

fn weakness(key: &Key) -> Option<Objection> {
    match key {
        Key::Rsa(bits) if *bits < 2048 => Some(Objection::ShortRsaKey(*bits)),
        Key::Ec(bits) if *bits < 256 => Some(Objection::ShortCurve(*bits)),
        Key::Rsa(_) | Key::Ec(_) => None,
        Key::Other(kind) => Some(Objection::KeyKind(kind.clone())),
    }
}

#[cfg(test)]
mod tests;
