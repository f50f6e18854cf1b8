//! Removes what is left of instances: certificates, requests, nodes, pins. Every write may safely be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::Certname;
use stagedoor_lifecycle::decision::Removal;
use stagedoor_lifecycle::identity::Purgeable;
use stagedoor_lifecycle::observation::{Service, Trouble, TroubleKind};
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_puppet::{Deactivated, Error, LOCK_WAIT, Outcome as CaOutcome};

use super::Done;
use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::{AT_ONCE, call};
use crate::context::{Context, PuppetWriter};
use crate::observe::PuppetSnapshot;

/// The CA serialises its writes: more at a time would only queue there.
const CA_WRITES_AT_ONCE: usize = 2;
/// How many certificates go into one request: so many that the price of a request does not matter, and so few that it
/// ends long before the CA's own time-outs.
const CLEANED_AT_ONCE: usize = 200;
/// PuppetDB takes commands in a queue.
const DEACTIVATIONS_AT_ONCE: usize = 8;

/// What became of a set of removals.
pub(crate) struct Removed {
    files: BTreeMap<Certname, Vec<Done>>,
    /// The names whose certificates the CA has said to have revoked.
    cleaned: BTreeSet<Certname>,
    /// The names whose certificates were not tried, for the CA took too long over others.
    untried: BTreeSet<Certname>,
    nodes: BTreeMap<Certname, Done>,
    pins: BTreeMap<Certname, Done>,
}

impl Removed {
    /// Whether the CA has said that this certificate is revoked.
    pub(crate) fn cleaned(&self, name: &Certname) -> bool {
        self.cleaned.contains(name)
    }

    /// What became of each part under this name.
    pub(crate) fn of(&self, name: &Certname) -> impl Iterator<Item = &Done> {
        self.files.get(name).into_iter().flatten().chain(self.nodes.get(name)).chain(self.pins.get(name))
    }
}

/// Removes all of this, certificates, nodes and pins side by side; `puppetdb_time` is PuppetDB's clock, if it is known.
pub(crate) async fn carry_out(
    context: &Context,
    writer: &PuppetWriter,
    all: &[&Removal],
    puppetdb_time: Option<Timestamp>,
    budget: Budget,
) -> Removed {
    let now = context.clock.now().max(puppetdb_time.unwrap_or(Timestamp::MIN));
    let ((files, cleaned, untried), nodes, pins) = tokio::join!(
        remove_files(context, writer, all, budget),
        deactivate(context, writer, all, now, budget),
        unpin(context, writer, all, budget),
    );
    Removed { files, cleaned, untried, nodes, pins }
}

/// Removes what is left of these cases; says whether anything may have changed, and of which cases everything was done.
pub(super) async fn remove(
    context: &Context,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    items: &mut [WorkItem],
    removals: Vec<(usize, Vec<Removal>)>,
    budget: Budget,
) -> (bool, BTreeSet<usize>) {
    // Those that were never tried, and those that wait longest, come first.
    let mut removals = removals;
    removals.sort_by_key(|(index, _)| (items[*index].tried.is_some(), items[*index].action.began.time()));
    // Other invocations may have been there first. A certificate that an instance got meanwhile must not be cleaned in place of the
    // one that was seen.
    let all = removals.iter().filter(|(index, _)| items[*index].is_launching()).flat_map(|(_, removals)| removals);
    let replaced = replaced(context, writer, all, budget).await;
    let (again, removals): (Vec<_>, Vec<_>) = removals
        .into_iter()
        .partition(|(_, removals)| removals.iter().any(|removal| replaced.contains_key(removal.name.certname())));
    for (index, removals) in &again {
        if let Some(reason) = removals.iter().find_map(|removal| replaced.get(removal.name.certname())) {
            items[*index].set_status(Outcome::Failed, reason.clone());
        }
        items[*index].just_did = None;
    }
    let all: Vec<&Removal> = removals.iter().flat_map(|(_, removals)| removals).collect();
    let removed = carry_out(context, writer, &all, snapshot.puppetdb_time, budget).await;

    let new = replaced.values().any(|reason| reason.code() == Code::NotSeenYet);
    let (mut changed, mut complete) = (new, BTreeSet::new());
    for (index, removals) in removals {
        let item = &mut items[index];
        let mut failure = None;
        let untried = removals.iter().any(|removal| removed.untried.contains(removal.name.certname()));
        for removal in removals {
            let name = removal.name.certname();
            for (result, took) in removed.of(name) {
                match result {
                    Ok(what) => {
                        changed = true;
                        item.step(Stage::Done, *took, what.clone());
                    }
                    Err(trouble) => {
                        item.step(Stage::Failed, *took, trouble.text.clone());
                        item.set_status(Outcome::Failed, Fact::from(trouble));
                        failure = Some(Reason::from(Fact::from(trouble)));
                    }
                }
            }
            if removed.cleaned(name) {
                item.cleaned.insert(name.clone());
            }
            let certificate = item.certificates.get(name).cloned();
            if item.is_launching() {
                // What was seen under the name is not there any more, and is looked for anew.
                item.certificates.remove(name);
            }
            item.removed.insert(name.clone(), (removal, certificate));
        }
        if untried {
            changed = true;
            let next = "the Puppet CA took too long over others' certificates; this one is next";
            item.set_status(Outcome::Failed, Fact::new(Code::Postponed, next));
            item.just_did = None;
            continue;
        }
        if failure.is_none() {
            complete.insert(index);
        }
        item.tried =
            Some(failure.unwrap_or_else(|| Fact::new(Code::StillThere, "Puppet said that it was done").into()));
    }
    (changed, complete)
}

