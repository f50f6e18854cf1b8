//! Puppet's certificate extensions: their OIDs, short names and encodings. No I/O.

use std::collections::BTreeMap;

use stagedoor_types::InstanceId;
use x509_parser::asn1_rs::{Any, FromDer, Tag};

/// `ppRegCertExt`, `ppPrivCertExt` and `ppAuthCertExt` live under this arc.
const PUPPET: &str = "1.3.6.1.4.1.34380.1.";

/// The registered names below [`PUPPET`].
/// See [Extended certificate attributes](https://www.puppet.com/docs/puppet/8/ssl_attributes_extensions.html);
/// the four-digit ones are PEADM's.
const NAMES: [(&str, &str); 33] = [
    ("1.1", "pp_uuid"),
    ("1.2", "pp_instance_id"),
    ("1.3", "pp_image_name"),
    ("1.4", "pp_preshared_key"),
    ("1.5", "pp_cost_center"),
    ("1.6", "pp_product"),
    ("1.7", "pp_project"),
    ("1.8", "pp_application"),
    ("1.9", "pp_service"),
    ("1.10", "pp_employee"),
    ("1.11", "pp_created_by"),
    ("1.12", "pp_environment"),
    ("1.13", "pp_role"),
    ("1.14", "pp_software_version"),
    ("1.15", "pp_department"),
    ("1.16", "pp_cluster"),
    ("1.17", "pp_provisioner"),
    ("1.18", "pp_region"),
    ("1.19", "pp_datacenter"),
    ("1.20", "pp_zone"),
    ("1.21", "pp_network"),
    ("1.22", "pp_securitypolicy"),
    ("1.23", "pp_cloudplatform"),
    ("1.24", "pp_apptier"),
    ("1.25", "pp_hostname"),
    ("1.26", "pp_owner"),
    ("3.1", "pp_authorization"),
    ("3.2", "pp_auth_auto_renew"),
    ("3.13", "pp_auth_role"),
    ("3.39", "pp_cli_auth"),
    ("1.9812", "peadm_role"),
    ("1.9813", "peadm_availability_group"),
    ("1.9814", "peadm_legacy_compiler"),
];

/// The registered short name of a Puppet OID: `pp_role` for `1.3.6.1.4.1.34380.1.1.13`.
#[must_use]
pub fn short_name(oid: &str) -> Option<&'static str> {
    let tail = oid.strip_prefix(PUPPET)?;
    NAMES.iter().find(|(arc, _)| *arc == tail).map(|(_, name)| *name)
}

/// The dotted OID of a registered short name.
#[must_use]
pub fn long_name(short: &str) -> Option<String> {
    NAMES.iter().find(|(_, name)| *name == short).map(|(arc, _)| format!("{PUPPET}{arc}"))
}

/// The extensions of a certificate or CSR.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    texts: BTreeMap<String, String>,
    others: Vec<String>,
}

impl Extensions {
    /// Takes one extension; `value` is the content of its OCTET STRING.
    pub(crate) fn insert(&mut self, oid: String, value: &[u8]) {
        match decode_text(value) {
            Some(text) if oid.starts_with(PUPPET) => {
                self.texts.insert(oid, text);
            }
            _ => self.others.push(oid),
        }
    }

    /// The text of a Puppet extension, by short name or OID.
    #[must_use]
    pub fn get(&self, name_or_oid: &str) -> Option<&str> {
        let oid = long_name(name_or_oid);
        self.texts.get(oid.as_deref().unwrap_or(name_or_oid)).map(String::as_str)
    }

    /// Puppet's extensions: OID and text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(oid, text)| (oid.as_str(), text.as_str()))
    }

    /// OIDs of all other extensions but subjectAltName, and of Puppet extensions that hold no text.
    #[must_use]
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// `pp_instance_id`, if it is there and an instance id.
    #[must_use]
    pub fn instance_id(&self) -> Option<InstanceId> {
        self.get("pp_instance_id")?.parse().ok()
    }
}

/// The text in an extension. Current agents encode it as DER `UTF8String`, very old ones put
/// the bare bytes there; other tools choose other string types.
fn decode_text(value: &[u8]) -> Option<String> {
    let bytes = match Any::from_der(value) {
        Ok(([], any))
            if matches!(any.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String)
                && any.header.is_universal()
                && any.header.is_primitive() =>
        {
            any.data
        }
        _ => value,
    };
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_oids_are_each_others_inverse() {
        for (arc, name) in NAMES {
            assert_eq!(short_name(&long_name(name).unwrap()), Some(name), "{arc}");
        }
        assert_eq!(short_name("1.3.6.1.4.1.34380.1.2.1"), None);
        assert_eq!(long_name("pp_nonsense"), None);
    }

    #[test]
    fn a_value_is_read_in_the_new_and_in_the_old_encoding() {
        for value in [
            &b"\x0c\x08compiler"[..], // UTF8String
            b"\x13\x08compiler",      // PrintableString
            b"\x16\x08compiler",      // IA5String
            b"compiler",              // bare bytes
        ] {
            assert_eq!(decode_text(value).as_deref(), Some("compiler"), "{value:?}");
        }
    }

    #[test]
    fn a_length_that_does_not_fit_makes_it_bare_bytes() {
        for value in [&b"\x0c\x07compiler"[..], b"\x0c\x09compiler"] {
            assert_eq!(decode_text(value).unwrap().as_bytes(), value);
        }
        assert_eq!(decode_text(b"\x0c\x02\xff\xfe"), None);
        assert_eq!(decode_text(b"\xff"), None);
    }

    #[test]
    fn what_is_not_puppets_or_not_text_is_listed_but_not_read() {
        let mut extensions = Extensions::default();
        extensions.insert("2.5.29.15".into(), b"text");
        extensions.insert("1.3.6.1.4.1.34380.1.1.13".into(), b"\xff");
        extensions.insert("1.3.6.1.4.1.34380.1.2.1".into(), b"mine");
        assert_eq!(extensions.others(), ["2.5.29.15", "1.3.6.1.4.1.34380.1.1.13"]);
        assert_eq!(extensions.get("1.3.6.1.4.1.34380.1.2.1"), Some("mine"));
        assert_eq!(extensions.get("pp_role"), None);
    }
}
