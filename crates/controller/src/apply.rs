//! Apply: changes Puppet. The only module that writes to it. Every write may safely be repeated. Returns a report for each
//! action.

mod enrol;
mod orders;
mod refuse;
mod remove;
mod unpin;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::decision::Effect;
use stagedoor_puppet::Certificate;
use stagedoor_types::{Certname, Service, Trouble};

pub(crate) use orders::order_overdue;
pub(crate) use refuse::{Deletion, delete_request};
pub(crate) use remove::{Removed, carry_out};
pub(crate) use unpin::unpin_abandoned;

use crate::batch::{Reports, Task};
use crate::call::{AT_ONCE, call};
use crate::context::{Puppet, PuppetWriter, Run};
use crate::snapshot::PuppetSnapshot;

/// How old an observation may be when a write relies on it. While one of Puppet's services hangs, an observation takes a minute.
const OBSERVATION_HOLDS: Duration = Duration::from_secs(10);

/// The result of one write: what was done or what went wrong, and how long it took.
pub(crate) type Done = (Result<String, Trouble>, Duration);

/// The result of a set of effects.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) reports: Reports,
    /// Whether anything may have changed, and so is to be observed again.
    pub(crate) changed: bool,
}

/// The certificates that these names have now, of which a snapshot may not know yet.
async fn certificates_now(
    run: Run<'_>,
    writer: &PuppetWriter,
    names: impl Iterator<Item = &Certname>,
) -> BTreeMap<Certname, Result<Option<Certificate>, Trouble>> {
    let reads = stream::iter(names).map(|name| async move {
        let certificate = writer.ca.ca().certificate(name);
        (name.clone(), call(run.context, run.budget.work, Service::Ca, certificate).await)
    });
    reads.buffer_unordered(AT_ONCE).collect().await
}

/// Applies all these effects, the same for many in one call wherever there is one: removals in `remove.rs`, signatures and pins in
/// `enrol.rs`, refused requests in `refuse.rs`, Puppet runs in `orders.rs`.
pub(crate) async fn apply(run: Run<'_>, puppet: &Puppet, snapshot: &PuppetSnapshot, tasks: Vec<Task>) -> Applied {
    // Each task has the permit of its profile, and all of them the same services.
    let Some(permit) = tasks.first().map(|task| task.permit) else { return Applied::default() };
    let writer = &puppet.writer(permit);
    let (mut removals, mut signs, mut requests, mut pins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut runs, mut refreshes) = (Vec::new(), Vec::new());
    for Task { key, effect, launching, began, tried_before, .. } in tasks {
        match effect {
            Effect::Remove(removed) => {
                removals.push(remove::Task { key, removals: removed, launching, began, tried_before });
            }
            Effect::Sign(signable) => signs.push((key, signable)),
            Effect::Delete(request) => requests.push((key, request)),
            Effect::Pin(name, groups) => pins.push((key, name, groups)),
            Effect::Run(name, order) => runs.push((key, name, order)),
            Effect::Refresh(order) => refreshes.push((key, order)),
        }
    }
    let mut applied = Applied::default();
    let mut unpinned = BTreeSet::new();
    if !removals.is_empty() {
        unpinned = remove::remove(run, writer, snapshot, removals, &mut applied).await;
    }
    refuse::refuse(run, writer, requests, &mut applied.reports).await;
    enrol::sign(run, writer, snapshot, signs, &unpinned, &mut applied).await;
    enrol::pin(run, writer, snapshot, pins, &mut applied).await;
    // A run that was ordered takes its time; observing at once would show nothing new.
    orders::run(run, writer, runs, &mut applied.reports).await;
    orders::refresh(run, writer, refreshes, &mut applied.reports).await;
    applied
}
