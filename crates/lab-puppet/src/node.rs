//! A Puppet node as a scene describes it, and the identity that its agent asks a certificate for. No I/O.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::enterprise::RunScript;
use crate::x509::oid;
use crate::x509::request::{Extension, Wish, trusted};

/// Where a node's certificate stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    /// Neither certificate nor request.
    None,
    /// A request waits.
    Requested,
    /// Issued.
    #[default]
    Signed,
    /// Issued and in the CRL; the file is still there.
    Revoked,
}

/// What an agent asks a certificate for: the fields of `csr_attributes.yaml` and `puppet.conf`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CsrAttributes {
    /// The extension `pp_instance_id`.
    pub instance_id: Option<String>,
    /// Further extension requests, by short name or OID.
    pub extensions: BTreeMap<String, String>,
    /// `dns_alt_names`. The certname joins them, as it does with real agents.
    pub alt_names: Vec<String>,
    /// The custom attribute `challengePassword`.
    pub challenge: Option<SecretString>,
    /// Extension values as bare bytes instead of DER strings, as very old agents sent them.
    pub legacy_extension_encoding: bool,
}

impl CsrAttributes {
    /// A request that names its instance.
    #[must_use]
    pub fn of_instance(instance_id: &str) -> Self {
        Self { instance_id: Some(instance_id.to_owned()), ..Self::default() }
    }

    /// Checks that an agent of this name can write the request.
    ///
    /// # Errors
    /// Says which extension has neither a known short name nor an OID.
    pub fn check(&self, certname: &str) -> anyhow::Result<()> {
        self.wish(certname).map(drop)
    }

    pub(crate) fn wish(&self, certname: &str) -> anyhow::Result<Wish> {
        let mut extensions = Vec::new();
        if let Some(instance_id) = &self.instance_id {
            extensions.push((oid::resolve("pp_instance_id")?, instance_id.clone()));
        }
        for (name, value) in &self.extensions {
            extensions.push((oid::resolve(name)?, value.clone()));
        }
        Ok(Wish {
            certname: certname.to_owned(),
            extensions,
            alt_names: self.alt_names.clone(),
            challenge: self.challenge.clone(),
            legacy_encoding: self.legacy_extension_encoding,
        })
    }
}

/// What PuppetDB holds about a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PuppetdbRecord {
    /// Facts by name. `trusted` and, for a node with an instance id, `ec2_metadata` are added unless they are here.
    pub facts: Map<String, Value>,
    /// Status of the last report: `unchanged`, `changed` or `failed`; null for a node that sent facts but no report.
    pub report_status: Option<String>,
    /// Deactivated, after its data arrived.
    pub deactivated: bool,
    /// How long ago the data arrived, in seconds.
    pub age_s: u32,
}

impl Default for PuppetdbRecord {
    fn default() -> Self {
        Self { facts: Map::new(), report_status: Some("unchanged".to_owned()), deactivated: false, age_s: 60 }
    }
}

/// Whether PuppetDB knows a node.
#[derive(Clone, Debug, Default)]
pub enum InPuppetdb {
    /// As befits its certificate: a node that has one has reported, the others are unknown.
    #[default]
    Fitting,
    /// Unknown.
    Absent,
    /// Known, with these data.
    Known(PuppetdbRecord),
}

/// `null` means unknown.
impl<'de> Deserialize<'de> for InPuppetdb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Option::<PuppetdbRecord>::deserialize(deserializer)?;
        Ok(record.map_or(Self::Absent, Self::Known))
    }
}

/// A node of a scene. Only its certname is needed: then it has a certificate and a good report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Certificate name; lower case.
    pub certname: String,
    /// The EC2 instance behind it: extension `pp_instance_id` and fact `ec2_metadata`.
    #[serde(default)]
    pub instance_id: Option<String>,
    /// Further extensions, by short name or OID.
    #[serde(default)]
    pub extensions: BTreeMap<String, String>,
    /// Alternative names beside the certname.
    #[serde(default)]
    pub alt_names: Vec<String>,
    /// The custom attribute `challengePassword` of its request.
    #[serde(default)]
    pub challenge: Option<SecretString>,
    /// Extension values as very old agents encoded them.
    #[serde(default)]
    pub legacy_extension_encoding: bool,
    /// Where its certificate stands.
    #[serde(default)]
    pub certificate: CertificateState,
    /// A request that waits beside the certificate, say of another instance with the same name.
    #[serde(default)]
    pub pending_csr: Option<CsrAttributes>,
    /// What PuppetDB holds; `null` for nothing.
    #[serde(default)]
    pub puppetdb: InPuppetdb,
    /// Puppet Enterprise: whether its PXP agent is connected. Absent: if its certificate is signed.
    #[serde(default)]
    pub connected: Option<bool>,
    /// Puppet Enterprise: how the runs of its jobs go.
    #[serde(default)]
    pub run: RunScript,
}

impl Node {
    /// An ordinary node: signed certificate, good report.
    #[must_use]
    pub fn new(certname: &str) -> Self {
        Self { certname: certname.to_owned(), ..Self::default() }
    }

    /// The same, for an instance.
    #[must_use]
    pub fn of_instance(certname: &str, instance_id: &str) -> Self {
        Self { instance_id: Some(instance_id.to_owned()), ..Self::new(certname) }
    }

    pub(crate) fn request(&self) -> CsrAttributes {
        CsrAttributes {
            instance_id: self.instance_id.clone(),
            extensions: self.extensions.clone(),
            alt_names: self.alt_names.clone(),
            challenge: self.challenge.clone(),
            legacy_extension_encoding: self.legacy_extension_encoding,
        }
    }

    pub(crate) fn record(&self) -> Option<PuppetdbRecord> {
        match (&self.puppetdb, self.certificate) {
            (InPuppetdb::Known(record), _) => Some(record.clone()),
            (InPuppetdb::Fitting, CertificateState::Signed | CertificateState::Revoked) => {
                Some(PuppetdbRecord::default())
            }
            (InPuppetdb::Absent | InPuppetdb::Fitting, _) => None,
        }
    }

    /// The facts that its agent would have sent. `certificate` holds the extensions of its certificate.
    pub(crate) fn facts(&self, given: &Map<String, Value>, certificate: &[Extension]) -> Map<String, Value> {
        let mut facts = Map::new();
        if let Some(instance_id) = &self.instance_id {
            facts.insert("ec2_metadata".to_owned(), json!({"instance-id": instance_id}));
        }
        facts.insert("trusted".to_owned(), trusted_fact(&self.certname, certificate));
        facts.extend(given.clone());
        facts
    }
}

/// The fact `trusted` as Puppet Server stores it with the facts of a node.
fn trusted_fact(certname: &str, certificate: &[Extension]) -> Value {
    let extensions: BTreeMap<String, String> = trusted(certificate).into_iter().collect();
    let (hostname, domain) = match certname.split_once('.') {
        Some((hostname, domain)) => (hostname, Some(domain)),
        None => (certname, None),
    };
    json!({
        "authenticated": "remote",
        "certname": certname,
        "extensions": extensions,
        "external": {},
        "hostname": hostname,
        "domain": domain,
    })
}
