//! The entities that can be queried, their fields, and their rows. No I/O.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::puppetdb::store::{Record, Report, Store, millis};

/// A kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entity {
    Nodes,
    Inventory,
    Facts,
    FactContents,
    Reports,
    Catalogs,
}

/// A row, and whether its node is active.
pub(super) struct Row<'s> {
    source: Source<'s>,
    pub(super) active: bool,
}

enum Source<'s> {
    Fields(Map<String, Value>),
    /// There are many reports with many fields, so a field is created only when it is requested.
    Report {
        certname: &'s str,
        report: &'s Report,
        is_latest: bool,
    },
}

impl Row<'_> {
    /// One of its fields.
    pub(super) fn get(&self, field: &str) -> Option<Cow<'_, Value>> {
        match &self.source {
            Source::Fields(fields) => fields.get(field).map(Cow::Borrowed),
            Source::Report { certname, report, is_latest } => {
                of_report(certname, report, *is_latest, field).map(Cow::Owned)
            }
        }
    }

    /// All of its fields.
    pub(super) fn into_fields(self) -> Map<String, Value> {
        match self.source {
            Source::Fields(fields) => fields,
            Source::Report { certname, report, is_latest } => {
                let fields = Entity::Reports.fields().iter();
                fields
                    .filter_map(|field| Some(((*field).to_owned(), of_report(certname, report, is_latest, field)?)))
                    .collect()
            }
        }
    }
}

impl Entity {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "nodes" => Some(Self::Nodes),
            "inventory" => Some(Self::Inventory),
            "facts" => Some(Self::Facts),
            "fact_contents" => Some(Self::FactContents),
            "reports" => Some(Self::Reports),
            "catalogs" => Some(Self::Catalogs),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Inventory => "inventory",
            Self::Facts => "facts",
            Self::FactContents => "fact_contents",
            Self::Reports => "reports",
            Self::Catalogs => "catalogs",
        }
    }

    /// The fields that queries may name, beside `node_state`.
    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Nodes => &[
                "cached_catalog_status",
                "catalog_environment",
                "catalog_timestamp",
                "certname",
                "deactivated",
                "expired",
                "facts_environment",
                "facts_timestamp",
                "latest_report_corrective_change",
                "latest_report_hash",
                "latest_report_job_id",
                "latest_report_noop",
                "latest_report_noop_pending",
                "latest_report_status",
                "report_environment",
                "report_timestamp",
            ],
            Self::Inventory => &["certname", "environment", "facts", "timestamp", "trusted"],
            Self::Facts => &["certname", "environment", "name", "value"],
            Self::FactContents => &["certname", "environment", "name", "path", "value"],
            Self::Reports => &[
                "cached_catalog_status",
                "catalog_uuid",
                "certname",
                "end_time",
                "environment",
                "hash",
                "job_id",
                "latest_report?",
                "metrics",
                "noop",
                "producer_timestamp",
                "receive_time",
                "start_time",
                "status",
                "type",
            ],
            Self::Catalogs => &["catalog_uuid", "certname", "environment", "producer_timestamp"],
        }
    }

    /// The fields as PuppetDB lists them in its errors.
    pub(super) fn listed_fields(self) -> String {
        let fields: Vec<String> = self.fields().iter().map(|field| format!("'{field}'")).collect();
        match &fields[..] {
            [others @ .., last] if !others.is_empty() => format!("{}, and {last}", others.join(", ")),
            few => few.join(""),
        }
    }

    /// Whether `<` and the like are allowed on a field: times, and the values of facts.
    pub(super) fn is_ordered(field: &str) -> bool {
        ["deactivated", "expired", "timestamp", "value"].contains(&field)
            || field.ends_with("_timestamp")
            || field.ends_with("_time")
    }

    /// Whether a path may go into this field with dots.
    pub(super) fn is_dotted(self, field: &str) -> bool {
        self == Self::Inventory && ["facts", "trusted"].contains(&field)
    }

    /// The rows of the nodes that `wanted` names; `None`: of every node.
    pub(super) fn rows<'s>(self, store: &'s Store, wanted: Option<&BTreeSet<&str>>, active_only: bool) -> Vec<Row<'s>> {
        let nodes = store.nodes.iter().filter(|(certname, record)| {
            let is_wanted = wanted.is_none_or(|wanted| wanted.contains(certname.as_str()));
            is_wanted && (record.deactivated.is_none() || !active_only)
        });
        let rows = nodes.flat_map(|(certname, record)| {
            let sources = match self {
                Self::Nodes => made(vec![record.node(certname)]),
                Self::Inventory => made(inventory(certname, record)),
                Self::Facts => made(facts(certname, record)),
                Self::FactContents => made(fact_contents(certname, record)),
                Self::Reports => reports(certname, record),
                Self::Catalogs => made(catalogs(certname, record)),
            };
            let active = record.deactivated.is_none();
            sources.into_iter().map(move |source| Row { source, active })
        });
        rows.collect()
    }
}

