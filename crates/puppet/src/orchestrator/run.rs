//! What became of one node of a job, as a value. No I/O.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use stagedoor_lifecycle::Certname;

use crate::http::shorten;

/// The state of one node of a job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum NodeState {
    /// Accepted.
    New,
    /// Waits for its turn.
    Ready,
    /// Puppet runs.
    Running,
    /// Puppet ran well.
    Finished,
    /// Puppet ran with failures.
    Failed,
    /// Puppet could not be run.
    Errored,
    /// Left out.
    Skipped,
    /// Told to stop.
    Stopping,
    /// Stopped before its end.
    Stopped,
    /// A state that is not known here.
    Unknown(String),
}

impl From<String> for NodeState {
    fn from(word: String) -> Self {
        match word.as_str() {
            "new" => Self::New,
            "ready" => Self::Ready,
            "running" => Self::Running,
            "finished" => Self::Finished,
            "failed" => Self::Failed,
            "errored" => Self::Errored,
            "skipped" => Self::Skipped,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            _ => Self::Unknown(word),
        }
    }
}

/// What the state of a node means for whoever ordered the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// Not over yet, or in a state that is not known. Ask again.
    Pending,
    /// Puppet ran without failures.
    Succeeded,
    /// Puppet ran, and some resource or the catalog failed.
    Failed,
    /// The node is not connected to the orchestrator, or does not exist. Order it again when the inventory says
    /// that it is connected.
    NotConnected,
    /// Another run was going on, for more than ten minutes. That run's report may do as well.
    AgentLocked,
    /// Puppet is disabled on the node (`puppet agent --disable`). A person has to enable it.
    AgentDisabled,
    /// Puppet could not be run, for another reason.
    Errored,
    /// The node was left out, or the job was stopped before its turn.
    NotRun,
}

/// One node of a job.
/// See [`GET /jobs/<job-id>/nodes`](https://help.puppet.com/pe/current/topics/orchestrator_api_get_jobs_job_id_nodes.htm).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub struct NodeRun {
    /// The node.
    pub certname: Certname,
    /// Its state.
    pub state: NodeState,
    /// What that means.
    pub outcome: RunOutcome,
    /// The orchestrator's words on it.
    pub message: Option<String>,
    /// The status of the run's report: `changed`, `unchanged` or `failed`.
    pub report_status: Option<String>,
    /// The hash of the run's report in PuppetDB.
    pub report_hash: Option<String>,
    /// When the run began.
    pub started: Option<Timestamp>,
    /// When the run ended.
    pub finished: Option<Timestamp>,
}

/// The JSON form; `details` and `result` differ with the state and the version.
#[derive(Deserialize)]
struct Wire {
    name: Certname,
    state: NodeState,
    start_timestamp: Option<Timestamp>,
    finish_timestamp: Option<Timestamp>,
    #[serde(default)]
    details: Value,
    #[serde(default)]
    result: Value,
}

impl From<Wire> for NodeRun {
    fn from(wire: Wire) -> Self {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let report_status = text(&wire.result, "status");
        Self {
            outcome: outcome(&wire, report_status.as_deref()),
            message: text(&wire.result, "msg").or_else(|| text(&wire.details, "message")).map(|words| shorten(&words)),
            report_status,
            report_hash: text(&wire.result, "hash").or_else(|| text(&wire.details, "hash")),
            started: wire.start_timestamp,
            finished: wire.finish_timestamp,
            certname: wire.name,
            state: wire.state,
        }
    }
}

fn outcome(wire: &Wire, report_status: Option<&str>) -> RunOutcome {
    match wire.state {
        NodeState::New | NodeState::Ready | NodeState::Running | NodeState::Stopping | NodeState::Unknown(_) => {
            RunOutcome::Pending
        }
        NodeState::Finished if report_status == Some("failed") => RunOutcome::Failed,
        NodeState::Finished => RunOutcome::Succeeded,
        NodeState::Failed => RunOutcome::Failed,
        NodeState::Skipped | NodeState::Stopped => RunOutcome::NotRun,
        NodeState::Errored => cause(&format!("{} {}", wire.details, wire.result)),
    }
}

/// Why Puppet could not be run. There is no code for it that all versions have, so the words decide: those of the
/// orchestrator, and the error types and messages of
/// [pxp-agent's Puppet module](https://github.com/puppetlabs/pxp-agent/blob/main/modules/pxp-module-puppet.rb).
fn cause(words: &str) -> RunOutcome {
    let says = |known: &[&str]| known.iter().any(|part| words.contains(part));
    if says(&["is not connected to the PCP broker", "is not connected to any PCP broker"]) {
        RunOutcome::NotConnected
    } else if says(&["agent_locked", "is already in progress"]) {
        RunOutcome::AgentLocked
    } else if says(&["agent_disabled", "agent is disabled"]) {
        RunOutcome::AgentDisabled
    } else {
        RunOutcome::Errored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> NodeRun {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn each_state_of_a_node_means_one_outcome() {
        for (state, outcome) in [
            ("new", RunOutcome::Pending),
            ("ready", RunOutcome::Pending),
            ("running", RunOutcome::Pending),
            ("stopping", RunOutcome::Pending),
            ("pondering", RunOutcome::Pending),
            ("finished", RunOutcome::Succeeded),
            ("failed", RunOutcome::Failed),
            ("errored", RunOutcome::Errored),
            ("skipped", RunOutcome::NotRun),
            ("stopped", RunOutcome::NotRun),
        ] {
            assert_eq!(run(&format!(r#"{{"name":"n","state":"{state}"}}"#)).outcome, outcome, "{state}");
        }
    }

    #[test]
    fn a_finished_run_with_a_failed_report_has_failed() {
        assert_eq!(run(r#"{"name":"n","state":"finished","result":{"status":"failed"}}"#).outcome, RunOutcome::Failed);
    }

    #[test]
    fn why_puppet_could_not_be_run_is_told_by_the_words() {
        let run = |message: &str| {
            run(&format!(r#"{{"name":"n","state":"errored","result":null,"details":{{"message":"{message}"}}}}"#))
        };
        for (message, outcome) in [
            ("Error running puppet on n: n is not connected to the PCP broker", RunOutcome::NotConnected),
            ("Puppet agent run is already in progress", RunOutcome::AgentLocked),
            ("agent_disabled", RunOutcome::AgentDisabled),
            ("Puppet agent is disabled: 'maintenance'", RunOutcome::AgentDisabled),
            ("no_puppet_bin", RunOutcome::Errored),
        ] {
            let run = run(message);
            assert_eq!((run.outcome, run.message.as_deref()), (outcome, Some(message)));
        }
    }
}
