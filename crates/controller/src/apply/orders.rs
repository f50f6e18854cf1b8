//! Orders of the orchestrator: one job for all nodes that are to run. An order whose answer was lost is found again by its key.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::decision::{Effect, RefreshOrder};
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_puppet::JobId;
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
    refreshes: Vec<(ActionKey, RefreshOrder)>,
    reports: &mut Reports,
) {
    let targets: BTreeSet<Certname> = refreshes.iter().flat_map(|(_, order)| order.targets.clone()).collect();
    let targets: Vec<Certname> = targets.into_iter().collect();
    let (Some((changed, _)), Some(due)) = (refreshes.first(), refreshes.iter().map(|(_, order)| order.due).max())
    else {
        return;
    };
    let description = format!("Stagedoor: {} changed{}", changed.instance, more(refreshes.len()));
    let order = Order { event: event(&targets, due), names: &targets, description, code: Code::WaitingForRefresh };
    let Some((took, ordered)) = deploy(run, writer, &order).await else { return };
    let (awaited, besides): (Vec<_>, Vec<_>) = refreshes.iter().partition(|(_, order)| order.awaited);
    report(&order, &awaited.iter().map(|(key, _)| key).collect::<Vec<_>>(), took, &ordered, reports);
    for (key, order) in awaited.into_iter().filter(|_| ordered.is_ok()) {
        reports.of(key).ordered = Some(Effect::Refresh(order.clone()).key());
    }
    // Their actions are completed whatever became of the order; housekeeping makes good for one that was not given.
    for (key, _) in besides {
        let (kind, text) = match &ordered {
            Ok(job) => (StepKind::Applied, was_ordered(&order, job)),
            Err(trouble) => (StepKind::Failed, format!("no Puppet run of {} is ordered: {trouble}", whom(&order))),
        };
        reports.of(key).step(kind, took, text);
    }
}

/// Has refresh targets run Puppet that have not since the newest deactivation, by an order that was due at this time.
pub(crate) async fn order_overdue(
    run: Run<'_>,
    writer: &PuppetWriter,
    targets: &[Certname],
    due: Timestamp,
) -> Result<JobId, Trouble> {
    let description = format!(
        "Stagedoor: nodes were removed that {} has not learnt of",
        targets.iter().map(Certname::as_str).collect::<Vec<_>>().join(", ")
    );
    let order = Order { event: event(targets, due), names: targets, description, code: Code::RefreshOrdered };
    match deploy(run, writer, &order).await {
        Some((_, ordered)) => ordered,
        None => Err(Trouble {
            kind: TroubleKind::NotTried,
            service: Service::Orchestrator,
            text: "no orchestrator is configured".to_owned(),
        }),
    }
}

/// The key of an order of these targets. When it was due distinguishes it from the next one, so that an order whose answer was lost, and one
/// that another invocation has given, are found again, and one that was over before it could prove anything is not.
fn event(targets: &[Certname], due: Timestamp) -> String {
    let names: Vec<&str> = targets.iter().map(Certname::as_str).collect();
    format!("refresh {} due at {due}", names.join(", "))
}

async fn give(run: Run<'_>, writer: &PuppetWriter, order: &Order<'_>, keys: &[&ActionKey], reports: &mut Reports) {
    if let Some((took, ordered)) = deploy(run, writer, order).await {
        report(order, keys, took, &ordered, reports);
    }
}

/// Gives an order; `None` where there is no orchestrator or nothing to order.
async fn deploy(run: Run<'_>, writer: &PuppetWriter, order: &Order<'_>) -> Option<(Duration, Result<JobId, Trouble>)> {
    let orchestrator = writer.orchestrator.as_ref().filter(|_| !order.names.is_empty())?;
    let started = run.now();
    let deploy = orchestrator.deploy_once(order.names, &order.description, &order.event);
    let ordered = call(run.context, run.budget.work, Service::Orchestrator, deploy).await;
    Some((run.context.clock.since(started), ordered))
}

/// Whom an order is for, for a person.
fn whom(order: &Order<'_>) -> String {
    let first = order.names.first().map_or("no node", Certname::as_str);
    format!("{first}{}", more(order.names.len()))
}

fn was_ordered(order: &Order<'_>, job: &JobId) -> String {
    format!("ordered a Puppet run of {} (job {job})", whom(order))
}

/// Reports an order to the actions that wait for it.
fn report(
    order: &Order<'_>,
    keys: &[&ActionKey],
    took: Duration,
    ordered: &Result<JobId, Trouble>,
    reports: &mut Reports,
) {
    // The orchestrator may be restarting because Puppet runs on its host: nothing is wrong yet.
    let away = |trouble: &Trouble| matches!(trouble.kind, TroubleKind::Unreachable | TroubleKind::Busy);
    for key in keys {
        let report = reports.of(key);
        match ordered {
            Ok(job) => {
                report.step(StepKind::Applied, took, was_ordered(order, job));
                let waiting = format!("waiting for the Puppet run of {} (job {job})", whom(order));
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
