//! Enrols launching nodes: signs what was approved, pins. Every write may safely be repeated.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_lifecycle::signing::Signable;
use stagedoor_puppet::{Certificate, Error, Group, Outcome as CaOutcome, Signed};
use stagedoor_types::{ActionKey, Certname, Service, Trouble, TroubleKind};

use super::remove::not_tried;
use super::{Applied, OBSERVATION_HOLDS, certificates_now};
use crate::call::{AT_ONCE, call, within};
use crate::context::{PuppetWriter, Run};
use crate::snapshot::{PuppetSnapshot, contents, holds};

/// Signs the requests of the whole batch, in one call where the CA has it. `just_unpinned` are the names that this batch has unpinned for
/// their former owners: they are pinned again first.
pub(super) async fn sign(
    run: Run<'_>,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    mut signs: Vec<(ActionKey, Signable)>,
    just_unpinned: &BTreeSet<Certname>,
    applied: &mut Applied,
) {
    let changed = changed(run, writer, snapshot, &signs, just_unpinned).await;
    signs.retain(|(key, signable)| {
        let Some(reason) = changed.get(signable.certname()) else { return true };
        let report = applied.reports.of(key);
        report.status(Outcome::Failed, reason.clone());
        report.may_repeat = true;
        applied.changed |= reason.code == Code::NotSeenYet;
        false
    });
    if signs.is_empty() {
        return;
    }
    let names: Vec<Certname> = signs.iter().map(|(_, signable)| signable.certname().clone()).collect();
    let started = run.now();
    let signed = within(run.context, run.budget.work, Service::Ca, writer.ca.sign_all(&names)).await;
    let took = run.context.clock.since(started);
    let made = match &signed {
        Ok(signed) => {
            let done = |name: &&Certname| matches!(signed.get(*name), Some(Ok(Signed::Done)));
            let names = signs.iter().map(|(_, signable)| signable.certname()).filter(done);
            certificates_now(run, writer, names).await
        }
        Err(_) => BTreeMap::new(),
    };
    for (key, signable) in signs {
        let (report, name) = (applied.reports.of(&key), signable.certname());
        let recorded = match signed.as_ref().map(|signed| signed.get(name)) {
            // Gone, or signed by another invocation, perhaps from another request: what is there now is observed again.
            Ok(Some(Ok(Signed::NoRequest | Signed::AlreadySigned(_)))) => true,
            // Between the snapshot and the signing, another request took the place of the one that was checked.
            Ok(Some(Ok(Signed::Done))) if is_other(&signable, made.get(name)) => {
                let cleaned = writer.ca.clean(std::slice::from_ref(name));
                let cleaned = within(run.context, run.budget.work, Service::Ca, cleaned).await;
                let cleaned = cleaned.and_then(|mut all| match all.remove(name) {
                    Some(one) => one.map_err(|error| Trouble::of(Service::Ca, &error)),
                    None => Err(not_tried(name)),
                });
                let what = cleaned.map(|outcome| match outcome {
                    CaOutcome::Done => {
                        format!(
                            "revoked and deleted the certificate of {name}: it does not match the request that was checked"
                        )
                    }
                    CaOutcome::AlreadyDone => {
                        format!(
                            "the certificate of {name}, which does not match the request that was checked, had already been removed"
                        )
                    }
                });
                if report.record(took, what) {
                    let reason = format!("another request took the place of {name}'s while it was signed");
                    report.refuse(Fact::new(Code::RequestReplaced, reason), None);
                }
                true
            }
            Ok(Some(Ok(Signed::Done))) => match made.get(name) {
                Some(Err(trouble)) => {
                    let text =
                        format!("signed {name}, but could not compare the certificate with its request: {trouble}");
                    report.record(took, Err(Trouble { text, ..trouble.clone() }))
                }
                _ => report.record(took, Ok(format!("signed the certificate request of {name}"))),
            },
            // The CA will not sign it as long as nothing changes in its settings or the request: no use in trying again in this
            // invocation.
            Ok(Some(Err(error @ Error::Refused { .. }))) => {
                let refused = Fact::new(Code::SignatureRefused, error.to_string());
                report.step(StepKind::Failed, took, error.to_string());
                report.status(Outcome::Refused, refused.clone());
                report.refused = Some(refused);
                false
            }
            Ok(Some(Err(error))) => report.record(took, Err(Trouble::of(Service::Ca, error))),
            Ok(None) => {
                let text = format!("the CA did not say whether it signed {name}");
                report.record(took, Err(Trouble { kind: TroubleKind::Unexpected, service: Service::Ca, text }))
            }
            Err(late) => report.record(took, Err(late.clone())),
        };
        applied.changed |= recorded;
    }
}

