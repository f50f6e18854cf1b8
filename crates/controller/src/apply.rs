//! Apply: carries decisions out. The only module that writes to Puppet. Every write may safely be repeated.

mod enrol;
mod orders;
mod remove;

use std::time::Duration;

use stagedoor_lifecycle::decision::{Effect, Rejection};
use stagedoor_lifecycle::observation::Trouble;
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::reason::Fact;
use stagedoor_lifecycle::receipt::{Outcome, Stage};

pub(crate) use remove::{Removed, carry_out};

use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::context::{Context, Puppet};
use crate::observe::PuppetSnapshot;

/// What became of one write: what to tell, or what went wrong, and how long it took.
pub(crate) type Done = (Result<String, Trouble>, Duration);

/// Carries out what was decided for these cases, the same for many in one call wherever there is one. Says whether
/// anything may have changed, and so is to be looked at again.
pub(crate) async fn apply(
    context: &Context,
    puppet: &Puppet,
    snapshot: &PuppetSnapshot,
    items: &mut [WorkItem],
    effects: Vec<(usize, Effect)>,
    budget: Budget,
) -> bool {
    let Some(writer) = &puppet.writer else { return false };
    let (mut removals, mut signs, mut requests, mut pins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut runs, mut refreshes, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
    for (index, effect) in effects {
        match effect {
            Effect::Remove(all) => removals.push((index, all)),
            Effect::Sign(signable) => signs.push((index, signable)),
            Effect::Reject(Rejection::Request(name, reason)) => requests.push((index, name, reason)),
            Effect::Reject(Rejection::Certificate(removal, reason)) => {
                removals.push((index, vec![removal]));
                rejected.push((index, reason));
            }
            Effect::Pin(name, groups) => pins.push((index, name, groups)),
            Effect::Run(name, key) => runs.push((index, name, key)),
            Effect::Refresh(targets, _) => refreshes.push((index, targets)),
        }
    }
    let mut changed = false;
    if !removals.is_empty() {
        let (removed, complete) = remove::remove(context, writer, snapshot, items, removals, budget).await;
        changed |= removed;
        for (index, reason) in rejected.into_iter().filter(|(index, _)| complete.contains(index)) {
            items[index].ready = Some((ActionResult::Abandon, reason.into()));
        }
    }
    changed |= enrol::reject(context, writer, items, requests, budget).await;
    changed |= enrol::sign(context, writer, items, signs, budget).await;
    changed |= enrol::pin(context, writer, snapshot, items, pins, budget).await;
    // What was ordered takes its time; looking at once would see nothing new.
    orders::run(context, writer, items, runs, budget).await;
    orders::refresh(context, writer, items, refreshes, budget).await;
    changed
}

/// Writes down what became of one write.
fn record(item: &mut WorkItem, took: Duration, result: Result<String, Trouble>) -> bool {
    match result {
        Ok(what) => {
            item.step(Stage::Done, took, what);
            true
        }
        Err(trouble) => {
            item.step(Stage::Failed, took, trouble.text.clone());
            item.trouble = Some(trouble.clone());
            item.set_status(Outcome::Failed, Fact::from(trouble));
            false
        }
    }
}
