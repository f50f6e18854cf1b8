//! The loop: observe, plan, complete what is decided, apply effects; then the next pass. Read this first. The steps that it calls do
//! the I/O.

use std::time::Duration;

use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_lifecycle::receipt::Receipt;
use stagedoor_types::{Service, Trouble};

use crate::apply::{apply, unpin_abandoned};
use crate::batch::Batch;
use crate::call::call;
use crate::complete::complete;
use crate::context::{Puppet, Run};
use crate::heartbeat::Heartbeats;
use crate::observe;
use crate::renew::Renewed;
use crate::resolve::resolve;
use crate::snapshot::PuppetSnapshot;

/// How long decided actions may be completed before the effects of the others are applied.
const BEFORE_EFFECTS: Duration = Duration::from_secs(3);

/// Works on a set of actions until each is finished or the time is up.
pub(crate) async fn reconcile(run: Run<'_>, actions: Vec<LifecycleAction>) -> Vec<Receipt> {
    let mut work = Work::new(run);
    work.batch.add(actions);
    loop {
        let requeue = Box::pin(work.pass(run)).await;
        if requeue == Requeue::Over || !work.rest(run, requeue).await {
            return work.batch.into_receipts(run, |_| true);
        }
    }
}

/// How to go on after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requeue {
    /// It learned or changed something: observe again at once. After a removal, that observation is the proof.
    AtOnce,
    /// Something has to happen elsewhere first.
    AfterPause,
    /// Every action is finished, or the time is up.
    Over,
}

/// A batch that is worked on, with the heartbeats beside it.
pub(crate) struct Work {
    pub(crate) batch: Batch,
    pub(crate) heartbeats: Heartbeats,
    /// For what the secret was read anew.
    renewed: Renewed,
}

impl Work {
    pub(crate) fn new(run: Run<'_>) -> Self {
        Self { batch: Batch::new(), heartbeats: Heartbeats::new(run.now()), renewed: Renewed::default() }
    }

    /// One pass: observe, plan, complete, apply.
    ///
    /// A purge takes two. In the first, AWS confirms the action (`lifecycle::admission`), `lifecycle::purge` finds what is left and
    /// returns `Effect::Remove`, and `apply/remove.rs` removes it. In the second, which does not ask AWS again, nothing is left under the
    /// name: `Removal::proof` holds, `lifecycle::purge` returns `Complete`, and `complete.rs` completes the action.
    pub(crate) async fn pass(&mut self, run: Run<'_>) -> Requeue {
        let Self { batch, heartbeats, renewed } = self;
        let opening = call(run.context, run.budget.work, Service::SecretsManager, run.context.puppet.open(run.now()));
        // Boxed, as below, so that futures this large are not copied around.
        // EC2 may take half a minute to answer. Meanwhile, heartbeats are sent for the actions that are known to wait.
        let observing = Box::pin(async { tokio::join!(opening, observe::aws(run, batch.to_look_at(run.now()))) });
        let (opened, aws) = heartbeats.beside(run, observing).await;
        batch.admit(&aws, run.context);
        heartbeats.watch(batch.waiting(), run.now());
        let opened = opened.as_deref().map_err(Clone::clone);
        let again = heartbeats.beside(run, Box::pin(rest_of_pass(run, batch, opened, renewed))).await;
        match again {
            _ if !batch.is_open() || run.now() >= run.budget.calls => Requeue::Over,
            true => Requeue::AtOnce,
            false => Requeue::AfterPause,
        }
    }

    /// Waits until the next pass; returns whether there is time for one.
    pub(crate) async fn rest(&mut self, run: Run<'_>, requeue: Requeue) -> bool {
        if requeue == Requeue::AtOnce {
            return true;
        }
        if deadline::after(run.now(), self.batch.next_pause()) >= run.budget.passes {
            return false;
        }
        let pause = self.batch.pause();
        self.heartbeats.beside(run, tokio::time::sleep(pause)).await;
        true
    }
}

/// What a pass does once AWS was asked; returns whether to observe again at once.
async fn rest_of_pass(
    run: Run<'_>,
    batch: &mut Batch,
    opened: Result<&Puppet, Trouble>,
    renewed: &mut Renewed,
) -> bool {
    let wanted = batch.wanted();
    let mut look = match opened {
        Ok(puppet) if wanted.is_empty() => Ok((puppet, PuppetSnapshot::nothing(puppet, run.now()))),
        Ok(puppet) => Ok((puppet, Box::pin(observe::puppet(run, puppet, &wanted)).await)),
        Err(trouble) => Err(trouble),
    };
    if let Ok((puppet, snapshot)) = &mut look {
        renewed.challenge(run, puppet, snapshot).await;
    }
    batch.take_in(look.as_ref().map(|(_, snapshot)| snapshot));
    // Also records statuses, verdicts and proofs in the batch.
    let (plan, refused) = resolve(run, batch, &mut look).await;
    // New names are observed in the next pass.
    let mut again = !plan.names.is_empty();
    if let Ok((puppet, snapshot)) = &look
        && !plan.effects.is_empty()
    {
        let tasks = batch.tasks(plan.effects);
        // Decided actions first: they must not wait for the effects of others. But only for a few seconds, because the effects rest on
        // a snapshot that ages. The rest is completed at the end of the pass.
        let limit = deadline::after(run.now(), BEFORE_EFFECTS);
        batch.absorb(complete(run, batch.decided(&puppet.protected), limit).await.into_inner());
        let applied = apply(run, puppet, snapshot, tasks).await;
        batch.absorb(applied.reports.into_inner());
        again |= applied.changed;
    }
    let starts = batch.starts_to_ask(&plan.start_times);
    if !starts.is_empty() {
        again |= batch.started(observe::starts(run, &starts).await, run.now());
    }
    if let (Ok((puppet, _)), true) = (&look, refused) {
        again |= renewed.credentials(run, puppet).await;
    }
    let protected = look.as_ref().map_or(&run.context.config.protected, |(puppet, _)| &puppet.protected);
    // A launch that is abandoned leaves no pins behind. Whether that succeeds or not, it is completed then.
    if let Ok((puppet, snapshot)) = &look {
        let pinned = batch.left_pinned(protected);
        batch.absorb(unpin_abandoned(run, puppet, snapshot, pinned).await.into_inner());
    }
    batch.absorb(complete(run, batch.decided(protected), run.budget.calls).await.into_inner());
    again
}
