//! What PuppetDB says about nodes, as values. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use stagedoor_lifecycle::{Certname, InstanceId};

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
    /// The environment of its newest catalog.
    #[serde(default)]
    pub catalog_environment: Option<String>,
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
    /// The orchestrator job of that run.
    #[serde(default)]
    pub latest_report_job_id: Option<String>,
    /// Whether that run used a cached catalog: `not_used`, `explicitly_requested` or `on_failure`.
    #[serde(default)]
    pub cached_catalog_status: Option<String>,
}

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

    pub(super) fn collect(facts: Vec<Fact>) -> Vec<Self> {
        let mut known = BTreeMap::new();
        for Fact { certname, name, value } in facts {
            let identity = known.entry(certname.clone()).or_insert(Self { certname, certified: None, reported: None });
            match name.as_str() {
                "trusted" => {
                    identity.certified = instance_id(value.pointer("/extensions/pp_instance_id"));
                }
                "ec2_metadata" => identity.reported = instance_id(value.get("instance-id")),
                _ => {}
            }
        }
        known.into_values().collect()
    }
}

/// A value that is no instance id is no identity.
fn instance_id(value: Option<&Value>) -> Option<InstanceId> {
    value?.as_str()?.parse().ok()
}

/// A row of the facts endpoint.
#[derive(Deserialize)]
pub(super) struct Fact {
    certname: Certname,
    name: String,
    value: Value,
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
}
