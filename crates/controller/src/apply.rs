//! Apply: carries decisions out. The only module that writes to Puppet. Every write may safely be repeated.

mod enrol;
mod orders;
mod remove;

use std::time::Duration;

use stagedoor_lifecycle::decision::{Deed, Rejection};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::receipt::{Outcome, Stage};

pub(crate) use remove::{Removed, carry_out};

use crate::case::Case;
use crate::door::{Door, Puppet};
use crate::gather::Sight;
use crate::reconcile::Until;

/// What became of one write: what to tell, or what went wrong, and how long it took.
pub(crate) type Done = (Result<String, String>, Duration);

/// Carries out what was decided for these cases, the same for many in one call wherever there is one. Says whether
/// anything may have changed, and so is to be looked at again.
pub(crate) async fn apply(
    door: &Door,
    puppet: &Puppet,
    sight: &Sight,
    cases: &mut [Case],
    deeds: Vec<(usize, Deed)>,
    until: Until,
) -> bool {
    let Some(hands) = &puppet.hands else { return false };
    let (mut removals, mut signs, mut requests, mut pins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut runs, mut refreshes, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
    for (index, deed) in deeds {
        match deed {
            Deed::Remove(all) => removals.push((index, all)),
            Deed::Sign(signable) => signs.push((index, signable)),
            Deed::Reject(Rejection::Request(name, reason)) => requests.push((index, name, reason)),
            Deed::Reject(Rejection::Certificate(removal, reason)) => {
                removals.push((index, vec![removal]));
                rejected.push((index, reason));
            }
            Deed::Pin(name, groups) => pins.push((index, name, groups)),
            Deed::Run(name, key) => runs.push((index, name, key)),
            Deed::Refresh(targets, _) => refreshes.push((index, targets)),
        }
    }
    let mut changed = false;
    if !removals.is_empty() {
        let (removed, complete) = remove::remove(door, hands, sight, cases, removals, until).await;
        changed |= removed;
        for (index, reason) in rejected.into_iter().filter(|(index, _)| complete.contains(index)) {
            cases[index].ready = Some((ActionResult::Abandon, reason));
        }
    }
    changed |= enrol::reject(door, hands, cases, requests, until).await;
    changed |= enrol::sign(door, hands, cases, signs, until).await;
    changed |= enrol::pin(door, hands, sight, cases, pins, until).await;
    // What was ordered takes its time; looking at once would see nothing new.
    orders::run(door, hands, cases, runs, until).await;
    orders::refresh(door, hands, cases, refreshes, until).await;
    changed
}

/// Writes down what became of one write.
fn record(case: &mut Case, took: Duration, result: Result<String, String>) -> bool {
    match result {
        Ok(what) => {
            case.step(Stage::Done, took, what);
            true
        }
        Err(trouble) => {
            case.step(Stage::Failed, took, trouble.clone());
            case.trouble = Some(trouble.clone());
            case.stands(Outcome::Failed, trouble);
            false
        }
    }
}
