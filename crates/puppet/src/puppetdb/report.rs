//! A Puppet run as PuppetDB remembers it, as a value. No I/O.

use jiff::Timestamp;
use serde::Deserialize;
use stagedoor_types::Certname;

use crate::rows::Row;

/// A report, as the entity `reports` shows it.
/// See [Reports endpoint](https://www.puppet.com/docs/puppetdb/8/api/query/v4/reports.html).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// The node that ran Puppet.
    pub certname: Certname,
    /// When the run began, by the node's own clock.
    pub start_time: Timestamp,
    /// When the run ended, by the node's own clock.
    pub end_time: Timestamp,
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
}

impl Row for Report {}
