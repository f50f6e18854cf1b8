//! Puppet Enterprise's node classifier: what can be read from it. I/O.
//!
//! See Puppet Enterprise's
//! [node classifier API](https://help.puppet.com/pe/current/topics/node_classifier_service_api.htm).
//! Writes are in [`ClassifierAdmin`], a type that an observe-only deployment never makes.

mod admin;
mod group;
mod rule;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use stagedoor_types::Certname;

pub use admin::{ClassifierAdmin, Unpinned};
pub use group::{Classification, Group, GroupId, GroupRef, reported_trusted_facts, trusted_facts};
pub use rule::{Fit, NodeFacts, Unmet, facts_of_rules, fit};

use crate::error::{Error, Service};
use crate::http::{Ask, Connection, Endpoint};
use crate::tls::Transport;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The group *All Nodes*, which every classifier has.
/// See [hierarchy of node groups](https://help.puppet.com/pe/current/topics/node_group_hierarchy.htm).
const ROOT: &str = "00000000-0000-4000-8000-000000000000";

/// The node classifier, read only.
#[derive(Debug, Clone)]
pub struct Classifier {
    connection: Connection,
}

impl Classifier {
    /// The classifier at an address.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::Classifier) }
    }

    /// `GET groups`: all node groups. The classifier has no query by name or by pin.
    ///
    /// A group that the token's role may not see cannot be distinguished from one that does not exist.
    pub async fn groups(&self) -> Result<Vec<Group>, Error> {
        let ask = Ask::new(Method::GET, "GET groups", &["classifier-api", "v1", "groups"], TIMEOUT).large();
        self.connection.json(ask).await
    }

    /// `GET groups/<id>` of the root group: whether the classifier answers and accepts the credentials, at the price of one small
    /// group. That it does not know the group, or that the role may not see this one, is an answer as well: a role may be limited
    /// to the parents of the groups that are in use.
    pub async fn answers(&self) -> Result<(), Error> {
        let ask = Ask::new(Method::GET, "GET groups/<id>", &["classifier-api", "v1", "groups", ROOT], TIMEOUT);
        let answer = self.connection.send(ask).await?;
        match answer.status {
            200 => answer.json::<Group>().map(drop),
            404 if answer.kind().is_some_and(|kind| kind == "not-found") => Ok(()),
            403 if answer.kind().is_some_and(|kind| kind == "permission-denied") => Ok(()),
            _ => Err(answer.into_error()),
        }
    }

    /// `POST classified/nodes`: how a node of this name with these facts would be classified now, pins included.
    ///
    /// `fact` and `trusted` are JSON objects; for a node that has not run Puppet yet, [`trusted_facts`] derives
    /// its trusted facts from its certificate. A group that matches on a fact left out does not match.
    pub async fn classified(
        &self,
        certname: &Certname,
        fact: &Value,
        trusted: &Value,
    ) -> Result<Classification, Error> {
        let path = ["classifier-api", "v2", "classified", "nodes", certname.as_str()];
        let ask = Ask::new(Method::POST, "POST classified/nodes", &path, TIMEOUT)
            .about(certname)
            .json(json!({ "fact": fact, "trusted": trusted }));
        self.connection.json(ask).await
    }
}
