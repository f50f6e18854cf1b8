//! What Puppet says of all nodes at once, and of those that may be orphans closely. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::orphans::{Listed, Reported, Rules, Suspect};
use stagedoor_puppet::{Certificate, Group, KnownIdentity};
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{Certname, Location, Service, Trouble, TroubleKind};

use super::ask;
use super::puppet::{files, outside};
use crate::call::{AT_ONCE, in_turn};
use crate::context::{Puppet, Run};
use crate::memory::Certificates;
use crate::snapshot::{Files, PuppetSnapshot, holds};

/// A list that fails sooner has cost the CA nothing.
const AT_NO_COST: Duration = Duration::from_secs(5);

/// How many certificates without an active node are read in one housekeeping; the selection rotates with the time.
const READ: usize = 100;

/// Every name with an instance.
pub(crate) struct Lists {
    pub(crate) listed: Vec<Listed>,
    /// Why certificates without an active node are not among them, if they are not.
    pub(crate) unlisted: Option<Trouble>,
}

/// What was observed of the suspects.
pub(crate) struct Closely {
    /// When Puppet was asked.
    pub(crate) at: Timestamp,
    pub(crate) suspects: Vec<Suspect>,
    /// Their certificates, as far as they have any.
    pub(crate) certificates: BTreeMap<Certname, Certificate>,
    /// By how much PuppetDB's clock, by which it compares times, is ahead of ours.
    pub(crate) puppetdb_ahead: Option<SignedDuration>,
}

/// Every name of the fleet: of the active nodes by one query, which leaves out those that are elsewhere; of the certificates
/// without an active node by reading them, some of them each time, for the CA's list does not say what they hold. `turn` says
/// which.
///
/// A CA that cannot give its list does not keep the nodes from being looked after.
pub(crate) async fn lists(
    run: Run<'_>,
    puppet: &Puppet,
    rules: &Rules<'_>,
    home: Option<&Location>,
    turn: i64,
) -> Result<Lists, Trouble> {
    let home = home.filter(|_| !is_broken(Rule::Home));
    let ours = |known: KnownIdentity| listed(&known).filter(|listed| rules.is_ours(listed));
    let (certified, certificates) = tokio::join!(
        ask(run, Service::PuppetDb, puppet.puppetdb.certified(home, ours)),
        certificates(run, puppet, rules)
    );
    let mut listed = certified?;
    let certificates = match certificates {
        Ok(certificates) => certificates,
        Err(trouble) => return Ok(Lists { listed, unlisted: Some(trouble) }),
    };
    let reading = stream::iter(in_turn(&certificates, READ, turn).to_vec()).map(|name| async move {
        let certificate = ask(run, Service::Ca, puppet.ca.certificate(&name)).await.ok().flatten()?;
        Some(Listed {
            certname: name,
            instance: certificate.instance_id()?,
            extensions: holds(&certificate).extensions,
        })
    });
    let read: Vec<Option<Listed>> = reading.buffer_unordered(AT_ONCE).collect().await;
    listed.extend(read.into_iter().flatten());
    Ok(Lists { listed, unlisted: None })
}

/// Those of these names that have no active node in PuppetDB, in order.
pub(crate) async fn names_without_node(
    run: Run<'_>,
    puppet: &Puppet,
    names: &[Certname],
) -> Result<Vec<Certname>, Trouble> {
    let nodes = ask(run, Service::PuppetDb, puppet.puppetdb.nodes(names)).await?;
    let active: BTreeSet<&Certname> = nodes.iter().filter(|node| node.is_active()).map(|node| &node.certname).collect();
    Ok(names.iter().filter(|name| !active.contains(name)).cloned().collect())
}

