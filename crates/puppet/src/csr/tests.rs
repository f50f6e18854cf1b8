use proptest::prelude::*;
use rcgen::{Attribute, CertificateParams, CustomExtension, DnType, KeyPair};
use secrecy::ExposeSecret;

use super::*;
use crate::x509::{Curve, KeyKind};

/// What a Puppet agent sends: EC P-256, two alternative names, a challenge, an auto-renew flag.
const AGENT: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIIBvTCCAWMCAQAwMDEuMCwGA1UEAwwlaS0wYTFiMmMzZDRlNWY2MDcxOC5ub2Rl
cy5leGFtcGxlLm5ldDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGpV/klhb8uc
calhm8Q5B/x/PLe5F94SCMaEeN81nne+uh0JDq1P40eLE8EkiUKEzGbGCFEW9K7X
FALqgHb96QiggdAwFQYLKwYBBAGCjEwBAwIxBhMEdHJ1ZTAcBgkqhkiG9w0BCQcx
DxMNb25lLXRpbWUtN1FtMjCBmAYJKoZIhvcNAQkOMYGKMIGHMCQGCysGAQQBgoxM
AQECBBUME2ktMGExYjJjM2Q0ZTVmNjA3MTgwGQYLKwYBBAGCjEwBAQ0ECgwIY29t
cGlsZXIwRAYDVR0RBD0wO4IlaS0wYTFiMmMzZDRlNWY2MDcxOC5ub2Rlcy5leGFt
cGxlLm5ldIIScHVwcGV0LmV4YW1wbGUubmV0MAoGCCqGSM49BAMCA0gAMEUCIQDX
9wI9eBk9Bq0Co7+M2ZuRLwpGQRg38s8BKUWsmp2f9QIgVv716wZJeAwAY1Z6vpLY
gvNqzbIwZ16fWlYrYbRd5Bw=
-----END CERTIFICATE REQUEST-----
";

const EXTREQ: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
const MICROSOFT: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 14];
const CHALLENGE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
const PP_ROLE: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 1, 13];