/// The names whose certificate, request or pins have changed since they were checked, or cannot be read now, each with the reason not to
/// sign.
///
/// * Another invocation may have been faster. On a CA with `allow-duplicate-certs`, signing what is pending now would replace the
///   certificate that the instance got meanwhile.
/// * Another request may have taken the place of the one that was checked: while PuppetDB hangs, the checks take a minute.
/// * The name may have been unpinned since, because its former owner was purged.
async fn changed(
    run: Run<'_>,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    signs: &[(ActionKey, Signable)],
    just_unpinned: &BTreeSet<Certname>,
) -> BTreeMap<Certname, Fact> {
    let again = |what: String| Some(Fact::new(Code::NotSeenYet, format!("{what}; it is observed again")));
    let unpinned = unpinned(run, writer, snapshot, signs).await;
    let reads = stream::iter(signs).map(|(_, signable)| async move {
        let (ca, name) = (writer.ca.ca(), signable.certname());
        let read = |error| Some(Fact::from(error));
        let certificate = call(run.context, run.budget.work, Service::Ca, ca.certificate(name));
        let request = call(run.context, run.budget.work, Service::Ca, ca.csr(name));
        let reason = match tokio::join!(certificate, request) {
            (Err(trouble), _) | (_, Err(trouble)) => read(trouble),
            (Ok(Some(_)), _) => again(format!("{name} has just got a certificate")),
            (Ok(None), Ok(None)) => again(format!("the certificate request of {name} is not pending any more")),
            (Ok(None), Ok(Some(csr))) if !signable.is_of(&contents(&csr)) => {
                again(format!("another request has taken the place of {name}'s"))
            }
            (Ok(None), Ok(Some(_))) => None,
        };
        (name, reason)
    });
    let reads: Vec<(&Certname, Option<Fact>)> = reads.buffer_unordered(AT_ONCE).collect().await;
    let reasons = reads.into_iter().filter_map(|(name, reason)| {
        let reason = reason.or_else(|| match &unpinned {
            _ if just_unpinned.contains(name) => again(format!("{name} has just been unpinned")),
            Ok(names) if names.contains(name) => again(format!("{name} has just been unpinned")),
            Ok(_) => None,
            Err(trouble) => Some(Fact::from(trouble.clone())),
        });
        Some((name.clone(), reason?))
    });
    reasons.collect()
}

/// The names that have lost a pin since they were checked. Queries the classifier only if the observation is older than
/// [`OBSERVATION_HOLDS`].
async fn unpinned(
    run: Run<'_>,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    signs: &[(ActionKey, Signable)],
) -> Result<BTreeSet<Certname>, Trouble> {
    let pins = |groups: &[Group], name: &Certname| -> BTreeSet<String> {
        groups.iter().filter(|group| group.pins(name)).map(|group| group.id.to_string()).collect()
    };
    let before = snapshot.groups.as_ref().and_then(|groups| groups.as_deref().ok()).unwrap_or_default();
    let checked: Vec<(&Certname, BTreeSet<String>)> = signs
        .iter()
        .map(|(_, signable)| (signable.certname(), pins(before, signable.certname())))
        .filter(|(_, pins)| !pins.is_empty())
        .collect();
    let Some(classifier) = &writer.classifier else { return Ok(BTreeSet::new()) };
    if checked.is_empty() || run.now() < deadline::after(snapshot.at, OBSERVATION_HOLDS) {
        return Ok(BTreeSet::new());
    }
    let now = call(run.context, run.budget.work, Service::Classifier, classifier.classifier().groups()).await?;
    let lost = checked.into_iter().filter(|(name, before)| !before.is_subset(&pins(&now, name)));
    Ok(lost.map(|(name, _)| name.clone()).collect())
}

/// Whether the certificate that was just issued does not match the approved request.
fn is_other(signable: &Signable, made: Option<&Result<Option<Certificate>, Trouble>>) -> bool {
    matches!(made, Some(Ok(Some(certificate))) if !signable.is_of(&holds(certificate)))
}

/// Pins nodes to groups, all nodes of a group in one call, group by group: the effect of two concurrent changes of one group is
/// not documented.
pub(super) async fn pin(
    run: Run<'_>,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    pins: Vec<(ActionKey, Certname, Vec<String>)>,
    applied: &mut Applied,
) {
    let mut by_group: BTreeMap<String, Vec<(ActionKey, Certname)>> = BTreeMap::new();
    for (key, name, groups) in pins {
        for group in groups {
            by_group.entry(group).or_default().push((key.clone(), name.clone()));
        }
    }
    for (group, members) in by_group {
        let id = snapshot.node_group(&group).map(|group| &group.id);
        let (Some(id), Some(classifier)) = (id, &writer.classifier) else { continue };
        let names: Vec<Certname> = members.iter().map(|(_, name)| name.clone()).collect();
        let started = run.now();
        let pinned = call(run.context, run.budget.work, Service::Classifier, classifier.pin(id, &names)).await;
        let took = run.context.clock.since(started);
        for (key, name) in members {
            let what = pinned.as_ref().map(|()| format!("pinned {name} to {group}")).map_err(Clone::clone);
            applied.changed |= applied.reports.of(&key).record(took, what);
        }
    }
}