/// The names of certificates that may be of the fleet and have no active node. A warm function asks the CA and PuppetDB for all names
/// every 45 minutes. It reads the lists as they arrive and keeps only the names that may be ours.
async fn certificates(run: Run<'_>, puppet: &Puppet, rules: &Rules<'_>) -> Certificates {
    let memory = &run.context.memory;
    if let Some(certificates) = memory.certificates(run.now()) {
        return certificates;
    }
    let (mut names, mut invalid) = (BTreeSet::new(), 0_usize);
    let signed = |name: String| match name.parse::<Certname>() {
        Ok(name) if rules.may_be_ours(&name) => {
            names.insert(name);
        }
        Ok(_) => {}
        Err(_) => invalid += 1,
    };
    let began = run.now();
    let listed = ask(run, Service::Ca, puppet.ca.signed_names(signed)).await;
    if invalid > 0 {
        tracing::warn!(invalid, "left out certificates whose names are no certnames");
    }
    let none = names.is_empty();
    // Asked afterwards: a node that has just appeared has its certificate already.
    let active = |name: &str| {
        if let Ok(name) = name.parse::<Certname>() {
            names.remove(&name);
        }
    };
    let found = match listed {
        Ok(()) if none => Ok(()),
        Ok(()) => ask(run, Service::PuppetDb, puppet.puppetdb.active_names(active)).await,
        Err(trouble) => Err(trouble),
    };
    let certificates: Certificates = found.map(|()| names.into_iter().collect::<Arc<[Certname]>>());
    let took = run.context.clock.since(began);
    let passing = |trouble: &Trouble| has_cost_nothing(trouble, took);
    if !certificates.as_ref().is_err_and(passing) {
        memory.keep_certificates(run.now(), certificates.clone());
    }
    certificates
}

/// Whether the next housekeeping may ask for the list again after this failure. Otherwise it is remembered like a list: an error with which
/// the CA answered, for instance because of a damaged file, and any failure that took long, because the CA makes the whole list even if
/// nobody waits for it any longer.
fn has_cost_nothing(trouble: &Trouble, took: Duration) -> bool {
    let is_of_the_ca = trouble.service != Service::PuppetDb
        && !matches!(trouble.kind, TroubleKind::Timeout | TroubleKind::Unreachable);
    took < AT_NO_COST && !is_of_the_ca
}

/// What a node's certificate said at its newest run, if it named an instance.
pub(crate) fn listed(known: &KnownIdentity) -> Option<Listed> {
    let KnownIdentity { certname, certified, extensions, .. } = known;
    Some(Listed { certname: certname.clone(), instance: certified.clone()?, extensions: extensions.clone() })
}

/// Everything that Puppet says of these names.
pub(crate) async fn closely(run: Run<'_>, puppet: &Puppet, names: &[Certname]) -> Closely {
    let groups = async {
        match &puppet.classifier {
            Some(classifier) => Some(ask(run, Service::Classifier, classifier.groups()).await),
            None => None,
        }
    };
    Box::pin(closely_with(run, puppet, names, groups)).await
}

/// The same, with the node groups from elsewhere.
pub(crate) async fn closely_with(
    run: Run<'_>,
    puppet: &Puppet,
    names: &[Certname],
    groups: impl Future<Output = Option<Result<Vec<Group>, Trouble>>>,
) -> Closely {
    let (at, unproven) = (run.now(), BTreeSet::new());
    let (files, nodes, identities, time, groups) = tokio::join!(
        files(run, puppet, names, &unproven),
        ask(run, Service::PuppetDb, puppet.puppetdb.nodes(names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.identities(names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.server_time()),
        groups,
    );
    let puppetdb_ahead = time.ok().map(|time| outside(time, at, run.now()));
    let snapshot = PuppetSnapshot::of_names(puppet, at, files, nodes, identities, groups);
    let suspect = |name: &Certname| {
        let known = snapshot.identities.as_ref().ok().and_then(|known| known.get(name));
        let reported = known.map(|known| Reported {
            instance: known.reported.clone(),
            account: known.account.clone(),
            region: known.region.clone(),
        });
        Suspect { view: snapshot.view(name), certified: known.and_then(listed), reported: reported.unwrap_or_default() }
    };
    let suspects = names.iter().map(suspect).collect();
    let certificate = |(name, (certificate, _)): (Certname, Files)| Some((name, certificate.ok().flatten()?));
    let certificates = snapshot.files.into_iter().filter_map(certificate).collect();
    Closely { at, suspects, certificates, puppetdb_ahead }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_that_came_at_once_and_not_from_the_ca_lets_the_list_be_asked_for_again() {
        let trouble = |kind, service| Trouble { kind, service, text: String::new() };
        let refused = trouble(TroubleKind::Unreachable, Service::Ca);
        let of_puppetdb = trouble(TroubleKind::Busy, Service::PuppetDb);
        for passing in [&refused, &of_puppetdb] {
            assert!(has_cost_nothing(passing, Duration::from_secs(1)), "{passing:?}");
            assert!(!has_cost_nothing(passing, Duration::from_secs(60)), "{passing:?}");
        }
        assert!(!has_cost_nothing(&trouble(TroubleKind::Busy, Service::Ca), Duration::from_secs(1)));
    }
}
