//! A small Puppet CA. No I/O.

use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use secrecy::SecretString;
use stagedoor_puppet::Credentials;

pub(crate) const TOKEN: &str = "0RbacTokenThatMustNotBeSeen";
pub(crate) const OWN_NAME: &str = "lc.example.net";
pub(crate) const OWN_SERIAL: u64 = 0x01a1;

/// One CA for all tests.
pub(crate) static PKI: LazyLock<Pki> = LazyLock::new(|| Pki::new("Puppet CA: test"));

pub(crate) struct Pki {
    pub(crate) ca: CertifiedIssuer<'static, KeyPair>,
    pub(crate) client: Issued,
    pub(crate) server: Issued,
}

pub(crate) struct Issued {
    pub(crate) cert: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Pki {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let client = issue(&ca, OWN_NAME, OWN_SERIAL, &[]);
        let server = issue_for(&ca, &["localhost", "::1"], 2, &[]);
        Self { ca, client, server }
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            ca_cert: self.ca.pem(),
            client_cert: self.client.cert.pem(),
            client_key: self.client.key.serialize_pem().into(),
            rbac_token: Some(SecretString::from(format!("{TOKEN}\n"))),
            challenge: None,
            previous_challenge: None,
        }
    }

    /// A CRL that lists these serial numbers.
    pub(crate) fn crl(&self, serials: &[u64]) -> rcgen::CertificateRevocationList {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.ca)
        .unwrap()
    }
}

/// A node's certificate with extensions below 1.3.6.1.4.1.34380.1.
pub(crate) fn issue(
    ca: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    serial: u64,
    extensions: &[(&[u64], &[u8])],
) -> Issued {
    issue_for(ca, &[name], serial, extensions)
}

/// The same with alternative names, of which the first is the common name.
fn issue_for(
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    serial: u64,
    extensions: &[(&[u64], &[u8])],
) -> Issued {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    params.serial_number = Some(SerialNumber::from(serial));
    for (arc, value) in extensions {
        let oid = [&[1, 3, 6, 1, 4, 1, 34380, 1], *arc].concat();
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, value.to_vec()));
    }
    let cert = params.signed_by(&key, ca).unwrap();
    Issued { cert, key }
}

/// A CSR of this name.
pub(crate) fn csr(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}
