//! Observe: what AWS and Puppet say now. Reads only, once per group or set wherever one call answers for all.

mod answers;
mod cloud;
mod names;
pub(crate) mod orphans;
mod request;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use jiff::Timestamp;
use stagedoor_lifecycle::observation::{Lookup, NameView, Service, Trouble};
use stagedoor_lifecycle::onboard::LaunchView;
use stagedoor_lifecycle::profile::Protected;
use stagedoor_lifecycle::purge::TerminationView;
use stagedoor_lifecycle::receipt::Stage;
use stagedoor_puppet::{Certificate, Error as PuppetError, Group, Job, RevocationLists};

pub(crate) use answers::answer;
pub(crate) use cloud::{ask_when_it_began, by_id, hooks_of};
pub(crate) use names::issued;

use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::call;
use crate::context::{Context, Puppet};

/// What a look brought besides the views of the cases.
pub(crate) struct PuppetSnapshot {
    /// The clients that were used, if there are any.
    pub(crate) puppet: Option<Arc<Puppet>>,
    /// Whether Puppet refused the credentials.
    pub(crate) stale: bool,
    /// PuppetDB's clock, by which it compares times.
    pub(crate) puppetdb_time: Option<Timestamp>,
    /// All node groups, if they were asked for.
    pub(crate) groups: Option<Result<Vec<Group>, Trouble>>,
    /// The newest orders of the orchestrator, if they were asked for.
    jobs: Option<Result<Vec<Job>, Trouble>>,
    crl: Option<RevocationLists>,
    took: Duration,
}

impl PuppetSnapshot {
    fn new() -> Self {
        let (puppet, stale, puppetdb_time, groups, jobs, crl) = (None, false, None, None, None, None);
        Self { puppet, stale, puppetdb_time, groups, jobs, crl, took: Duration::ZERO }
    }

    /// The names that are never purged.
    pub(crate) fn protected<'a>(&'a self, context: &'a Context) -> &'a Protected {
        self.puppet.as_ref().map_or(&context.config.protected, |puppet| &puppet.protected)
    }

    /// Clients of a new reading of the secret, after these were refused; whether that went well.
    pub(crate) async fn reopen(&self, context: &Context, budget: Budget) -> bool {
        match &self.puppet {
            Some(puppet) => {
                call(context, budget.work, Service::SecretsManager, context.puppet.reopen(puppet)).await.is_ok()
            }
            None => false,
        }
    }

    /// Writes down what this look proves of what was removed before it.
    pub(crate) fn prove(&self, item: &mut WorkItem) {
        for (name, (removal, certificate)) in std::mem::take(&mut item.removed) {
            if let Some(serial) = &removal.certificate {
                let cleaned = item.cleaned.contains(&name);
                let revoked = revocation(self.crl.as_ref(), certificate.as_ref(), cleaned);
                item.step(Stage::Proven, self.took, format!("certificate {serial} of {name} is gone; {revoked}"));
            }
            if removal.request {
                item.step(Stage::Proven, self.took, format!("no certificate request of {name} is pending"));
            }
            if removal.node.is_some() {
                item.step(Stage::Proven, self.took, format!("{name} is inactive in PuppetDB"));
            }
            if !removal.pins.is_empty() {
                item.step(Stage::Proven, self.took, format!("{name} is pinned to no node group"));
            }
        }
    }
}

/// What the CRL tells of a certificate that is gone; `cleaned` says whether the CA has said that it revoked it.
pub(crate) fn revocation(
    crl: Option<&RevocationLists>,
    certificate: Option<&Certificate>,
    cleaned: bool,
) -> &'static str {
    match crl.zip(certificate).map(|(crl, certificate)| crl.revokes(certificate)) {
        Some(true) => "its serial is in the CRL",
        Some(false) if cleaned => {
            "the CA has said that it is revoked, but the CRL that it gives to agents does NOT list it: look into the CA's own \
             CRL (docs/operations.md, revocations)"
        }
        None if cleaned => "the CA has said that it is revoked; its CRL could not be read",
        _ => "that it is revoked could NOT be seen: look into the CA's CRL",
    }
}

/// Looks at AWS for every open case where that is not fresh any more, and opens Puppet meanwhile.
pub(crate) async fn look_at_aws(
    context: &Context,
    items: &mut [WorkItem],
    budget: Budget,
) -> Result<Arc<Puppet>, Trouble> {
    let mut open: Vec<&mut WorkItem> = items.iter_mut().filter(|item| item.is_undecided()).collect();
    let opened = call(context, budget.work, Service::SecretsManager, context.puppet.open());
    let (puppet, ()) = join(opened, cloud::look_at_aws(context, &mut open, budget)).await;
    puppet
}

/// Looks at Puppet for every open case that is ours.
pub(crate) async fn look_at_puppet(
    context: &Context,
    puppet: Result<Arc<Puppet>, Trouble>,
    items: &mut [WorkItem],
    budget: Budget,
) -> PuppetSnapshot {
    let mut snapshot = PuppetSnapshot::new();
    let ours: Vec<&mut WorkItem> = items.iter_mut().filter(|item| item.is_undecided() && item.held.is_some()).collect();
    if ours.is_empty() {
        return snapshot;
    }
    match puppet {
        Ok(puppet) => {
            Box::pin(names::look_at_puppet(context, &puppet, ours, budget, &mut snapshot)).await;
            snapshot.puppet = Some(puppet);
        }
        Err(trouble) => {
            for item in ours {
                let known_as = Lookup::Unavailable(trouble.clone());
                item.seen = TerminationView { names: Vec::new(), known_as, targets: None };
                let name = item.names().next().map(|name| NameView::unavailable(name.clone(), &trouble));
                item.launch = LaunchView { name, ..LaunchView::default() };
            }
        }
    }
    snapshot
}

/// Asks Puppet, within the time for work.
#[derive(Clone, Copy)]
struct Questions<'a> {
    context: &'a Context,
    budget: Budget,
}

impl Questions<'_> {
    async fn ask<T>(
        &self,
        service: Service,
        question: impl Future<Output = Result<T, PuppetError>>,
    ) -> Result<T, Trouble> {
        call(self.context, self.budget.work, service, question).await
    }
}