/// A request made by rcgen, with these attributes (OID, DER of the SET) and this `pp_role` in the
/// extension request.
fn request(role: Option<&[u8]>, attributes: &[(&'static [u64], Vec<u8>)]) -> Result<Csr, Unreadable> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "n.example.net");
    if let Some(role) = role {
        params.custom_extensions.push(CustomExtension::from_oid_content(PP_ROLE, role.to_vec()));
    }
    let attributes = attributes.iter().map(|(oid, values)| Attribute { oid, values: values.clone() }).collect();
    let key = KeyPair::generate().unwrap();
    Csr::from_der(params.serialize_request_with_attributes(&key, attributes).unwrap().der())
}

/// DER: tag, length (below 128) and content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

fn set(values: &[u8]) -> Vec<u8> {
    der(0x31, values)
}

/// Extensions holding one: `pp_role` with this value.
fn extensions(role: &[u8]) -> Vec<u8> {
    let oid = b"\x06\x0b\x2b\x06\x01\x04\x01\x82\x8c\x4c\x01\x01\x0d";
    der(0x30, &der(0x30, &[&oid[..], &der(0x04, role)].concat()))
}

#[test]
fn an_agents_request_is_read_to_the_last_attribute() {
    let csr = Csr::from_pem(AGENT).unwrap();
    assert_eq!(csr.common_name(), "i-0a1b2c3d4e5f60718.nodes.example.net");
    assert_eq!(csr.subject(), "CN=i-0a1b2c3d4e5f60718.nodes.example.net");
    assert_eq!(*csr.self_signature(), SelfSignature::Valid);
    assert_eq!((&csr.key().kind, csr.key().bits), (&KeyKind::Ec(Curve::P256), 256));
    assert_eq!(csr.instance_id().unwrap().as_str(), "i-0a1b2c3d4e5f60718");
    assert_eq!(csr.extensions().get("pp_role"), Some("compiler"));
    assert_eq!(csr.extensions().get("1.3.6.1.4.1.34380.1.1.13"), Some("compiler"));
    assert_eq!(csr.extensions().others(), [""; 0]);
    let names: Vec<_> = csr.alt_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNS:i-0a1b2c3d4e5f60718.nodes.example.net", "DNS:puppet.example.net"]);
    assert_eq!(csr.challenge().unwrap().expose_secret(), "one-time-7Qm2");
    assert!(!format!("{csr:?}").contains("7Qm2"));
}

#[test]
fn a_request_changed_in_transit_is_not_self_signed() {
    let mut der = der_of(AGENT, &["CERTIFICATE REQUEST"]).unwrap();
    let at = der.windows(8).position(|window| window == b"compiler").unwrap();
    der[at] = b'k';
    let csr = Csr::from_der(&der).unwrap();
    assert_eq!(csr.extensions().get("pp_role"), Some("kompiler"));
    assert_eq!(*csr.self_signature(), SelfSignature::Wrong);
}

#[test]
fn old_and_new_encodings_of_an_extension_are_read() {
    for value in [&b"\x0c\x08compiler"[..], b"compiler"] {
        let csr = request(Some(value), &[]).unwrap();
        assert_eq!(csr.extensions().get("pp_role"), Some("compiler"));
        assert_eq!(*csr.self_signature(), SelfSignature::Valid);
    }
}

#[test]
fn a_challenge_may_be_any_string_but_only_one() {
    for tag in [0x0c, 0x13, 0x16, 0x14] {
        let csr = request(None, &[(CHALLENGE, set(&der(tag, b"secret")))]).unwrap();
        assert_eq!(csr.challenge().unwrap().expose_secret(), "secret");
    }
    let two = [der(0x0c, b"a"), der(0x0c, b"b")].concat();
    assert!(request(None, &[(CHALLENGE, set(&two))]).is_err());
    let one = || set(&der(0x0c, b"a"));
    assert!(request(None, &[(CHALLENGE, one()), (CHALLENGE, one())]).is_err());
}

#[test]
fn the_standard_extension_request_wins_over_microsofts() {
    let microsoft = (MICROSOFT, set(&extensions(b"other")));
    let alone = request(None, std::slice::from_ref(&microsoft)).unwrap();
    assert_eq!(alone.extensions().get("pp_role"), Some("other"));
    let both = request(Some(b"compiler"), &[microsoft]).unwrap();
    assert_eq!(both.extensions().get("pp_role"), Some("compiler"));
}

#[test]
fn two_extension_requests_two_values_or_one_extension_twice_are_refused() {
    let one = || (EXTREQ, set(&extensions(b"compiler")));
    assert!(request(None, &[one()]).is_ok());
    assert!(request(Some(b"compiler"), &[one()]).is_err());
    assert!(request(None, &[one(), one()]).is_err());
    let two_values = [extensions(b"a"), extensions(b"b")].concat();
    assert!(request(None, &[(EXTREQ, set(&two_values))]).is_err());
    let twice = der(0x30, &[&extensions(b"a")[2..], &extensions(b"b")[2..]].concat());
    assert!(request(None, &[(EXTREQ, set(&twice))]).is_err());
}

#[test]
fn a_request_with_something_behind_it_or_too_long_is_refused() {
    let mut der = der_of(AGENT, &["CERTIFICATE REQUEST"]).unwrap();
    der.push(0);
    assert!(Csr::from_der(&der).is_err());
    assert!(Csr::from_pem(&(AGENT.to_owned() + &" ".repeat(SIZE_LIMIT))).is_err());
    assert!(Csr::from_pem(&AGENT.replace("CERTIFICATE REQUEST", "CERTIFICATE")).is_err());
}

#[test]
fn an_outer_header_that_says_it_holds_no_elements_is_not_der() {
    let mut der = der_of(AGENT, &["CERTIFICATE REQUEST"]).unwrap();
    assert!(Csr::from_der(&der).is_ok());
    der[0] = 0x10;
    assert!(Csr::from_der(&der).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Csr::from_der(&bytes);
        let _ = Csr::from_pem(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_request_with_any_byte_changed_never_panics_and_is_never_both_changed_and_self_signed(
        at in 0usize..449, to in any::<u8>(),
    ) {
        let original = der_of(AGENT, &["CERTIFICATE REQUEST"]).unwrap();
        let mut changed = original.clone();
        let at = at % changed.len();
        changed[at] = to;
        // The signed part comes first; changes behind it are to the signature alone.
        if let Ok(csr) = Csr::from_der(&changed) && at < 359 && changed != original {
            prop_assert!(*csr.self_signature() != SelfSignature::Valid);
        }
    }
}