/// The names under which there is not the certificate any more that is to be removed, or why that cannot be seen now.
async fn replaced(
    context: &Context,
    writer: &PuppetWriter,
    removals: impl Iterator<Item = &Removal>,
    budget: Budget,
) -> BTreeMap<Certname, Reason> {
    let wanted = removals.filter_map(|removal| Some((removal.name.certname(), removal.certificate.as_ref()?)));
    let reads = stream::iter(wanted).map(|(name, serial)| async move {
        match call(context, budget.work, Service::Ca, writer.ca.ca().certificate(name)).await {
            Ok(Some(now)) if now.serial().to_string() == *serial => None,
            Ok(_) => {
                let changed = format!("the certificate of {name} has just changed; it is looked at again");
                Some((name.clone(), Fact::new(Code::NotSeenYet, changed).into()))
            }
            Err(trouble) => Some((name.clone(), Fact::from(trouble).into())),
        }
    });
    reads.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Certificates of the whole set in as few requests as can be; then the requests that `clean` leaves behind. Also tells the names
/// whose certificates were cleaned, and those that were not tried.
async fn remove_files(
    context: &Context,
    writer: &PuppetWriter,
    all: &[&Removal],
    budget: Budget,
) -> (BTreeMap<Certname, Vec<Done>>, BTreeSet<Certname>, BTreeSet<Certname>) {
    let mut done: BTreeMap<Certname, Vec<Done>> = BTreeMap::new();
    let (mut clean_names, mut untried) = (BTreeSet::new(), BTreeSet::new());
    let certificates: Vec<&Purgeable> = all.iter().filter(|r| r.certificate.is_some()).map(|r| &r.name).collect();
    // One after the other: where the CA takes no lock for it, two at a time may lose a revocation.
    let mut stuck = false;
    for chunk in certificates.chunks(CLEANED_AT_ONCE) {
        let names: Vec<Certname> = chunk.iter().map(|name| name.certname().clone()).collect();
        let started = Instant::now();
        // Each of the others may take as long in vain, and nobody else be dealt with meanwhile.
        if stuck {
            untried.extend(names);
            continue;
        }
        let cleaned = call(context, budget.work, Service::Ca, writer.ca.clean(&names)).await;
        stuck = cleaned.is_err() && started.elapsed() >= LOCK_WAIT;
        if cleaned.is_ok() {
            clean_names.extend(names.iter().cloned());
        }
        for purgeable in chunk {
            let name = purgeable.certname();
            let what = cleaned.as_ref().map_err(Clone::clone).map(|cleaned| {
                if cleaned.missing.contains(name) {
                    format!("the certificate of {name} had gone already")
                } else {
                    format!("revoked and deleted the certificate of {name}, known by {}", purgeable.evidence().as_str())
                }
            });
            done.entry(name.clone()).or_default().push((what, started.elapsed()));
        }
    }
    // Where the certificate is still there, so must the request be: deleting it may delete the certificate, unrevoked.
    let bare = |removal: &&&Removal| removal.certificate.is_none() || clean_names.contains(removal.name.certname());
    let requests = all.iter().filter(|removal| removal.request).filter(bare).map(|removal| removal.name.certname());
    for (name, what) in delete_requests(context, writer, requests, budget).await {
        done.entry(name).or_default().push(what);
    }
    (done, clean_names, untried)
}

/// Deletes the requests that are pending under these names.
pub(super) async fn delete_requests<'a>(
    context: &Context,
    writer: &PuppetWriter,
    names: impl Iterator<Item = &'a Certname>,
    budget: Budget,
) -> BTreeMap<Certname, Done> {
    let deletions = stream::iter(names).map(|name| async move {
        let started = Instant::now();
        let deleted = call(context, budget.work, Service::Ca, delete_request(writer, name)).await;
        let what = deleted.map(|outcome| match outcome {
            CaOutcome::Done => format!("deleted the certificate request of {name}"),
            CaOutcome::AlreadyDone => format!("the certificate request of {name} had gone already"),
        });
        (name.clone(), (what, started.elapsed()))
    });
    deletions.buffer_unordered(CA_WRITES_AT_ONCE).collect().await
}