fn made<'s>(rows: Vec<Value>) -> Vec<Source<'s>> {
    let fields = |value| if let Value::Object(fields) = value { Some(Source::Fields(fields)) } else { None };
    rows.into_iter().filter_map(fields).collect()
}

/// A node has a row once it has sent facts.
fn inventory(certname: &str, record: &Record) -> Vec<Value> {
    let row = record.facts_at.map(|at| {
        json!({
            "certname": certname,
            "timestamp": millis(at.received),
            "environment": "production",
            "facts": record.facts,
            "trusted": record.facts.get("trusted").unwrap_or(&Value::Null),
        })
    });
    row.into_iter().collect()
}

fn facts(certname: &str, record: &Record) -> Vec<Value> {
    let row = |(name, value): (&String, &Value)| json!({"certname": certname, "environment": "production", "name": name, "value": value});
    record.facts.iter().map(row).collect()
}

/// One row for each value that is no structure itself, with the path to it.
fn fact_contents(certname: &str, record: &Record) -> Vec<Value> {
    fn leaves(path: &[Value], value: &Value, found: &mut Vec<(Vec<Value>, Value)>) {
        let below = |key: Value| [path, &[key]].concat();
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| leaves(&below(key.as_str().into()), value, found));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| leaves(&below(index.into()), value, found));
            }
            leaf => found.push((path.to_vec(), leaf.clone())),
        }
    }
    let mut found = Vec::new();
    for (name, value) in &record.facts {
        leaves(&[name.as_str().into()], value, &mut found);
    }
    let row = |(path, value): (Vec<Value>, Value)| json!({"certname": certname, "environment": "production", "name": path[0], "path": path, "value": value});
    found.into_iter().map(row).collect()
}

/// A node has a row once a catalog was compiled for it. The contents of the catalog are not simulated.
fn catalogs(certname: &str, record: &Record) -> Vec<Value> {
    let row = record.catalog.map(|at| {
        json!({
            "certname": certname,
            "catalog_uuid": record.catalog_uuid,
            "environment": "production",
            "producer_timestamp": millis(at.produced),
        })
    });
    row.into_iter().collect()
}

/// The metrics as they were sent. If none were sent, three times: the agent waited, got its catalog at once, and applied it for the rest of
/// the run.
fn metrics(report: &Report) -> Value {
    let href = format!("/pdb/query/v4/reports/{}/metrics", report.hash);
    if let Some(sent) = &report.metrics {
        return json!({"data": sent, "href": href});
    }
    let waited = report.waited.as_secs_f64();
    let applying = report.ended.duration_since(report.started).as_secs_f64() - waited;
    let time = |name: &str, seconds: f64| json!({"category": "time", "name": name, "value": seconds});
    json!({
        "data": [time("startup_time", waited), time("config_retrieval", 0.0), time("catalog_application", applying)],
        "href": href,
    })
}

fn reports<'s>(certname: &'s str, record: &'s Record) -> Vec<Source<'s>> {
    let latest = record.reports.iter().map(|report| report.produced).max();
    let source = |report| Source::Report { certname, report, is_latest: Some(report.produced) == latest };
    record.reports.iter().map(source).collect()
}

/// A field of a report.
fn of_report(certname: &str, report: &Report, is_latest: bool, field: &str) -> Option<Value> {
    Some(match field {
        "certname" => certname.into(),
        "hash" => report.hash.as_str().into(),
        "status" => report.status.as_str().into(),
        "environment" => "production".into(),
        "job_id" => report.job_id.as_deref().into(),
        "noop" => report.noop.into(),
        "cached_catalog_status" => report.cached.as_str().into(),
        "catalog_uuid" => report.catalog_uuid.as_deref().into(),
        "metrics" => metrics(report),
        "type" => "agent".into(),
        "start_time" => millis(report.started).into(),
        "end_time" => millis(report.ended).into(),
        "producer_timestamp" => millis(report.produced).into(),
        "receive_time" => millis(report.received).into(),
        "latest_report?" => is_latest.into(),
        _ => return None,
    })
}
