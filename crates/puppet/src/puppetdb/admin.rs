//! PuppetDB: what can be changed in it. I/O.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use stagedoor_types::{Certname, WritePermit};

use super::PuppetDb;
use crate::error::Error;
use crate::http::Ask;

/// How long PuppetDB may hold the answer back until it has carried out the command.
const WAIT_SECONDS: &str = "10";
const TIMEOUT: Duration = Duration::from_secs(20);

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deactivated {
    /// PuppetDB has carried it out, or has dropped it as stale: it does not say which.
    Done,
    /// PuppetDB has it in its queue.
    Queued,
}

/// PuppetDB with the right to change it.
#[derive(Debug, Clone)]
pub struct PuppetDbAdmin {
    puppetdb: PuppetDb,
}

impl PuppetDbAdmin {
    /// Adds the right to write to a PuppetDB, where the mode permits it.
    #[must_use]
    pub fn new(puppetdb: PuppetDb, _permit: WritePermit) -> Self {
        Self { puppetdb }
    }

    /// The same PuppetDB, read only.
    #[must_use]
    pub fn puppetdb(&self) -> &PuppetDb {
        &self.puppetdb
    }

    /// The command [`deactivate node`](https://www.puppet.com/docs/puppetdb/8/api/command/v1/commands.html).
    ///
    /// * Query the node first: an unknown name would be created, as a deactivated node.
    /// * `at` is best [`PuppetDb::server_time`] after the node is known to be dead. A command older
    ///   than the node's newest catalog, facts or report is dropped as stale, and success is
    ///   reported all the same. So verify, by [`PuppetDb::node`] or [`PuppetDb::nodes`].
    /// * A later report makes the node active again.
    pub async fn deactivate(&self, certname: &Certname, at: Timestamp) -> Result<Deactivated, Error> {
        #[derive(Deserialize)]
        struct Receipt {
            #[serde(rename = "uuid")]
            _uuid: String,
            #[serde(default)]
            processed: bool,
            #[serde(default)]
            timed_out: bool,
        }
        let query = [
            ("command", "deactivate_node"),
            ("version", "3"),
            ("certname", certname.as_str()),
            ("secondsToWaitForCompletion", WAIT_SECONDS),
        ];
        let ask = Ask::new(Method::POST, "POST deactivate_node", &["pdb", "cmd", "v1"], TIMEOUT)
            .about(certname)
            .query(&query)
            .json(json!({
                "certname": certname.as_str(),
                "producer_timestamp": at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            }));
        let answer = self.puppetdb.connection.send(ask).await?;
        match answer.status {
            200 => Ok(match answer.json::<Receipt>()? {
                Receipt { processed: true, .. } => Deactivated::Done,
                Receipt { .. } => Deactivated::Queued,
            }),
            // Not carried out in time. Any other 503 is maintenance mode or a failed command.
            503 => match answer.json::<Receipt>() {
                Ok(Receipt { timed_out: true, .. }) => Ok(Deactivated::Queued),
                _ => Err(answer.into_error()),
            },
            _ => Err(answer.into_error()),
        }
    }
}
