//! May this certificate request be signed? Every check of a profile, as a pure function. No I/O.
//!
//! A certificate is for good: its extensions decide what the node may do and what it is classified as, and they are
//! readable by everyone. So a request must be exactly what the profile expects, and nothing more.

use std::collections::BTreeMap;

use crate::{Certname, InstanceId};

/// The arc of extensions that grant rights: `pp_authorization`, `pp_auth_role`, `pp_cli_auth` …
/// See [CSR attributes and certificate extensions](https://www.puppet.com/docs/puppet/8/ssl_attributes_extensions.html).
const AUTHORIZATION_ARC: &str = "1.3.6.1.4.1.34380.1.3.";

/// The short names of the registered extensions of [`AUTHORIZATION_ARC`].
const AUTHORIZATION_NAMES: [&str; 4] = ["pp_authorization", "pp_auth_auto_renew", "pp_auth_role", "pp_cli_auth"];

/// What a profile requires of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SigningRules {
    /// Extensions, by short name or OID, that must be there with exactly this value. `pp_instance_id` always must
    /// be the instance's and need not be listed.
    pub require: BTreeMap<String, String>,
    /// Alternative names that may be there besides the certname.
    pub alt_names: Vec<String>,
}

/// What a certificate request asks for, or what a certificate that somebody else signed holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The common name, if the subject consists of that alone.
    pub common_name: Option<String>,
    /// Whether it is signed with its own key. A certificate is signed by its issuer and counts as such.
    pub signature_valid: bool,
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

/// How a request's `challengePassword` compares with the one in the secret; compared in constant time elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// The secret has none, or a certificate is looked at, which cannot hold one.
    NotRequired,
    /// They are equal.
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

/// A request that may be signed. Only [`approve`] makes one, so that code that forgets the checks does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signable {
    certname: Certname,
    key_print: String,
}

impl Signable {
    /// The name to sign.
    #[must_use]
    pub fn certname(&self) -> &Certname {
        &self.certname
    }

    /// SHA-256 over the public key that was checked: what is signed has to have it.
    #[must_use]
    pub fn key_print(&self) -> &str {
        &self.key_print
    }
}

/// Lets a request be signed if nothing speaks against it; else says all that does.
pub fn approve(
    request: &Request,
    certname: &Certname,
    instance: &InstanceId,
    rules: &SigningRules,
) -> Result<Signable, Vec<String>> {
    let objections = objections(request, certname, instance, rules);
    if objections.is_empty() {
        Ok(Signable { certname: certname.clone(), key_print: request.key_print.clone() })
    } else {
        Err(objections)
    }
}

/// Everything that speaks against signing this request; nothing means that it may be signed.
#[must_use]
pub fn objections(request: &Request, certname: &Certname, instance: &InstanceId, rules: &SigningRules) -> Vec<String> {
    if let Some(problem) = &request.unreadable {
        return vec![format!("it cannot be read: {problem}")];
    }
    let mut objections = Vec::new();
    let mut object = |objection: String| objections.push(objection);

    match &request.common_name {
        Some(name) if name == certname.as_str() => {}
        Some(name) => object(format!("its name is {name:?}, not {certname}")),
        None => object("its subject is more than a common name".into()),
    }
    if !request.signature_valid {
        object("it is not signed with its own key".into());
    }
    match request.extensions.get("pp_instance_id") {
        Some(id) if id == instance.as_str() => {}
        Some(id) => object(format!("its pp_instance_id is {id:?}, not {instance}")),
        None => object("it has no pp_instance_id".into()),
    }
    for (name, wanted) in &rules.require {
        match request.extensions.get(name) {
            Some(value) if value == wanted => {}
            Some(value) => object(format!("its {name} is {value:?}, not {wanted:?}")),
            None => object(format!("it has no {name}; {wanted:?} is required")),
        }
    }
    for name in request.extensions.keys().filter(|name| grants_rights(name)) {
        // One that is required with another value has been named above.
        if !rules.require.contains_key(name) {
            object(format!("it asks for the authorization extension {name}, which the profile does not list"));
        }
    }
    for oid in &request.other_extensions {
        object(format!("it asks for the extension {oid}, which Puppet does not know"));
    }
    for name in &request.alt_names {
        // Host names are the same in either case (RFC 4343).
        let same = |allowed: &str| allowed.eq_ignore_ascii_case(name);
        if !same(certname.as_str()) && !rules.alt_names.iter().any(|allowed| same(allowed)) {
            object(format!("it asks for the alternative name {name}, which the profile does not list"));
        }
    }
    if request.challenge == Challenge::Different {
        object("its challengePassword is not the one that the instances are given".into());
    }
    if let Some(weakness) = weakness(&request.key) {
        object(weakness);
    }
    objections
}

fn weakness(key: &Key) -> Option<String> {
    match key {
        Key::Rsa(bits) if *bits < 2048 => Some(format!("its RSA key has {bits} bits; at least 2048 are required")),
        Key::Ec(bits) if *bits < 256 => Some(format!("its elliptic curve has {bits} bits; at least 256 are required")),
        Key::Rsa(_) | Key::Ec(_) => None,
        Key::Other(kind) => Some(format!("its key is of the kind {kind}; RSA or an elliptic curve is required")),
    }
}

