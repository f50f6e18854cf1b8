//! Enrols arriving nodes: signs what was approved, removes what was refused, pins. Every write may safely be repeated.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::Certname;
use stagedoor_lifecycle::observation::{Service, Trouble, TroubleKind};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::signing::Signable;
use stagedoor_puppet::{Error, Signed};

use super::record;
use super::remove::delete_requests;
use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::{AT_ONCE, call, within};
use crate::context::{Context, PuppetWriter};
use crate::observe::PuppetSnapshot;

/// Signs the requests of the whole set, in one call where the CA has it.
pub(super) async fn sign(
    context: &Context,
    writer: &PuppetWriter,
    items: &mut [WorkItem],
    signs: Vec<(usize, Signable)>,
    budget: Budget,
) -> bool {
    if signs.is_empty() {
        return false;
    }
    let names: Vec<Certname> = signs.iter().map(|(_, signable)| signable.certname().clone()).collect();
    let started = Instant::now();
    let signed = within(context, budget.work, Service::Ca, writer.ca.sign_all(&names)).await;
    let took = started.elapsed();
    let made = match &signed {
        Ok(signed) => certificates_made(context, writer, &signs, signed, budget).await,
        Err(_) => BTreeMap::new(),
    };
    let mut changed = false;
    for (index, signable) in signs {
        let (item, name) = (&mut items[index], signable.certname());
        match signed.as_ref().map(|signed| signed.get(name)) {
            Ok(Some(Ok(Signed::NoRequest))) => changed = true,
            // Somebody else signed in between, perhaps another request: what is there now is looked at again.
            Ok(Some(Ok(Signed::AlreadySigned(_)))) => changed = true,
            // Between the look and the signing, another request took the place of the one that was checked.
            Ok(Some(Ok(Signed::Done))) if made.get(name).is_some_and(|print| print != signable.key_print()) => {
                changed = true;
                let cleaned = writer.ca.clean(std::slice::from_ref(name));
                let cleaned = call(context, budget.work, Service::Ca, cleaned).await;
                let what = cleaned.map(|_| {
                    format!("revoked and deleted the certificate of {name}: it is not of the request that was checked")
                });
                if record(item, took, what) {
                    let reason = format!("another request took the place of {name}'s while it was signed");
                    item.ready = Some((ActionResult::Abandon, Fact::new(Code::RequestReplaced, reason).into()));
                }
            }
            Ok(Some(Ok(Signed::Done))) => {
                changed |= record(item, took, Ok(format!("signed the certificate request of {name}")))
            }
            // The CA will not sign it as long as nobody changes its settings or the request: no use in trying again
            // in this invocation.
            Ok(Some(Err(error @ Error::Refused { .. }))) => {
                item.step(Stage::Failed, took, error.to_string());
                let refused = Fact::new(Code::SignatureRefused, error.to_string());
                item.set_status(Outcome::Refused, refused.clone());
                item.refused = Some(refused);
            }
            Ok(Some(Err(error))) => changed |= record(item, took, Err(Trouble::of(Service::Ca, error))),
            Ok(None) => {
                changed |= record(
                    item,
                    took,
                    Err(Trouble {
                        kind: TroubleKind::Unexpected,
                        service: Service::Ca,
                        text: format!("the CA did not say what became of {name}"),
                    }),
                )
            }
            Err(late) => changed |= record(item, took, Err(late.clone())),
        }
    }
    changed
}

/// The keys of the certificates that were just made, by name, as far as they can be read.
async fn certificates_made(
    context: &Context,
    writer: &PuppetWriter,
    signs: &[(usize, Signable)],
    signed: &BTreeMap<Certname, Result<Signed, Error>>,
    budget: Budget,
) -> BTreeMap<Certname, String> {
    let names = signs.iter().map(|(_, signable)| signable.certname());
    let names = names.filter(|name| matches!(signed.get(*name), Some(Ok(Signed::Done))));
    let reads = stream::iter(names).map(|name| async move {
        let certificate = call(context, budget.work, Service::Ca, writer.ca.ca().certificate(name)).await.ok()??;
        Some((name.clone(), certificate.key().fingerprint.to_string()))
    });
    reads.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Deletes requests that were refused; then the launch is to be abandoned.
pub(super) async fn reject(
    context: &Context,
    writer: &PuppetWriter,
    items: &mut [WorkItem],
    requests: Vec<(usize, Certname, Fact)>,
    budget: Budget,
) -> bool {
    let mut deleted = delete_requests(context, writer, requests.iter().map(|(_, name, _)| name), budget).await;
    let changed = !deleted.is_empty();
    for (index, name, reason) in requests {
        let Some((what, took)) = deleted.remove(&name) else { continue };
        let item = &mut items[index];
        if record(item, took, what) {
            item.ready = Some((ActionResult::Abandon, reason.into()));
        }
    }
    changed
}

/// Pins nodes to groups, all nodes of a group in one call, group by group: what becomes of two changes of one group at
/// the same time is not documented.
pub(super) async fn pin(
    context: &Context,
    writer: &PuppetWriter,
    snapshot: &PuppetSnapshot,
    items: &mut [WorkItem],
    pins: Vec<(usize, Certname, Vec<String>)>,
    budget: Budget,
) -> bool {
    let mut by_group: BTreeMap<String, Vec<(usize, Certname)>> = BTreeMap::new();
    for (index, name, groups) in pins {
        for group in groups {
            by_group.entry(group).or_default().push((index, name.clone()));
        }
    }
    let mut changed = false;
    for (group, members) in by_group {
        let known = snapshot.groups.as_ref().and_then(|groups| groups.as_ref().ok());
        let id = known.and_then(|groups| groups.iter().find(|known| known.name == group)).map(|known| &known.id);
        let (Some(id), Some(classifier)) = (id, &writer.classifier) else { continue };
        let names: Vec<Certname> = members.iter().map(|(_, name)| name.clone()).collect();
        let started = Instant::now();
        let pinned = call(context, budget.work, Service::Classifier, classifier.pin(id, &names)).await;
        for (index, name) in members {
            let what = pinned.as_ref().map(|()| format!("pinned {name} to {group}")).map_err(Clone::clone);
            changed |= record(&mut items[index], started.elapsed(), what);
        }
    }
    changed
}
