use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType, SerialNumber, date_time_ymd};

use super::*;
use crate::crl::RevocationLists;

const PP_INSTANCE_ID: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 1, 2];
const ID: &[u8] = b"i-0a1b2c3d4e5f60718";

fn certificate(extensions: &[(&[u64], &[u8])]) -> Vec<u8> {
    let mut params = CertificateParams::new(["n.example.net".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::IpAddress([10, 0, 3, 7].into()));
    params.distinguished_name.push(DnType::CommonName, "n.example.net");
    params.serial_number = Some(SerialNumber::from(vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0xa1]));
    params.not_before = date_time_ymd(2026, 3, 1);
    params.not_after = date_time_ymd(2031, 3, 2);
    for (oid, value) in extensions {
        params.custom_extensions.push(CustomExtension::from_oid_content(oid, value.to_vec()));
    }
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn a_certificate_is_read_with_all_that_identifies_it() {
    let der = certificate(&[(PP_INSTANCE_ID, &[b"\x0c\x13", ID].concat())]);
    let read = Certificate::from_der(&der).unwrap();
    assert_eq!(read.common_name(), "n.example.net");
    assert_eq!(read.serial().to_string(), "0x10000000000000000A1");
    assert_eq!(read.not_before().to_string(), "2026-03-01T00:00:00Z");
    assert_eq!(read.not_after().to_string(), "2031-03-02T00:00:00Z");
    assert_eq!(*read.fingerprint(), Fingerprint::of(&der));
    assert_eq!((&read.key().kind, read.key().bits), (&KeyKind::Ec(Curve::P256), 256));
    let names: Vec<_> = read.alt_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNS:n.example.net", "IP:10.0.3.7"]);
    assert_eq!(read.instance_id().unwrap().as_str().as_bytes(), ID);
}

#[test]
fn an_instance_id_of_a_very_old_agent_is_read_as_well() {
    let read = Certificate::from_der(&certificate(&[(PP_INSTANCE_ID, ID)])).unwrap();
    assert_eq!(read.instance_id().unwrap().as_str().as_bytes(), ID);
}

#[test]
fn an_extension_that_is_no_instance_id_identifies_nothing() {
    let read = Certificate::from_der(&certificate(&[(PP_INSTANCE_ID, b"\x0c\x04mine")])).unwrap();
    assert_eq!(read.instance_id(), None);
    assert_eq!(read.extensions().get("pp_instance_id"), Some("mine"));
}

#[test]
fn a_certificate_with_two_instance_ids_is_refused() {
    let der = certificate(&[(PP_INSTANCE_ID, ID), (PP_INSTANCE_ID, ID)]);
    assert!(Certificate::from_der(&der).is_err());
}

#[test]
fn a_certificate_with_something_behind_it_is_refused() {
    let mut der = certificate(&[]);
    der.push(0);
    assert!(Certificate::from_der(&der).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Certificate::from_der(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = Certificate::from_pem(&text);
        let _ = RevocationLists::from_pem(&text);
    }

    #[test]
    fn a_certificate_with_any_byte_changed_never_panics(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut der = CERTIFICATE.clone();
        let at = at.index(der.len());
        der[at] = to;
        let _ = Certificate::from_der(&der);
    }
}

static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| certificate(&[(PP_INSTANCE_ID, ID)]));
