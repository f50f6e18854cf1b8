//! What hosts of Puppet Enterprise admit a compiler to, and how they learn of it: when they run Puppet, from the stored catalogs of active
//! nodes. Modelled on the public releases of Puppet's module `puppet_enterprise`. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Puppet;
use crate::options::QueueDelay;
use crate::puppetdb::store::Command;
use crate::site::Site;

const DATABASE: &str = "puppet_enterprise::profile::database";
const PUPPETDB: &str = "puppet_enterprise::profile::puppetdb";
const MASTER: &str = "puppet_enterprise::profile::master";

/// The classes of a catalog that hosts look for in the catalogs of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    /// `profile::database`: the node is a PostgreSQL host.
    database: bool,
    /// `profile::puppetdb`: the node runs PuppetDB, whose database is on this host.
    puppetdb: Option<String>,
    /// `profile::master`: the node compiles catalogs.
    master: bool,
}

/// What a compiler is admitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// The database of its PuppetDB: a line in `pg_ident.conf` of the PostgreSQL host.
    Database,
    /// The primary's code.
    FileSync,
    /// The orchestrator, as a broker.
    Broker,
    /// The CA's `infra_inventory.txt`: its serial number will be in the infrastructure CRL when it is revoked.
    Inventory,
    /// PuppetDB of the primary. Lines are only added.
    PuppetdbAllowlist,
    /// The API of RBAC, classifier and orchestrator, with every permission. Lines are only added.
    RbacAllowlist,
}

/// What the hosts have admitted, as their last Puppet runs left it.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    /// By PostgreSQL host.
    pg_ident: BTreeMap<String, BTreeSet<String>>,
    /// At the primary: file sync, brokers and inventory.
    masters: BTreeSet<String>,
    /// The lines that the primary's runs have added.
    allowlists: BTreeSet<String>,
}

/// A Puppet run that has its catalog.
pub struct BegunRun {
    certname: String,
    /// By the node's clock.
    started: Timestamp,
    /// How long the agent then waited before the run's work began.
    waited: SignedDuration,
    catalog: String,
    /// What it applies at its end, on a host that admits compilers.
    learns: Option<Learns>,
}

/// What PuppetDB said when the catalog of a host was compiled.
struct Learns {
    host: Classes,
    is_primary: bool,
    with_puppetdb: BTreeSet<String>,
    masters: BTreeSet<String>,
}

impl BegunRun {
    /// The agent had waited so long for its certificate: it dates the run from before that.
    #[must_use]
    pub fn after_waiting(self, waited: SignedDuration) -> Self {
        Self { started: self.started - waited, waited, ..self }
    }
}

impl Site {
    /// The classes that the node groups give a node with these facts.
    fn classes(&self, certname: &str, facts: &Map<String, Value>) -> Classes {
        let primary = self.options().primary.unwrap_or_default();
        let facts = json!({"trusted": facts.get("trusted").cloned().unwrap_or_else(|| json!({})), "fact": facts});
        let groups = self.node_groups();
        let mut classes = Classes::default();
        // Parents come first, so what a group says replaces what those above it say.
        for (class, parameters) in groups.of_node(certname, &facts).into_iter().flat_map(|group| &group.classes) {
            match class.as_str() {
                DATABASE => classes.database = true,
                MASTER => classes.master = true,
                PUPPETDB => {
                    let host = parameters["database_host"].as_str().map(str::to_owned);
                    classes.puppetdb = host.or(classes.puppetdb).or_else(|| Some(primary.clone()));
                }
                _ => {}
            }
        }
        classes
    }

    /// The facts that PuppetDB has of a node.
    fn facts_of(&self, certname: &str) -> Map<String, Value> {
        self.puppetdb().nodes.get(certname).map(|record| record.facts.clone()).unwrap_or_default()
    }

    /// How long the commands of Puppet runs wait in PuppetDB's queue.
    fn queue_of_runs(&self) -> QueueDelay {
        // Reads are counted for the commands of tests: runs do not wait for anybody to read.
        Some(self.options().puppetdb_queue).filter(|delay| matches!(delay, QueueDelay::Ms(_))).unwrap_or_default()
    }

