//! Observe: what AWS and Puppet say now. Reads only, once per group or batch wherever one call answers for all. Steps return
//! snapshots and answers, and change no work item; `lookups` adds to the snapshot what is read once a pass.

mod aws;
mod classification;
mod elsewhere;
mod lookups;
pub(crate) mod orphans;
mod probes;
mod puppet;
mod refresh;
pub(crate) mod requests;

pub(crate) use aws::{Described, aws, by_id, group_of, hooks_of, starts};
pub(crate) use lookups::lookups;
pub(crate) use puppet::puppet;
pub(crate) use refresh::target_views;

use stagedoor_puppet::Error as PuppetError;
use stagedoor_types::{Service, Trouble};

use crate::call::call;
use crate::context::Run;

/// Asks Puppet, within the time for work.
async fn ask<T>(
    run: Run<'_>,
    service: Service,
    question: impl Future<Output = Result<T, PuppetError>>,
) -> Result<T, Trouble> {
    call(run.context, run.budget.work, service, question).await
}
