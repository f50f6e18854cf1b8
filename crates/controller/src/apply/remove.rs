//! Removes what is left of instances: certificates, requests, nodes, pins. Every write may safely be repeated.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::identity::Purgeable;
use stagedoor_lifecycle::reason::{Code, Fact, Reason};
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_lifecycle::removal::Removal;
use stagedoor_puppet::{Certificate, Deactivated, Error, Outcome as CaOutcome};
use stagedoor_types::{ActionKey, Certname, Service, Trouble, TroubleKind};

use super::{Applied, Done, OBSERVATION_HOLDS, certificates_now};
use crate::call::{call, within};
use crate::context::{PuppetWriter, Run};
use crate::snapshot::PuppetSnapshot;

/// The CA serialises its writes: more at a time would only queue there.
pub(super) const CA_WRITES_AT_ONCE: usize = 2;
/// How many certificates go into one request: so many that the price of a request does not matter, and so few that it
/// ends long before the CA's own time-outs.
const CLEANED_AT_ONCE: usize = 200;
/// PuppetDB takes commands in a queue.
const DEACTIVATIONS_AT_ONCE: usize = 8;

/// The result of a set of removals.
pub(crate) struct Removed {
    files: BTreeMap<Certname, Vec<Done>>,
    /// The names whose certificates the CA has said to have revoked.
    cleaned: BTreeSet<Certname>,
    nodes: BTreeMap<Certname, Done>,
    pins: BTreeMap<Certname, Done>,
}

impl Removed {
    /// Whether the CA has said that this certificate is revoked.
    pub(crate) fn cleaned(&self, name: &Certname) -> bool {
        self.cleaned.contains(name)
    }

    /// The result of each part under this name.
    pub(crate) fn of(&self, name: &Certname) -> impl Iterator<Item = &Done> {
        self.files.get(name).into_iter().flatten().chain(self.nodes.get(name)).chain(self.pins.get(name))
    }
}

/// Removes all of this. `seen` is when it was observed, and `ahead` by how much PuppetDB's clock is ahead of ours.
///
/// Certificates, nodes and pins are removed side by side. With `node_last`, a node is deactivated last, and only where its
/// certificate and its pins are gone: for orphans, no lifecycle action repeats what was interrupted, and housekeeping finds an orphan
/// by its active node. On Puppet Enterprise, the primary forgets a compiler at its first run after the node was deactivated, and the CA
/// lists a serial in the CRL that it gives to agents only while the primary's inventory still has the name.
pub(crate) async fn carry_out(
    run: Run<'_>,
    writer: &PuppetWriter,
    all: &[&Removal],
    seen: Timestamp,
    ahead: Option<SignedDuration>,
    node_last: bool,
) -> Removed {
    let certificates_and_pins = async { tokio::join!(remove_files(run, writer, all, seen), unpin(run, writer, all)) };
    if !node_last {
        let nodes = deactivate(run, writer, all, by_puppetdb(run, ahead));
        let (((files, cleaned), pins), nodes) = tokio::join!(certificates_and_pins, nodes);
        return Removed { files, cleaned, nodes, pins };
    }
    let ((files, cleaned), pins) = certificates_and_pins.await;
    let is_gone = |removal: &&&Removal| {
        let name = removal.name.certname();
        let unpinned = removal.pins.is_empty() || pins.get(name).is_some_and(|(unpinned, _)| unpinned.is_ok());
        unpinned && (removal.certificate.is_none() || cleaned.contains(name))
    };
    let without_certificate: Vec<&Removal> = all.iter().filter(is_gone).copied().collect();
    let nodes = deactivate(run, writer, &without_certificate, by_puppetdb(run, ahead)).await;
    Removed { files, cleaned, nodes, pins }
}

/// The time by PuppetDB's clock. If a deactivation were dated in the future, reports that arrive before that time would not
/// reactivate the node, even the reports of a new instance with the same name.
fn by_puppetdb(run: Run<'_>, ahead: Option<SignedDuration>) -> Timestamp {
    let now = run.now();
    now.saturating_add(ahead.unwrap_or_default()).unwrap_or(now)
}

