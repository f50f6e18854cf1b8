//! What PuppetDB says about nodes, as values. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use stagedoor_types::{Certname, InstanceId};

use crate::rows::Row;

/// A node, as `GET /pdb/query/v4/nodes` shows it.
/// See [Nodes endpoint](https://www.puppet.com/docs/puppetdb/8/api/query/v4/nodes.html).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub certname: Certname,
    /// When it was deactivated.
    #[serde(default)]
    pub deactivated: Option<Timestamp>,
    /// When PuppetDB gave it up for lack of news.
    #[serde(default)]
    pub expired: Option<Timestamp>,
    /// When its newest catalog was made.
    #[serde(default)]
    pub catalog_timestamp: Option<Timestamp>,
    /// When its newest facts were collected.
    #[serde(default)]
    pub facts_timestamp: Option<Timestamp>,
    /// When its newest report was sent.
    #[serde(default)]
    pub report_timestamp: Option<Timestamp>,
    /// The environment of its newest report.
    #[serde(default)]
    pub report_environment: Option<String>,
    /// `changed`, `unchanged` or `failed`.
    #[serde(default)]
    pub latest_report_status: Option<String>,
    /// The hash of its newest report.
    #[serde(default)]
    pub latest_report_hash: Option<String>,
    /// Whether that run changed nothing by order.
    #[serde(default)]
    pub latest_report_noop: Option<bool>,
    /// Whether that run used a cached catalog: `not_used`, `explicitly_requested` or `on_failure`.
    #[serde(default)]
    pub cached_catalog_status: Option<String>,
}

impl Row for NodeStatus {}

impl NodeStatus {
    /// Whether queries show it and its exported resources are collected.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.deactivated.is_none() && self.expired.is_none()
    }
}

/// Which instance a name belongs to, by PuppetDB's knowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownIdentity {
    /// The name.
    pub certname: Certname,
    /// `trusted.extensions.pp_instance_id`: what its certificate said at its newest run.
    pub certified: Option<InstanceId>,
    /// `ec2_metadata."instance-id"`: what the instance itself said at its newest run.
    pub reported: Option<InstanceId>,
    /// `trusted.extensions`: the extensions of its certificate at its newest run, by short name.
    pub extensions: BTreeMap<String, String>,
    /// The account that the instance said it was in: `owner-id` of the network interfaces in `ec2_metadata`, if they agree.
    /// See [categories of instance metadata](https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html).
    pub account: Option<String>,
    /// The Region that the instance said it was in: `ec2_metadata.placement`.
    pub region: Option<String>,
}

impl KnownIdentity {
    /// The certified id, else the reported one.
    #[must_use]
    pub fn instance_id(&self) -> Option<&InstanceId> {
        self.certified.as_ref().or(self.reported.as_ref())
    }

    /// Whether certificate and facts name different instances.
    #[must_use]
    pub fn is_contradictory(&self) -> bool {
        matches!((&self.certified, &self.reported), (Some(a), Some(b)) if a != b)
    }

    /// Rows of names that are no certnames are left out: PuppetDB takes any text for one.
    pub(super) fn collect(facts: Vec<Fact>) -> Vec<Self> {
        let mut known = BTreeMap::new();
        for Fact { certname, name, value } in facts {
            let Ok(certname) = certname.parse::<Certname>() else { continue };
            let identity = known.entry(certname.clone()).or_insert_with(|| Self::nothing(certname));
            match name.as_str() {
                "trusted" => {
                    identity.certified = instance_id(value.pointer("/extensions/pp_instance_id"));
                    let extensions = value.get("extensions").and_then(Value::as_object).into_iter().flatten();
                    let texts = extensions.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
                    identity.extensions = texts.collect();
                }
                "ec2_metadata" => {
                    identity.reported = instance_id(value.get("instance-id"));
                    identity.account = account(&value);
                    identity.region = region(&value);
                }
                _ => {}
            }
        }
        known.into_values().collect()
    }

    fn nothing(certname: Certname) -> Self {
        Self { certname, certified: None, reported: None, extensions: BTreeMap::new(), account: None, region: None }
    }
}

/// A value that is no instance id is no identity.
fn instance_id(value: Option<&Value>) -> Option<InstanceId> {
    value?.as_str()?.parse().ok()
}

