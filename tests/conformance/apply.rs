//! Asking for a certificate as an agent does. Talks to the CA without the client under test.

use rcgen::{Attribute, CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use stagedoor_puppet::Signed;
use stagedoor_types::{Certname, InstanceId};

use super::site::{Identity, Site, answer, fresh};

pub(crate) const PP_INSTANCE_ID: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 1, 2];
pub(crate) const PP_ROLE: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 1, 13];
pub(crate) const PP_AUTH_ROLE: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 3, 13];
pub(crate) const PP_CLI_AUTH: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 3, 39];
const CHALLENGE_PASSWORD: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];

/// An agent before it has a certificate: a name, a key, and what it asks to have certified.
pub(crate) struct Applicant {
    pub(crate) certname: Certname,
    key: KeyPair,
    extensions: Vec<(&'static [u64], String)>,
    alt_names: Vec<String>,
    challenge: Option<String>,
}

impl Applicant {
    /// Under a name that was never used before.
    pub(crate) fn new(label: &str) -> Self {
        Self::named(fresh(label))
    }

    pub(crate) fn named(certname: Certname) -> Self {
        let key = KeyPair::generate().expect("a P-256 key");
        Self { certname, key, extensions: Vec::new(), alt_names: Vec::new(), challenge: None }
    }

    /// With another key than one of P-256.
    pub(crate) fn key(mut self, key: KeyPair) -> Self {
        self.key = key;
        self
    }

    pub(crate) fn instance(self, instance: &InstanceId) -> Self {
        self.extension(PP_INSTANCE_ID, instance.as_str())
    }

    pub(crate) fn extension(mut self, oid: &'static [u64], value: &str) -> Self {
        self.extensions.push((oid, value.to_owned()));
        self
    }

    pub(crate) fn alt_name(mut self, name: &str) -> Self {
        self.alt_names.push(name.to_owned());
        self
    }

    pub(crate) fn challenge(mut self, text: &str) -> Self {
        self.challenge = Some(text.to_owned());
        self
    }

    /// The request, PEM, in the layout of Puppet's agents.
    pub(crate) fn request(&self) -> String {
        // As agents do: the certname joins the alternative names, if there are any.
        let own_name = (!self.alt_names.is_empty()).then(|| self.certname.to_string());
        let names: Vec<String> = self.alt_names.iter().cloned().chain(own_name).collect();
        let mut params = CertificateParams::new(names).expect("alternative names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.certname.as_str());
        for (oid, value) in &self.extensions {
            params.custom_extensions.push(CustomExtension::from_oid_content(oid, element(UTF8_STRING, value)));
        }
        let challenge = self.challenge.iter().map(|text| Attribute {
            oid: CHALLENGE_PASSWORD,
            values: [vec![SET, short(text.len() + 2)], element(PRINTABLE_STRING, text)].concat(),
        });
        let request = params.serialize_request_with_attributes(&self.key, challenge.collect());
        request.and_then(|request| request.pem()).expect("a request")
    }

    /// Sends the request; the CA keeps it.
    pub(crate) async fn apply(self, site: &Site) -> Self {
        let answer = submit(site, self.certname.as_str(), self.request()).await;
        assert_eq!(answer, (200, String::new()), "the CA takes the request of {}", self.certname);
        self
    }

    /// Sends the request and has it signed.
    pub(crate) async fn enrol(self, site: &Site) -> Self {
        let applicant = self.apply(site).await;
        let signed = site.ca_admin().sign(&applicant.certname).await;
        assert_eq!(signed, Ok(Signed::Done), "{} is signed", applicant.certname);
        applicant
    }

    /// What it connects with once it is enrolled.
    pub(crate) async fn identity(&self, site: &Site) -> Identity {
        let url = format!("{}/puppet-ca/v1/certificate/{}", site.ca_url, self.certname);
        let answer = answer(site.http(None).get(url)).await;
        assert_eq!(answer.status(), 200);
        Identity { cert: answer.text().await.expect("text"), key: self.key.serialize_pem() }
    }
}

/// `PUT certificate_request`, which anyone may do: status and text of the answer.
pub(crate) async fn submit(site: &Site, certname: &str, pem: String) -> (u16, String) {
    let url = format!("{}/puppet-ca/v1/certificate_request/{certname}", site.ca_url);
    let request = site.http(None).put(url).header("Content-Type", "text/plain").body(pem);
    let answer = answer(request).await;
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const SET: u8 = 0x31;

/// A DER string.
fn element(tag: u8, text: &str) -> Vec<u8> {
    [&[tag, short(text.len())], text.as_bytes()].concat()
}

/// A length of one byte.
fn short(length: usize) -> u8 {
    u8::try_from(length).ok().filter(|length| *length < 0x80).expect("a short text")
}
