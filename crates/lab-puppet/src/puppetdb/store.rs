//! What PuppetDB knows about nodes, and the queue of commands in front of it. No I/O.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::enterprise::admission::Classes;
use crate::options::QueueDelay;

/// A report of an agent run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) hash: String,
    pub(crate) status: String,
    pub(crate) started: Timestamp,
    /// How long the agent waited before the run's work began: the metric `startup_time`.
    pub(crate) waited: SignedDuration,
    pub(crate) ended: Timestamp,
    pub(crate) produced: Timestamp,
    /// When PuppetDB stored it.
    pub(crate) received: Timestamp,
    /// The run's catalog; none if it could not be compiled.
    pub(crate) catalog_uuid: Option<String>,
    /// The orchestrator job that ordered the run.
    pub(crate) job_id: Option<String>,
    /// `cached_catalog_status`.
    pub(crate) cached: String,
    pub(crate) noop: bool,
    /// Its metrics, where it was sent with some.
    pub(crate) metrics: Option<Value>,
}

/// When data were made and when they came in. PuppetDB compares the former and shows the latter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) produced: Timestamp,
    pub(crate) received: Timestamp,
}

/// A node. It is active while it is neither deactivated nor expired.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) deactivated: Option<Timestamp>,
    pub(crate) catalog: Option<Arrival>,
    /// The id of that catalog, where it was sent with one.
    pub(crate) catalog_uuid: Option<String>,
    /// The classes of that catalog that hosts of Puppet Enterprise look for.
    pub(crate) classes: Classes,
    pub(crate) facts_at: Option<Arrival>,
    /// Facts by name, `trusted` among them.
    pub(crate) facts: Map<String, Value>,
    /// Oldest first.
    pub(crate) reports: Vec<Report>,
}

impl Record {
    /// The newest time of any data; an older deactivation is stale.
    fn newest(&self) -> Option<Timestamp> {
        let report = self.reports.iter().map(|report| report.produced).max();
        let produced = |arrival: Option<Arrival>| arrival.map(|arrival| arrival.produced);
        produced(self.catalog).max(produced(self.facts_at)).max(report)
    }

    /// Newer data bring a deactivated node back.
    fn reactivate(&mut self, at: Timestamp) {
        if self.deactivated.is_some_and(|since| since < at) {
            self.deactivated = None;
        }
    }

    /// The object of `/pdb/query/v4/nodes`.
    pub(crate) fn node(&self, certname: &str) -> Value {
        let report = self.reports.iter().max_by_key(|report| report.produced);
        let received = |arrival: Option<Arrival>| arrival.map(|arrival| millis(arrival.received));
        let environment = |is_known: bool| is_known.then_some("production");
        json!({
            "certname": certname,
            "deactivated": self.deactivated.map(millis),
            "expired": null,
            "catalog_timestamp": received(self.catalog),
            "facts_timestamp": received(self.facts_at),
            "report_timestamp": report.map(|report| millis(report.ended)),
            "catalog_environment": environment(self.catalog.is_some()),
            "facts_environment": environment(self.facts_at.is_some()),
            "report_environment": environment(report.is_some()),
            "latest_report_status": report.map(|report| &report.status),
            "latest_report_noop": report.map(|report| report.noop),
            "latest_report_noop_pending": report.map(|_| false),
            "latest_report_corrective_change": null,
            "latest_report_hash": report.map(|report| &report.hash),
            "latest_report_job_id": report.and_then(|report| report.job_id.as_ref()),
            "cached_catalog_status": report.map(|report| &report.cached),
        })
    }
}

/// Time as PuppetDB prints it.
pub(crate) fn millis(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A command that changes a node.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Deactivate {
        produced: Option<Timestamp>,
    },
    Facts {
        produced: Timestamp,
        facts: Map<String, Value>,
    },
    Catalog {
        produced: Timestamp,
        uuid: Option<String>,
        classes: Classes,
    },
    Report(Report),
    /// Accepted by PuppetDB, without an effect that this lab shows.
    Nothing,
}

struct Queued {
    uuid: String,
    certname: String,
    command: Command,
    due: Due,
}

enum Due {
    At(Timestamp),
    AfterReads(u32),
}

