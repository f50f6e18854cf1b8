//! What the CA, PuppetDB and the classifier say about names. Reads only; PuppetDB answers for the whole set at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use stagedoor_lifecycle::observation::{CertificateView, Lookup, NameView, NodeView, RequestView, Service, Trouble};
use stagedoor_lifecycle::onboard::LaunchView;
use stagedoor_lifecycle::purge::TerminationView;
use stagedoor_lifecycle::refresh::RunView;
use stagedoor_lifecycle::{Certname, InstanceId};
use stagedoor_puppet::{Certificate, Csr, Error as PuppetError, Group, KnownIdentity, NodeStatus, Report};

use super::request::{asks, holds, unreadable};
use super::{PuppetSnapshot, Questions};
use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::{AT_ONCE, is_unauthenticated, unique};
use crate::context::{Context, Puppet};

/// From so many names on, the CA is asked for the list of pending requests instead of the request of each name.
const LIST_REQUESTS_FROM: usize = 8;

/// A certificate and a certificate request, as far as the CA could be asked.
pub(super) type Files = (Result<Option<Certificate>, Trouble>, Result<Option<Pending>, Trouble>);

/// A pending certificate request; or why it cannot be read.
type Pending = Result<Csr, String>;

/// The CA, PuppetDB and the classifier, side by side.
pub(super) async fn look_at_puppet(
    context: &Context,
    puppet: &Puppet,
    items: Vec<&mut WorkItem>,
    budget: Budget,
    snapshot: &mut PuppetSnapshot,
) {
    // What was once seen to be an arriving instance's own certificate stays that for this invocation.
    let unsure = || items.iter().filter(|item| !item.is_launching() || item.certificate_of_this_launch().is_none());
    let names: Vec<Certname> = unique(unsure().flat_map(|item| item.names()));
    let everybody: Vec<Certname> = unique(items.iter().flat_map(|item| item.names()));
    let launching = || items.iter().filter(|item| item.is_launching());
    let reporting: Vec<Certname> = unique(launching().flat_map(|item| item.names()));
    let terminating: Vec<InstanceId> =
        unique(items.iter().filter(|item| !item.is_launching()).map(|item| &item.action.instance));
    let revoked = items.iter().any(|item| item.removed.values().any(|(removal, _)| removal.certificate.is_some()));
    let cleared: BTreeSet<Certname> = items.iter().flat_map(|item| item.removed.keys().cloned()).collect();
    let pinning = items.iter().any(|item| match &item.held {
        Some((held, _)) if item.is_launching() => !held.profile.pin.is_empty(),
        _ => true,
    });
    let ask = &Questions { context, budget };
    let started = Instant::now();

    let crl = async { if revoked { ask.ask(Service::Ca, puppet.ca.crl()).await.ok() } else { None } };
    let groups = async {
        match &puppet.classifier {
            Some(classifier) if pinning => Some(ask.ask(Service::Classifier, classifier.groups()).await),
            _ => None,
        }
    };
    let (files, known_as, nodes, identities, runs, puppetdb_time, crl, groups) = tokio::join!(
        files(ask, puppet, &names, &cleared),
        ask.ask(Service::PuppetDb, puppet.puppetdb.certnames_of(&terminating)),
        ask.ask(Service::PuppetDb, puppet.puppetdb.nodes(&names)),
        ask.ask(Service::PuppetDb, puppet.puppetdb.identities(&everybody)),
        ask.ask(Service::PuppetDb, puppet.puppetdb.latest_reports(&reporting)),
        ask.ask(Service::PuppetDb, puppet.puppetdb.server_time()),
        crl,
        groups,
    );
    snapshot.took = started.elapsed();
    let of_files = |(certificate, request): &Files| is_unauthenticated(certificate) || is_unauthenticated(request);
    snapshot.stale = files.values().any(of_files)
        || is_unauthenticated(&known_as)
        || is_unauthenticated(&nodes)
        || is_unauthenticated(&identities)
        || is_unauthenticated(&runs)
        || groups.as_ref().is_some_and(is_unauthenticated);
    snapshot.puppetdb_time = puppetdb_time.ok();
    snapshot.crl = crl;

    let runs = by_name(runs, |report| &report.certname);
    let answers = Answers::new(files, nodes, identities, groups);
    let challenge = puppet.challenge.as_ref();
    for item in items {
        if item.is_launching() {
            let name = item.names().next().cloned();
            let own = item.certificate_of_this_launch().map(certificate_view);
            let seen = name.as_ref().map(|name| match own {
                Some(own) => NameView {
                    certname: name.clone(),
                    certificate: Lookup::Found(own),
                    request: Lookup::Absent,
                    node: Lookup::Absent,
                    fact_instance: answers.fact_instance(name),
                    pins: answers.pins(name),
                },
                None => answers.view(name, challenge),
            });
            let run = name.as_ref().map(|name| run_of(&runs, name));
            observe_launch(item, seen, run, snapshot.took);
        } else {
            let names: Vec<NameView> = item.names().map(|name| answers.view(name, challenge)).collect();
            let known_as = match &known_as {
                Ok(names) => Lookup::Found(names.get(&item.action.instance).into_iter().flatten().cloned().collect()),
                Err(trouble) => Lookup::Unavailable(trouble.clone()),
            };
            observe_termination(item, names, known_as, snapshot.took);
        }
        // What the CRL must hold later on, when the certificate itself is gone.
        for name in item.names().cloned().collect::<Vec<_>>() {
            if let Some((Ok(Some(certificate)), _)) = answers.files.get(&name) {
                item.certificates.insert(name, certificate.clone());
            }
        }
    }
    snapshot.groups = answers.groups;
}

