//! Enrols arriving nodes: signs what was approved, removes what was refused, pins. Every write may safely be repeated.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::Certname;
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::signing::Signable;
use stagedoor_puppet::{Error, Signed};

use super::record;
use super::remove::delete_requests;
use crate::case::Case;
use crate::door::{Door, Hands};
use crate::gather::{AT_ONCE, Sight, flat, within};
use crate::reconcile::Until;

/// Signs the requests of the whole set, in one call where the CA has it.
pub(super) async fn sign(
    door: &Door,
    hands: &Hands,
    cases: &mut [Case],
    signs: Vec<(usize, Signable)>,
    until: Until,
) -> bool {
    if signs.is_empty() {
        return false;
    }
    let names: Vec<Certname> = signs.iter().map(|(_, signable)| signable.certname().clone()).collect();
    let started = Instant::now();
    let signed = within(door, until.work, "the Puppet CA", hands.ca.sign_all(&names)).await;
    let took = started.elapsed();
    let made = match &signed {
        Ok(signed) => certificates_made(door, hands, &signs, signed, until).await,
        Err(_) => BTreeMap::new(),
    };
    let mut changed = false;
    for (index, signable) in signs {
        let (case, name) = (&mut cases[index], signable.certname());
        match signed.as_ref().map(|signed| signed.get(name)) {
            Ok(Some(Ok(Signed::NoRequest))) => changed = true,
            // Between the look and the signing, another request took the place of the one that was checked.
            Ok(Some(Ok(_))) if made.get(name).is_some_and(|print| print != signable.key_print()) => {
                changed = true;
                let cleaned =
                    flat(within(door, until.work, "the Puppet CA", hands.ca.clean(std::slice::from_ref(name))).await);
                let what = cleaned.map(|_| {
                    format!("revoked and deleted the certificate of {name}: it is not of the request that was checked")
                });
                if record(case, took, what) {
                    let reason = format!("another request took the place of {name}'s while it was signed");
                    case.ready = Some((ActionResult::Abandon, reason));
                }
            }
            Ok(Some(Ok(_))) => changed |= record(case, took, Ok(format!("signed the certificate request of {name}"))),
            // The CA will not sign it as long as nobody changes its settings or the request: no use in trying again
            // in this invocation.
            Ok(Some(Err(error @ Error::Refused { .. }))) => {
                case.step(Stage::Failed, took, error.to_string());
                case.stands(Outcome::Refused, error.to_string());
                case.refused = Some(error.to_string());
            }
            Ok(Some(Err(error))) => changed |= record(case, took, Err(error.to_string())),
            Ok(None) => changed |= record(case, took, Err(format!("the CA did not say what became of {name}"))),
            Err(late) => changed |= record(case, took, Err(late.clone())),
        }
    }
    changed
}

/// The keys of the certificates that were just made, by name, as far as they can be read.
async fn certificates_made(
    door: &Door,
    hands: &Hands,
    signs: &[(usize, Signable)],
    signed: &BTreeMap<Certname, Result<Signed, Error>>,
    until: Until,
) -> BTreeMap<Certname, String> {
    let names = signs.iter().map(|(_, signable)| signable.certname());
    let names = names.filter(|name| matches!(signed.get(*name), Some(Ok(done)) if *done != Signed::NoRequest));
    let reads = stream::iter(names).map(|name| async move {
        let certificate =
            within(door, until.work, "the Puppet CA", hands.ca.ca().certificate(name)).await.ok()?.ok()??;
        Some((name.clone(), certificate.key().fingerprint.to_string()))
    });
    reads.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Deletes requests that were refused; then the launch is to be abandoned.
pub(super) async fn reject(
    door: &Door,
    hands: &Hands,
    cases: &mut [Case],
    requests: Vec<(usize, Certname, String)>,
    until: Until,
) -> bool {
    let mut deleted = delete_requests(door, hands, requests.iter().map(|(_, name, _)| name), until).await;
    let changed = !deleted.is_empty();
    for (index, name, reason) in requests {
        let Some((what, took)) = deleted.remove(&name) else { continue };
        let case = &mut cases[index];
        if record(case, took, what) {
            case.ready = Some((ActionResult::Abandon, reason));
        }
    }
    changed
}

/// Pins nodes to groups, all nodes of a group in one call, group by group: what becomes of two changes of one group at
/// the same time is not documented.
pub(super) async fn pin(
    door: &Door,
    hands: &Hands,
    sight: &Sight,
    cases: &mut [Case],
    pins: Vec<(usize, Certname, Vec<String>)>,
    until: Until,
) -> bool {
    let mut by_group: BTreeMap<String, Vec<(usize, Certname)>> = BTreeMap::new();
    for (index, name, groups) in pins {
        for group in groups {
            by_group.entry(group).or_default().push((index, name.clone()));
        }
    }
    let mut changed = false;
    for (group, members) in by_group {
        let known = sight.groups.as_ref().and_then(|groups| groups.as_ref().ok());
        let id = known.and_then(|groups| groups.iter().find(|known| known.name == group)).map(|known| &known.id);
        let (Some(id), Some(classifier)) = (id, &hands.classifier) else { continue };
        let names: Vec<Certname> = members.iter().map(|(_, name)| name.clone()).collect();
        let started = Instant::now();
        let pinned = flat(within(door, until.work, "the classifier", classifier.pin(id, &names)).await);
        for (index, name) in members {
            let what = pinned.as_ref().map(|()| format!("pinned {name} to {group}")).map_err(Clone::clone);
            changed |= record(&mut cases[index], started.elapsed(), what);
        }
    }
    changed
}
