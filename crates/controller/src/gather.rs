//! Gather: what AWS and Puppet say now. Reads only, once per group or set wherever one call answers for all.

mod answers;
mod cloud;
mod names;
pub(crate) mod orphans;
mod request;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join;
use jiff::Timestamp;
use stagedoor_lifecycle::observation::{NameView, Reachable};
use stagedoor_lifecycle::onboard::Arrival;
use stagedoor_lifecycle::profile::Protected;
use stagedoor_lifecycle::purge::PuppetView;
use stagedoor_lifecycle::receipt::Stage;
use stagedoor_puppet::{Certificate, Error as PuppetError, Group, Job, RevocationLists};

pub(crate) use answers::answer;
pub(crate) use cloud::{ask_when_it_began, by_id, hooks_of};

use crate::case::Case;
use crate::door::{Door, Puppet};
use crate::reconcile::Until;

/// How many questions go to one service at a time.
pub(crate) const AT_ONCE: usize = 16;

/// What a look brought besides the views of the cases.
pub(crate) struct Sight {
    /// The clients that were used, if there are any.
    pub(crate) puppet: Option<Arc<Puppet>>,
    /// Whether Puppet refused the credentials.
    pub(crate) stale: bool,
    /// PuppetDB's clock, by which it compares times.
    pub(crate) puppetdb_time: Option<Timestamp>,
    /// All node groups, if they were asked for.
    pub(crate) groups: Option<Result<Vec<Group>, String>>,
    /// The newest orders of the orchestrator, if they were asked for.
    jobs: Option<Result<Vec<Job>, String>>,
    crl: Option<RevocationLists>,
    took: Duration,
}

impl Sight {
    fn new() -> Self {
        let (puppet, stale, puppetdb_time, groups, jobs, crl) = (None, false, None, None, None, None);
        Self { puppet, stale, puppetdb_time, groups, jobs, crl, took: Duration::ZERO }
    }

    /// The names that are never purged.
    pub(crate) fn protected<'a>(&'a self, door: &'a Door) -> &'a Protected {
        self.puppet.as_ref().map_or(&door.config.protected, |puppet| &puppet.protected)
    }

    /// Clients of a new reading of the secret, after these were refused; whether that went well.
    pub(crate) async fn reopen(&self, door: &Door, until: Until) -> bool {
        match &self.puppet {
            Some(puppet) => {
                matches!(within(door, until.work, "Secrets Manager", door.puppet.reopen(puppet)).await, Ok(Ok(_)))
            }
            None => false,
        }
    }

    /// Writes down what this look proves of what was removed before it.
    pub(crate) fn prove(&self, case: &mut Case) {
        for (name, (removal, certificate)) in std::mem::take(&mut case.removed) {
            if let Some(serial) = &removal.certificate {
                let cleaned = case.cleaned.contains(&name);
                let revoked = revocation(self.crl.as_ref(), certificate.as_ref(), cleaned);
                case.step(Stage::Proven, self.took, format!("certificate {serial} of {name} is gone; {revoked}"));
            }
            if removal.request {
                case.step(Stage::Proven, self.took, format!("no certificate request of {name} is pending"));
            }
            if removal.node.is_some() {
                case.step(Stage::Proven, self.took, format!("{name} is inactive in PuppetDB"));
            }
            if !removal.pins.is_empty() {
                case.step(Stage::Proven, self.took, format!("{name} is pinned to no node group"));
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
pub(crate) async fn look_at_aws(door: &Door, cases: &mut [Case], until: Until) -> Result<Arc<Puppet>, String> {
    let mut open: Vec<&mut Case> = cases.iter_mut().filter(|case| case.is_undecided()).collect();
    let opened = within(door, until.work, "Secrets Manager", door.puppet.open());
    let (puppet, ()) = join(opened, cloud::look_at_aws(door, &mut open, until)).await;
    puppet.unwrap_or_else(Err)
}

/// Looks at Puppet for every open case that is ours.
pub(crate) async fn look_at_puppet(
    door: &Door,
    puppet: Result<Arc<Puppet>, String>,
    cases: &mut [Case],
    until: Until,
) -> Sight {
    let mut sight = Sight::new();
    let ours: Vec<&mut Case> = cases.iter_mut().filter(|case| case.is_undecided() && case.held.is_some()).collect();
    if ours.is_empty() {
        return sight;
    }
    match puppet {
        Ok(puppet) => {
            Box::pin(names::look_at_puppet(door, &puppet, ours, until, &mut sight)).await;
            sight.puppet = Some(puppet);
        }
        Err(trouble) => {
            for case in ours {
                let known_as = Reachable::Unreachable(trouble.clone());
                case.seen = PuppetView { names: Vec::new(), known_as, targets: None };
                let name = case.names().next().map(|name| NameView::unreachable(name.clone(), &trouble));
                case.arrival = Arrival { name, ..Arrival::default() };
            }
        }
    }
    sight
}

/// A call under the deadline of the invocation; what to say of `whom` if there was no answer by then.
pub(crate) async fn within<T>(
    door: &Door,
    until: Timestamp,
    whom: &str,
    call: impl Future<Output = T>,
) -> Result<T, String> {
    let left = Duration::try_from(until.duration_since(door.clock.now())).unwrap_or_default();
    let over = |_| format!("{whom} did not answer before the end of the invocation");
    tokio::time::timeout(left, call).await.map_err(over)
}

/// What was answered, or what went wrong.
pub(crate) fn flat<T>(answer: Result<Result<T, impl std::fmt::Display>, String>) -> Result<T, String> {
    answer?.map_err(|error| error.to_string())
}

fn unique<'a, T: Ord + Clone + 'a>(all: impl Iterator<Item = &'a T>) -> Vec<T> {
    all.collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// Asks Puppet, and remembers whether it refused the credentials.
struct Questions<'a> {
    door: &'a Door,
    until: Until,
    stale: AtomicBool,
}

impl Questions<'_> {
    async fn ask<T>(&self, whom: &str, call: impl Future<Output = Result<T, PuppetError>>) -> Result<T, String> {
        within(self.door, self.until.work, whom, call).await?.map_err(|error| {
            self.stale.fetch_or(error.credentials_may_be_stale(), Ordering::Relaxed);
            error.to_string()
        })
    }
}
