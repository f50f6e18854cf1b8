//! One job and what it shows of itself. No I/O.
//! (<https://help.puppet.com/pe/current/topics/orchestrator_api_get_jobs_job_id.htm>)

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::enterprise::access::{LOGIN, USER_ID};
use crate::site::SERVER;

pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) environment: String,
    /// The order as it came.
    order: Value,
    /// The states that it entered, the present one last.
    states: Vec<(&'static str, Timestamp)>,
    pub(crate) nodes: Vec<NodeRun>,
    events: Vec<Event>,
}

/// One node of a job.
pub(crate) struct NodeRun {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    changed: Timestamp,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    details: Value,
    result: Value,
    /// Its run has ended, and the orchestrator does not know.
    untold: bool,
}

struct Event {
    kind: String,
    at: Timestamp,
    details: Value,
    message: String,
}

/// How a node's part of a job ended.
pub(crate) enum End<'a> {
    /// Puppet ran and reported.
    Ran { status: &'a str, hash: &'a str },
    /// Puppet could not be run, for this reason; the second text is pxp-agent's name for it.
    NotRun(&'a str, &'a str),
}

/// Time as the orchestrator writes it: whole seconds.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Job {
    pub(crate) fn new(id: u64, nodes: Vec<String>, order: Value, now: Timestamp) -> Self {
        let node = |name: String| NodeRun {
            name,
            state: "new",
            changed: now,
            started: None,
            finished: None,
            details: json!({}),
            result: Value::Null,
            untold: false,
        };
        Self {
            id,
            environment: order["environment"].as_str().unwrap_or_default().to_owned(),
            order,
            states: vec![("new", now)],
            nodes: nodes.into_iter().map(node).collect(),
            events: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.id.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{SERVER}:8143/orchestrator/v1/jobs/{}", self.id)
    }

    pub(crate) fn state(&self) -> &'static str {
        self.states.last().map_or("new", |(state, _)| state)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state(), "finished" | "failed" | "stopped")
    }

    /// When its state changed last.
    pub(crate) fn changed(&self) -> Option<Timestamp> {
        self.states.last().map(|(_, at)| *at)
    }

    fn entered(&self, state: &str) -> Option<Timestamp> {
        self.states.iter().find(|(one, _)| *one == state).map(|(_, at)| *at)
    }

    /// Goes into a state, and its nodes that wait with it.
    pub(crate) fn enter(&mut self, state: &'static str, now: Timestamp) {
        self.states.push((state, now));
        if state == "ready" {
            for node in &mut self.nodes {
                node.state = "ready";
                node.changed = now;
            }
        }
    }

    fn note(&mut self, kind: &str, at: Timestamp, details: Value, message: String) {
        self.events.push(Event { kind: kind.to_owned(), at, details, message });
    }

    /// Puppet begins on a node.
    pub(crate) fn begin(&mut self, name: &str, now: Timestamp) {
        let message = format!("Started puppet run on {name} ...");
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            node.state = "running";
            node.changed = now;
            node.started = Some(now);
            node.details = json!({"message": message});
        }
        self.note("node_running", now, json!({"node": name, "detail": {}}), message);
    }

    /// The run of a node is over, but the job does not show it.
    pub(crate) fn ends_untold(&mut self, name: &str) {
        self.nodes.iter_mut().filter(|node| node.name == name).for_each(|node| node.untold = true);
    }

    /// A node's part is over; with the last one's, the job is.
    pub(crate) fn end(&mut self, name: &str, end: &End<'_>, now: Timestamp) {
        let environment = if self.environment.is_empty() { "production" } else { &self.environment }.to_owned();
        let (state, details, result) = match end {
            End::Ran { status, hash } => {
                let (state, word) = if *status == "failed" { ("failed", "Failure") } else { ("finished", "Success") };
                let counts = metrics(status);
                let details = json!({
                    // The trailing space is the orchestrator's.
                    "message": format!("Finished puppet run on {name} - {word}! "),
                    "report-url": format!("https://{SERVER}/#/cm/report/{hash}"),
                    "hash": hash,
                    "environment": environment,
                    "metrics": counts,
                });
                let result = json!({
                    "hash": hash,
                    "status": status,
                    "noop": {"noop": false, "no_noop": false},
                    "environment": environment,
                    "configuration_version": "1",
                    "metrics": counts,
                });
                (state, details, result)
            }
            End::NotRun(reason, kind) => {
                let details = json!({"message": format!("Error running puppet on {name}: {reason}")});
                let result = json!({
                    "kind": "puppetlabs.orchestrator/execution-failure",
                    "msg": reason,
                    "details": {"node": name, "error_type": kind},
                });
                ("errored", details, result)
            }
        };
        let message = details["message"].as_str().unwrap_or_default().to_owned();
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            node.state = state;
            node.changed = now;
            node.finished = node.started.map(|_| now);
            node.details = details.clone();
            node.result = result;
        }
        self.note(&format!("node_{state}"), now, json!({"node": name, "detail": details}), message);
        if self.nodes.iter().all(|node| matches!(node.state, "finished" | "failed" | "errored")) {
            let well = self.nodes.iter().all(|node| node.state == "finished");
            self.enter(if well { "finished" } else { "failed" }, now);
            self.note("job_finished", now, json!({}), format!("Finished job {}", self.id));
        }
    }

    pub(crate) fn json(&self) -> Value {
        let option = |key: &str| self.order.get(key).cloned().unwrap_or(Value::Null);
        let flag = |key: &str| self.order[key] == json!(true);
        let mut node_states: BTreeMap<&str, u64> = BTreeMap::new();
        for node in &self.nodes {
            *node_states.entry(node.state).or_default() += 1;
        }
        let exits = self.states.iter().skip(1).map(|(_, at)| Some(*at)).chain([None]);
        let status = self.states.iter().zip(exits).map(|((state, entered), left)| {
            json!({"state": state, "enter_time": stamp(*entered), "exit_time": left.map(stamp)})
        });
        let (started, over) = (self.entered("running"), self.changed().filter(|_| self.is_over()));
        let duration = started.zip(over).map(|(from, to)| format!("{:.1}", to.duration_since(from).as_secs_f64()));
        json!({
            "id": self.url(),
            "name": self.name(),
            "state": self.state(),
            "type": "deploy",
            "command": "deploy",
            "node_count": self.nodes.len(),
            "node_states": node_states,
            "options": {
                "concurrency": option("concurrency"),
                "noop": flag("noop"),
                "trace": flag("trace"),
                "debug": flag("debug"),
                "evaltrace": flag("evaltrace"),
                "scope": option("scope"),
                "enforce_environment": self.order["enforce_environment"] != json!(false),
                "environment": self.environment,
                "description": option("description"),
                "target": null,
            },
            "owner": {"id": USER_ID, "login": LOGIN},
            "description": option("description"),
            "timestamp": self.changed().map(stamp),
            "started_timestamp": started.map(stamp),
            "finished_timestamp": over.map(stamp),
            "duration": duration,
            "environment": {"name": self.environment},
            "status": status.collect::<Vec<_>>(),
            "nodes": {"id": format!("{}/nodes", self.url())},
            "report": {"id": format!("{}/report", self.url())},
            "events": {"id": format!("{}/events", self.url())},
            "userdata": self.order.get("userdata").cloned().unwrap_or_else(|| json!({})),
        })
    }

    pub(crate) fn nodes_json(&self) -> Value {
        json!({"next-events": self.next_events(), "items": self.nodes.iter().map(NodeRun::json).collect::<Vec<_>>()})
    }

    fn next_events(&self) -> Value {
        let next = self.events.len();
        json!({"id": format!("{}/events?start={next}", self.url()), "event": next.to_string()})
    }

    pub(crate) fn events_json(&self, start: usize) -> Value {
        let shown = self.events.iter().enumerate().skip(start).map(|(number, event)| {
            json!({
                "id": number.to_string(),
                "type": event.kind,
                "timestamp": stamp(event.at),
                "details": event.details,
                "message": event.message,
            })
        });
        json!({"next-events": self.next_events(), "items": shown.collect::<Vec<_>>()})
    }
}

impl NodeRun {
    /// Whether its run has ended, whether the job shows it or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.untold || matches!(self.state, "finished" | "failed" | "errored")
    }

    fn json(&self) -> Value {
        let duration = self.started.zip(self.finished).map(|(from, to)| to.duration_since(from).as_secs_f64());
        json!({
            "name": self.name,
            "state": self.state,
            "transaction_uuid": null,
            "start_timestamp": self.started.map(stamp),
            "finish_timestamp": self.finished.map(stamp),
            "timestamp": stamp(self.changed),
            "duration": duration,
            "details": self.details,
            "result": self.result,
        })
    }
}

fn metrics(status: &str) -> Value {
    let (changed, failed) = match status {
        "changed" => (2, 0),
        "failed" => (0, 1),
        _ => (0, 0),
    };
    json!({
        "total": 347, "changed": changed, "failed": failed, "skipped": 0, "out_of_sync": changed + failed,
        "restarted": 0, "scheduled": 0, "failed_to_restart": 0, "corrective_change": 0,
    })
}