fn account(ec2_metadata: &Value) -> Option<String> {
    let macs = ec2_metadata.pointer("/network/interfaces/macs")?.as_object()?;
    let mut owners = macs.values().map(|interface| interface.get("owner-id").and_then(Value::as_str));
    let first = owners.next()??;
    owners.all(|owner| owner == Some(first)).then(|| first.to_owned())
}

/// The Region's own entry is younger than that of the zone, whose name is the Region's and a letter.
fn region(ec2_metadata: &Value) -> Option<String> {
    let placement = |key| ec2_metadata.get("placement")?.get(key)?.as_str();
    let of_zone = || placement("availability-zone").map(|zone| zone.trim_end_matches(|c: char| c.is_ascii_lowercase()));
    placement("region").or_else(of_zone).map(str::to_owned)
}

/// A row of the facts endpoint.
#[derive(Deserialize)]
pub(super) struct Fact {
    pub(super) certname: String,
    pub(super) name: String,
    pub(super) value: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deactivated_or_expired_node_is_not_active() {
        let node = |json: &str| serde_json::from_str::<NodeStatus>(json).unwrap();
        assert!(node(r#"{"certname":"n","deactivated":null,"expired":null}"#).is_active());
        assert!(!node(r#"{"certname":"n","deactivated":"2026-03-04T05:06:07.890Z"}"#).is_active());
        assert!(!node(r#"{"certname":"n","expired":"2026-03-04T05:06:07.890Z"}"#).is_active());
    }

    #[test]
    fn identities_are_gathered_by_name_and_only_from_valid_ids() {
        let rows = r#"[
            {"certname":"a","name":"trusted","value":{"extensions":{"pp_instance_id":"i-0a1b2c3d4e5f60718"}}},
            {"certname":"b","name":"ec2_metadata","value":{"instance-id":"i-0a1b2c3d4e5f60719"}},
            {"certname":"a","name":"ec2_metadata","value":{"instance-id":"i-0a1b2c3d4e5f60720"}},
            {"certname":"c","name":"trusted","value":{"extensions":{"pp_instance_id":"mine"}}}]"#;
        let known = KnownIdentity::collect(serde_json::from_str(rows).unwrap());
        let ids: Vec<_> = known.iter().map(|k| k.instance_id().map(InstanceId::as_str)).collect();
        assert_eq!(ids, [Some("i-0a1b2c3d4e5f60718"), Some("i-0a1b2c3d4e5f60719"), None]);
        assert!(known[0].is_contradictory() && !known[1].is_contradictory());
    }

    #[test]
    fn an_instance_says_its_account_and_region() {
        let known = |metadata: &str| {
            let row = format!(r#"[{{"certname":"a","name":"ec2_metadata","value":{metadata}}}]"#);
            let known = KnownIdentity::collect(serde_json::from_str(&row).unwrap()).remove(0);
            (known.account, known.region)
        };
        let (one, two) = (r#""02:1":{"owner-id":"111122223333"}"#, r#""02:2":{"owner-id":"999988887777"}"#);
        let of = |macs: &str, placement: &str| {
            known(&format!(r#"{{"network":{{"interfaces":{{"macs":{{{macs}}}}}}},"placement":{{{placement}}}}}"#))
        };
        let (account, region) = (Some("111122223333".to_owned()), Some("eu-west-1".to_owned()));
        assert_eq!(of(one, r#""region":"eu-west-1""#), (account.clone(), region.clone()));
        assert_eq!(of(one, r#""availability-zone":"eu-west-1b""#), (account, region));
        assert_eq!(of(&format!("{one},{two}"), ""), (None, None), "they disagree");
        assert_eq!(known(r#"{"instance-id":"i-0a1b2c3d4e5f60718"}"#), (None, None));
    }

    #[test]
    fn the_extensions_of_the_certificate_are_those_that_puppet_server_wrote_down() {
        let rows = r#"[
            {"certname":"a","name":"trusted","value":{"extensions":{"pp_role":"compiler","1.3.6.1.4.1.34380.1.1.99":"x"}}},
            {"certname":"Not A Certname","name":"trusted","value":{"extensions":{}}},
            {"certname":"b","name":"trusted","value":null}]"#;
        let known = KnownIdentity::collect(serde_json::from_str(rows).unwrap());
        assert_eq!(known.len(), 2, "{known:?}");
        assert_eq!(known[0].extensions["pp_role"], "compiler");
        assert!(known[1].extensions.is_empty());
    }
}
