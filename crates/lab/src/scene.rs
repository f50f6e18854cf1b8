//! What is on the stage: groups, instances, nodes, secrets and topics, as JSON or built in a test. No I/O.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;
use stagedoor_lab_aws::scene::{AwsScene, Group, Instance, Settings};
use stagedoor_lab_puppet::{Node, NodeGroup};

use crate::agent::Agent;

/// A whole world to start from. Unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scene {
    /// The Auto Scaling groups with their instances.
    pub groups: Vec<Group>,
    /// EC2 instances outside every group.
    pub instances: Vec<Instance>,
    /// What Puppet knows.
    pub nodes: Vec<Node>,
    /// Puppet Enterprise: node groups beside the preconfigured ones, or in place of them.
    pub node_groups: Vec<NodeGroup>,
    /// Simulated agents, which start at once.
    pub agents: Vec<Agent>,
    /// Secrets by name. `stagedoor/puppet` always exists; naming it here overrides it.
    pub secrets: BTreeMap<String, SecretString>,
    /// ARNs of the SNS topics that exist.
    pub topics: Vec<String>,
    /// How the simulated AWS behaves.
    pub settings: Settings,
}

impl Scene {
    /// Reads a scene.
    ///
    /// # Errors
    /// Says which key or value is wrong.
    pub fn from_json(value: serde_json::Value) -> anyhow::Result<Self> {
        serde_json::from_value(value).map_err(|error| anyhow::anyhow!("the scene is wrong: {error}"))
    }

    /// The part of it that the simulated AWS holds.
    pub(crate) fn aws(&self) -> AwsScene {
        AwsScene {
            groups: self.groups.clone(),
            instances: self.instances.clone(),
            secrets: self.secrets.clone(),
            topics: self.topics.clone(),
            settings: self.settings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_in_a_scene_is_an_error_that_names_it() {
        let error = Scene::from_json(serde_json::json!({"group": []})).unwrap_err();
        assert!(error.to_string().contains("`group`"), "{error}");
    }
}