/// What was answered about a set of names.
pub(super) struct Answers {
    pub(super) files: BTreeMap<Certname, Files>,
    nodes: Result<BTreeMap<Certname, NodeStatus>, Trouble>,
    pub(super) identities: Result<BTreeMap<Certname, KnownIdentity>, Trouble>,
    groups: Option<Result<Vec<Group>, Trouble>>,
}

impl Answers {
    pub(super) fn new(
        files: BTreeMap<Certname, Files>,
        nodes: Result<Vec<NodeStatus>, Trouble>,
        identities: Result<Vec<KnownIdentity>, Trouble>,
        groups: Option<Result<Vec<Group>, Trouble>>,
    ) -> Self {
        let nodes = by_name(nodes, |node| &node.certname);
        let identities = by_name(identities, |known| &known.certname);
        Self { files, nodes, identities, groups }
    }

    /// What was answered about this name, which was asked for.
    pub(super) fn view(&self, name: &Certname, challenge: Option<&SecretString>) -> NameView {
        let (certificate, request) = &self.files[name];
        NameView {
            certname: name.clone(),
            certificate: reachable(certificate, certificate_view),
            request: reachable(request, |pending| request_view(pending, challenge)),
            node: of(&self.nodes, name, |node| Some(node_view(node))),
            fact_instance: self.fact_instance(name),
            pins: self.pins(name),
        }
    }

    fn fact_instance(&self, name: &Certname) -> Lookup<InstanceId> {
        of(&self.identities, name, identity)
    }

    fn pins(&self, name: &Certname) -> Lookup<Vec<String>> {
        match &self.groups {
            None => Lookup::Absent,
            Some(Err(trouble)) => Lookup::Unavailable(trouble.clone()),
            Some(Ok(groups)) => {
                let pinning = groups.iter().filter(|group| group.pins(name));
                Lookup::Found(pinning.map(|group| group.name.clone()).collect())
            }
        }
    }
}

/// What was seen of an arriving instance.
fn observe_launch(item: &mut WorkItem, seen: Option<NameView>, run: Option<Lookup<RunView>>, took: Duration) {
    let own = item.certificate_of_this_launch().map(|own| own.serial().to_string());
    match (&seen, &own) {
        (Some(view), None) => item.saw(took, tell(view)),
        (Some(NameView { certname, .. }), Some(serial)) => {
            let what = format!("{certname}: certificate {serial} of {}", item.action.instance);
            item.saw(took, what);
        }
        (None, _) => {}
    }
    if let (Some(Lookup::Found(run)), Some(_)) = (&run, &own) {
        item.saw(took, format!("its Puppet run at {} ended as {}", run.start, run.status));
    }
    item.launch = LaunchView { name: seen, run, ..LaunchView::default() };
}

/// What was seen of a leaving instance.
fn observe_termination(item: &mut WorkItem, names: Vec<NameView>, known_as: Lookup<Vec<Certname>>, took: Duration) {
    let new = names.iter().skip(item.seen.names.len());
    new.for_each(|name| item.saw(took, tell(name)));
    item.seen = TerminationView { names, known_as, targets: None };
}

/// What the CA has under these names. Each certificate is read by itself: for the list of all certificates, a CA parses every
/// file that it has, which takes a large one half a minute, and one damaged file of another name fails the list.
///
/// Signing writes the certificate first and deletes the request afterwards. So a certificate is looked for after its request, or
/// once more: otherwise both could be missed. Of names that are `cleared`, nothing was left at the last look.
pub(super) async fn files(
    ask: &Questions<'_>,
    puppet: &Puppet,
    names: &[Certname],
    cleared: &BTreeSet<Certname>,
) -> BTreeMap<Certname, Files> {
    let listed = if names.len() < LIST_REQUESTS_FROM { None } else { requested(ask, puppet).await };
    let files = stream::iter(names).map(|name| {
        let listed = listed.as_ref();
        async move {
            let certificate = || ask.ask(Service::Ca, puppet.ca.certificate(name));
            let request = async {
                match listed {
                    Some(listed) if !listed.contains(name.as_str()) => Ok(None),
                    _ => ask.ask(Service::Ca, pending(puppet, name)).await,
                }
            };
            let (mut found, request) = join(certificate(), request).await;
            if listed.is_none() && !cleared.contains(name) && matches!((&found, &request), (Ok(None), Ok(None))) {
                found = certificate().await;
            }
            (name.clone(), (found, request))
        }
    });
    files.buffer_unordered(AT_ONCE).collect().await
}

