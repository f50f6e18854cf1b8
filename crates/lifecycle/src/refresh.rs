//! Which nodes must run Puppet after a change, and have they? Pure.
//!
//! Other nodes learn of a node from its stored catalog. The change that they must learn of is fixed (`change`). A refresh target has
//! learnt of it when a catalog of its own was compiled after that time and applied, whatever started the run (`target`). The targets
//! of a launch run in waves (`waves`), and orders are repeated by a schedule that needs no state (`schedule`). The targets of a
//! termination run all together, and usually nothing waits for them (`removal`).
//!
//! What is read are the reports and catalogs of PuppetDB and the jobs of the orchestrator. Nothing else is stored, so any number of
//! invocations agree about it.

mod change;
mod removal;
mod schedule;
mod target;
mod waves;

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{Certname, Lookup};

use crate::deadline;

pub(crate) use change::change;
pub use removal::searched_from;
pub(crate) use removal::{AfterRemoval, after_removal, at_next_run};
pub use removal::{Overdue, overdue};
pub(crate) use waves::{Refreshing, Standing};

/// A run of Puppet that is over, as its report describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunView {
    /// When it began, by the node's clock.
    pub start: Timestamp,
    /// When it ended, by the node's clock.
    pub end: Timestamp,
    /// `changed`, `unchanged` or `failed`.
    pub status: String,
    /// Whether it was a noop run, which changes nothing.
    pub noop: bool,
    /// Whether it applied a cached catalog, not one that was compiled for it.
    pub cached: bool,
    /// The id of its catalog (`catalog_uuid`). It has none if none could be compiled.
    pub catalog: Option<String>,
    /// How long it waited for its catalog: the metric `config_retrieval`.
    pub retrieving: Option<Duration>,
    /// How long it applied its catalog: the metric `catalog_application`.
    pub applying: Option<Duration>,
    /// The orchestrator's job that it was ordered with.
    pub job: Option<String>,
}

impl RunView {
    /// Whether it was successful.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self.status.as_str(), "changed" | "unchanged") && !self.noop && !self.cached
    }

    /// Whether it had a catalog that was compiled for it, however it ended.
    #[must_use]
    pub fn has_own_catalog(&self) -> bool {
        self.catalog.is_some() && !self.cached
    }

    /// Whether it applied a catalog that was compiled for it, also if some resource failed.
    pub(crate) fn has_applied(&self) -> bool {
        self.is_good() || self.has_own_catalog() && !self.noop
    }
}

/// The catalog of a node that PuppetDB has stored: it keeps the newest alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogView {
    /// Its id (`catalog_uuid`), which the report of the run that applied it has too.
    pub id: Option<String>,
    /// When the Puppet Server that compiled it sent it to PuppetDB, by that server's clock (`producer_timestamp`).
    pub produced: Timestamp,
}

/// An order to run Puppet on one node, as the orchestrator remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its job.
    pub job: String,
    /// When it was given or, once it has, when it began.
    pub began: Option<Timestamp>,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
}

impl Order {
    /// Whether it is still in progress. One that has been for longer than `lost` is lost: it never ends, because the orchestrator's own
    /// services were restarted, for example.
    pub(crate) fn is_open(&self, lost: Duration, now: Timestamp) -> bool {
        self.ended.is_none() && self.began.is_none_or(|began| now < deadline::after(began, lost))
    }

    /// Whether it has ended, and so lately that its report may not be there yet.
    pub(crate) fn is_settling(&self, now: Timestamp) -> bool {
        self.ended.is_some_and(|ended| now < deadline::after(ended, SETTLING))
    }

    /// The number of its job.
    fn number(&self) -> u64 {
        self.job.parse().unwrap_or(0)
    }
}

/// The newest of these orders, by number: two may have begun in the same moment.
pub(crate) fn newest(orders: &[Order]) -> Option<&Order> {
    orders.iter().max_by_key(|order| order.number())
}

/// What is known of a node that is to run Puppet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// Its name.
    pub certname: Certname,
    /// Whether the orchestrator says that it is not connected, so that an order could not reach it.
    pub disconnected: bool,
    /// Its runs, in any order: all of which PuppetDB has heard since an hour before the change.
    pub runs: Lookup<Vec<RunView>>,
    /// Its stored catalog, where that could be read.
    pub catalog: Option<CatalogView>,
    /// Orders for it, old and new. `None` where there is no orchestrator.
    pub orders: Option<Lookup<Vec<Order>>>,
}

/// What is known of the Puppet runs of a launching node, from which follows what refresh targets must learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Its runs, in any order: all of which PuppetDB has heard since shortly before the launch.
    pub runs: Lookup<Vec<RunView>>,
    /// Its stored catalog.
    pub catalog: Lookup<CatalogView>,
}

/// After the end of an order, its report may still be on its way into PuppetDB.
pub(crate) const SETTLING: Duration = Duration::from_secs(60);

/// An order for a node that has been in progress for so long is not waited for any more. An agent waits up to ten minutes for another
/// run to end before it begins; see [`pxp-agent`](https://github.com/puppetlabs/pxp-agent). The run of a refresh target may take longer:
/// its order is lost no sooner than the timeout of the refresh expires.
pub(crate) const LOST: Duration = Duration::from_secs(20 * 60);

/// How far before a time PuppetDB is searched for runs from that time on: clocks differ, and a run that was in progress then may belong
/// to an order from before.
pub(crate) const MARGIN: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
