//! What the orchestrator knows: jobs, who is connected, and how runs are to go. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::job::{Job, stamp};
use crate::site::SERVER;

/// How the Puppet runs of a node's jobs go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RunScript {
    /// Well, and reported as the node's agent is set to: `changed`, if it is not.
    #[default]
    Ok,
    /// With failures, and reported so.
    Failed,
    /// The node's PXP agent has lost its connection.
    Disconnected,
    /// Another run holds the lock for too long.
    Locked,
    /// Puppet is disabled on the node.
    Disabled,
    /// The run succeeds and is reported, but the orchestrator does not learn that it has ended: the job stays `running`.
    Untold,
    /// Without end, until another script is set: then it ends by that.
    Hang,
    /// Well, and it restarts the orchestrator: connections are refused for a while, and jobs that were not over are
    /// lost.
    Restart {
        /// How long, in milliseconds of real time.
        down_ms: u64,
    },
}

/// Takes the status of a run.
pub(crate) type Ran = Arc<dyn Fn(&str) + Send + Sync>;

/// A PXP agent with a connection to the broker.
#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) since: Timestamp,
    /// How a run that goes well is reported.
    pub(crate) status: String,
    /// The facts that a run sends; `None`: PuppetDB keeps those that it has.
    pub(crate) facts: Option<Map<String, Value>>,
    /// Receives the status of each run.
    pub(crate) ran: Option<Ran>,
}

#[derive(Default)]
pub(crate) struct Orchestrator {
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) connected: BTreeMap<String, Connected>,
    pub(crate) scripts: BTreeMap<String, RunScript>,
    /// Its port does not answer.
    pub(crate) is_down: bool,
    /// Counts resets: a run of an earlier scene leaves nothing behind.
    pub(crate) generation: u64,
    last_job: u64,
    /// How often each node was named in an order, lost jobs included.
    ordered: BTreeMap<String, usize>,
    /// One run at a time on each node.
    locks: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
}

impl Orchestrator {
    /// A site on which only the primary is connected.
    pub(crate) fn new(now: Timestamp) -> Self {
        let mut orchestrator = Self::default();
        orchestrator.connect(SERVER, now);
        orchestrator
    }

    /// Forgets everything. Job numbers go on counting.
    pub(crate) fn reset(&mut self, now: Timestamp) {
        let (last_job, generation) = (self.last_job, self.generation + 1);
        *self = Self { generation, last_job, ..Self::new(now) };
    }

    /// A node that reports `changed`.
    pub(crate) fn connect(&mut self, certname: &str, now: Timestamp) {
        let connected = Connected { since: now, status: "changed".to_owned(), facts: None, ran: None };
        self.connected.insert(certname.to_owned(), connected);
    }

    pub(crate) fn next_job(&mut self, nodes: &[String]) -> u64 {
        for node in nodes {
            *self.ordered.entry(node.clone()).or_default() += 1;
        }
        self.last_job += 1;
        self.last_job
    }

    pub(crate) fn times_ordered(&self, certname: &str) -> usize {
        self.ordered.get(certname).copied().unwrap_or(0)
    }

    pub(crate) fn script(&self, certname: &str) -> RunScript {
        self.scripts.get(certname).copied().unwrap_or_default()
    }

    pub(crate) fn lock_of(&mut self, certname: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks.entry(certname.to_owned()).or_default())
    }

    fn is_connected(&self, certname: &str) -> Option<&Connected> {
        self.connected.get(certname).filter(|_| self.script(certname) != RunScript::Disconnected)
    }

    /// The connection of a node, if it has one.
    pub(crate) fn connection(&self, certname: &str) -> Option<Connected> {
        self.is_connected(certname).cloned()
    }

    pub(crate) fn connected_names(&self) -> impl Iterator<Item = &str> {
        self.connected.keys().map(String::as_str).filter(|name| self.is_connected(name).is_some())
    }

    /// The object of `inventory`. An unknown name is not connected either.
    pub(crate) fn inventory(&self, certname: &str) -> Value {
        match self.is_connected(certname) {
            Some(connected) => json!({
                "name": certname,
                "connected": true,
                "broker": format!("pcp://{SERVER}/server"),
                "timestamp": stamp(connected.since),
            }),
            None => json!({"name": certname, "connected": false}),
        }
    }
}
