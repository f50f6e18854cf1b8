//! What the CA, PuppetDB and the classifier say about names. Reads only; PuppetDB answers for the whole batch at once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use stagedoor_puppet::{Certificate, Error as PuppetError};
use stagedoor_types::{Certname, Service};

use super::ask;
use crate::batch::Wanted;
use crate::call::AT_ONCE;
use crate::context::{Puppet, Run};
use crate::snapshot::{Files, Pending, PuppetSnapshot, by_name};

/// From so many names on, the CA is asked for the list of pending requests instead of the request of each name.
const LIST_REQUESTS_FROM: usize = 8;

/// Asks the CA, PuppetDB and the classifier, side by side.
pub(crate) async fn puppet(run: Run<'_>, puppet: &Puppet, wanted: &Wanted) -> PuppetSnapshot {
    let (before, started) = (puppet.ca.date(), run.now());
    let revoked: Vec<&Certificate> = wanted.revoked.iter().collect();
    let crl = async {
        if revoked.is_empty() { None } else { ask(run, Service::Ca, puppet.ca.revocations(&revoked)).await.ok() }
    };
    let groups = async {
        match &puppet.classifier {
            Some(classifier) if wanted.groups => Some(ask(run, Service::Classifier, classifier.groups()).await),
            _ => None,
        }
    };
    let (files, known_as, nodes, identities, reports, time, crl, groups) = tokio::join!(
        files(run, puppet, &wanted.names, &wanted.unproven),
        ask(run, Service::PuppetDb, puppet.puppetdb.certnames_of(&wanted.terminating)),
        ask(run, Service::PuppetDb, puppet.puppetdb.nodes(&wanted.names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.identities(&wanted.all_names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.latest_reports(&wanted.launching)),
        ask(run, Service::PuppetDb, puppet.puppetdb.server_time()),
        crl,
        groups,
    );
    puppet.compare_clock(before, run.now());
    let puppetdb_ahead = time.as_ref().ok().map(|time| outside(*time, started, run.now()));
    if let Some(ahead) = puppetdb_ahead {
        puppet.clocks.measured(Service::PuppetDb, ahead);
    }
    PuppetSnapshot {
        took: run.context.clock.since(started),
        known_as,
        runs: by_name(reports, |report| &report.certname),
        puppetdb_ahead,
        crl,
        ..PuppetSnapshot::of_names(puppet, started, files, nodes, identities, groups)
    }
}

/// How far `time` lies outside the interval in which it was read: negative before the interval, positive after it, zero inside.
pub(super) fn outside(time: Timestamp, from: Timestamp, to: Timestamp) -> SignedDuration {
    time.duration_since(time.clamp(from.min(to), to))
}

/// What the CA has under these names. Each certificate is read by itself: for the list of all certificates, a CA parses every
/// file that it has, which takes 20 seconds to more than a minute for 30,000 certificates, and one damaged file fails the list.
///
/// Signing writes the certificate first and deletes the request afterwards. So a certificate is looked for after its request, or
/// once more: otherwise both could be missed. Not so for names that are `unproven`: their certificate was just removed.
pub(super) async fn files(
    run: Run<'_>,
    puppet: &Puppet,
    names: &[Certname],
    unproven: &BTreeSet<Certname>,
) -> BTreeMap<Certname, Files> {
    let listed = if names.len() < LIST_REQUESTS_FROM { None } else { requested(run, puppet).await };
    let files = stream::iter(names).map(|name| {
        let listed = listed.as_ref();
        async move {
            let certificate = || ask(run, Service::Ca, puppet.ca.certificate(name));
            let request = async {
                match listed {
                    Some(listed) if !listed.contains(name.as_str()) => Ok(None),
                    _ => ask(run, Service::Ca, pending(puppet, name)).await,
                }
            };
            let (mut found, request) = join(certificate(), request).await;
            // Names that are not listed had no request before their certificate was looked for.
            let asked_beside = listed.is_none_or(|listed| listed.contains(name.as_str()));
            if asked_beside && !unproven.contains(name) && matches!((&found, &request), (Ok(None), Ok(None))) {
                found = certificate().await;
            }
            (name.clone(), (found, request))
        }
    });
    files.buffer_unordered(AT_ONCE).collect().await
}

/// The names with pending requests. The list of requests reads no certificate. One that fails says nothing about any name.
async fn requested(run: Run<'_>, puppet: &Puppet) -> Option<BTreeSet<String>> {
    let listed = ask(run, Service::Ca, puppet.ca.requested()).await.ok()?;
    Some(listed.into_iter().map(|status| status.name).collect())
}

/// The request that is pending under a name.
async fn pending(puppet: &Puppet, name: &Certname) -> Result<Option<Pending>, PuppetError> {
    match puppet.ca.csr(name).await {
        Err(PuppetError::UnreadableRequest { problem, .. }) => Ok(Some(Pending::Unreadable(problem))),
        other => other.map(|csr| csr.map(|csr| Pending::Readable(Box::new(csr)))),
    }
}