/// What is to be removed for one action.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) key: ActionKey,
    pub(super) removals: Vec<Removal>,
    pub(super) launching: bool,
    pub(super) began: Option<Timestamp>,
    pub(super) tried_before: bool,
}

impl Task {
    /// Why it is not done now, if one of its names is among these.
    fn held_back<'a>(&self, names: &'a BTreeMap<Certname, Reason>) -> Option<&'a Reason> {
        self.removals.iter().find_map(|removal| names.get(removal.name.certname()))
    }
}

/// Removes what is left of these instances; returns the names that were unpinned for it.
pub(super) async fn remove(
    run: Run<'_>,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    mut tasks: Vec<Task>,
    applied: &mut Applied,
) -> BTreeSet<Certname> {
    // Those that were never tried, and those that wait longest, come first.
    tasks.sort_by_key(|task| (task.tried_before, task.began));
    // Another invocation may have been faster. A certificate that an instance got meanwhile must not be cleaned in place of the
    // one that was seen.
    let of_launches = tasks.iter().filter(|task| task.launching).flat_map(|task| &task.removals);
    let replaced = replaced(run, writer, of_launches).await;
    applied.changed |= replaced.values().any(|reason| reason.code() == Code::NotSeenYet);
    tasks.retain(|task| {
        let Some(reason) = task.held_back(&replaced) else { return true };
        let report = applied.reports.of(&task.key);
        report.status(Outcome::Failed, reason.clone());
        report.may_repeat = true;
        false
    });
    let all: Vec<&Removal> = tasks.iter().flat_map(|task| &task.removals).collect();
    // A compiler may belong to Puppet Enterprise even if neither an orchestrator nor a classifier is configured.
    let node_last = snapshot.enterprise || all.iter().any(|removal| removal.compiler);
    let removed = carry_out(run, writer, &all, snapshot.at, snapshot.puppetdb_ahead, node_last).await;
    let at = run.now();

    for task in tasks {
        let report = applied.reports.of(&task.key);
        let mut failure = None;
        let mut untried = None;
        for removal in task.removals {
            for (result, took) in removed.of(removal.name.certname()) {
                match result {
                    Ok(what) => {
                        applied.changed = true;
                        report.step(StepKind::Applied, *took, what.clone());
                    }
                    Err(trouble) if trouble.kind == TroubleKind::NotTried => untried = Some(trouble),
                    Err(trouble) => {
                        report.step(StepKind::Failed, *took, trouble.text.clone());
                        report.status(Outcome::Failed, Fact::from(trouble));
                        failure = Some(Reason::from(Fact::from(trouble)));
                    }
                }
            }
            let not_tried =
                |(result, _): &Done| matches!(result, Err(trouble) if trouble.kind == TroubleKind::NotTried);
            let results: Vec<&Done> = removed.of(removal.name.certname()).collect();
            if results.is_empty() || !results.into_iter().all(not_tried) {
                let revoked = removed.cleaned(removal.name.certname());
                report.removed.push(removal.applied(at, revoked));
            }
        }
        if let Some(trouble) = untried {
            applied.changed = true;
            let next = format!("{trouble}; it is next");
            report.status(Outcome::Failed, Fact::new(Code::Postponed, next));
            report.may_repeat = true;
            continue;
        }
        // Puppet's word is no proof. If the next pass still observes something, this is the reason; else the rules say `Purged`.
        let done = || Fact::new(Code::StillThere, "Puppet said that it was done").into();
        report.removal = Some(failure.unwrap_or_else(done));
    }
    removed.pins.into_keys().collect()
}

/// The names under which there is not the certificate any more that is to be removed, or why that cannot be seen now.
async fn replaced(
    run: Run<'_>,
    writer: &PuppetWriter,
    removals: impl Iterator<Item = &Removal>,
) -> BTreeMap<Certname, Reason> {
    let seen: BTreeMap<&Certname, &String> =
        removals.filter_map(|removal| Some((removal.name.certname(), removal.certificate.as_ref()?))).collect();
    let now = certificates_now(run, writer, seen.keys().copied()).await;
    let reason = |(name, read): (Certname, Result<Option<Certificate>, Trouble>)| match read {
        // By its serial number: one that was renewed meanwhile has the same key, which shows that the key is in use.
        Ok(Some(now)) if seen.get(&name).is_some_and(|serial| now.serial().to_string() == **serial) => None,
        Ok(_) => {
            let changed = format!("the certificate of {name} has just changed; it is observed again");
            Some((name, Fact::new(Code::NotSeenYet, changed).into()))
        }
        Err(trouble) => Some((name, Fact::from(trouble).into())),
    };
    now.into_iter().filter_map(reason).collect()
}

