//! Unpins what launches leave behind that are about to be abandoned: the next owner of such a name would inherit the pins. Tried once:
//! an ABANDON does not wait for the classifier.

use std::collections::BTreeMap;

use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_types::{ActionKey, Certname, Service, Trouble, TroubleKind};

use crate::batch::{LeftPinned, Reports};
use crate::call::call;
use crate::context::{Puppet, Run};
use crate::snapshot::PuppetSnapshot;

/// Unpins these names, all those of a group in one call, group by group as when they are pinned. What stays pinned is added to the reason
/// of the verdict.
pub(crate) async fn unpin_abandoned(
    run: Run<'_>,
    puppet: &Puppet,
    snapshot: &PuppetSnapshot,
    pinned: Vec<LeftPinned>,
) -> Reports {
    let mut reports = Reports::default();
    let mut by_group: BTreeMap<&String, Vec<&LeftPinned>> = BTreeMap::new();
    for one in &pinned {
        one.groups.iter().for_each(|group| by_group.entry(group).or_default().push(one));
    }
    let mut left: BTreeMap<&ActionKey, Vec<String>> = BTreeMap::new();
    for (group, members) in by_group {
        let started = run.now();
        let unpinned = unpin(run, puppet, snapshot, group, &members).await;
        let took = run.context.clock.since(started);
        for LeftPinned { key, certname, .. } in members {
            let what = unpinned.as_ref().map(|()| format!("unpinned {certname} from {group}")).map_err(Clone::clone);
            if !reports.of(key).record(took, what) {
                left.entry(key).or_default().push(group.clone());
            }
        }
    }
    for LeftPinned { key, certname, .. } in &pinned {
        let report = reports.of(key);
        report.unpinned = true;
        report.pins_left = left.remove(key).map(|groups| {
            let pinned = format!("{certname} could not be unpinned from {}", groups.join(", "));
            Fact::new(Code::PinsLeft, pinned)
        });
    }
    reports
}

async fn unpin(
    run: Run<'_>,
    puppet: &Puppet,
    snapshot: &PuppetSnapshot,
    group: &str,
    members: &[&LeftPinned],
) -> Result<(), Trouble> {
    // Each has the permit of its profile, and all of them the same services.
    let Some(permit) = members.first().map(|one| one.permit) else { return Ok(()) };
    let (Some(id), Some(classifier)) =
        (snapshot.node_group(group).map(|group| &group.id), puppet.writer(permit).classifier)
    else {
        let text = format!("the node group {group} is not known any more");
        return Err(Trouble { kind: TroubleKind::Unexpected, service: Service::Classifier, text });
    };
    let names: Vec<Certname> = members.iter().map(|one| one.certname.clone()).collect();
    call(run.context, run.budget.work, Service::Classifier, classifier.unpin(id, &names)).await
}