/// The names with pending requests. The list of requests reads no certificate. One that fails says nothing about any name.
async fn requested(ask: &Questions<'_>, puppet: &Puppet) -> Option<BTreeSet<String>> {
    let listed = ask.ask(Service::Ca, puppet.ca.requested()).await.ok()?;
    Some(listed.into_iter().map(|status| status.name).collect())
}

/// The request that is pending under a name.
async fn pending(puppet: &Puppet, name: &Certname) -> Result<Option<Pending>, PuppetError> {
    match puppet.ca.csr(name).await {
        Err(PuppetError::UnreadableRequest { problem, .. }) => Ok(Some(Err(problem))),
        other => other.map(|csr| csr.map(Ok)),
    }
}

fn request_view(pending: &Pending, challenge: Option<&SecretString>) -> RequestView {
    match pending {
        Ok(csr) => RequestView { instance: csr.instance_id(), asks: asks(csr, challenge) },
        Err(problem) => RequestView { instance: None, asks: unreadable(problem) },
    }
}

fn certificate_view(certificate: &Certificate) -> CertificateView {
    CertificateView {
        serial: certificate.serial().to_string(),
        instance: certificate.instance_id(),
        issued: issued(certificate),
        holds: holds(certificate),
    }
}

fn node_view(node: &NodeStatus) -> NodeView {
    NodeView {
        active: node.is_active(),
        deactivated: node.deactivated,
        facts: node.facts_timestamp,
        newest: node.catalog_timestamp.max(node.facts_timestamp).max(node.report_timestamp),
    }
}

/// The newest run of a node, among those that were asked for.
pub(super) fn run_of(runs: &Result<BTreeMap<Certname, Report>, Trouble>, name: &Certname) -> Lookup<RunView> {
    of(runs, name, |report| {
        Some(RunView {
            start: report.start_time,
            end: report.end_time,
            status: report.status.clone().unwrap_or_else(|| "unknown".to_owned()),
            noop: report.noop == Some(true),
            cached: report.cached_catalog_status.as_deref().is_some_and(|status| status != "not_used"),
        })
    })
}

fn reachable<T, V>(answer: &Result<Option<T>, Trouble>, view: impl Fn(&T) -> V) -> Lookup<V> {
    match answer {
        Ok(Some(value)) => Lookup::Found(view(value)),
        Ok(None) => Lookup::Absent,
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
    }
}

/// What was answered, to be found by name: a set may be thousands.
pub(super) fn by_name<T>(
    answer: Result<Vec<T>, Trouble>,
    name: impl Fn(&T) -> &Certname,
) -> Result<BTreeMap<Certname, T>, Trouble> {
    Ok(answer?.into_iter().map(|one| (name(&one).clone(), one)).collect())
}

fn of<T, V>(
    answer: &Result<BTreeMap<Certname, T>, Trouble>,
    name: &Certname,
    view: impl Fn(&T) -> Option<V>,
) -> Lookup<V> {
    match answer {
        Ok(all) => all.get(name).and_then(view).map_or(Lookup::Absent, Lookup::Found),
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
    }
}

/// When a certificate was issued: the CA sets its beginning back by a day, for clocks that are behind.
pub(crate) fn issued(certificate: &Certificate) -> Timestamp {
    certificate.not_before().checked_add(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MAX)
}

/// The instance that a node's facts name, unless they name two.
fn identity(known: &KnownIdentity) -> Option<InstanceId> {
    known.instance_id().filter(|_| !known.is_contradictory()).cloned()
}

/// What Puppet says about a name, for a person.
fn tell(view: &NameView) -> String {
    let certificate = match &view.certificate {
        Lookup::Found(certificate) => match &certificate.instance {
            Some(owner) => format!("certificate {} of {owner}", certificate.serial),
            None => format!("certificate {} without pp_instance_id", certificate.serial),
        },
        Lookup::Absent => "no certificate".to_owned(),
        Lookup::Unavailable(trouble) => format!("certificate unknown ({trouble})"),
    };
    let request = match &view.request {
        Lookup::Found(_) => ", a pending certificate request",
        _ => "",
    };
    let node = match &view.node {
        Lookup::Found(NodeView { active: true, .. }) => "active node".to_owned(),
        Lookup::Found(_) => "inactive node".to_owned(),
        Lookup::Absent => "no node".to_owned(),
        Lookup::Unavailable(trouble) => format!("node unknown ({trouble})"),
    };
    format!("{}: {certificate}{request}; {node}", view.certname)
}
