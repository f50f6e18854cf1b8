//! Jobs on their way: each is a task that goes through its states in a little real time. No network I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::job::{End, Job};
use super::state::{Connected, RunScript};
use crate::site::Site;

/// How long a job is `new`, and how long `ready`.
const STEP: Duration = Duration::from_millis(3);

/// Starts the job's task.
pub(super) fn start(site: &Arc<Site>, id: u64, generation: u64) {
    let site = Arc::clone(site);
    tokio::spawn(async move {
        for state in ["ready", "running"] {
            tokio::time::sleep(STEP).await;
            on_job(&site, id, |job, now| job.enter(state, now));
        }
        let names: Vec<String> = match site.orchestrator().jobs.get(&id) {
            Some(job) => job.nodes.iter().map(|node| node.name.clone()).collect(),
            None => return,
        };
        let mut runs = JoinSet::new();
        for name in names {
            runs.spawn(run(Arc::clone(&site), id, name, generation));
        }
        while runs.join_next().await.is_some() {}
    });
}

/// Changes a job, if it is still there.
fn on_job(site: &Site, id: u64, change: impl FnOnce(&mut Job, Timestamp)) {
    let now = site.clock.now();
    if let Some(job) = site.orchestrator().jobs.get_mut(&id) {
        change(job, now);
    }
    site.has_changed();
}

/// A node's part of a job.
async fn run(site: Arc<Site>, id: u64, name: String, generation: u64) {
    let Some(connected) = site.orchestrator().connection(&name) else {
        let reason = format!("{name} is not connected to the PCP broker");
        return on_job(&site, id, |job, now| job.end(&name, &End::NotRun(&reason, "not_connected"), now));
    };
    on_job(&site, id, |job, now| job.begin(&name, now));
    let lock = site.orchestrator().lock_of(&name);
    // pxp-agent waits for a run that holds the lock.
    let _turn = lock.lock().await;
    let started = site.clock.now();
    let script = script_that_ends(&site, &name).await;
    let runs = matches!(script, RunScript::Ok | RunScript::Failed | RunScript::Untold | RunScript::Restart { .. });
    let begun = (runs && !site.ca().has_revoked(&name) && !site.keeps_agents_out())
        .then(|| site.begin_run(&name, connected.facts.clone(), started, site.clock.now()));
    let has_puppetdb = begun.is_none() || site.starts_puppetdb(&name).await;
    tokio::time::sleep(Duration::from_millis(site.options().run_ms)).await;
    if site.orchestrator().generation != generation {
        return;
    }
    let is_same = |now: Connected| now.since == connected.since;
    let still_connected = site.orchestrator().connection(&name).is_some_and(is_same);
    let not_run = match script {
        // The run ends with the node, or with its disk.
        RunScript::Ok | RunScript::Failed | RunScript::Untold if !still_connected => {
            Some(("the connection to the PCP broker was lost", "connection_lost"))
        }
        RunScript::Locked => Some(("Puppet agent run is already in progress", "agent_locked")),
        RunScript::Disabled => Some(("Puppet agent is disabled", "agent_disabled")),
        RunScript::Disconnected => Some(("the connection to the PCP broker was lost", "connection_lost")),
        _ if site.ca().has_revoked(&name) => Some(("Puppet agent exited with a non 0 code", "agent_exit_non_zero")),
        _ => None,
    };
    let (None, Some(begun)) = (not_run, begun) else {
        let (reason, kind) = not_run.unwrap_or(("Puppet agent exited with a non 0 code", "agent_exit_non_zero"));
        return on_job(&site, id, |job, now| job.end(&name, &End::NotRun(reason, kind), now));
    };
    let status = if script == RunScript::Failed || !has_puppetdb { "failed" } else { connected.status.as_str() };
    let hash = site.end_run(begun, status, Some(&id.to_string()), site.clock.now());
    if let Some(ran) = &connected.ran {
        ran(status);
    }
    if let RunScript::Restart { down_ms } = script {
        return restart(&site, down_ms, generation);
    }
    if script == RunScript::Untold {
        return on_job(&site, id, |job, _| job.ends_untold(&name));
    }
    on_job(&site, id, |job, now| job.end(&name, &End::Ran { status, hash: &hash }, now));
}

/// The script of a node, as soon as it is not one without end.
async fn script_that_ends(site: &Site, name: &str) -> RunScript {
    let mut changes = site.changes();
    let generation = site.orchestrator().generation;
    loop {
        changes.mark_unchanged();
        {
            let orchestrator = site.orchestrator();
            let script = orchestrator.script(name);
            if script != RunScript::Hang || orchestrator.generation != generation {
                return script;
            }
        }
        // An error would mean that the site is gone, which holds the sender.
        if changes.changed().await.is_err() {
            return RunScript::Ok;
        }
    }
}

/// The orchestrator goes away for a while and forgets the jobs that are not over.
fn restart(site: &Arc<Site>, down_ms: u64, generation: u64) {
    {
        let mut orchestrator = site.orchestrator();
        orchestrator.is_down = true;
        orchestrator.jobs.retain(|_, job| job.is_over());
    }
    site.has_changed();
    let site = Arc::clone(site);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(down_ms)).await;
        let mut orchestrator = site.orchestrator();
        if orchestrator.generation == generation {
            orchestrator.is_down = false;
        }
        drop(orchestrator);
        site.has_changed();
    });
}
