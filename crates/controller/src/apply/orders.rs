//! Orders Puppet runs from the orchestrator: one job for all nodes that are to run. An order whose answer was lost is found
//! again by its key.

use std::collections::BTreeSet;
use std::time::Instant;

use stagedoor_lifecycle::Certname;
use stagedoor_lifecycle::observation::{Service, Trouble, TroubleKind};
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, Stage};

use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::call;
use crate::context::{Context, PuppetWriter};

/// Has arriving nodes run Puppet.
pub(super) async fn run(
    context: &Context,
    writer: &PuppetWriter,
    items: &mut [WorkItem],
    runs: Vec<(usize, Certname, String)>,
    budget: Budget,
) {
    let Some((_, first, key)) = runs.first() else { return };
    let event = match runs.len() {
        1 => key.clone(),
        count => format!("{key} and {} more", count - 1),
    };
    let names: Vec<Certname> = runs.iter().map(|(_, name, _)| name.clone()).collect();
    let description = format!("Stagedoor: first Puppet run of {first}{}", more(names.len()));
    let which: Vec<usize> = runs.iter().map(|(index, ..)| *index).collect();
    order(context, writer, items, &which, &names, &description, &event, Code::WaitingForRun, budget).await;
}

/// Has refresh targets run Puppet, to learn of all these changes at once.
pub(super) async fn refresh(
    context: &Context,
    writer: &PuppetWriter,
    items: &mut [WorkItem],
    refreshes: Vec<(usize, Vec<Certname>)>,
    budget: Budget,
) {
    if refreshes.is_empty() {
        return;
    }
    let targets: BTreeSet<Certname> = refreshes.iter().flat_map(|(_, targets)| targets.clone()).collect();
    let targets: Vec<Certname> = targets.into_iter().collect();
    let which: Vec<usize> = refreshes.iter().map(|(index, _)| *index).collect();
    let changed: Vec<&str> = which.iter().map(|&index| items[index].action.instance.as_str()).collect();
    let description = format!("Stagedoor: {} changed{}", changed[0], more(changed.len()));
    // With the time: an order that was over before it could prove anything must not be found in place of the next.
    let event = format!("refresh {} at {}", targets[0], context.clock.now());
    order(context, writer, items, &which, &targets, &description, &event, Code::WaitingForRefresh, budget).await;
}

#[expect(clippy::too_many_arguments, reason = "what one order consists of")]
async fn order(
    context: &Context,
    writer: &PuppetWriter,
    items: &mut [WorkItem],
    which: &[usize],
    names: &[Certname],
    description: &str,
    event: &str,
    code: Code,
    budget: Budget,
) {
    let Some(orchestrator) = &writer.orchestrator else { return };
    let started = Instant::now();
    let order = orchestrator.deploy_once(names, description, event);
    let ordered = call(context, budget.work, Service::Orchestrator, order).await;
    let took = started.elapsed();
    // The orchestrator may be restarting because Puppet runs on its host: nothing is wrong yet.
    let away = |trouble: &Trouble| matches!(trouble.kind, TroubleKind::Unreachable | TroubleKind::Busy);
    let whom = format!("{}{}", names[0], more(names.len()));
    for &index in which {
        let item = &mut items[index];
        match &ordered {
            Ok(job) => {
                item.step(Stage::Done, took, format!("ordered a Puppet run of {whom} (job {job})"));
                let waiting = format!("waiting for the Puppet run of {whom} (job {job})");
                item.set_status(Outcome::Waiting, Fact::new(code, waiting));
            }
            Err(trouble) if away(trouble) => {
                let waiting = format!("waiting for the orchestrator: {trouble}");
                item.set_status(Outcome::Waiting, Fact::new(Code::OrchestratorUnavailable, waiting));
            }
            Err(trouble) => {
                item.step(Stage::Failed, took, trouble.text.clone());
                item.trouble = Some(trouble.clone());
                item.set_status(Outcome::Failed, Fact::from(trouble));
            }
        }
    }
}

fn more(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}
