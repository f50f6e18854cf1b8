//! Gather: what AWS and Puppet say now. Reads only, once per group or set wherever one call answers for all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::observation::{CertificateView, NameView, NodeView, Reachable, RequestView, Subject};
use stagedoor_lifecycle::profile::{ActionResult, Protected};
use stagedoor_lifecycle::purge::{Admission, CloudView, PuppetView, admit};
use stagedoor_lifecycle::receipt::{Outcome, Stage};
use stagedoor_lifecycle::{Certname, GroupName, InstanceId};
use stagedoor_puppet::{Certificate, Error as PuppetError, KnownIdentity, NodeStatus, RevocationLists};

use crate::case::Case;
use crate::door::{Door, Puppet};
use crate::reconcile::Until;

/// How many questions go to one service at a time.
const AT_ONCE: usize = 16;
/// How long what AWS said is good enough; the proof of a removal falls within it.
const CLOUD_KEPT: SignedDuration = SignedDuration::from_secs(30);

/// What a look brought besides the views of the cases.
pub(crate) struct Sight {
    /// The clients that were used, if there are any.
    pub(crate) puppet: Option<Arc<Puppet>>,
    /// Whether Puppet refused the credentials.
    pub(crate) stale: bool,
    /// PuppetDB's clock, by which it compares times.
    pub(crate) puppetdb_time: Option<Timestamp>,
    crl: Option<RevocationLists>,
    took: Duration,
}

impl Sight {
    /// The names that are never purged.
    pub(crate) fn protected<'a>(&'a self, door: &'a Door) -> &'a Protected {
        self.puppet.as_ref().map_or(&door.config.protected, |puppet| &puppet.protected)
    }

    /// Clients of a new reading of the secret, after these were refused; whether that went well.
    pub(crate) async fn reopen(&self, door: &Door, until: Until) -> bool {
        match &self.puppet {
            Some(puppet) => matches!(within(door, until.work, door.puppet.reopen(puppet)).await, Ok(Ok(_))),
            None => false,
        }
    }

    /// Writes down what this look proves of what was removed before it.
    pub(crate) fn prove(&self, case: &mut Case) {
        for (name, removal) in std::mem::take(&mut case.removed) {
            if let Some(serial) = &removal.certificate {
                let listed = self.crl.as_ref().zip(case.certificates.get(&name));
                let listed = listed.map(|(crl, certificate)| crl.revokes(certificate));
                let revoked = match listed {
                    Some(true) => "its serial is in the CRL",
                    Some(false) if case.cleaned.contains(&name) => {
                        "the CA has said that it is revoked, but the CRL that it gives to agents is another"
                    }
                    None if case.cleaned.contains(&name) => {
                        "the CA has said that it is revoked; its CRL could not be read"
                    }
                    _ => "that it is revoked could NOT be seen: look into the CA's CRL",
                };
                case.step(Stage::Proven, self.took, format!("certificate {serial} of {name} is gone; {revoked}"));
            }
            if removal.request {
                case.step(Stage::Proven, self.took, format!("no certificate request of {name} is pending"));
            }
            if removal.node.is_some() {
                case.step(Stage::Proven, self.took, format!("{name} is inactive in PuppetDB"));
            }
        }
    }
}

/// Looks at every open case: at AWS where that is not fresh any more, then at Puppet for those that leave.
pub(crate) async fn look(door: &Door, cases: &mut [Case], until: Until) -> Sight {
    let mut open: Vec<&mut Case> = cases.iter_mut().filter(|case| case.is_open() && case.ready.is_none()).collect();
    let mut sight = Sight { puppet: None, stale: false, puppetdb_time: None, crl: None, took: Duration::ZERO };
    if open.is_empty() {
        return sight;
    }
    let (puppet, ()) = join(within(door, until.work, door.puppet.open()), look_at_aws(door, &mut open, until)).await;
    let leaving: Vec<&mut Case> = open.into_iter().filter(|case| case.is_open() && case.leaving.is_some()).collect();
    if leaving.is_empty() {
        return sight;
    }
    match puppet.unwrap_or_else(Err) {
        Ok(puppet) => {
            look_at_puppet(door, &puppet, leaving, until, &mut sight).await;
            sight.puppet = Some(puppet);
        }
        Err(trouble) => {
            for case in leaving {
                case.seen = PuppetView { names: Vec::new(), known_as: Reachable::Unreachable(trouble.clone()) };
            }
        }
    }
    sight
}

/// A call under the deadline of the invocation; what to say if it has passed.
pub(crate) async fn within<T>(door: &Door, until: Timestamp, call: impl Future<Output = T>) -> Result<T, String> {
    let left = Duration::try_from(until.duration_since(door.clock.now())).unwrap_or_default();
    let over = |_| "there was no answer before the end of the invocation".to_owned();
    tokio::time::timeout(left, call).await.map_err(over)
}