    /// A run has sent its facts, and its catalog is compiled at `compiled` and sent to PuppetDB now.
    pub(crate) fn begin_run(
        &self,
        certname: &str,
        facts: Option<Map<String, Value>>,
        started: Timestamp,
        compiled: Timestamp,
    ) -> BegunRun {
        let (now, queue) = (self.puppetdb_time(), self.queue_of_runs());
        let primary = self.options().primary;
        let known = || facts.clone().unwrap_or_else(|| self.facts_of(certname));
        let classes = primary.as_ref().map(|_| self.classes(certname, &known())).unwrap_or_default();
        if let Some(facts) = facts {
            self.puppetdb().submit(certname, Command::Facts { produced: compiled, facts }, queue, now);
        }
        let is_primary = primary.as_deref() == Some(certname);
        let catalog = uuid::Uuid::new_v4().to_string();
        let mut store = self.puppetdb();
        store.settle(now);
        let learns = (is_primary || classes.database).then(|| {
            let of = |wanted: fn(&Classes) -> bool| {
                let active = store.nodes.iter().filter(|(_, record)| record.deactivated.is_none());
                // The primary itself is in these files from its installation on.
                let others = active.filter(|(name, _)| primary.as_ref() != Some(*name));
                others.filter(|(_, record)| wanted(&record.classes)).map(|(name, _)| name.clone()).collect()
            };
            let (with_puppetdb, masters) = (of(|classes| classes.puppetdb.is_some()), of(|classes| classes.master));
            Learns { host: classes.clone(), is_primary, with_puppetdb, masters }
        });
        let uuid = Some(catalog.clone());
        store.submit(certname, Command::Catalog { produced: compiled, uuid, classes }, queue, now);
        BegunRun { certname: certname.to_owned(), started, waited: SignedDuration::ZERO, catalog, learns }
    }

    /// The run has applied its catalog, or what it could of it, and reports: the hash of its report. `ended` is now by the node's clock.
    pub(crate) fn end_run(
        self: &Arc<Self>,
        run: BegunRun,
        status: &str,
        job: Option<&str>,
        ended: Timestamp,
    ) -> String {
        let BegunRun { certname, started, waited, catalog, learns } = run;
        if let Some(learns) = learns {
            self.admit(&certname, learns);
        }
        let (now, queue) = (self.clock.now(), self.queue_of_runs());
        let stored = self.puppetdb_time();
        let is_lost = self.keeps_agents_out();
        let mut store = self.puppetdb();
        let mut report = store.new_report(status, started, ended, now);
        report.job_id = job.map(str::to_owned);
        report.catalog_uuid = Some(catalog);
        report.waited = waited;
        let hash = report.hash.clone();
        if !is_lost {
            store.submit(&certname, Command::Report(report), queue, stored);
        }
        hash
    }

    /// Whether agents need the primary's services, which are restarting.
    pub(crate) fn keeps_agents_out(&self) -> bool {
        self.options().agents_need_services && self.services() != Services::Running
    }

    /// A host rebuilds its files, as its catalog says.
    fn admit(self: &Arc<Self>, host: &str, learns: Learns) {
        let Learns { host: classes, is_primary, with_puppetdb, masters } = learns;
        let (mut admissions, mut options) = (self.admissions(), self.options_mut());
        let mut changed = false;
        if classes.database {
            let ident = admissions.pg_ident.entry(host.to_owned()).or_default();
            changed |= *ident != with_puppetdb;
            ident.clone_from(&with_puppetdb);
        }
        if is_primary {
            let lines: BTreeSet<String> = with_puppetdb.union(&masters).cloned().collect();
            changed |= admissions.masters != masters || !lines.is_subset(&admissions.allowlists);
            options.infra_nodes.retain(|name| !admissions.masters.contains(name));
            options.infra_nodes.extend(masters.iter().cloned());
            for line in lines.difference(&admissions.allowlists) {
                options.rbac_certificate_allowlist.push(line.clone());
                options.puppetdb_allowlist.get_or_insert_default().push(line.clone());
            }
            admissions.masters = masters;
            admissions.allowlists.extend(lines);
        }
        let pause = Duration::from_millis(options.services_restart_ms);
        drop((admissions, options));
        self.has_changed();
        if changed && is_primary && !pause.is_zero() {
            self.restart_services(pause);
        }
    }

