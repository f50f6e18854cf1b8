//! Orders of the orchestrator: one job for all nodes that are to run. An order whose answer was lost is found again by its key.

use std::collections::BTreeSet;

use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_types::{ActionKey, Certname, Service, Trouble, TroubleKind};

use crate::batch::Reports;
use crate::call::call;
use crate::context::{PuppetWriter, Run};

/// One job.
struct Order<'a> {
    /// The nodes that are to run Puppet.
    names: &'a [Certname],
    /// What the job is for, for people who see it in the console.
    description: String,
    /// What distinguishes this job from others.
    event: String,
    /// What the actions wait for that it was ordered for.
    code: Code,
}

/// Has launching nodes run Puppet.
pub(super) async fn run(
    run: Run<'_>,
    writer: &PuppetWriter,
    runs: Vec<(ActionKey, Certname, String)>,
    reports: &mut Reports,
) {
    let Some((_, first, key)) = runs.first() else { return };
    let event = match runs.len() {
        1 => key.clone(),
        count => format!("{key} and {} more", count - 1),
    };
    let names: Vec<Certname> = runs.iter().map(|(_, name, _)| name.clone()).collect();
    let description = format!("Stagedoor: first Puppet run of {first}{}", more(names.len()));
    let keys: Vec<&ActionKey> = runs.iter().map(|(key, ..)| key).collect();
    let order = Order { names: &names, description, event, code: Code::WaitingForRun };
    give(run, writer, &order, &keys, reports).await;
}

/// Has refresh targets run Puppet, to learn of all these changes at once.
pub(super) async fn refresh(
    run: Run<'_>,
    writer: &PuppetWriter,
    refreshes: Vec<(ActionKey, Vec<Certname>)>,
    reports: &mut Reports,
) {
    let targets: BTreeSet<Certname> = refreshes.iter().flat_map(|(_, targets)| targets.clone()).collect();
    let targets: Vec<Certname> = targets.into_iter().collect();
    let (Some((changed, _)), Some(target)) = (refreshes.first(), targets.first()) else { return };
    let description = format!("Stagedoor: {} changed{}", changed.instance, more(refreshes.len()));
    // With the time: an order that was over before it could prove anything must not be found in place of the next.
    let event = format!("refresh {target} at {}", run.now());
    let keys: Vec<&ActionKey> = refreshes.iter().map(|(key, _)| key).collect();
    let order = Order { names: &targets, description, event, code: Code::WaitingForRefresh };
    give(run, writer, &order, &keys, reports).await;
}

async fn give(run: Run<'_>, writer: &PuppetWriter, order: &Order<'_>, keys: &[&ActionKey], reports: &mut Reports) {
    let (Some(orchestrator), Some(first)) = (&writer.orchestrator, order.names.first()) else { return };
    let started = run.now();
    let deploy = orchestrator.deploy_once(order.names, &order.description, &order.event);
    let ordered = call(run.context, run.budget.work, Service::Orchestrator, deploy).await;
    let took = run.context.clock.since(started);
    // The orchestrator may be restarting because Puppet runs on its host: nothing is wrong yet.
    let away = |trouble: &Trouble| matches!(trouble.kind, TroubleKind::Unreachable | TroubleKind::Busy);
    let whom = format!("{first}{}", more(order.names.len()));
    for key in keys {
        let report = reports.of(key);
        match &ordered {
            Ok(job) => {
                report.step(StepKind::Applied, took, format!("ordered a Puppet run of {whom} (job {job})"));
                let waiting = format!("waiting for the Puppet run of {whom} (job {job})");
                report.status(Outcome::Waiting, Fact::new(order.code, waiting));
            }
            Err(trouble) if away(trouble) => {
                let waiting = format!("waiting for the orchestrator: {trouble}");
                report.status(Outcome::Waiting, Fact::new(Code::OrchestratorUnavailable, waiting));
            }
            Err(trouble) => {
                report.record(took, Err(trouble.clone()));
            }
        }
    }
}

fn more(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}