/// The route that deletes nothing but a request is denied by the rules that Puppet Server ships. The one that is
/// allowed deletes the certificate as well; there is none, or it has been cleaned just before.
async fn delete_request(writer: &PuppetWriter, name: &Certname) -> Result<CaOutcome, Error> {
    match writer.ca.delete_csr(name).await {
        Err(Error::NotPermitted { .. }) => writer.ca.delete(name).await,
        other => other,
    }
}

/// Deactivates every node that still counts as living.
async fn deactivate(
    context: &Context,
    writer: &PuppetWriter,
    all: &[&Removal],
    now: Timestamp,
    budget: Budget,
) -> BTreeMap<Certname, Done> {
    let nodes = all.iter().filter_map(|removal| Some((removal.name.certname(), removal.node?)));
    let commands = stream::iter(nodes).map(|(name, node)| async move {
        // PuppetDB drops a command that is older than the node's newest data, whose time may be ahead of ours.
        let after_newest = node.newest.and_then(|newest| newest.checked_add(SignedDuration::from_millis(1)).ok());
        let at = after_newest.map_or(now, |newest| newest.max(now));
        let started = Instant::now();
        let what =
            call(context, budget.work, Service::PuppetDb, writer.puppetdb.deactivate(name, at)).await.map(|outcome| {
                match outcome {
                    Deactivated::Done => format!("deactivated {name} in PuppetDB"),
                    Deactivated::Queued => format!("PuppetDB has the deactivation of {name} in its queue"),
                }
            });
        (name.clone(), (what, started.elapsed()))
    });
    commands.buffer_unordered(DEACTIVATIONS_AT_ONCE).collect().await
}

/// Unpins the whole set in one call.
async fn unpin(context: &Context, writer: &PuppetWriter, all: &[&Removal], budget: Budget) -> BTreeMap<Certname, Done> {
    let pinned: Vec<Certname> =
        all.iter().filter(|removal| !removal.pins.is_empty()).map(|removal| removal.name.certname().clone()).collect();
    let (false, Some(classifier)) = (pinned.is_empty(), &writer.classifier) else { return BTreeMap::new() };
    let started = Instant::now();
    let unpinned = call(context, budget.work, Service::Classifier, classifier.unpin_from_all(&pinned)).await;
    let took = started.elapsed();
    let what = |name: &Certname| {
        let unpinned = unpinned.as_ref().map_err(Clone::clone)?;
        let groups =
            unpinned.iter().filter(|unpinned| unpinned.certname == *name).flat_map(|unpinned| &unpinned.groups);
        let groups: Vec<&str> = groups.map(|group| group.name.as_str()).collect();
        if groups.is_empty() {
            return Err(Trouble {
                kind: TroubleKind::NotPermitted,
                service: Service::Classifier,
                text: format!(
                    "{name} could not be unpinned: the token's role may not edit the groups that it is pinned to"
                ),
            });
        }
        Ok(format!("unpinned {name} from {}", groups.join(", ")))
    };
    pinned.iter().map(|name| (name.clone(), (what(name), took))).collect()
}
