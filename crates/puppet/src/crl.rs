//! Certificate revocation lists: faithful parsing. No I/O.

mod reader;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

pub(crate) use reader::Reader;

use crate::x509::{Certificate, Serial, Unreadable};

/// One list: what one issuer has revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// The issuer's distinguished name, DER.
    pub issuer: Vec<u8>,
    /// The issuer's distinguished name, for people.
    pub issuer_name: String,
    /// When it was made.
    pub this_update: Timestamp,
    /// After this time it is not accepted any more, and every TLS connection of the site fails.
    pub next_update: Option<Timestamp>,
    /// The revoked serial numbers.
    pub serials: HashSet<Serial>,
}

/// Every list that the CA hands out: one for each CA certificate of the chain.
///
/// With `enable-infra-crl` (the default of Puppet Enterprise) the CA hands out a list of revoked
/// *infrastructure* nodes only: then absence here does not prove that a node is not revoked, and
/// `certificate_status` has to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationLists {
    lists: Vec<RevocationList>,
}

impl RevocationLists {
    /// Reads concatenated PEM lists.
    pub fn from_pem(pem: &str) -> Result<Self, Unreadable> {
        let unreadable = |problem| Unreadable { kind: "CRL", problem };
        let mut lists = Vec::new();
        for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block.map_err(|_| unreadable("it is not well-formed PEM"))?;
            if block.label != "X509 CRL" {
                return Err(unreadable("its PEM block is of another kind"));
            }
            lists.push(RevocationList::from_der(&block.contents).map_err(unreadable)?);
        }
        if lists.is_empty() {
            return Err(unreadable("it holds no PEM block"));
        }
        Ok(Self { lists })
    }

    /// Whether any list holds this serial number. Serial numbers are unique for one issuer only:
    /// prefer [`RevocationLists::revokes`] where the certificate is at hand.
    #[must_use]
    pub fn contains(&self, serial: &Serial) -> bool {
        self.lists.iter().any(|list| list.serials.contains(serial))
    }

    /// Whether the issuer of this certificate lists it.
    #[must_use]
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        self.lists
            .iter()
            .filter(|list| list.issuer == certificate.issuer())
            .any(|list| list.serials.contains(certificate.serial()))
    }

    /// The lists.
    #[must_use]
    pub fn lists(&self) -> &[RevocationList] {
        &self.lists
    }

    /// When the first of them expires.
    #[must_use]
    pub fn next_update(&self) -> Option<Timestamp> {
        self.lists.iter().filter_map(|list| list.next_update).min()
    }
}

/// What the CA's lists say of some certificates, and nothing else of them. See [`RevocationLists`] for what they can prove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// What was looked for, by issuer.
    asked: BTreeMap<Vec<u8>, BTreeSet<Serial>>,
    /// What its issuer lists.
    listed: BTreeMap<Vec<u8>, BTreeSet<Serial>>,
}

impl Revocations {
    /// Whether the issuer of this certificate lists it; `None` if it was not looked for.
    #[must_use]
    pub fn revokes(&self, certificate: &Certificate) -> Option<bool> {
        let holds = |lists: &BTreeMap<Vec<u8>, BTreeSet<Serial>>| {
            lists.get(certificate.issuer()).is_some_and(|serials| serials.contains(certificate.serial()))
        };
        holds(&self.asked).then(|| holds(&self.listed))
    }
}

impl RevocationList {
    fn from_der(der: &[u8]) -> Result<Self, &'static str> {
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|_| "it is not DER of X.509")?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| "a date is out of range")
        };
        Ok(Self {
            issuer: parsed.issuer().as_raw().to_vec(),
            issuer_name: parsed.issuer().to_string(),
            this_update: time(parsed.last_update())?,
            next_update: parsed.next_update().map(time).transpose()?,
            serials: parsed
                .iter_revoked_certificates()
                .map(|revoked| Serial::from_be_bytes(revoked.raw_serial()))
                .collect(),
        })
    }
}
