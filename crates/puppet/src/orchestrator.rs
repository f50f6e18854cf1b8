//! Puppet Enterprise's orchestrator: what can be read from it. I/O.
//!
//! See Puppet Enterprise's
//! [orchestrator API](https://help.puppet.com/pe/current/topics/orchestrator_api_v1_endpoints.htm).
//! Writes are in [`OrchestratorAdmin`], a type that an observe-only deployment never makes.

mod admin;
mod job;

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use stagedoor_types::Certname;

pub use admin::OrchestratorAdmin;
pub use job::{Job, JobId, JobState};

use crate::error::{Error, Service};
use crate::http::{Answer, Ask, Connection, Endpoint};
use crate::tls::Transport;

const TIMEOUT: Duration = Duration::from_secs(15);

/// So many of the newest jobs are looked through for one of ours.
const NEWEST: usize = 50;

/// The orchestrator, read only.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    connection: Connection,
}

impl Orchestrator {
    /// The orchestrator at an address.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::Orchestrator) }
    }

    /// `GET jobs`: the newest Puppet runs that any user ordered, newest first.
    pub async fn jobs(&self, limit: usize) -> Result<Vec<Job>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            items: Vec<Job>,
        }
        let limit = limit.to_string();
        let query = [("limit", limit.as_str()), ("order_by", "timestamp"), ("order", "desc"), ("type", "deploy")];
        let ask = Ask::new(Method::GET, "GET jobs", &["orchestrator", "v1", "jobs"], TIMEOUT);
        let answer = self.connection.send(ask.query(&query).large()).await?;
        match answer.status {
            200 => Ok(answer.json::<Wire>()?.items),
            _ => Err(into_error(answer)),
        }
    }

    /// The job that was ordered with this event key, if it is among the newest 50.
    pub async fn job_of_event(&self, event: &str) -> Result<Option<Job>, Error> {
        Ok(self.jobs(NEWEST).await?.into_iter().find(|job| job.event.as_deref() == Some(event)))
    }

    /// `POST inventory`: for each of these nodes, whether the orchestrator could run anything on it now: the node's
    /// PXP agent is connected to a broker. One call for all of them.
    ///
    /// A new node connects some seconds after its first Puppet run. A name that the orchestrator does not know is
    /// not connected.
    pub async fn inventory(&self, certnames: &[Certname]) -> Result<BTreeMap<Certname, bool>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            items: Vec<Item>,
        }
        #[derive(Deserialize)]
        struct Item {
            name: String,
            connected: bool,
        }
        if certnames.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<&str> = certnames.iter().map(Certname::as_str).collect();
        let ask = Ask::new(Method::POST, "POST inventory", &["orchestrator", "v1", "inventory"], TIMEOUT)
            .about(subject(certnames))
            .json(json!({ "nodes": names }));
        let answer = self.connection.send(ask.large()).await?;
        let items = match answer.status {
            200 => answer.json::<Wire>()?.items,
            _ => return Err(into_error(answer)),
        };
        let is_connected = |name: &Certname| items.iter().any(|item| item.connected && item.name == name.as_str());
        Ok(certnames.iter().map(|name| (name.clone(), is_connected(name))).collect())
    }
}

/// A set of names, for errors and logs.
fn subject(certnames: &[Certname]) -> String {
    match certnames {
        [] => "no node".to_owned(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

/// What a status means, with the remedy where the orchestrator's kind of error has one.
fn into_error(answer: Answer) -> Error {
    let kind = match answer.status {
        400 | 404 => answer.kind().unwrap_or_default(),
        _ => String::new(),
    };
    let remedy = match kind.as_str() {
        // A 400 in which nothing is wrong with the request.
        "puppetdb-error" => return answer.busy(),
        "empty-target" => "No node was named: look at the profile's refresh targets",
        "empty-environment" | "unknown-environment" => {
            "Nodes are to run in their own environment: this orchestrator seems too old to allow that, Puppet \
             Enterprise 2019.8 or later does"
        }
        "query-error" => "The orchestrator could not query PuppetDB for these nodes: look into the orchestrator's log",
        "validation-error" => {
            "The orchestrator did not take the form of the request: Puppet Enterprise 2019.8 or later is needed"
        }
        _ => return answer.into_error(),
    };
    answer.refused(Some(remedy))
}
