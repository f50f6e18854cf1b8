//! What Puppet says of all nodes at once, and of those that may be orphans closely. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use stagedoor_lifecycle::orphans::{Listed, Reported, Rules, Suspect};
use stagedoor_puppet::{Certificate, KnownIdentity, State};
use stagedoor_types::{Certname, Service, Trouble};

use super::ask;
use super::puppet::files;
use crate::call::AT_ONCE;
use crate::context::{Puppet, Run};
use crate::snapshot::{Files, PuppetSnapshot, holds};

/// How many certificates without an active node are read in one housekeeping; the selection rotates with the time.
const READ: usize = 100;

/// What was observed of the suspects.
pub(crate) struct Closely {
    /// When Puppet was asked.
    pub(crate) at: Timestamp,
    pub(crate) suspects: Vec<Suspect>,
    /// Their certificates, as far as they have any.
    pub(crate) certificates: BTreeMap<Certname, Certificate>,
    /// PuppetDB's clock, by which it compares times.
    pub(crate) puppetdb_time: Option<Timestamp>,
}

/// Every name with an instance: of the active nodes by one query; of the certificates without an active node by reading
/// them, some of them each time, for the CA's list does not say what they hold. `turn` says which.
pub(crate) async fn lists(run: Run<'_>, puppet: &Puppet, rules: &Rules<'_>, turn: i64) -> Result<Vec<Listed>, Trouble> {
    let (certified, statuses) = tokio::join!(
        ask(run, Service::PuppetDb, puppet.puppetdb.certified()),
        ask(run, Service::Ca, puppet.ca.statuses(Some(State::Signed)))
    );
    let (certified, statuses) = (certified?, statuses?);
    let known: BTreeSet<&str> = certified.iter().map(|known| known.certname.as_str()).collect();
    let unknown = statuses.iter().filter(|status| !known.contains(status.name.as_str()));
    let mut unread: Vec<Certname> = unknown.filter_map(|status| status.name.parse().ok()).collect();
    unread.retain(|name| rules.may_be_ours(name));
    unread.sort();
    let reading = stream::iter(in_turn(&unread, turn).to_vec()).map(|name| async move {
        let certificate = ask(run, Service::Ca, puppet.ca.certificate(&name)).await.ok().flatten()?;
        Some(Listed {
            certname: name,
            instance: certificate.instance_id()?,
            extensions: holds(&certificate).extensions,
        })
    });
    let read: Vec<Option<Listed>> = reading.buffer_unordered(AT_ONCE).collect().await;
    Ok(certified.iter().filter_map(listed).chain(read.into_iter().flatten()).collect())
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

/// Those whose turn it is.
pub(crate) fn in_turn(names: &[Certname], turn: i64) -> &[Certname] {
    let turns = i64::try_from(names.len().div_ceil(READ)).unwrap_or(i64::MAX).max(1);
    let chosen = usize::try_from(turn.rem_euclid(turns)).unwrap_or(0);
    names.chunks(READ).nth(chosen).unwrap_or_default()
}

fn listed(known: &KnownIdentity) -> Option<Listed> {
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
    let (at, unproven) = (run.now(), BTreeSet::new());
    let (files, nodes, identities, time, groups) = tokio::join!(
        files(run, puppet, names, &unproven),
        ask(run, Service::PuppetDb, puppet.puppetdb.nodes(names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.identities(names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.server_time()),
        groups,
    );
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
    Closely { at, suspects, certificates, puppetdb_time: time.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_has_its_turn() {
        let names: Vec<Certname> = (0..250).map(|number| format!("n{number:03}").parse().unwrap()).collect();
        let seen: BTreeSet<&Certname> = (7..10).flat_map(|turn| in_turn(&names, turn)).collect();
        assert_eq!(seen.len(), 250);
        assert!((0..9).all(|turn| in_turn(&names, turn).len() <= READ));
        assert_eq!(in_turn(&[], 3), []);
    }
}