/// Auto Scaling and EC2, side by side, for all cases whose view is not fresh; then who of them is leaving.
async fn look_at_aws(door: &Door, open: &mut [&mut Case], until: Until) {
    let now = door.clock.now();
    let old = |case: &Case| !matches!(&case.leaving, Some((_, at)) if now.duration_since(*at) < CLOUD_KEPT);
    let mut old: Vec<&mut Case> = open.iter_mut().map(|case| &mut **case).filter(|case| old(case)).collect();
    if old.is_empty() {
        return;
    }
    let groups: Vec<GroupName> = unique(old.iter().map(|case| &case.subject.group));
    let instances: Vec<InstanceId> = unique(old.iter().map(|case| &case.subject.instance));
    let started = Instant::now();
    let hooks = join_all(groups.iter().map(|group| within(door, until.work, door.autoscaling.hooks(group))));
    let (described, hooks, machines) = tokio::join!(
        within(door, until.work, door.autoscaling.groups(&groups)),
        hooks,
        within(door, until.work, door.machines.machines(&instances)),
    );
    let took = started.elapsed();

    let hooks: BTreeMap<_, _> = groups.iter().zip(hooks).collect();
    for case in &mut old {
        let Subject { instance, group, .. } = &case.subject;
        let cloud = CloudView {
            group: pick(&described, |described| described.name == *group),
            hooks: match &hooks[group] {
                Ok(Ok(hooks)) => Reachable::Found(hooks.clone()),
                Ok(Err(error)) => Reachable::Unreachable(error.to_string()),
                Err(late) => Reachable::Unreachable(late.clone()),
            },
            machine: pick(&machines, |machine| machine.instance == *instance),
        };
        let shown = cloud.group.known().ok().flatten().and_then(|group| group.members.get(instance));
        let seen = shown.map_or_else(|| "not in the group".to_owned(), |state| format!("{state:?}"));
        match admit(&case.subject, &cloud, &|name| door.profile(name)) {
            Admission::Leaving(leaving) => {
                if case.leaving.is_none() {
                    let machine = cloud.machine.known().ok().flatten().map_or("unknown", |machine| &machine.state);
                    case.step(Stage::Seen, took, format!("Auto Scaling: {seen}; EC2: {machine}"));
                }
                case.leaving = Some((leaving, now));
            }
            Admission::Pass(reason) => {
                case.step(Stage::Seen, took, format!("Auto Scaling: {seen}"));
                case.ready = Some((ActionResult::Continue, reason));
            }
            Admission::Ignore(reason) => case.settle(Outcome::Ignored, reason),
            Admission::Refuse(reason) => case.settle(Outcome::Refused, reason),
            Admission::Fail(reason) => {
                case.leaving = None;
                case.stands(Outcome::Failed, reason);
            }
        }
    }
}

/// The one among the described that is asked for.
fn pick<T: Clone, E: std::fmt::Display>(
    answer: &Result<Result<Vec<T>, E>, String>,
    wanted: impl Fn(&&T) -> bool,
) -> Reachable<T> {
    match answer {
        Ok(Ok(all)) => all.iter().find(wanted).cloned().map_or(Reachable::Absent, Reachable::Found),
        Ok(Err(error)) => Reachable::Unreachable(error.to_string()),
        Err(late) => Reachable::Unreachable(late.clone()),
    }
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
    async fn ask<T>(&self, call: impl Future<Output = Result<T, PuppetError>>) -> Result<T, String> {
        within(self.door, self.until.work, call).await?.map_err(|error| {
            self.stale.fetch_or(error.credentials_may_be_stale(), Ordering::Relaxed);
            error.to_string()
        })
    }
}

/// The CA and PuppetDB, side by side. PuppetDB answers for the whole set at once, the CA name by name.
async fn look_at_puppet(door: &Door, puppet: &Puppet, cases: Vec<&mut Case>, until: Until, sight: &mut Sight) {
    let names: Vec<Certname> = unique(cases.iter().flat_map(|case| case.names()));
    let instances: Vec<InstanceId> = unique(cases.iter().map(|case| &case.subject.instance));
    let revoked = cases.iter().any(|case| case.removed.values().any(|removal| removal.certificate.is_some()));
    let questions = Questions { door, until, stale: AtomicBool::new(false) };
    let ask = &questions;
    let started = Instant::now();

    let files = stream::iter(names.clone()).map(|name| async move {
        let (certificate, request) = join(ask.ask(puppet.ca.certificate(&name)), ask.ask(puppet.ca.csr(&name))).await;
        (name, (certificate, request))
    });
    let known_as = stream::iter(instances).map(|instance| async move {
        let names = ask.ask(puppet.puppetdb.certnames_of(&instance)).await;
        (instance, names)
    });
    let crl = async { if revoked { ask.ask(puppet.ca.crl()).await.ok() } else { None } };
    let (files, known_as, nodes, identities, puppetdb_time, crl) = tokio::join!(
        files.buffer_unordered(AT_ONCE).collect::<BTreeMap<_, _>>(),
        known_as.buffer_unordered(AT_ONCE).collect::<BTreeMap<_, _>>(),
        ask.ask(puppet.puppetdb.nodes(&names)),
        ask.ask(puppet.puppetdb.identities(&names)),
        ask.ask(puppet.puppetdb.server_time()),
        crl,
    );
    sight.took = started.elapsed();
    sight.puppetdb_time = puppetdb_time.ok();
    sight.crl = crl;

    let view = |name: &Certname| {
        let (certificate, request) = &files[name];
        NameView {
            certname: name.clone(),
            certificate: reachable(certificate, |certificate| CertificateView {
                serial: certificate.serial().to_string(),
                instance: certificate.instance_id(),
                issued: issued(certificate),
            }),
            request: reachable(request, |request| RequestView { instance: request.instance_id() }),
            node: among(
                &nodes,
                |node| node.certname == *name,
                |node| Some(NodeView { active: node.is_active(), facts: node.facts_timestamp, newest: newest(node) }),
            ),
            fact_instance: among(&identities, |known| known.certname == *name, identity),
        }
    };
    for case in cases {
        let names: Vec<NameView> = case.names().map(view).collect();
        if case.seen.names.len() < names.len() {
            for name in &names[case.seen.names.len()..] {
                case.step(Stage::Seen, sight.took, tell(name));
            }
        }
        // What the CRL must hold later on, when the certificate itself is gone.
        for name in &names {
            if let Ok(Some(certificate)) = &files[&name.certname].0 {
                case.certificates.insert(name.certname.clone(), certificate.clone());
            }
        }
        let known_as = match &known_as[&case.subject.instance] {
            Ok(names) => Reachable::Found(names.clone()),
            Err(trouble) => Reachable::Unreachable(trouble.clone()),
        };
        case.seen = PuppetView { names, known_as };
    }
    sight.stale = questions.stale.into_inner();
}

