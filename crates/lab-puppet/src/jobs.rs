//! Puppet Enterprise from backstage: how runs go, what was ordered, which node groups there are. No I/O.

use serde_json::Value;

use crate::enterprise::NodeGroup;
use crate::{Puppet, RunScript};

impl Puppet {
    /// From now on the Puppet runs of this node's jobs go like this; a run that hangs ends like this.
    pub fn script(&self, certname: &str, script: RunScript) {
        self.site.orchestrator().scripts.insert(certname.to_owned(), script);
        self.site.has_changed();
    }

    /// This node's PXP agent connects; it reports `changed`. The primary, `puppet`, is connected from the start.
    pub fn connect(&self, certname: &str) {
        let now = self.site.clock.now();
        self.site.orchestrator().connect(certname, now);
        self.site.has_changed();
    }

    /// This node's PXP agent loses its connection.
    pub fn disconnect(&self, certname: &str) {
        self.site.orchestrator().connected.remove(certname);
        self.site.has_changed();
    }

    /// How often a run was ordered on this node since the scene was set; lost jobs count too.
    #[must_use]
    pub fn times_ordered(&self, certname: &str) -> usize {
        self.site.orchestrator().times_ordered(certname)
    }

    /// How many of the orchestrator's jobs have a run on this node that has not ended, whatever the jobs show.
    #[must_use]
    pub fn jobs_under_way(&self, certname: &str) -> usize {
        let orchestrator = self.site.orchestrator();
        let nodes = orchestrator.jobs.values().flat_map(|job| &job.nodes);
        nodes.filter(|node| node.name == certname && !node.has_ended()).count()
    }

    /// The orchestrator's jobs, oldest first, as `GET jobs` shows them.
    #[must_use]
    pub fn jobs(&self) -> Vec<Value> {
        self.site.orchestrator().jobs.values().map(crate::enterprise::orchestrator::Job::json).collect()
    }

    /// Waits until no job is under way, and gives all of them.
    pub async fn jobs_over(&self) -> Vec<Value> {
        self.jobs_when(|jobs| jobs.iter().all(|job| ["finished", "failed"].map(Value::from).contains(&job["state"])))
            .await
    }

    /// Waits until the jobs are as wanted, and gives them: `|jobs| jobs.iter().any(|job| job["state"] == "running")`.
    pub async fn jobs_when(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut changes = self.site.changes();
        loop {
            changes.mark_unchanged();
            let jobs = self.jobs();
            // An error would mean that the site is gone, which this borrows.
            if wanted(&jobs) || changes.changed().await.is_err() {
                return jobs;
            }
        }
    }

    /// Whether the orchestrator is away, after a run that restarted it.
    #[must_use]
    pub fn orchestrator_is_down(&self) -> bool {
        self.site.orchestrator().is_down
    }

    /// Waits until the orchestrator answers again.
    pub async fn orchestrator_is_back(&self) {
        let mut changes = self.site.changes();
        loop {
            changes.mark_unchanged();
            if !self.orchestrator_is_down() || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Adds a node group, or replaces the one of its name.
    ///
    /// # Errors
    /// Its parent is not there.
    pub fn put_node_group(&self, group: &NodeGroup) -> anyhow::Result<()> {
        self.site.node_groups().put(group)
    }

    /// The node groups, as `GET groups` shows them.
    #[must_use]
    pub fn node_groups(&self) -> Vec<Value> {
        self.site.node_groups().all().map(crate::enterprise::classifier::Group::json).collect()
    }

    /// Whether a node is pinned to the group of this name.
    #[must_use]
    pub fn is_pinned(&self, group: &str, certname: &str) -> bool {
        self.site.node_groups().all().any(|one| one.name == group && one.pins(certname))
    }
}
