//! A Puppet run and a catalog as PuppetDB remembers them, as values. No I/O.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use stagedoor_types::Certname;

use crate::rows::Row;

/// A report, as the entity `reports` shows it.
/// See [Reports endpoint](https://www.puppet.com/docs/puppetdb/8/api/query/v4/reports.html).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// The node that ran Puppet.
    pub certname: Certname,
    /// When the run began, by the node's own clock. What the agent then waits for before its work is the metric `startup_time`.
    pub start_time: Timestamp,
    /// When the run ended, by the node's own clock.
    pub end_time: Timestamp,
    /// When a Puppet Server received the report, by that server's clock.
    pub producer_timestamp: Timestamp,
    /// When PuppetDB stored the report, by PuppetDB's clock.
    pub receive_time: Timestamp,
    /// `changed`, `unchanged` or `failed`. Old agents may omit it.
    #[serde(default)]
    pub status: Option<String>,
    /// The orchestrator job that ran it: the [`JobId`](crate::JobId)'s text.
    #[serde(default)]
    pub job_id: Option<String>,
    /// Whether the run changed nothing by order.
    #[serde(default)]
    pub noop: Option<bool>,
    /// `not_used`; or why the catalog was one from before: `on_failure` (the new one could not be compiled) or
    /// `explicitly_requested`. See [PuppetDB's reports](https://www.puppet.com/docs/puppetdb/7/api/query/v4/reports).
    #[serde(default)]
    pub cached_catalog_status: Option<String>,
    /// The catalog of the run; none if none could be compiled.
    #[serde(default)]
    pub catalog_uuid: Option<String>,
    /// How long its parts took.
    #[serde(default)]
    pub metrics: RunTimes,
}

impl Row for Report {}

/// How long the parts of a run took, of the metrics of the category `time`.
///
/// Agents name these metrics; one that a version does not have, or that is no number of seconds, is none.
/// See [report format](https://help.puppet.com/core/current/Content/PuppetCore/format_report.htm).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// `startup_time`: from `start_time` until the run's work began. An agent that waits for its certificate (`waitforcert`) or for
    /// another run to end (`waitforlock`) does so in this time. Agents without this metric date a run from the beginning of its work.
    pub startup_time: Option<Duration>,
    /// `plugin_sync` and `fact_generation`: what the run did before it asked for its catalog.
    pub preparation: Option<Duration>,
    /// `config_retrieval`: from the request for a catalog until it was there, its compilation included.
    pub config_retrieval: Option<Duration>,
    /// `catalog_application`: applying the catalog.
    pub catalog_application: Option<Duration>,
}

impl<'de> Deserialize<'de> for RunTimes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(&Value::deserialize(deserializer)?))
    }
}

impl RunTimes {
    /// PuppetDB gives the metrics as `{"data": […], "href": …}`.
    fn of(metrics: &Value) -> Self {
        let metrics = metrics.get("data").unwrap_or(metrics).as_array().map_or(&[][..], Vec::as_slice);
        let time = |name: &str| {
            let is_it = |metric: &&Value| metric["category"] == "time" && metric["name"] == name;
            let seconds = metrics.iter().find(is_it)?.get("value")?.as_f64()?;
            Duration::try_from_secs_f64(seconds).ok()
        };
        Self {
            startup_time: time("startup_time"),
            preparation: match (time("plugin_sync"), time("fact_generation")) {
                (None, None) => None,
                (plugins, facts) => plugins.unwrap_or_default().checked_add(facts.unwrap_or_default()),
            },
            config_retrieval: time("config_retrieval"),
            catalog_application: time("catalog_application"),
        }
    }
}

/// The newest catalog of a node, as the entity `catalogs` shows it.
/// See [Catalogs endpoint](https://www.puppet.com/docs/puppetdb/8/api/query/v4/catalogs.html).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StoredCatalog {
    /// The node that it is for.
    pub certname: Certname,
    /// Its id, which the report of the run that applied it has too. Old agents may omit it.
    #[serde(default)]
    pub catalog_uuid: Option<String>,
    /// When the Puppet Server that compiled it sent it to PuppetDB, by that server's clock.
    pub producer_timestamp: Timestamp,
}

impl Row for StoredCatalog {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_times_of_a_run_are_found_in_either_form_and_nothing_else_is_an_error() {
        let metrics = json!([
            {"category": "resources", "name": "config_retrieval", "value": 99},
            {"category": "time", "name": "startup_time", "value": 0.5},
            {"category": "time", "name": "plugin_sync", "value": 1.5},
            {"category": "time", "name": "fact_generation", "value": 2},
            {"category": "time", "name": "config_retrieval", "value": 7.25},
            {"category": "time", "name": "catalog_application", "value": 60},
        ]);
        let times = RunTimes {
            startup_time: Some(Duration::from_millis(500)),
            preparation: Some(Duration::from_millis(3500)),
            config_retrieval: Some(Duration::from_millis(7250)),
            catalog_application: Some(Duration::from_secs(60)),
        };
        assert_eq!(RunTimes::of(&json!({"data": metrics, "href": "/pdb/query/v4/reports/1/metrics"})), times);
        assert_eq!(RunTimes::of(&metrics), times);
        for other in [json!(null), json!({"href": "x"}), json!({"data": null}), json!([7]), json!("x")] {
            assert_eq!(RunTimes::of(&other), RunTimes::default(), "{other}");
        }
        for value in [json!(-1), json!("7"), json!(1e300), json!(null)] {
            let one = json!([{"category": "time", "name": "catalog_application", "value": value}]);
            assert_eq!(RunTimes::of(&one), RunTimes::default(), "{value}");
        }
    }
}