fn grants_rights(extension: &str) -> bool {
    // By name as well, so that one that is registered in the future is not let through.
    extension.starts_with(AUTHORIZATION_ARC)
        || extension.starts_with("pp_auth")
        || AUTHORIZATION_NAMES.contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "ip-10-0-3-9.ec2.internal";
    const ID: &str = "i-0c3d4e5f60718293a";

    fn rules() -> SigningRules {
        SigningRules {
            require: BTreeMap::from([("pp_role".into(), "compiler".into())]),
            alt_names: vec!["puppet.example.com".into()],
        }
    }

    fn request() -> Request {
        Request {
            common_name: Some(NAME.into()),
            signature_valid: true,
            extensions: BTreeMap::from([
                ("pp_instance_id".into(), ID.into()),
                ("pp_role".into(), "compiler".into()),
                ("pp_zone".into(), "eu-west-1b".into()),
            ]),
            other_extensions: vec![],
            alt_names: vec![NAME.into(), "puppet.example.com".into()],
            challenge: Challenge::Equal,
            key: Key::Rsa(4096),
            key_print: "A7:0C".into(),
            unreadable: None,
        }
    }

    fn objections_to(request: &Request) -> Vec<String> {
        objections(request, &NAME.parse().unwrap(), &ID.parse().unwrap(), &rules())
    }

    /// Exactly one objection, and it says this.
    fn refused(change: impl FnOnce(&mut Request), because: &str) {
        let mut request = request();
        change(&mut request);
        let objections = objections_to(&request);
        assert!(matches!(objections.as_slice(), [only] if only.contains(because)), "{because}: {objections:?}");
    }

    #[test]
    fn a_request_that_is_exactly_what_the_profile_expects_is_signed() {
        assert_eq!(objections_to(&request()), Vec::<String>::new());
        let plain = Request { challenge: Challenge::NotRequired, key: Key::Ec(256), alt_names: vec![], ..request() };
        assert_eq!(objections_to(&plain), Vec::<String>::new());
    }

    #[test]
    fn each_check_alone_is_enough_to_refuse() {
        refused(|r| r.common_name = Some("puppet.example.com".into()), "its name is");
        refused(|r| r.common_name = None, "more than a common name");
        refused(|r| r.signature_valid = false, "own key");
        refused(|r| drop(r.extensions.remove("pp_instance_id")), "no pp_instance_id");
        refused(
            |r| drop(r.extensions.insert("pp_instance_id".into(), "i-0b2c3d4e5f6071829".into())),
            "pp_instance_id is",
        );
        refused(|r| drop(r.extensions.remove("pp_role")), "no pp_role");
        refused(|r| drop(r.extensions.insert("pp_role".into(), "primary".into())), "pp_role is");
        refused(|r| r.other_extensions.push("2.5.29.19".into()), "2.5.29.19");
        refused(|r| r.alt_names.push("console.example.com".into()), "console.example.com");
        refused(|r| r.alt_names.push("IP:10.0.3.9".into()), "IP:10.0.3.9");
        refused(|r| r.challenge = Challenge::Different, "challengePassword");
        refused(|r| r.key = Key::Rsa(1024), "1024 bits");
        refused(|r| r.key = Key::Ec(192), "192 bits");
        refused(|r| r.key = Key::Other("DSA".into()), "DSA");
    }

    #[test]
    fn an_authorization_extension_is_refused_unless_it_is_required_with_its_value() {
        for name in
            ["pp_auth_role", "pp_cli_auth", "pp_authorization", "pp_auth_auto_renew", "1.3.6.1.4.1.34380.1.3.77"]
        {
            refused(|r| drop(r.extensions.insert(name.into(), "pe_compiler".into())), name);
        }
        let mut rules = rules();
        rules.require.insert("pp_auth_role".into(), "pe_compiler".into());
        let mut request = request();
        request.extensions.insert("pp_auth_role".into(), "pe_compiler".into());
        let check = |request: &Request| objections(request, &NAME.parse().unwrap(), &ID.parse().unwrap(), &rules);
        assert!(check(&request).is_empty());
        request.extensions.insert("pp_auth_role".into(), "legacy_compiler".into());
        assert_eq!(check(&request).len(), 1);
    }

    #[test]
    fn alternative_names_are_compared_without_regard_to_case() {
        let request = Request { alt_names: vec!["Puppet.Example.com".into()], ..request() };
        assert!(objections_to(&request).is_empty());
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_for_that_alone() {
        refused(|r| r.unreadable = Some("it holds two names".into()), "cannot be read");
    }

    #[test]
    fn every_objection_is_named_at_once() {
        let request = Request { signature_valid: false, challenge: Challenge::Different, ..request() };
        assert_eq!(objections_to(&request).len(), 2);
    }
}
