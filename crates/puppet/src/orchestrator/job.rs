//! Orchestrator jobs, as values. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use stagedoor_types::Certname;

/// Whose `userdata` a job carries.
pub(super) const CONTROLLER: &str = "stagedoor";

/// The number of a job, as the orchestrator calls it: `81`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct JobId(String);

/// A text that is not the number of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the number of an orchestrator job")]
pub struct InvalidJobId;

impl JobId {
    /// The number as text, which a report's `job_id` has too.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        let is_number = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { Ok(Self(text)) } else { Err(InvalidJobId) }
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum JobState {
    /// Accepted.
    New,
    /// Prepared.
    Ready,
    /// At least one node is on it.
    Running,
    /// A stop was requested.
    Stopping,
    /// Stopped before its end.
    Stopped,
    /// Over, and every node ran well.
    Finished,
    /// Over, and not every node ran well.
    Failed,
    /// A state that is not known here.
    Unknown(String),
}

impl JobState {
    /// Whether nothing more will come of it. A state that is not known is not over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Stopped | Self::Finished | Self::Failed)
    }
}

impl From<String> for JobState {
    fn from(word: String) -> Self {
        match word.as_str() {
            "new" => Self::New,
            "ready" => Self::Ready,
            "running" => Self::Running,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            "finished" => Self::Finished,
            "failed" => Self::Failed,
            _ => Self::Unknown(word),
        }
    }
}

/// An ordered Puppet run on some nodes.
/// See [`GET /jobs/<job-id>`](https://help.puppet.com/pe/current/topics/orchestrator_api_get_jobs_job_id.htm).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// The nodes it was ordered for by name. Empty when they were chosen by query or by group.
    pub nodes: Vec<Certname>,
    /// The event key that it was ordered with, if this controller ordered it.
    pub event: Option<String>,
    /// Why it was ordered, in its owner's words.
    pub description: Option<String>,
    /// The login of the user who ordered it.
    pub owner: Option<String>,
    /// Whether it changes nothing, by order.
    pub noop: bool,
    /// When it was accepted.
    pub created: Option<Timestamp>,
    /// When its first node began.
    pub started: Option<Timestamp>,
    /// When it was over.
    pub finished: Option<Timestamp>,
    /// How many nodes are in which state.
    pub node_states: BTreeMap<String, u64>,
}

impl Job {
    /// Whether it was ordered for this node by name.
    #[must_use]
    pub fn is_for(&self, certname: &Certname) -> bool {
        self.nodes.contains(certname)
    }
}

/// The JSON form. Versions differ in what they omit or set to `null`.
#[derive(Deserialize)]
struct Wire {
    name: JobId,
    state: JobState,
    options: Option<Options>,
    description: Option<String>,
    owner: Option<Owner>,
    #[serde(default)]
    userdata: Value,
    started_timestamp: Option<Timestamp>,
    finished_timestamp: Option<Timestamp>,
    status: Option<Vec<Entered>>,
    node_states: Option<BTreeMap<String, u64>>,
}

#[derive(Default, Deserialize)]
struct Options {
    #[serde(default)]
    scope: Value,
    noop: Option<bool>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    login: Option<String>,
}

#[derive(Deserialize)]
struct Entered {
    state: JobState,
    enter_time: Option<Timestamp>,
}

impl From<Wire> for Job {
    fn from(wire: Wire) -> Self {
        let options = wire.options.unwrap_or_default();
        let status = wire.status.unwrap_or_default();
        let entered = |state: &JobState| status.iter().find(|entry| entry.state == *state)?.enter_time;
        let nodes = options.scope.get("nodes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let is_ours = wire.userdata.get("controller").and_then(Value::as_str) == Some(CONTROLLER);
        let event = wire.userdata.get("event").and_then(Value::as_str).filter(|_| is_ours);
        Self {
            // A name that is not a valid certname is never one that a caller here asks about.
            nodes: nodes.iter().filter_map(|name| name.as_str()?.parse().ok()).collect(),
            event: event.map(str::to_owned),
            description: options.description.or(wire.description),
            owner: wire.owner.and_then(|owner| owner.login),
            noop: options.noop.unwrap_or(false),
            // `timestamp` is of no use here: it moves with each change of state.
            created: entered(&JobState::New),
            started: wire.started_timestamp.or_else(|| entered(&JobState::Running)),
            finished: wire.finished_timestamp,
            node_states: wire.node_states.unwrap_or_default(),
            id: wire.name,
            state: wire.state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_a_job_id() {
        for bad in ["", "81/nodes", "-1", "８", "123456789012345678901"] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
        assert_eq!("81".parse::<JobId>().unwrap().to_string(), "81");
    }

    #[test]
    fn a_state_that_is_not_known_is_not_over() {
        let state = |word: &str| JobState::from(word.to_owned());
        for word in ["new", "ready", "running", "stopping", "pondering"] {
            assert!(!state(word).is_over(), "{word}");
        }
        for word in ["stopped", "finished", "failed"] {
            assert!(state(word).is_over(), "{word}");
        }
        assert_eq!(state("pondering"), JobState::Unknown("pondering".into()));
    }

    #[test]
    fn a_job_may_leave_out_nearly_everything() {
        for text in [
            r#"{"name":"81","state":"new"}"#,
            r#"{"name":"81","state":"new","options":null,"node_states":null,"userdata":null,"status":null,"owner":null}"#,
            r#"{"name":"81","state":"new","options":{"scope":{"query":["=","name","x"]}},"userdata":{"event":"of another owner"}}"#,
        ] {
            let job: Job = serde_json::from_str(text).unwrap();
            assert_eq!((job.nodes, job.event, job.noop), (vec![], None, false), "{text}");
        }
    }
}
