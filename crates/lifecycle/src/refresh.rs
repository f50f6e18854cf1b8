//! Decides which nodes must run Puppet after a change, and whether they have. Pure.
//!
//! Other nodes learn of a node from its stored catalog. The change that they must learn of is fixed (`change`). A refresh target has
//! learnt of it when it has applied a catalog of its own that was compiled after that time, whatever started the run (`target`). The
//! targets of a launch run in waves (`waves`), and orders are repeated on a schedule that needs no state (`schedule`). The targets of
//! a termination all run at the same time, and usually the termination does not wait for them (`removal`).
//!
//! The inputs are the reports and catalogs of PuppetDB and the jobs of the orchestrator. Nothing else is stored, so any number of
//! invocations reach the same result.

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

/// A finished Puppet run, as its report describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunView {
    /// When it began, by the node's clock.
    pub start: Timestamp,
    /// When it ended, by the node's clock.
    pub end: Timestamp,
    /// When a Puppet Server received its report, by that server's clock.
    pub received: Timestamp,
    /// When PuppetDB stored its report, by PuppetDB's clock. It had stored the run's catalog before.
    pub stored: Timestamp,
    /// `changed`, `unchanged` or `failed`.
    pub status: String,
    /// Whether it was a noop run, which changes nothing.
    pub noop: bool,
    /// Whether it applied a cached catalog and not one that was compiled for it.
    pub cached: bool,
    /// The id of its catalog (`catalog_uuid`); `None` if no catalog could be compiled.
    pub catalog: Option<String>,
    /// How long it waited before its work began, for its certificate for example: the metric `startup_time`.
    pub starting: Option<Duration>,
    /// How long it then took until it asked for its catalog: the metrics `plugin_sync` and `fact_generation`.
    pub preparing: Option<Duration>,
    /// How long it waited for its catalog: the metric `config_retrieval`.
    pub retrieving: Option<Duration>,
    /// How long it took to apply its catalog: the metric `catalog_application`.
    pub applying: Option<Duration>,
    /// The orchestrator's job that ordered it.
    pub job: Option<String>,
}

impl RunView {
    /// When its work began by the clock of the Puppet Server that received its report, or a little later: the report was on its way for
    /// some time. Only then does an agent have its certificate: a first run may have begun long before the certificate was issued.
    pub(crate) fn began_by_server(&self) -> Timestamp {
        let took = self.end.duration_since(self.start).unsigned_abs();
        deadline::before(self.received, took.saturating_sub(self.starting.unwrap_or_default()))
    }

    /// Whether it was successful.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self.status.as_str(), "changed" | "unchanged") && !self.noop && !self.cached
    }

    /// Whether it had a catalog that was compiled for it, regardless of its result.
    #[must_use]
    pub fn has_own_catalog(&self) -> bool {
        self.catalog.is_some() && !self.cached
    }

    /// Whether it applied a catalog that was compiled for it, even if some resource failed. A catalog that cannot be applied at all, because
    /// of a dependency cycle for example, has no `catalog_application`.
    pub(crate) fn has_applied(&self) -> bool {
        self.is_good() || self.has_own_catalog() && !self.noop && self.applying.is_some()
    }
}

/// The catalog of a node that PuppetDB has stored. PuppetDB keeps only the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogView {
    /// Its id (`catalog_uuid`), which is also in the report of the run that applied it.
    pub id: Option<String>,
    /// When the Puppet Server that compiled it sent it to PuppetDB, by that server's clock (`producer_timestamp`).
    pub produced: Timestamp,
    /// When PuppetDB stored it, by PuppetDB's clock, if that was asked. Until then it waited in PuppetDB's queue.
    pub stored: Option<Timestamp>,
}

/// An order to run Puppet on one node, as the orchestrator remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its job.
    pub job: String,
    /// When it was given or, once the run has begun, when the run began.
    pub began: Option<Timestamp>,
    /// When it ended; `None` if it has not.
    pub ended: Option<Timestamp>,
}

impl Order {
    /// Whether it is still in progress. An order that has been in progress for longer than `lost` is lost: it never ends, for example
    /// because the orchestrator's own services were restarted.
    pub(crate) fn is_open(&self, lost: Duration, now: Timestamp) -> bool {
        self.ended.is_none() && self.began.is_none_or(|began| now < deadline::after(began, lost))
    }

    /// The number of its job.
    fn number(&self) -> u64 {
        self.job.parse().unwrap_or(0)
    }
}

/// The newest of these orders, by job number, because two may have begun at the same moment.
pub(crate) fn newest(orders: &[Order]) -> Option<&Order> {
    orders.iter().max_by_key(|order| order.number())
}

/// What is known of a node that must run Puppet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// Its name.
    pub certname: Certname,
    /// Whether the orchestrator says that it is not connected, so that no order can reach it.
    pub disconnected: bool,
    /// Its runs, in any order: all that PuppetDB has received since an hour before the change.
    pub runs: Lookup<Vec<RunView>>,
    /// Its stored catalog, if it could be read.
    pub catalog: Option<CatalogView>,
    /// Orders for it, old and new; `None` if there is no orchestrator.
    pub orders: Option<Lookup<Vec<Order>>>,
}

/// What is known of the Puppet runs of a launching node. It determines what refresh targets must learn of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Its runs, in any order: all that PuppetDB has received since shortly before the launch.
    pub runs: Lookup<Vec<RunView>>,
    /// Its stored catalog.
    pub catalog: Lookup<CatalogView>,
}

/// How long after the end of an order its report may still be on its way to PuppetDB.
pub(crate) const SETTLING: Duration = Duration::from_secs(60);

/// How long an order for a node may be in progress before it counts as lost. An agent waits up to ten minutes for another run to end
/// before it begins; see [`pxp-agent`](https://github.com/puppetlabs/pxp-agent). The run of a refresh target may take longer, so its order
/// counts as lost only after half of `timeout.refresh` if that is longer.
pub(crate) const LOST: Duration = Duration::from_secs(20 * 60);

/// How much earlier than a change the search for runs in PuppetDB begins: clocks differ, and a run that was in progress at the change may
/// belong to an earlier order.
pub(crate) const MARGIN: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