/// Nodes by certname, and the queue.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) nodes: BTreeMap<String, Record>,
    queue: Vec<Queued>,
    submitted: u64,
    hashes: u64,
}

impl Store {
    /// Queues a command, carries out what is due, and names the command by a UUID.
    pub(crate) fn submit(&mut self, certname: &str, command: Command, delay: QueueDelay, now: Timestamp) -> String {
        let due = match delay {
            QueueDelay::None => Due::At(now),
            QueueDelay::Ms(ms) => Due::At(now + SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))),
            QueueDelay::Reads(reads) => Due::AfterReads(reads),
        };
        let uuid = self.uuid();
        self.queue.push(Queued { uuid: uuid.clone(), certname: certname.to_owned(), command, due });
        self.settle(now);
        uuid
    }

    /// Whether a command still waits.
    pub(crate) fn is_queued(&self, uuid: &str) -> bool {
        self.queue.iter().any(|queued| queued.uuid == uuid)
    }

    /// A name for the next command.
    pub(crate) fn uuid(&mut self) -> String {
        self.submitted += 1;
        format!("5ca1ab1e-0000-4000-8000-{:012x}", self.submitted)
    }

    /// Carries out the commands whose time has come, in the order in which they arrived.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        let (due, waiting) = std::mem::take(&mut self.queue).into_iter().partition(|queued| match queued.due {
            Due::At(at) => at <= now,
            Due::AfterReads(reads) => reads == 0,
        });
        self.queue = waiting;
        let due: Vec<Queued> = due;
        for queued in due {
            self.carry_out(&queued.certname, queued.command, now);
        }
    }

    /// Counts a read of PuppetDB, after it was answered.
    pub(crate) fn was_read(&mut self) {
        for queued in &mut self.queue {
            if let Due::AfterReads(reads) = &mut queued.due {
                *reads = reads.saturating_sub(1);
            }
        }
    }

    pub(crate) fn queue_depth(&self) -> usize {
        self.queue.len()
    }

    /// Carries out a command without the queue.
    pub(crate) fn at_once(&mut self, certname: &str, command: Command, now: Timestamp) {
        self.carry_out(certname, command, now);
    }

    fn carry_out(&mut self, certname: &str, command: Command, now: Timestamp) {
        // A command for an unknown name creates the node (puppetdb#4008).
        let record = self.nodes.entry(certname.to_owned()).or_default();
        match command {
            Command::Deactivate { produced } => {
                let at = produced.unwrap_or(now);
                if record.newest().is_some_and(|newest| newest > at) {
                    return;
                }
                record.deactivated = record.deactivated.max(Some(at));
            }
            Command::Facts { produced, facts } => {
                if record.facts_at.is_none_or(|known| known.produced <= produced) {
                    record.facts_at = Some(Arrival { produced, received: now });
                    record.facts = facts;
                }
                record.reactivate(produced);
            }
            Command::Catalog { produced, uuid, classes } => {
                if record.catalog.is_none_or(|known| known.produced <= produced) {
                    record.catalog = Some(Arrival { produced, received: now });
                    record.catalog_uuid = uuid;
                    record.classes = classes;
                }
                record.reactivate(produced);
            }
            Command::Report(report) => {
                let produced = report.produced;
                record.reports.push(Report { received: now, ..report });
                record.reactivate(produced);
            }
            Command::Nothing => {}
        }
    }

    /// A report as PuppetDB would store it, with the hash that identifies it.
    pub(crate) fn new_report(
        &mut self,
        status: &str,
        started: Timestamp,
        ended: Timestamp,
        produced: Timestamp,
    ) -> Report {
        self.hashes += 1;
        let hash = format!("{:040x}", 0x5eed_0000_0000_u64 + self.hashes);
        Report {
            hash,
            status: status.to_owned(),
            started,
            waited: SignedDuration::ZERO,
            ended,
            produced,
            received: produced,
            catalog_uuid: None,
            job_id: None,
            cached: "not_used".to_owned(),
            noop: false,
            metrics: None,
        }
    }

    /// Stores a report; returns its hash.
    pub(crate) fn store_report(&mut self, certname: &str, report: Report, now: Timestamp) -> String {
        let hash = report.hash.clone();
        self.carry_out(certname, Command::Report(report), now);
        hash
    }
}