/// Certificates of the whole set in as few requests as can be; then the requests that `clean` leaves behind. Each name has a result
/// of its own. Also returns the names whose certificates were cleaned.
async fn remove_files(
    run: Run<'_>,
    writer: &PuppetWriter,
    all: &[&Removal],
    seen: Timestamp,
) -> (BTreeMap<Certname, Vec<Done>>, BTreeSet<Certname>) {
    let mut done: BTreeMap<Certname, Vec<Done>> = BTreeMap::new();
    let mut clean_names = BTreeSet::new();
    let certificates: Vec<&Removal> = all.iter().filter(|removal| removal.certificate.is_some()).copied().collect();
    // One after the other: where the CA takes no lock for it, one of two concurrent revocations may be lost.
    let mut stuck = false;
    for (index, chunk) in certificates.chunks(CLEANED_AT_ONCE).enumerate() {
        // The previous reads and writes may have taken some time, and another instance may have taken a name in the meantime.
        let holds = index == 0 && run.context.clock.since(seen) < OBSERVATION_HOLDS;
        let changed = if holds || stuck { BTreeMap::new() } else { replaced(run, writer, chunk.iter().copied()).await };
        let names = chunk.iter().map(|removal| &removal.name);
        let (left, same): (Vec<_>, Vec<_>) = names.partition(|name| changed.contains_key(name.certname()));
        let started = run.now();
        let mut results = if stuck {
            // Each of the others may wait for the CA's lock as long in vain, and no other action be handled meanwhile.
            same.into_iter().map(|purgeable| (purgeable, Err(not_tried(purgeable.certname())))).collect()
        } else {
            clean(run, writer, &same).await
        };
        stuck |= is_stuck(&results);
        results.extend(left.into_iter().map(|purgeable| {
            let text = changed.get(purgeable.certname()).map(ToString::to_string).unwrap_or_default();
            (purgeable, Err(Trouble { kind: TroubleKind::NotTried, service: Service::Ca, text }))
        }));
        for (purgeable, result) in results {
            let name = purgeable.certname();
            if result.is_ok() {
                clean_names.insert(name.clone());
            }
            let what = result.map(|outcome| match outcome {
                CaOutcome::AlreadyDone => format!("the certificate of {name} had gone already"),
                CaOutcome::Done => {
                    format!("revoked and deleted the certificate of {name}, known by {}", purgeable.evidence().as_str())
                }
            });
            done.entry(name.clone()).or_default().push((what, run.context.clock.since(started)));
        }
    }
    // Where the certificate is still there, so must the request be: deleting it may delete the certificate, unrevoked.
    let bare = |removal: &&&Removal| removal.certificate.is_none() || clean_names.contains(removal.name.certname());
    let requests = all.iter().filter(|removal| removal.request).filter(bare).map(|removal| removal.name.certname());
    for (name, what) in delete_requests(run, writer, requests).await {
        done.entry(name).or_default().push(what);
    }
    (done, clean_names)
}

/// Cleans one set of names; each has a result.
async fn clean<'p>(
    run: Run<'_>,
    writer: &PuppetWriter,
    set: &[&'p Purgeable],
) -> Vec<(&'p Purgeable, Result<CaOutcome, Trouble>)> {
    let names: Vec<Certname> = set.iter().map(|purgeable| purgeable.certname().clone()).collect();
    let cleaned = within(run.context, run.budget.work, Service::Ca, writer.ca.clean(&names)).await;
    let result = |purgeable: &Purgeable| match cleaned.as_ref().map(|cleaned| cleaned.get(purgeable.certname())) {
        Ok(Some(Ok(outcome))) => Ok(*outcome),
        Ok(Some(Err(error))) => Err(Trouble::of(Service::Ca, error)),
        Ok(None) => Err(not_tried(purgeable.certname())),
        Err(late) => Err(late.clone()),
    };
    set.iter().map(|purgeable| (*purgeable, result(purgeable))).collect()
}