fn reachable<T, V>(answer: &Result<Option<T>, String>, view: impl Fn(&T) -> V) -> Reachable<V> {
    match answer {
        Ok(Some(value)) => Reachable::Found(view(value)),
        Ok(None) => Reachable::Absent,
        Err(trouble) => Reachable::Unreachable(trouble.clone()),
    }
}

fn among<T, V>(
    answer: &Result<Vec<T>, String>,
    wanted: impl Fn(&&T) -> bool,
    view: impl Fn(&T) -> Option<V>,
) -> Reachable<V> {
    match answer {
        Ok(all) => all.iter().find(wanted).and_then(view).map_or(Reachable::Absent, Reachable::Found),
        Err(trouble) => Reachable::Unreachable(trouble.clone()),
    }
}

/// When a certificate was issued: the CA sets its beginning back by a day, for clocks that are behind.
fn issued(certificate: &Certificate) -> Timestamp {
    certificate.not_before().checked_add(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MAX)
}

/// The instance that a node's facts name, unless they name two.
fn identity(known: &KnownIdentity) -> Option<InstanceId> {
    known.instance_id().filter(|_| !known.is_contradictory()).cloned()
}

fn newest(node: &NodeStatus) -> Option<Timestamp> {
    node.catalog_timestamp.max(node.facts_timestamp).max(node.report_timestamp)
}

/// What Puppet says about a name, for a person.
fn tell(view: &NameView) -> String {
    let certificate = match &view.certificate {
        Reachable::Found(certificate) => match &certificate.instance {
            Some(owner) => format!("certificate {} of {owner}", certificate.serial),
            None => format!("certificate {} without pp_instance_id", certificate.serial),
        },
        Reachable::Absent => "no certificate".to_owned(),
        Reachable::Unreachable(trouble) => format!("certificate unknown ({trouble})"),
    };
    let request = match &view.request {
        Reachable::Found(_) => ", a pending certificate request",
        _ => "",
    };
    let node = match &view.node {
        Reachable::Found(NodeView { active: true, .. }) => "active node".to_owned(),
        Reachable::Found(_) => "inactive node".to_owned(),
        Reachable::Absent => "no node".to_owned(),
        Reachable::Unreachable(trouble) => format!("node unknown ({trouble})"),
    };
    format!("{}: {certificate}{request}; {node}", view.certname)
}

/// Asks Auto Scaling's activities when these actions began; whether it answered for any.
pub(crate) async fn ask_when_it_began(door: &Door, cases: &mut [Case], which: &[usize], until: Until) -> bool {
    let mut by_group: BTreeMap<GroupName, BTreeSet<InstanceId>> = BTreeMap::new();
    for &index in which {
        let Subject { group, instance, .. } = &cases[index].subject;
        by_group.entry(group.clone()).or_default().insert(instance.clone());
    }
    let asked = by_group.iter().map(|(group, instances)| async move {
        // With the time that is kept for the hooks: the answer decides how they are answered.
        (group, within(door, until.calls, door.autoscaling.activities_began(group, instances)).await)
    });
    let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
    let mut answered = false;
    for &index in which {
        let case = &mut cases[index];
        match answers.get(&case.subject.group) {
            Some(Ok(Ok(began))) => {
                let began = began.get(&case.subject.instance).copied();
                case.subject.began = case.subject.began.confirm(began, door.clock.now());
                answered = true;
            }
            Some(Ok(Err(error))) => case.stands(Outcome::Failed, error.to_string()),
            Some(Err(late)) => case.stands(Outcome::Failed, late.clone()),
            None => {}
        }
    }
    answered
}
