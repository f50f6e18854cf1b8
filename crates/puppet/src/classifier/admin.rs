//! Puppet Enterprise's node classifier: pinning nodes. I/O.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use stagedoor_types::{Certname, WritePermit};

use super::{Classifier, GroupId, GroupRef, TIMEOUT};
use crate::error::Error;
use crate::http::{Answer, Ask};
use crate::rows::Row;

/// The classifier goes through every group.
const UNPIN_FROM_ALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The classifier with the right to change what nodes are pinned to.
///
/// Every call may be repeated. The classifier does not document what becomes of two changes to one group at the
/// same moment: make them one after another, or in one call.
#[derive(Debug, Clone)]
pub struct ClassifierAdmin {
    classifier: Classifier,
}

/// A node that was pinned to some groups, and is no more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Unpinned {
    /// The node.
    #[serde(rename = "name")]
    pub certname: Certname,
    /// The groups.
    pub groups: Vec<GroupRef>,
}

impl Row for Unpinned {
    const NAME: &'static str = "name";
}

impl ClassifierAdmin {
    /// Adds the right to pin nodes to a classifier, where the mode permits it.
    #[must_use]
    pub fn new(classifier: Classifier, _permit: WritePermit) -> Self {
        Self { classifier }
    }

    /// The same classifier, read only.
    #[must_use]
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// [`POST groups/<id>/pin`](https://help.puppet.com/pe/current/topics/post_v1_groups_id_pin.htm): these nodes
    /// belong to the group, whatever their facts.
    pub async fn pin(&self, group: &GroupId, certnames: &[Certname]) -> Result<(), Error> {
        self.change_pins(group, certnames, "POST groups/<id>/pin", "pin").await
    }

    /// [`POST groups/<id>/unpin`](https://help.puppet.com/pe/current/topics/post_v1_groups_id_unpin.htm): these
    /// nodes belong to the group only if its rule matches their facts. Nodes that are not pinned to it are ignored.
    pub async fn unpin(&self, group: &GroupId, certnames: &[Certname]) -> Result<(), Error> {
        self.change_pins(group, certnames, "POST groups/<id>/unpin", "unpin").await
    }

    async fn change_pins(
        &self,
        group: &GroupId,
        certnames: &[Certname],
        name: &'static str,
        verb: &str,
    ) -> Result<(), Error> {
        if certnames.is_empty() {
            return Ok(());
        }
        let path = ["classifier-api", "v1", "groups", group.as_str(), verb];
        let ask = Ask::new(Method::POST, name, &path, TIMEOUT).about(group).json(nodes(certnames));
        let answer = self.classifier.connection.send(ask).await?;
        match answer.status {
            204 => Ok(()),
            404 if is_not_found(&answer) => {
                Err(answer.refused(Some("The node group is gone: name another one in the profile, or create it again")))
            }
            _ => Err(answer.into_error()),
        }
    }

    /// [`POST commands/unpin-from-all`](https://help.puppet.com/pe/current/topics/post_v1_commands_unpin_from_all.htm):
    /// unpins these nodes from every group that the token's role may edit, and says which from where. Nodes that
    /// were not pinned anywhere are left out; when an answer was lost on the way, so are those of that call.
    ///
    /// Slow where there are many groups. A node stays in a group whose rule matches its facts.
    pub async fn unpin_from_all(&self, certnames: &[Certname]) -> Result<Vec<Unpinned>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(deserialize_with = "crate::rows::valid")]
            nodes: Vec<Unpinned>,
        }
        if certnames.is_empty() {
            return Ok(Vec::new());
        }
        let path = ["classifier-api", "v1", "commands", "unpin-from-all"];
        let ask = Ask::new(Method::POST, "POST unpin-from-all", &path, UNPIN_FROM_ALL_TIMEOUT)
            .about(format!("{} nodes", certnames.len()))
            .json(nodes(certnames));
        Ok(self.classifier.connection.json::<Wire>(ask).await?.nodes)
    }
}

fn nodes(certnames: &[Certname]) -> serde_json::Value {
    let names: Vec<&str> = certnames.iter().map(Certname::as_str).collect();
    json!({ "nodes": names })
}

/// The classifier's own 404; that of anything else in between has another shape.
fn is_not_found(answer: &Answer) -> bool {
    answer.kind().is_some_and(|kind| kind == "not-found")
}