/// Whether the CA could do nothing for this set, or not all of it, so that the next set would wait in vain as well. One name that
/// fails by itself does not say so.
fn is_stuck(results: &[(&Purgeable, Result<CaOutcome, Trouble>)]) -> bool {
    let kind = |result: &Result<CaOutcome, Trouble>| result.as_ref().err().map(|trouble| trouble.kind);
    let untried = results.iter().any(|(_, result)| kind(result) == Some(TroubleKind::NotTried));
    untried || (results.len() > 1 && results.iter().all(|(_, result)| kind(result).is_some_and(TroubleKind::passes)))
}

/// That a certificate was not tried.
pub(super) fn not_tried(name: &Certname) -> Trouble {
    let text = format!("the certificate of {name} was not tried: the Puppet CA took too long over others");
    Trouble { kind: TroubleKind::NotTried, service: Service::Ca, text }
}

/// Deletes the requests that are pending under these names.
async fn delete_requests<'a>(
    run: Run<'_>,
    writer: &PuppetWriter,
    names: impl Iterator<Item = &'a Certname>,
) -> BTreeMap<Certname, Done> {
    let deletions = stream::iter(names).map(|name| async move {
        let started = run.now();
        let deleted = call(run.context, run.budget.work, Service::Ca, delete_only_request(writer, name)).await;
        let what = deleted.map(|outcome| match outcome {
            CaOutcome::Done => format!("deleted the certificate request of {name}"),
            CaOutcome::AlreadyDone => format!("the certificate request of {name} had gone already"),
        });
        (name.clone(), (what, run.context.clock.since(started)))
    });
    deletions.buffer_unordered(CA_WRITES_AT_ONCE).collect().await
}

/// The route that deletes nothing but a request is denied by the rules that Puppet Server ships. The one that is
/// allowed deletes the certificate as well, unrevoked: so it is only used while there is none.
pub(super) async fn delete_only_request(writer: &PuppetWriter, name: &Certname) -> Result<CaOutcome, Error> {
    match writer.ca.delete_csr(name).await {
        Err(Error::NotPermitted { call, .. }) => match writer.ca.ca().certificate(name).await? {
            None => writer.ca.delete(name).await,
            Some(_) => Err(Error::NotTried { call, because: "the request has just been signed".to_owned() }),
        },
        other => other,
    }
}

/// Deactivates every node that is still active.
async fn deactivate(run: Run<'_>, writer: &PuppetWriter, all: &[&Removal], now: Timestamp) -> BTreeMap<Certname, Done> {
    let nodes = all.iter().filter_map(|removal| Some((removal.name.certname(), removal.node?)));
    let commands = stream::iter(nodes).map(|(name, node)| async move {
        // PuppetDB drops a command that is older than the node's newest data, whose time may be ahead of ours.
        let after_newest = node.newest.and_then(|newest| newest.checked_add(SignedDuration::from_millis(1)).ok());
        let at = after_newest.map_or(now, |newest| newest.max(now));
        let started = run.now();
        let what = call(run.context, run.budget.work, Service::PuppetDb, writer.puppetdb.deactivate(name, at))
            .await
            .map(|outcome| match outcome {
                Deactivated::Done => format!("deactivated {name} in PuppetDB"),
                Deactivated::Queued => format!("PuppetDB has the deactivation of {name} in its queue"),
            });
        (name.clone(), (what, run.context.clock.since(started)))
    });
    commands.buffer_unordered(DEACTIVATIONS_AT_ONCE).collect().await
}

/// Unpins the whole set in one call.
async fn unpin(run: Run<'_>, writer: &PuppetWriter, all: &[&Removal]) -> BTreeMap<Certname, Done> {
    let pinned: Vec<Certname> =
        all.iter().filter(|removal| !removal.pins.is_empty()).map(|removal| removal.name.certname().clone()).collect();
    let (false, Some(classifier)) = (pinned.is_empty(), &writer.classifier) else { return BTreeMap::new() };
    let started = run.now();
    let unpinned = call(run.context, run.budget.work, Service::Classifier, classifier.unpin_from_all(&pinned)).await;
    let took = run.context.clock.since(started);
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