    /// The services of the primary refuse connections for half of this time, and answer 503 for the other half.
    fn restart_services(self: &Arc<Self>, pause: Duration) {
        self.file_sync().restart();
        let site = Arc::clone(self);
        self.set_services(Services::Refusing);
        tokio::spawn(async move {
            for next in [Services::Starting, Services::Running] {
                tokio::time::sleep(pause / 2).await;
                site.set_services(next);
            }
        });
    }

    /// A node that had run Puppet before the scene began is known to every host.
    pub(crate) fn has_been_admitted(&self, certname: &str) {
        let classes = self.classes(certname, &self.facts_of(certname));
        let is_primary = self.options().primary.as_deref() == Some(certname);
        let mut admissions = self.admissions();
        if let Some(host) = &classes.puppetdb {
            admissions.pg_ident.entry(host.clone()).or_default().insert(certname.to_owned());
        }
        if classes.master && !is_primary {
            admissions.masters.insert(certname.to_owned());
            self.options_mut().infra_nodes.push(certname.to_owned());
        }
        drop(admissions);
        if let Some(record) = self.puppetdb().nodes.get_mut(certname) {
            record.classes = classes;
        }
    }

    /// Takes back what runs have written into the options.
    pub(crate) fn forget_admissions(&self) {
        let old = std::mem::take(&mut *self.admissions());
        let mut options = self.options_mut();
        options.infra_nodes.retain(|name| !old.masters.contains(name));
        options.rbac_certificate_allowlist.retain(|name| !old.allowlists.contains(name));
        if let Some(lines) = &mut options.puppetdb_allowlist {
            lines.retain(|name| !old.allowlists.contains(name));
        }
        drop(options);
        self.set_services(Services::Running);
    }

    /// Whether a node's PuppetDB, if its newest catalog has one, may connect to its database.
    fn has_its_database(&self, certname: &str) -> bool {
        let host = self.puppetdb().nodes.get(certname).and_then(|record| record.classes.puppetdb.clone());
        let admissions = self.admissions();
        host.is_none_or(|host| admissions.pg_ident.get(&host).is_some_and(|ident| ident.contains(certname)))
    }

    /// A run of this node starts its PuppetDB, which connects to its database again and again. `false`: the run gave up.
    pub(crate) async fn starts_puppetdb(&self, certname: &str) -> bool {
        let limit = Duration::from_millis(self.options().puppetdb_start_limit_ms);
        let mut changes = self.changes();
        let admitted = async {
            loop {
                changes.mark_unchanged();
                // An error would mean that the site is gone, which this borrows.
                if self.has_its_database(certname) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, admitted).await.is_ok()
    }
}

/// The state of the primary's services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Services {
    #[default]
    Running,
    /// Connections are refused.
    Refusing,
    /// Every call is answered 503.
    Starting,
}

impl Puppet {
    /// What a compiler is admitted to now.
    #[must_use]
    pub fn rights_of(&self, certname: &str) -> BTreeSet<Right> {
        let admissions = self.site.admissions();
        let in_ident = admissions.pg_ident.values().any(|ident| ident.contains(certname));
        let is_master = admissions.masters.contains(certname);
        let has_lines = admissions.allowlists.contains(certname);
        [
            (Right::Database, in_ident),
            (Right::FileSync, is_master),
            (Right::Broker, is_master),
            (Right::Inventory, is_master),
            (Right::PuppetdbAllowlist, has_lines),
            (Right::RbacAllowlist, has_lines),
        ]
        .into_iter()
        .filter_map(|(right, has)| has.then_some(right))
        .collect()
    }

    /// Whether the primary admits this compiler to file sync and as a broker. Always true if the option `primary` is not set.
    #[must_use]
    pub fn admits(&self, certname: &str) -> bool {
        self.options().primary.is_none() || self.site.admissions().masters.contains(certname)
    }

    /// A run of this node starts its PuppetDB, if its catalog has one. `false`: it could not connect to its database in time.
    pub async fn starts_puppetdb(&self, certname: &str) -> bool {
        self.site.starts_puppetdb(certname).await
    }
}
