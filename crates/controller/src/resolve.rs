//! Plans, looks up what the plan asks for, and plans again. Reads only, through the lookups.

use stagedoor_lifecycle::decision::Site;
use stagedoor_plan::{Plan, plan};
use stagedoor_types::Trouble;

use crate::batch::Batch;
use crate::context::{Puppet, Run};
use crate::observe;
use crate::snapshot::PuppetSnapshot;

/// More questions than there are, so that a question without an answer ends.
const QUESTIONS_IN_A_ROW: usize = 8;

/// Puppet in a pass: its clients with the snapshot, or why there are none.
pub(crate) type Look<'a> = Result<(&'a Puppet, PuppetSnapshot), Trouble>;

/// Plans, looks up what the plan asks for, and plans again, until no question is new. Also says whether Puppet refused the
/// credentials.
pub(crate) async fn resolve(run: Run<'_>, batch: &mut Batch, look: &mut Look<'_>) -> (Plan, bool) {
    let mut next = plan_and_record(run, batch, look);
    let mut refused = look.as_ref().is_ok_and(|(_, snapshot)| snapshot.is_unauthenticated());
    for _ in 0..QUESTIONS_IN_A_ROW {
        let Ok((puppet, snapshot)) = look else { break };
        if next.questions.is_empty() {
            break;
        }
        let answers = observe::lookups(run, puppet, snapshot, &batch.queries(&next.questions)).await;
        refused |= answers.unauthenticated || snapshot.is_unauthenticated();
        batch.answered(answers.all);
        let before = std::mem::replace(&mut next, plan_and_record(run, batch, look));
        next.names.extend(before.names);
        next.start_times.extend(before.start_times);
    }
    (next, refused)
}

/// The plan for the batch as it is, taken in by the batch.
fn plan_and_record(run: Run<'_>, batch: &mut Batch, look: &Look<'_>) -> Plan {
    let protected = look.as_ref().map_or(&run.context.config.protected, |(puppet, _)| &puppet.protected);
    let orchestrated = run.context.config.orchestrator.is_some();
    let site = Site { protected, orchestrated, sweeps: run.sweeps, now: run.now() };
    let plan = plan(site, batch.situations());
    batch.record(&plan, look.as_ref().ok().map(|(_, snapshot)| snapshot));
    plan
}
