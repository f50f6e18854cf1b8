//! Puppet Enterprise's orchestrator: ordering Puppet runs. I/O.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use stagedoor_types::{Certname, WritePermit};

use super::job::CONTROLLER;
use super::{JobId, Orchestrator, TIMEOUT, into_error, subject};
use crate::error::Error;
use crate::http::Ask;

/// How often a run is ordered when it is unknown whether the order was received.
const TRIES: u32 = 2;

/// The pause between a lost answer and the search for its job: by then, an order that was received is a job.
const PAUSE: Duration = Duration::from_millis(500);

/// The orchestrator with the right to order runs.
#[derive(Debug, Clone)]
pub struct OrchestratorAdmin {
    orchestrator: Orchestrator,
}

impl OrchestratorAdmin {
    /// Adds the right to order runs to an orchestrator, where the mode permits it.
    #[must_use]
    pub fn new(orchestrator: Orchestrator, _permit: WritePermit) -> Self {
        Self { orchestrator }
    }

    /// The same orchestrator, read only.
    #[must_use]
    pub fn orchestrator(&self) -> &Orchestrator {
        &self.orchestrator
    }

    /// [`POST command/deploy`](https://help.puppet.com/pe/current/topics/orchestrator_api_commands_endpoint.htm):
    /// orders a Puppet run on these nodes, each in its own environment.
    ///
    /// * Having a job only means that there is one, also for a node that does not exist: judge it by the node's report.
    /// * Each call makes a job of its own. After an error that does not show whether this call did, a second
    ///   call may be a second run: [`OrchestratorAdmin::deploy_once`] checks first.
    /// * `event` is kept with the job and finds it again ([`Job::event`](super::Job::event)). No secrets: every
    ///   user who may see jobs sees it.
    pub async fn deploy(&self, nodes: &[Certname], description: &str, event: &str) -> Result<JobId, Error> {
        #[derive(Deserialize)]
        struct Wire {
            job: Job,
        }
        #[derive(Deserialize)]
        struct Job {
            /// Not `id`: that is a URL, under a host name that may not be ours.
            name: JobId,
        }
        let names: Vec<&str> = nodes.iter().map(Certname::as_str).collect();
        let ask = Ask::new(Method::POST, "POST command/deploy", &["orchestrator", "v1", "command", "deploy"], TIMEOUT)
            .about(subject(nodes))
            .once()
            .json(json!({
                "environment": "",
                "enforce_environment": false,
                "scope": { "nodes": names },
                "description": description,
                "userdata": { "controller": CONTROLLER, "event": event },
            }));
        let answer = self.orchestrator.connection.send(ask).await?;
        match answer.status {
            202 => Ok(answer.json::<Wire>()?.job.name),
            _ => Err(into_error(answer)),
        }
    }

    /// Orders a Puppet run unless there is a job with this event key already, and returns the number of the job. So any
    /// caller may repeat it, after any error.
    ///
    /// The orchestrator itself cannot distinguish a repeated order from a new one. So the newest jobs are searched
    /// before ordering, and again whenever the answer to an order was lost. Two concurrent callers may both order a
    /// run. A run that failed is only ordered again under another key.
    pub async fn deploy_once(&self, nodes: &[Certname], description: &str, event: &str) -> Result<JobId, Error> {
        let mut tries = 1;
        loop {
            if let Some(job) = self.orchestrator.job_of_event(event).await? {
                return Ok(job.id);
            }
            match self.deploy(nodes, description, event).await {
                Err(error) if may_have_arrived(&error) && tries < TRIES => {
                    tracing::debug!(%error, event, "checking whether the order was received");
                    tokio::time::sleep(PAUSE).await;
                    tries += 1;
                }
                other => return other,
            }
        }
    }
}

/// Whether there may be a job in spite of the error: the connection was lost, or something between us and the
/// orchestrator (or its own end of it) gave up.
fn may_have_arrived(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Busy { status: 500..=599, .. })
}
