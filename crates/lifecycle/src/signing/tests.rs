//! Every check alone, and none too many.

use super::*;

const NAME: &str = "ip-10-0-3-9.ec2.internal";
const ID: &str = "i-0c3d4e5f60718293a";

fn rules() -> SigningRules {
    SigningRules {
        require: BTreeMap::from([("pp_role".into(), "compiler".into())]),
        allow: BTreeMap::from([("pp_zone".into(), ["eu-west-1a".into(), "eu-west-1b".into()].into())]),
        alt_names: vec!["puppet.example.com".parse().unwrap()],
    }
}

fn certname() -> Certname {
    NAME.parse().unwrap()
}

fn instance() -> InstanceId {
    ID.parse().unwrap()
}

fn request() -> Request {
    Request {
        common_name: Some(NAME.into()),
        signature: Signature::Valid,
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

fn objections_to(request: &Request) -> Vec<Objection> {
    against_signing(request, &rules())
}

fn against_signing(request: &Request, rules: &SigningRules) -> Vec<Objection> {
    compared(rules, |expected| approve(request, expected).err().unwrap_or_default())
}

/// What is said of a request or certificate by the side of these rules.
fn compared<T>(rules: &SigningRules, check: impl FnOnce(&Expected<'_>) -> T) -> T {
    let alt_names = AltNames::of(&rules.alt_names, &instance(), &Lookup::Absent).names;
    let protected = Protected::new(["primary.example.com", "*.infra.example.com"]).unwrap();
    let (certname, instance) = (certname(), instance());
    check(&Expected { certname: &certname, instance: &instance, rules, alt_names: &alt_names, protected: &protected })
}

#[test]
fn what_was_approved_is_told_from_another_request_with_the_same_key() {
    let signable = compared(&rules(), |expected| approve(&request(), expected)).unwrap();
    // The challenge and the signature are not in a certificate.
    let made = Request { challenge: Challenge::NotRequired, common_name: None, ..request() };
    assert!(signable.is_of(&made));
    assert!(signable.is_of(&Request { alt_names: vec![NAME.to_uppercase()], ..request() }));
    let mut more = request();
    more.extensions.insert("pp_environment".into(), "production".into());
    let mut less = request();
    less.extensions.remove("pp_zone");
    let mut named = request();
    named.alt_names.push("db.example.com".into());
    let unknown = Request { other_extensions: vec!["1.3.6.1.4.1.34380.1.1.77".into()], ..request() };
    let rekeyed = Request { key_print: "B7:0C".into(), ..request() };
    for other in [more, less, named, unknown, rekeyed] {
        assert!(!signable.is_of(&other), "{other:?}");
    }
}

/// Exactly one objection, and it is this one.
fn refused(change: impl FnOnce(&mut Request), because: Objection) {
    let mut request = request();
    change(&mut request);
    assert_eq!(objections_to(&request), [because]);
}

#[test]
fn a_request_that_is_exactly_what_the_profile_expects_is_signed() {
    assert_eq!(objections_to(&request()), []);
    let plain = Request { challenge: Challenge::NotRequired, key: Key::Ec(256), alt_names: vec![], ..request() };
    assert_eq!(objections_to(&plain), []);
}

#[test]
fn each_check_alone_is_enough_to_refuse() {
    let other = || "i-0b2c3d4e5f6071829".to_owned();
    let (extension, required) = ("pp_role".to_owned(), "compiler".to_owned());
    let missing = Objection::NoExtension { extension: extension.clone(), required: required.clone() };
    let different = Objection::OtherValue { extension, found: "primary".into(), required };
    refused(
        |r| r.common_name = Some("puppet.example.com".into()),
        Objection::OtherName { found: "puppet.example.com".into(), expected: certname() },
    );
    refused(|r| r.common_name = None, Objection::Subject);
    refused(|r| r.signature = Signature::Wrong, Objection::Signature);
    refused(|r| drop(r.extensions.remove("pp_instance_id")), Objection::NoInstance);
    refused(
        |r| drop(r.extensions.insert("pp_instance_id".into(), other())),
        Objection::OtherInstance { found: other(), expected: instance() },
    );
    refused(|r| drop(r.extensions.remove("pp_role")), missing);
    refused(|r| drop(r.extensions.insert("pp_role".into(), "primary".into())), different);
    refused(|r| r.other_extensions.push("2.5.29.19".into()), Objection::UnknownExtension("2.5.29.19".into()));
    for name in ["console.example.com", "IP:10.0.3.9"] {
        refused(|r| r.alt_names.push(name.into()), Objection::AltNameNotListed(name.into()));
    }
    refused(|r| r.challenge = Challenge::Different, Objection::Challenge);
    refused(|r| r.key = Key::Rsa(1024), Objection::ShortRsaKey(1024));
    refused(|r| r.key = Key::Ec(192), Objection::ShortCurve(192));
    refused(|r| r.key = Key::Other("DSA".into()), Objection::KeyKind("DSA".into()));
}

/// One of each arc: registered, PEADM's, the site's own, authorization, one that is not registered yet.
const UNLISTED: [&str; 8] = [
    "pp_environment",
    "pp_preshared_key",
    "peadm_role",
    "1.3.6.1.4.1.34380.1.2.1",
    "pp_auth_role",
    "pp_cli_auth",
    "1.3.6.1.4.1.34380.1.3.77",
    "pp_auth_of_the_future",
];

fn with_extension(name: &str, value: &str) -> Request {
    let mut request = request();
    request.extensions.insert(name.into(), value.into());
    request
}

#[test]
fn an_extension_is_refused_unless_the_profile_requires_it_with_its_value() {
    for name in UNLISTED {
        let not_listed = Objection::ExtensionNotListed(name.into());
        refused(|r| drop(r.extensions.insert(name.into(), "pe_compiler".into())), not_listed);
        let mut rules = rules();
        rules.require.insert(name.into(), "pe_compiler".into());
        let check = |value| against_signing(&with_extension(name, value), &rules);
        assert_eq!(check("pe_compiler"), [], "{name}");
        let (extension, required) = (name.to_owned(), "pe_compiler".to_owned());
        let missing = Objection::NoExtension { extension: extension.clone(), required: required.clone() };
        assert_eq!(against_signing(&request(), &rules), [missing]);
        let different = Objection::OtherValue { extension, found: "legacy_compiler".into(), required };
        assert_eq!(check("legacy_compiler"), [different]);
    }
}

#[test]
fn an_allowed_extension_may_be_missing_or_have_one_of_its_values_and_no_other() {
    for name in UNLISTED {
        let mut rules = rules();
        rules.allow.insert(name.into(), ["one".into(), "two".into()].into());
        let check = |request: &Request| against_signing(request, &rules);
        assert_eq!(check(&request()), [], "{name}");
        for value in ["one", "two"] {
            assert_eq!(check(&with_extension(name, value)), [], "{name}");
        }
        for value in ["", "One", "one,two", "one "] {
            let not_allowed = Objection::ValueNotAllowed { extension: name.into(), found: value.into() };
            assert_eq!(check(&with_extension(name, value)), [not_allowed]);
        }
    }
}

#[test]
fn a_certificate_may_hold_an_unlisted_extension_unless_that_grants_rights() {
    for name in UNLISTED {
        let held = compared(&rules(), |expected| objections(&with_extension(name, "pe_compiler"), expected));
        let grants = ["pp_auth_role", "pp_cli_auth", "1.3.6.1.4.1.34380.1.3.77", "pp_auth_of_the_future"];
        let expected = grants.contains(&name).then(|| Objection::ExtensionNotListed(name.into()));
        assert_eq!(held, Vec::from_iter(expected), "{name}");
    }
}

#[test]
fn alternative_names_are_compared_without_regard_to_case() {
    let request = Request { alt_names: vec!["Puppet.Example.com".into()], ..request() };
    assert!(objections_to(&request).is_empty());
}

#[test]
fn a_protected_alternative_name_is_refused_whatever_the_profile_allows() {
    for (name, pattern) in [
        ("primary.example.com", "primary.example.com"),
        ("PRIMARY.example.com", "primary.example.com"),
        ("db.infra.example.com", "*.infra.example.com"),
    ] {
        let mut rules = rules();
        rules.alt_names.push(name.parse().unwrap());
        let request = Request { alt_names: vec![name.into()], ..request() };
        let objections = against_signing(&request, &rules);
        assert_eq!(objections, [Objection::ProtectedAltName { name: name.into(), pattern: pattern.into() }]);
        let held = compared(&rules, |expected| super::objections(&request, expected));
        assert_eq!(held, objections, "a certificate may not hold it either");
    }
}

#[test]
fn alternative_names_are_those_of_this_instance() {
    let rules = SigningRules { alt_names: vec!["{instance_id}.example.com".parse().unwrap()], ..rules() };
    let asks = |name: &str| against_signing(&Request { alt_names: vec![name.into()], ..request() }, &rules);
    assert_eq!(asks(&format!("{ID}.example.com")), []);
    let others = "i-0b2c3d4e5f6071829.example.com";
    assert_eq!(asks(others), [Objection::AltNameNotListed(others.into())]);
}

#[test]
fn while_ec2_is_unavailable_only_what_could_be_a_name_from_it_is_unknown() {
    let templates = ["puppet.example.com".parse().unwrap(), "{tag:Name}.example.com".parse().unwrap()];
    let asks = |names: &[&str]| Request { alt_names: names.iter().map(|&name| name.into()).collect(), ..request() };
    let (machine, down) = (Lookup::Absent, crate::world::down());
    for (machine, names, is_known) in [
        (&down, &[NAME, "puppet.example.com"][..], true),
        (&down, &[NAME, "compiler-1.example.com"], false),
        (&machine, &[NAME, "compiler-1.example.com"], true),
    ] {
        let allowed = AltNames::of(&templates, &instance(), machine);
        assert_eq!(allowed.known_for(&asks(names), &certname()).is_ok(), is_known, "{names:?} {machine:?}");
    }
}

#[test]
fn what_cannot_be_verified_is_named_and_not_said_to_be_signed_with_another_key() {
    let why = "its key is of the kind DSA";
    let request =
        Request { signature: Signature::Unverifiable(why.into()), key: Key::Other("DSA".into()), ..request() };
    assert_eq!(objections_to(&request), [Objection::Unverifiable(why.into())]);
}

#[test]
fn a_request_that_cannot_be_read_is_refused_for_that_alone() {
    let why = "it holds two names";
    refused(|r| r.unreadable = Some(why.into()), Objection::Unreadable(why.into()));
}

#[test]
fn every_objection_is_named_at_once() {
    let request = Request { signature: Signature::Wrong, challenge: Challenge::Different, ..request() };
    assert_eq!(objections_to(&request), [Objection::Signature, Objection::Challenge]);
}
